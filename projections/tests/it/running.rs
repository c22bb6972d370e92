//! Running: the order of the whole log, pausing, draining, targets without transactions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::fixture::*;

const ORDER: Table<u64, u64> = Table::new("order");

#[derive(Projection)]
#[projection(name = "whole", of = Account, whole_log)]
struct Whole;
impl Project<MemoryModel> for Whole {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        let position = envelope.recorded.position.get();
        let next = tx.scan(&ORDER, .., usize::MAX)?.len() as u64;
        Ok(tx.put(&ORDER, &next, &position)?)
    }
}

#[tokio::test]
async fn the_whole_log_comes_in_its_order() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    deposits(&store, 100).await;
    let running = Worker::new(&store).add(&model, Whole).add(&model, Tally).start().await.unwrap();
    let head = deposits(&store, 100).await;
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let order = model.query::<Whole>().unwrap().scan(&ORDER, .., usize::MAX).unwrap();
    assert_eq!(order, (0..head.position.get()).map(|n| (n, n + 1)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_paused_one_waits_and_a_drained_one_has_written_where_it_is() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = deposits(&store, 50).await;
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    running.pause::<Tally>().await.unwrap();
    let head = append(&store, 1, deposited(1)).await;
    assert_eq!(running.wait_for(&head, Duration::from_millis(50)).await.unwrap(), Waited::TimedOut);
    running.resume::<Tally>().await.unwrap();
    assert_eq!(running.wait_for_projection::<Tally>(&head, SOON).await.unwrap(), Waited::Reached);
    // Nothing can be said of one that doesn't run here.
    assert!(matches!(running.wait_for_projection::<Whole>(&head, SOON).await, Err(WaitError::NotHere(_))));
    assert!(matches!(running.take_over::<Whole>(SOON).await, Err(WaitError::NotHere(_))));
    assert!(running.drain(SOON).await);
    for row in model.partitions(&ProjectionId::of::<Tally>()).await.unwrap() {
        assert_eq!(row.position, head);
    }
}

/// A tally that does not come to an end with a deposit of 13, until it is let go on.
#[derive(Clone, Default)]
struct Endless {
    began: Arc<Notify>,
    goes_on: Arc<AtomicBool>,
}
impl Projection for Endless {
    const NAME: &'static str = Tally::NAME;
    const ORDER: Order = Tally::ORDER;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<MemoryModel> for Endless {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await?;
        if matches!(envelope.event, AccountEvent::Deposited { cents: 13 }) && !self.goes_on.load(SeqCst) {
            self.began.notify_one();
            while !self.goes_on.load(SeqCst) {
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_at_the_deadline_of_a_drain_is_undone_and_done_once_by_the_next() {
    let lease = Duration::from_secs(9);
    for model in [MemoryModel::new(), MemoryModel::shared(lease)] {
        let (store, endless, deadline) = (MemoryStore::new(), Endless::default(), Duration::from_secs(5));
        let before = append(&store, "a", deposited(1)).await;
        let running = Worker::new(&store).add(&model, endless.clone()).start().await.unwrap();
        assert_eq!(running.wait_for(&before, SOON).await.unwrap(), Waited::Reached);
        append(&store, "a", deposited(13)).await;
        let head = append(&store, "a", deposited(2)).await;
        endless.began.notified().await;
        let asked_at = Instant::now();
        assert!(!running.drain(deadline).await, "it says that all was committed");
        assert!(asked_at.elapsed() >= deadline && asked_at.elapsed() < deadline + Duration::from_millis(10));

        // Not even when the handler goes on.
        endless.goes_on.store(true, SeqCst);
        sleep(Duration::from_secs(100)).await;
        let home = Partition::of(&stream("a"), 4).0 as usize;
        assert_eq!(model.query::<Tally>().unwrap().get(&SUMS, &"a".to_owned()).unwrap(), Some((1, 1)));
        let row = model.partitions(&ProjectionId::of::<Tally>()).await.unwrap().remove(home);
        assert_eq!((row.position, row.owner.filter(|_| model.lease().is_some())), (before, None));

        let running = Worker::new(&store).add(&model, endless).start().await.unwrap();
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
        assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
        assert!(running.drain(SOON).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_waits_for_what_is_under_way_so_that_nobody_is_told_of_what_was_there_before() {
    let (store, model, endless) = (MemoryStore::new(), MemoryModel::new(), Endless::default());
    let before = append(&store, "a", deposited(1)).await;
    let running = Worker::new(&store).add(&model, endless.clone()).start().await.unwrap();
    assert_eq!(running.wait_for(&before, SOON).await.unwrap(), Waited::Reached);
    let head = append(&store, "a", deposited(13)).await;
    endless.began.notified().await;
    let reset = async {
        running.reset::<Endless, _>(&model).await.unwrap();
        // Taken, put back, and taken again.
        assert!(running.status()[0].1.iter().all(|lane| lane.epoch == Epoch(3)), "{:?}", running.status());
        assert_eq!(running.progress().len(), 1);
    };
    let goes_on = async {
        sleep(Duration::from_secs(5)).await;
        endless.goes_on.store(true, SeqCst);
    };
    futures::join!(reset, goes_on);
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(running.progress(), []);
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
}

type Client = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

impl Project<AtLeastOnce<Client>> for Whole {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut DirectTx<Client>) -> Result<(), Cause> {
        let AccountEvent::Deposited { cents } = envelope.event else { return Ok(()) };
        let mut rows = tx.client.lock().unwrap();
        let (sum, seen) = rows.entry(envelope.recorded.stream.id().to_owned()).or_default();
        if envelope.recorded.position.get() > *seen {
            (*sum, *seen) = (*sum + cents, envelope.recorded.position.get());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_target_without_transactions_goes_on_from_its_checkpoint() {
    let (store, client) = (MemoryStore::new(), Client::default());
    for _ in 0..3 {
        let target = AtLeastOnce::new(client.clone(), &store);
        let running = Worker::new(&store).add(&target, Whole).start().await.unwrap();
        let head = deposits(&store, 20).await;
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
        assert_eq!(store.head().await.unwrap(), head);
        let versions = running.versions().await.unwrap();
        assert_eq!(versions.iter().map(|version| version.lag_events()).collect::<Vec<_>>(), [0]);
    }
    let target = AtLeastOnce::new(client.clone(), &store);
    let running = Worker::new(&store).add(&target, Whole).start().await.unwrap();
    assert!(running.is_alive() && running.drain(SOON).await);
    drop(target);
    assert_eq!(Arc::strong_count(&client), 1, "something still holds what somebody else may want to open now");
    assert_eq!(client.lock().unwrap().values().map(|(sum, _)| sum).sum::<u64>(), 3 * 20 * 21 / 2);
}

/// What has no transactions: sums, each with the position up to which it is right; and beside them all calls, with whether
/// they were history.
#[derive(Clone, Default)]
struct Index {
    sums: Arc<Mutex<BTreeMap<String, (u64, u64)>>>,
    calls: Arc<Mutex<Vec<(u64, bool)>>>,
}

/// Writes to it, and dies before the checkpoint where it is to.
struct Dying(Option<Arc<Notify>>);
impl Projection for Dying {
    const NAME: &'static str = "dying";
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<AtLeastOnce<Index>> for Dying {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut DirectTx<Index>) -> Result<(), Cause> {
        let AccountEvent::Deposited { cents } = envelope.event else { return Err("was not asked for".into()) };
        let position = envelope.recorded.position.get();
        tx.client.calls.lock().unwrap().push((position, envelope.replaying));
        let mut sums = tx.client.sums.lock().unwrap();
        let (sum, seen) = sums.entry(envelope.recorded.stream.id().to_owned()).or_default();
        if position > *seen {
            (*sum, *seen) = (*sum + cents, position);
        }
        Ok(())
    }
    async fn apply_batch(&self, envelopes: &[Envelope<AccountEvent>], tx: &mut DirectTx<Index>) -> Result<(), Cause> {
        for envelope in envelopes {
            Project::<AtLeastOnce<Index>>::apply(self, envelope, tx).await?;
        }
        match &self.0 {
            Some(written) => {
                written.notify_one();
                std::future::pending().await
            }
            None => Ok(()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_without_its_checkpoint_comes_again_and_its_position_makes_that_harmless() {
    let (store, index) = (MemoryStore::new(), Index::default());
    let start = async |dies| {
        let target = AtLeastOnce::new(index.clone(), &store);
        Worker::new(&store).add(&target, Dying(dies)).start().await.unwrap()
    };
    let mut expected = Vec::new();
    for round in 0..3 {
        let first = 3 * round + 1;
        for account in 0..3 {
            append(&store, account % 2, deposited(10)).await;
        }
        let written = Arc::new(Notify::new());
        let dies = start(Some(written.clone())).await;
        written.notified().await;
        drop(dies);
        let lives = start(None).await;
        assert_eq!(lives.wait_for(&store.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
        assert!(lives.drain(SOON).await);
        // Twice each: once before the crash, and once after it, in the same order and told the same.
        expected.extend([first, first + 1, first + 2].repeat(2).into_iter().map(|position| (position, round == 0)));
        assert_eq!(*index.calls.lock().unwrap(), expected);
        let sums = index.sums.lock().unwrap().clone();
        assert_eq!(sums.into_values().map(|(sum, _)| sum).collect::<Vec<_>>(), [20 * (round + 1), 10 * (round + 1)]);
    }
}
