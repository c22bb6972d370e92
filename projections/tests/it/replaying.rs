//! What is history to a handler: an event that was recorded before this version of its projection was first run, or was
//! reset. The answer for an event is always the same.

use std::{
    mem::take,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};
use tokio::time::sleep;

use crate::fixture::*;

/// Remembers of each event whether it came as history; and cannot handle deposits of 13 until it is mended.
#[derive(Clone, Default)]
struct Witness<const N: u32> {
    told: Arc<Mutex<Vec<(u64, bool)>>>,
    mended: Arc<AtomicBool>,
}
impl<const N: u32> Witness<N> {
    /// By position, what it was told since this was asked last.
    fn told(&self) -> Vec<(u64, bool)> {
        take(&mut self.told.lock().unwrap())
    }
}
impl<const N: u32> Projection for Witness<N> {
    const NAME: &'static str = "witness";
    const VERSION: u32 = N;
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    const RETRY: Retry = Retry::NEVER;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl<const N: u32, M: ReadModel> Project<M> for Witness<N> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, _: &mut M::Tx) -> Result<(), Cause> {
        let unlucky = matches!(envelope.event, AccountEvent::Deposited { cents: 13 }) && !self.mended.load(SeqCst);
        if unlucky {
            return Err("13 is bad luck".into());
        }
        self.told.lock().unwrap().push((envelope.recorded.position.get(), envelope.replaying));
        Ok(())
    }
}

async fn three(store: &MemoryStore) {
    for account in 0..3 {
        append(store, account, deposited(1)).await;
    }
}

async fn seen(running: &Running, store: &MemoryStore) {
    assert_eq!(running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_a_version_ran_is_history_to_it_and_what_came_since_is_not() {
    let (store, model, first) = (MemoryStore::new(), MemoryModel::new(), Witness::<1>::default());
    three(&store).await;
    let running = Worker::new(&store).add(&model, first.clone()).start().await.unwrap();
    three(&store).await;
    seen(&running, &store).await;
    assert_eq!(first.told(), [(1, true), (2, true), (3, true), (4, false), (5, false), (6, false)]);
    assert!(running.drain(SOON).await);

    // What it has missed is news to it, and history to the next version.
    three(&store).await;
    let next = Witness::<2>::default();
    let both = Worker::new(&store).add(&model, first.clone()).add(&model, next.clone()).start().await.unwrap();
    append(&store, 0, deposited(1)).await;
    seen(&both, &store).await;
    assert!(both.take_over::<Witness<2>>(SOON).await.unwrap());
    seen(&both, &store).await;
    assert_eq!(first.told(), [(7, false), (8, false), (9, false), (10, false)]);
    let replayed: Vec<_> = (1..=10).map(|position| (position, position < 10)).collect();
    assert_eq!(next.told(), replayed);
}

#[tokio::test(start_paused = true)]
async fn what_was_there_before_a_reset_is_history() {
    let (store, model, witness) = (MemoryStore::new(), MemoryModel::new(), Witness::<1>::default());
    three(&store).await;
    let running = Worker::new(&store).add(&model, witness.clone()).start().await.unwrap();
    three(&store).await;
    seen(&running, &store).await;
    witness.told();
    running.reset::<Witness<1>, _>(&model).await.unwrap();
    append(&store, 0, deposited(1)).await;
    sleep(Duration::from_secs(3)).await;
    assert!(model.query::<Witness<1>>().is_ok(), "it has not caught up");
    let expected: Vec<_> = (1..=7).map(|position| (position, position < 7)).collect();
    assert_eq!(witness.told(), expected);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_again_after_a_crash_is_told_the_same() {
    let (store, model, witness) = (MemoryStore::new(), MemoryModel::new(), Witness::<1>::default());
    three(&store).await;
    let dying = Faulty::new(&model, Point::BeforeCommit, Fault::Death, 1);
    let running = Worker::new(&store).add(&dying, witness.clone()).start().await.unwrap();
    dying.struck.notified().await;
    drop(running);
    assert_eq!(witness.told(), [(1, true), (2, true), (3, true)]);
    three(&store).await;
    let running = Worker::new(&store).add(&model, witness.clone()).start().await.unwrap();
    seen(&running, &store).await;
    assert_eq!(witness.told(), [(1, true), (2, true), (3, true), (4, false), (5, false), (6, false)]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_is_what_its_event_was() {
    let (store, model, witness) = (MemoryStore::new(), MemoryModel::new(), Witness::<1>::default());
    append(&store, "old", deposited(13)).await;
    let running = Worker::new(&store).add(&model, witness.clone()).start().await.unwrap();
    append(&store, "new", deposited(13)).await;
    append(&store, "old", deposited(1)).await;
    let head = append(&store, "fine", deposited(1)).await;
    assert_eq!(running.wait_for_stream(&head, &stream("fine"), SOON).await.unwrap(), Waited::Reached);
    assert_eq!(witness.told(), [(4, false)]);
    witness.mended.store(true, SeqCst);
    assert_eq!(running.redrive_all::<Witness<1>>().await.unwrap().0, 3);
    let mut told = witness.told();
    told.sort();
    assert_eq!(told, [(1, true), (2, false), (3, false)]);
}
