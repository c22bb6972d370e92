//! What an operator says to one worker goes for all, also in other processes, and reaches who owns the partition.

use indelible_core::Position;
use indelible_projections::{
    DeadLetter, Done, Errand, Partition, PartitionState, ReadModel, ReadModelError, Running, Want, Wish, Worker,
    WorkerId, memory::MemoryModel,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;

use super::{
    fixture::*,
    letters::{How, Picky},
    process::*,
};
use crate::cluster::shared_url;

/// A worker here, beside one in a process of its own that has the account a, and can't be mended.
struct Two {
    site: Site,
    owner: Process,
    here: Running,
    picky: Picky,
}

impl Two {
    async fn start() -> Self {
        let site = Site::new(&shared_url()).await;
        let owner = site.start_as(Way::Parks, 25, "owner");
        owner.is_running();
        let picky = Picky::new(How::Writes, false);
        let worker = Worker::new(&site.store).with_id(WorkerId("here".into())).add(&site.model, picky.clone());
        let here = worker.start().await.unwrap();
        until("two share the partitions", async || site.held_by(&owner).await.len() == 2).await;
        Self { site, owner, here, picky }
    }

    /// Accounts whose partition the other one has, of each partition one.
    async fn theirs(&self) -> Vec<u64> {
        let held = self.site.held_by(&self.owner).await;
        let of = |partition| (0..).find(|n| Partition::of(&stream(n), PARTITIONS) == partition).unwrap();
        held.into_iter().map(|(partition, _)| of(partition)).collect()
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        self.site.model.letters(&id("tally", 1), None, Position::START, 99).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_ended_by_the_process_that_owns_them_and_when_it_dies_by_the_next() {
    let two = Two::start().await;
    let theirs = two.theirs().await;
    for account in &theirs {
        for cents in [1, 13, 2] {
            deposit(&two.site.store, account, cents).await;
        }
    }
    until("they are parked", async || two.letters().await.len() == 4).await;
    let letters = two.letters().await;

    // It would do here.
    two.picky.mend();
    let failed = two.here.redrive::<Picky>(&letters[0].stream).await.unwrap_err();
    assert!(failed.to_string().contains("division by zero"), "{failed}");
    two.here.discard::<Picky>(&letters[0], "it never happened").await.unwrap();
    let discarded = two.site.model.discarded(&id("tally", 1), Position::START, 9).await.unwrap();
    assert_eq!(discarded, [(letters[0].clone(), "it never happened".to_owned())]);
    let twice = two.here.discard::<Picky>(&letters[0], "twice").await.unwrap_err();
    assert!(twice.to_string().contains("there no more"), "{twice}");
    assert_eq!(two.here.redrive::<Picky>(&letters[0].stream).await.unwrap(), 1);
    assert_eq!(two.letters().await, letters[2..]);

    two.owner.signal("-STOP");
    let killed = async {
        until("it is asked", async || !two.site.model.wishes(&id("tally", 1)).await.unwrap().is_empty()).await;
        two.owner.signal("-KILL");
    };
    let (redriven, ()) = tokio::join!(two.here.redrive::<Picky>(&letters[2].stream), killed);
    assert_eq!(redriven.unwrap(), 2);
    assert_eq!(two.letters().await, []);
    assert_eq!(two.site.model.wishes(&id("tally", 1)).await.unwrap(), []);
}

/// Whether a worker here has so many partitions, and they are paused.
fn are_paused(here: &Running, partitions: usize) -> bool {
    let status = &here.status()[0].1;
    status.len() == partitions && status.iter().all(|lane| lane.state == PartitionState::Paused)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_here_stands_in_other_processes_and_in_those_that_come_later() {
    let Two { site, owner, here, .. } = Two::start().await;
    here.pause::<Picky>().await.unwrap();
    until("it is paused here", async || are_paused(&here, 2)).await;
    owner.is_paused();
    deposits(&site.store, 100).await;
    sleep(LEASE).await;
    assert_eq!(site.come_to().await, 0);
    assert!(here.versions().await.unwrap()[0].version.wanted.paused);
    drop(owner);
    assert!(here.drain(SOON).await);

    let next = site.start_as(Way::Parks, 25, "next");
    next.is_running();
    until("it has all of them", async || site.held_by(&next).await.len() == 4).await;
    next.is_paused();
    sleep(LEASE).await;
    assert_eq!(site.come_to().await, 0);
    let here = Worker::new(&site.store).add(&site.model, Picky::new(How::Writes, true)).start().await.unwrap();
    until("two share the partitions, which are paused", async || are_paused(&here, 2)).await;
    assert_eq!(site.come_to().await, 0);
    here.resume::<Picky>().await.unwrap();
    site.catches_up(SOON).await;
}

/// Both are told the same, at random, and answer the same.
#[tokio::test]
async fn it_keeps_what_operators_want_as_the_memory_model_does() {
    let url = shared_url();
    let (model, memory) = (model(&url).await, MemoryModel::new());
    let versions = [id("p", 1), id("p", 2), id("ü'\"", 1)];
    for version in &versions {
        let (_, head) = register(&model, version, 2, "").await;
        let registration =
            indelible_projections::Registration { projection: version.clone(), partitions: 2, head, setup: "" };
        memory.register(&registration).await.unwrap();
    }
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for step in 0..300 {
        let told = random.random();
        let (found, expected) = (answer(&model, told).await, answer(&memory, told).await);
        assert_eq!(found, expected, "seed {seed}, step {step}");
        for version in &versions {
            assert_eq!(
                text(model.versions(&version.name).await),
                text(memory.versions(&version.name).await),
                "seed {seed}, step {step}"
            );
            if memory.partitions(version).await.is_ok() {
                let (found, expected) = (model.wishes(version).await, memory.wishes(version).await);
                assert_eq!(text(found), text(expected), "seed {seed}, step {step}");
            }
        }
    }
}

async fn answer<M: ReadModel>(model: &M, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let random = &mut random;
    let version = [id("p", 1), id("p", 2), id("ü'\"", 1), id("p", 3)].choose(random).unwrap().clone();
    // As those of random wishes are, some of which are more than a signed number holds.
    let wish = [0, 1, u64::MAX, 1 << 63].choose(random).copied().unwrap();
    let stream = stream(random.random_range(0..3));
    let position = *[Position::START, Position::new(7), Position::MAX].choose(random).unwrap();
    let reason = ["", "why", "a\"b'\\"].choose(random).unwrap().to_string();
    match random.random_range(0..12) {
        0 => text(model.want(&version, Want::Paused(random.random())).await),
        1 => {
            let max = *[0, 1, u32::MAX].choose(random).unwrap();
            text(model.want(&version, Want::BuildingEventsPerSecondMax(max)).await)
        }
        2..6 => {
            let errand = match random.random_range(0..3) {
                0 => Errand::Restart,
                1 => Errand::Redrive { stream, to: position },
                _ => Errand::Discard { stream, position, reason },
            };
            // Ids are unlike any other's.
            let before = model.outcome(&version, wish, true).await.unwrap_or_default();
            let wish = Wish { id: wish, partition: Partition(random.random_range(0..2)), errand };
            text(model.wish(&version, &wish).await.map(|()| before))
        }
        6 | 7 if model.partitions(&version).await.is_ok() => {
            let done = Done { letters: random.random_range(0..3), error: random.random::<bool>().then_some(reason) };
            text(model.answer(&version, wish, &done).await)
        }
        8 | 9 if model.partitions(&version).await.is_ok() => text(model.outcome(&version, wish, random.random()).await),
        10 => {
            let head = indelible_core::Token::start(indelible_core::StoreId::from_uuid(uuid::Uuid::nil()));
            text(model.reset(&version, head).await)
        }
        _ => text(model.drop_version(&version).await.map_err(|error| match error {
            ReadModelError::Rejected { .. } => ReadModelError::unsupported("that"),
            error => error,
        })),
    }
}

fn text<T: std::fmt::Debug>(answer: Result<T, ReadModelError>) -> String {
    answer.map_or_else(|error| error.to_string(), |answer| format!("{answer:?}"))
}
