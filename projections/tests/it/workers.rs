//! P4: many workers over one read model.

use std::{collections::BTreeMap, time::Duration};

use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};
use tokio::time::{Instant, sleep};

use crate::{chaos::Chaos, fixture::*};

const LEASE: Duration = Duration::from_secs(9);

/// How many partitions each worker owns.
async fn owners(model: &MemoryModel) -> BTreeMap<String, usize> {
    let mut owners = BTreeMap::new();
    for row in model.partitions(&ProjectionId::of::<Tally>()).await.unwrap() {
        *owners.entry(row.owner.map_or("nobody".into(), |owner| owner.0)).or_default() += 1;
    }
    owners
}

async fn worker(store: &MemoryStore, model: &MemoryModel, name: &str) -> Running {
    Worker::new(store).with_id(WorkerId(name.into())).add(model, Tally).start().await.unwrap()
}

fn shares(shares: &[(&str, usize)]) -> BTreeMap<String, usize> {
    shares.iter().map(|(name, share)| ((*name).into(), *share)).collect()
}

#[tokio::test(start_paused = true)]
async fn workers_share_the_partitions_as_they_come_and_go() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let a = worker(&store, &model, "a").await;
    assert_eq!(owners(&model).await, shares(&[("a", 4)]));
    let b = worker(&store, &model, "b").await;
    sleep(LEASE * 2 / 3 + Duration::from_millis(100)).await;
    assert_eq!(owners(&model).await, shares(&[("a", 2), ("b", 2)]));
    let c = worker(&store, &model, "c").await;
    sleep(LEASE).await;
    assert_eq!(owners(&model).await.values().sum::<usize>(), 4);
    assert_eq!(owners(&model).await.len(), 3);
    let seen: Vec<_> = model.workers().await.unwrap().into_iter().map(|worker| worker.id.0).collect();
    assert_eq!(seen, ["a", "b", "c"]);

    let head = deposits(&store, 100).await;
    sleep(Duration::from_secs(2)).await;
    assert!(b.drain(SOON).await);
    assert!(owners(&model).await.contains_key("nobody"), "a drained worker has given back what it had");
    sleep(LEASE / 3 + Duration::from_millis(100)).await;
    assert_eq!(owners(&model).await, shares(&[("a", 2), ("c", 2)]));
    assert!(c.drain(SOON).await);
    sleep(LEASE / 3 + Duration::from_millis(100)).await;
    assert_eq!(owners(&model).await, shares(&[("a", 4)]));
    assert_eq!(a.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
    assert!(a.drain(SOON).await);
    assert_eq!(model.workers().await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_partitions_of_a_worker_that_dies_move_on_when_its_lease_has_run_out() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let stalling = Chaos::new(&model);
    let dies = Worker::new(&store).with_id(WorkerId("dies".into())).add(&stalling, Tally).start().await.unwrap();
    let lives = worker(&store, &model, "lives").await;
    sleep(LEASE).await;
    assert_eq!(owners(&model).await, shares(&[("dies", 2), ("lives", 2)]));
    for _ in 0..5 {
        stalling.stall();
        let (died, head) = (Instant::now(), deposits(&store, 50).await);
        assert_eq!(lives.wait_for(&head, LEASE * 2).await.unwrap(), Waited::Reached);
        assert!(died.elapsed() <= LEASE + Duration::from_millis(100), "{:?}", died.elapsed());
        assert_eq!(owners(&model).await, shares(&[("lives", 4)]));
        assert_eq!(model.workers().await.unwrap().len(), 1);
        // It was not dead: what it has under way is fenced off, and it asks for its share again.
        stalling.go_on();
        sleep(LEASE).await;
        assert_eq!(owners(&model).await, shares(&[("dies", 2), ("lives", 2)]));
        assert!(dies.status()[0].1.iter().all(|lane| lane.state == PartitionState::Running));
        sleep(Duration::from_millis(701)).await;
    }
    let head = deposits(&store, 50).await;
    sleep(Duration::from_secs(2)).await;
    for row in model.partitions(&ProjectionId::of::<Tally>()).await.unwrap() {
        assert_eq!(row.position, head);
    }
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
}

#[tokio::test(start_paused = true)]
async fn a_worker_takes_no_partition_of_a_version_that_it_cannot_run() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let _old = worker(&store, &model, "old").await;
    let _new = Worker::new(&store).with_id(WorkerId("new".into())).add(&model, Next).start().await.unwrap();
    let both = Worker::new(&store).with_id(WorkerId("both".into())).add(&model, Tally).add(&model, Next);
    let _both = both.start().await.unwrap();
    sleep(LEASE).await;
    assert_eq!(owners(&model).await, shares(&[("both", 2), ("old", 2)]));
    let next = model.partitions(&ProjectionId::of::<Next>()).await.unwrap();
    assert_eq!(next.iter().filter(|row| row.owner == Some(WorkerId("new".into()))).count(), 2);
    assert!(next.iter().all(|row| row.owner.is_some() && row.owner != Some(WorkerId("old".into()))));
    let mut runs: Vec<_> =
        model.workers().await.unwrap().into_iter().map(|worker| (worker.id.0, worker.runs.version)).collect();
    runs.sort();
    assert_eq!(runs, [("both".into(), 1), ("both".into(), 2), ("new".into(), 2), ("old".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_by_another_is_not_renewed() {
    for bug in [None, Some(bugs::Bug::RenewAfterExpiry)] {
        let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
        let (id, head) = (ProjectionId::of::<Tally>(), store.head().await.unwrap());
        model.register(&Registration { projection: id.clone(), partitions: 1, head, setup: "" }).await.unwrap();
        let row = |name: &str| WorkerRow {
            id: WorkerId(name.into()),
            host: "here".into(),
            since: indelible_core::Timestamp::now(),
            runs: id.clone(),
            troubled: 0,
        };
        let (a, b) = (row("a"), row("b"));
        let take = |worker: &WorkerRow| model.take(&id, Partition(0), &worker.id).await_now();
        assert!(take(&a).is_some());
        sleep(LEASE - Duration::from_millis(10)).await;
        assert!(take(&b).is_none());
        sleep(Duration::from_millis(20)).await;
        assert!(take(&b).is_some());
        bugs::choose(bug);
        let roster = model.renew(&a).await.unwrap();
        bugs::choose(None);
        assert_eq!(roster.leases[0].worker == b.id, bug.is_none());
    }
}

trait AwaitNow<T> {
    fn await_now(self) -> T;
}
impl<T, F: Future<Output = Result<T, ReadModelError>>> AwaitNow<T> for F {
    fn await_now(self) -> T {
        futures::FutureExt::now_or_never(self).expect("memory never waits").unwrap()
    }
}

/// Where all is slow, a heartbeat takes longer than it is due again.
#[tokio::test(start_paused = true)]
async fn a_worker_whose_heartbeats_are_slow_has_its_share_all_the_same() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let quick = worker(&store, &model, "quick").await;
    let far = Chaos::far(&model, LEASE / 6 + Duration::from_millis(100));
    let slow = Worker::new(&store).with_id(WorkerId("slow".into())).add(&far, Tally).start().await.unwrap();
    sleep(LEASE * 5).await;
    assert_eq!(owners(&model).await, shares(&[("quick", 2), ("slow", 2)]));
    assert_eq!(slow.status()[0].1.len(), 2);
    let head = deposits(&store, 50).await;
    assert_eq!(quick.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
}

/// Its owner's last batch is under way, and has its row locked.
#[tokio::test(start_paused = true)]
async fn a_partition_that_cannot_be_had_yet_is_in_no_others_way() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let faulty = Faulty::new(&model, Point::BeforeTake, Fault::Outage, 1);
    let running = Worker::new(&store).with_id(WorkerId("a".into())).add(&faulty, Tally).start().await.unwrap();
    assert_eq!(owners(&model).await, shares(&[("a", 3), ("nobody", 1)]));
    sleep(LEASE / 3).await;
    assert_eq!(owners(&model).await, shares(&[("a", 4)]));
    drop(running);
}
