//! What an operator says to one worker of many: it goes for all of them, and reaches who owns the partition.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{Position, store::memory::MemoryStore};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{chaos::Chaos, fixture::*};

const LEASE: Duration = Duration::from_secs(9);
/// By when other workers have seen what one was told.
const SEEN: Duration = Duration::from_millis(1_500);

/// Can't handle deposits of 13, in this worker, until it is mended; one of 40 takes it 40 s.
#[derive(Clone, Default)]
struct Picky<const PARK: bool>(Arc<AtomicBool>);
impl<const PARK: bool> Projection for Picky<PARK> {
    const NAME: &'static str = "tally";
    const ORDER: Order = Tally::ORDER;
    const ON_FAILURE: OnFailure = if PARK { OnFailure::PARK } else { OnFailure::Stop };
    const RETRY: Retry = Retry::NEVER;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl<const PARK: bool> Project<MemoryModel> for Picky<PARK> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await?;
        match envelope.event {
            AccountEvent::Deposited { cents: 13 } if !self.0.load(SeqCst) => Err("13 is bad luck".into()),
            AccountEvent::Deposited { cents: 40 } => {
                sleep(Duration::from_secs(40)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
impl Project<Chaos> for Picky<true> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        Project::<MemoryModel>::apply(self, envelope, tx).await
    }
}

/// Two workers that share the partitions, and which of the two has that of the account a.
struct Two<const PARK: bool> {
    store: MemoryStore,
    model: MemoryModel,
    workers: [(Running, Picky<PARK>); 2],
    owner: usize,
}

impl<const PARK: bool> Two<PARK> {
    async fn start() -> Self {
        let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
        let start = async |name: &str| {
            let picky = Picky::default();
            let worker = Worker::new(&store).with_id(WorkerId(name.into())).add(&model, picky.clone());
            (worker.start().await.unwrap(), picky)
        };
        let workers = [start("0").await, start("1").await];
        sleep(LEASE).await;
        let rows = model.partitions(&id()).await.unwrap();
        let owner = rows[home().0 as usize].owner.clone().unwrap().0.parse().unwrap();
        assert_eq!(rows.iter().filter(|row| row.owner == rows[home().0 as usize].owner).count(), 2);
        Self { store, model, workers, owner }
    }

    fn owner(&self) -> &(Running, Picky<PARK>) {
        &self.workers[self.owner]
    }

    fn other(&self) -> &(Running, Picky<PARK>) {
        &self.workers[1 - self.owner]
    }

    /// Deposits into the account a.
    async fn deposit(&self, cents: &[u64]) {
        for cents in cents {
            append(&self.store, "a", deposited(*cents)).await;
        }
        sleep(SEEN).await;
    }

    async fn letters(&self) -> Vec<DeadLetter> {
        self.model.letters(&id(), None, Position::START, 99).await.unwrap()
    }
}

fn id() -> ProjectionId {
    ProjectionId::of::<Tally>()
}

fn home() -> Partition {
    Partition::of(&stream("a"), 4)
}

fn states(running: &Running) -> Vec<PartitionState> {
    running.status()[0].1.iter().map(|status| status.state.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_paused_by_one_is_paused_for_all_and_for_those_that_come_later() {
    let two = Two::<true>::start().await;
    let head = deposits(&two.store, 20).await;
    for (running, picky) in &two.workers {
        picky.0.store(true, SeqCst);
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    }
    let (one, other) = (&two.workers[0].0, &two.workers[1].0);
    one.pause::<Tally>().await.unwrap();
    sleep(SEEN).await;
    let head = deposits(&two.store, 20).await;
    sleep(LEASE).await;
    for running in [one, other] {
        assert_eq!(states(running), [PartitionState::Paused, PartitionState::Paused]);
        assert!(running.versions().await.unwrap()[0].version.wanted.paused);
    }
    let counted = async || two.model.query::<Tally>().unwrap().get(&TOTAL, &()).unwrap();
    assert_eq!(counted().await, Some(20 * 21 / 2));

    let later = Worker::new(&two.store).add(&two.model, Tally).start().await.unwrap();
    let Two { workers, .. } = two;
    for (running, _) in workers {
        assert!(running.drain(SOON).await);
    }
    assert_eq!(later.wait_for(&head, LEASE).await.unwrap(), Waited::TimedOut);
    assert_eq!(states(&later), [const { PartitionState::Paused }; 4]);
    // It stands through a reset.
    later.reset::<Tally, _>(&two.model).await.unwrap();
    assert_eq!(later.wait_for(&head, LEASE).await.unwrap(), Waited::TimedOut);
    let last = Worker::new(&two.store).add(&two.model, Tally).start().await.unwrap();
    sleep(LEASE).await;
    last.resume::<Tally>().await.unwrap();
    assert_eq!(last.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    assert_eq!(states(&later), [const { PartitionState::Running }; 2]);
    sleep(SEEN).await;
    assert_eq!(two.model.query::<Tally>().unwrap(), clean_pass(&two.store).await);
}

/// Before it has looked what has changed since: this read model can't tell it.
#[tokio::test(start_paused = true)]
async fn who_comes_while_it_is_paused_takes_nothing_from_the_first() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.pause::<Tally>().await.unwrap();
    assert!(running.drain(SOON).await);
    let head = deposits(&store, 20).await;
    let mute = Faulty::new(&model, Point::BeforeTake, Fault::Outage, 0);
    let running = Worker::new(&store).add(&mute, Tally).start().await.unwrap();
    assert_eq!(running.wait_for(&head, LEASE).await.unwrap(), Waited::TimedOut);
    assert_eq!(states(&running), [const { PartitionState::Paused }; 4]);
}

/// And it is not told as paused before.
#[tokio::test(start_paused = true)]
async fn a_pause_returns_when_what_was_under_way_is_committed() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    // It keeps no pause: so none waits for its transaction.
    let running = Worker::new(&store).add(&Chaos::new(&model), Picky::<true>::default()).start().await.unwrap();
    append(&store, "a", deposited(40)).await;
    sleep(Duration::from_millis(200)).await; // so soon, no other partition has anything to write
    let mut pause = Box::pin(running.pause::<Tally>());
    assert!(timeout(Duration::from_secs(30), &mut pause).await.is_err());
    assert_eq!(states(&running)[home().0 as usize], PartitionState::Running);
    pause.await.unwrap();
    assert_eq!(states(&running), [const { PartitionState::Paused }; 4]);
    assert_eq!(model.query::<Tally>().unwrap().get(&TOTAL, &()).unwrap(), Some(40));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_kept_nowhere_holds_here() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let running = Worker::new(&store).add(&Chaos::new(&model), Tally).start().await.unwrap();
    running.pause::<Tally>().await.unwrap();
    sleep(LEASE).await;
    let head = append(&store, "a", deposited(1)).await;
    assert_eq!(running.wait_for(&head, LEASE).await.unwrap(), Waited::TimedOut);
    running.resume::<Tally>().await.unwrap();
    assert_eq!(running.wait_for(&head, LEASE).await.unwrap(), Waited::Reached);
    assert!(running.pause::<Next>().await.unwrap_err().to_string().contains("tally@2 does not run here"));
}

#[tokio::test(start_paused = true)]
async fn a_throttle_goes_for_all_and_before_what_their_options_say() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let head = deposits(&store, 200).await;
    let old = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    assert_eq!(old.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let mut options = RunnerOptions::default();
    options.building_events_per_second_max = Some(4);
    let start = async || Worker::new(&store).with_options(options).add(&model, Next).start().await.unwrap();
    let (one, other) = (start().await, start().await);
    sleep(LEASE).await;
    let handled = |running: &Running| running.status()[0].1.iter().map(|status| status.events).sum::<u64>();
    assert!(handled(&one) < 100 && handled(&other) < 100);
    other.throttle::<Next>(None).await.unwrap();
    sleep(2 * SEEN).await;
    let current = model.versions("tally").await.unwrap().pop().unwrap();
    assert_eq!((current.projection.version, current.state), (2, VersionState::Current));
    assert_eq!(current.wanted, Wanted { paused: false, building_events_per_second_max: Some(0) });
}

#[tokio::test(start_paused = true)]
async fn letters_are_redriven_by_the_owner_whoever_is_told() {
    let two = Two::<true>::start().await;
    two.deposit(&[13, 1, 13, 2]).await;
    let (other, owner) = (&two.other().0, &two.owner().1.0);
    assert_eq!(two.letters().await.len(), 4);

    // Its own handler would do.
    two.other().1.0.store(true, SeqCst);
    let error = other.redrive::<Picky<true>>(&stream("a")).await.unwrap_err();
    assert_eq!(error.to_string(), "13 is bad luck");
    let (done, left) = other.redrive_all::<Picky<true>>().await.unwrap();
    assert_eq!((done, left.len(), left[0].1.to_string()), (0, 1, "13 is bad luck".into()));
    let second = other.redrive_one::<Picky<true>>(&two.letters().await[1]).await.unwrap_err();
    assert!(second.to_string().contains("comes first"), "{second}");
    assert_eq!(two.letters().await.len(), 4);

    owner.store(true, SeqCst);
    other.redrive_one::<Picky<true>>(&two.letters().await[0]).await.unwrap();
    assert_eq!(two.letters().await.len(), 3);
    owner.store(false, SeqCst);
    let (done, left) = other.redrive_all::<Picky<true>>().await.unwrap();
    assert_eq!((done, left.len()), (1, 1), "the second one stops it");
    owner.store(true, SeqCst);
    assert_eq!(other.redrive::<Picky<true>>(&stream("a")).await.unwrap(), 2);
    assert_eq!(other.redrive::<Picky<true>>(&stream("a")).await.unwrap(), 0);
    assert_eq!(two.model.wishes(&id()).await.unwrap(), []);
    two.deposit(&[3]).await;
    assert_eq!(two.model.query::<Tally>().unwrap(), clean_pass(&two.store).await);
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_given_up_once_whoever_is_told() {
    let two = Two::<true>::start().await;
    two.deposit(&[13, 1]).await;
    let letters = two.letters().await;
    let other = &two.other().0;
    let asked = Instant::now();
    other.discard::<Picky<true>>(&letters[0], "it never happened").await.unwrap();
    assert!(asked.elapsed() <= LEASE / 3 + Duration::from_millis(200), "{:?}", asked.elapsed());
    assert_eq!(two.letters().await, letters[1..]);
    assert_eq!(two.model.discarded(&id()).unwrap(), [(letters[0].clone(), "it never happened".into())]);

    // It is not asked for what is gone.
    let asked = Instant::now();
    let gone = other.discard::<Picky<true>>(&letters[0], "twice").await.unwrap_err();
    assert!(gone.to_string().contains("there no more"), "{gone}");
    let gone = other.redrive_one::<Picky<true>>(&letters[0]).await.unwrap_err();
    assert!(gone.to_string().contains("there no more"), "{gone}");
    assert_eq!(asked.elapsed(), Duration::ZERO);
    // Who finds a wish for it, as after the death of one who did it and could not say so, says that nothing is left.
    let (stream, position) = (letters[0].stream.clone(), letters[0].position);
    let errand = Errand::Discard { stream, position, reason: "again".into() };
    let wish = Wish { id: 1, partition: letters[0].partition, errand };
    two.model.wish(&id(), &wish).await.unwrap();
    sleep(LEASE).await;
    let answered = two.model.outcome(&id(), 1, false).await.unwrap();
    assert_eq!(answered, Some(Done { letters: 0, error: None }));
    assert_eq!(two.model.discarded(&id()).unwrap().len(), 1);
    // So who asked while it was there is told that all is well, whoever has seen to it.
    let (asked, done) = tokio::join!(other.discard::<Picky<true>>(&letters[1], "by two"), async {
        sleep(Duration::from_millis(10)).await;
        two.owner().0.discard::<Picky<true>>(&letters[1], "by one").await
    });
    assert!(asked.is_ok() && done.is_ok(), "{asked:?}, {done:?}");
    assert_eq!(two.model.discarded(&id()).unwrap()[1..], [(letters[1].clone(), "by one".into())]);
}

#[tokio::test(start_paused = true)]
async fn what_has_stopped_is_restarted_whoever_owns_it() {
    let two = Two::<false>::start().await;
    two.deposit(&[1, 13]).await;
    assert!(states(&two.owner().0).iter().any(|state| matches!(state, PartitionState::Stopped { .. })));
    two.owner().1.0.store(true, SeqCst);
    sleep(LEASE).await;
    two.other().0.restart::<Picky<false>>().await.unwrap();
    sleep(SEEN).await;
    assert_eq!(states(&two.owner().0), [PartitionState::Running, PartitionState::Running]);
    assert_eq!(two.model.query::<Tally>().unwrap(), clean_pass(&two.store).await);
}

/// Also where the owner has seen both wishes at once.
#[tokio::test(start_paused = true)]
async fn what_was_taken_back_while_its_owner_did_something_else_is_not_done() {
    let two = Two::<true>::start().await;
    let beside = (0..).map(|n| n.to_string()).find(|name| Partition::of(&stream(name), 4) == home()).unwrap();
    two.deposit(&[13, 40]).await;
    append(&two.store, &beside, deposited(13)).await;
    sleep(SEEN).await;
    let letters = two.letters().await;
    two.owner().1.0.store(true, SeqCst);
    let other = &two.other().0;
    let (redriven, discarded) = tokio::join!(other.redrive::<Picky<true>>(&letters[0].stream), async {
        sleep(Duration::from_millis(10)).await;
        other.discard::<Picky<true>>(&letters[2], "nobody knows").await
    });
    for silent in [redriven.unwrap_err(), discarded.unwrap_err()] {
        assert!(silent.to_string().ends_with("it is asked no more"), "{silent}");
    }
    sleep(4 * LEASE).await;
    assert_eq!(two.letters().await, letters[2..], "what was begun is done, and no more");
    assert_eq!(two.model.discarded(&id()).unwrap(), []);
}

/// A letter of the account a, whose worker has gone.
async fn parked() -> (MemoryStore, MemoryModel) {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let poisoned = append(&store, "a", deposited(13)).await;
    let first = Worker::new(&store).add(&model, Picky::<true>::default()).start().await.unwrap();
    assert_eq!(first.wait_for(&poisoned, SOON).await.unwrap(), Waited::Parked(stream("a")));
    assert!(first.drain(SOON).await);
    (store, model)
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_was_asked_for_that_dies_its_successor_does() {
    let (store, model) = parked().await;
    let chaos = Chaos::new(&model);
    let _owner = Worker::new(&store).add(&chaos, Picky::<true>::default()).start().await.unwrap();
    // It has no partition yet.
    let other = Worker::new(&store).add(&model, Picky::<true>(Arc::new(true.into()))).start().await.unwrap();
    chaos.stall();
    let asked = Instant::now();
    assert_eq!(other.redrive::<Picky<true>>(&stream("a")).await.unwrap(), 1);
    assert!(asked.elapsed() > LEASE / 2 && asked.elapsed() < 2 * LEASE, "{:?}", asked.elapsed());
    assert_eq!(model.letters(&id(), None, Position::START, 9).await.unwrap(), []);
}

/// As one does whose code is from before there were wishes.
#[tokio::test(start_paused = true)]
async fn an_owner_that_does_not_answer_is_asked_no_more() {
    let (store, model) = parked().await;
    let silent = Chaos::new(&model);
    // As many as there are partitions, and names that leave another without one.
    let mut owners = Vec::new();
    for name in ["0", "1", "3", "4"] {
        let worker = Worker::new(&store).with_id(WorkerId(name.into())).add(&silent, Picky::<true>::default());
        owners.push(worker.start().await.unwrap());
    }
    let other = Worker::new(&store).with_id(WorkerId("2".into())).add(&model, Picky::<true>::default());
    let other = other.start().await.unwrap();
    sleep(LEASE).await;
    assert_eq!(other.status()[0].1, []);
    let silent = other.redrive::<Picky<true>>(&stream("a")).await.unwrap_err();
    assert!(silent.to_string().contains("does not answer for 23s; it is asked no more"), "{silent}");
    assert_eq!(model.wishes(&id()).await.unwrap(), []);
    assert_eq!(model.letters(&id(), None, Position::START, 9).await.unwrap().len(), 1);

    // Who goes away takes nothing back, and it is forgotten an hour later.
    assert!(timeout(LEASE, other.redrive::<Picky<true>>(&stream("a"))).await.is_err());
    assert_eq!(model.wishes(&id()).await.unwrap().len(), 1);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(model.wishes(&id()).await.unwrap(), []);
}
