//! Reactors: what they leave alone, and calls that don't come back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use indelible_core::{Position, Repository, Token, store::memory::MemoryStore};
use indelible_projections::{
    Envelope, OnFailure, ProjectionId, ReadModel, Retry, Waited, Wants, Worker, memory::MemoryModel,
};
use indelible_sagas::{Failure, React, Reactor};
use tokio::time::{Instant, sleep};

use crate::bell::{Bell, BellEvent, Ring};

const SOON: Duration = Duration::from_secs(60);

async fn ring(store: &MemoryStore, bell: &str, times: usize) -> Token {
    let mut last = None;
    for _ in 0..times {
        last = Some(Repository::<Bell>::new(store).execute(bell, Ring).await.unwrap().token());
    }
    last.unwrap()
}

/// What was reacted to: which ring of the bell, and under which key.
type Heard = Arc<Mutex<Vec<(u64, String)>>>;

fn times(heard: &Heard) -> Vec<u64> {
    heard.lock().unwrap().iter().map(|(times, _)| *times).collect()
}

/// An ear, which listens to history or doesn't.
#[derive(Clone, Default)]
struct Ear<const ON_HISTORY: bool>(Heard);
impl<const ON_HISTORY: bool> React for Ear<ON_HISTORY> {
    const NAME: &'static str = if ON_HISTORY { "historian" } else { "ear" };
    const ON_HISTORY: bool = ON_HISTORY;
    type Event = BellEvent;
    fn wants() -> Wants<BellEvent> {
        Wants::of::<Bell>()
    }
    async fn react(&self, envelope: &Envelope<BellEvent>, key: &str) -> Result<(), Failure> {
        let BellEvent::Rung { times } = envelope.event;
        self.0.lock().unwrap().push((times, key.to_owned()));
        Ok(())
    }
}

/// Neither what was there before it nor a rebuild brings anything about, unless it is asked to react to history; then it
/// reacts again, under the same keys.
#[tokio::test]
async fn a_rebuild_brings_nothing_about_unless_asked_to() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let (ear, historian) = (Ear::<false>::default(), Ear::<true>::default());
    ring(&store, "north", 3).await;
    let worker = Worker::new(&store).add(&model, Reactor(ear.clone())).add(&model, Reactor(historian.clone()));
    let running = worker.start().await.unwrap();
    let reached = async |token| assert_eq!(running.wait_for(&token, SOON).await.unwrap(), Waited::Reached);
    reached(ring(&store, "north", 2).await).await;
    assert_eq!((times(&ear.0), times(&historian.0)), (vec![4, 5], vec![1, 2, 3, 4, 5]));

    running.reset::<Reactor<Ear<false>>, _>(&model).await.unwrap();
    running.reset::<Reactor<Ear<true>>, _>(&model).await.unwrap();
    ring(&store, "north", 1).await;
    let until = Instant::now() + SOON;
    while times(&ear.0).len() < 3 || times(&historian.0).len() < 11 {
        assert!(Instant::now() < until, "{:?} {:?}", times(&ear.0), times(&historian.0));
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(times(&ear.0), [4, 5, 6]);
    assert_eq!(times(&historian.0), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]);
    let heard = historian.0.lock().unwrap().clone();
    assert_eq!(heard[..5], heard[5..10], "under the same keys");
    assert!(running.drain(SOON).await);
}

/// The first call for the second ring never comes back, and none for the third does.
#[derive(Clone, Default)]
struct Deaf(Heard);
impl React for Deaf {
    const NAME: &'static str = "deaf";
    const DEADLINE: Duration = Duration::from_secs(5);
    const RETRY: Retry = Retry { attempts_max: 3, ..Retry::DEFAULT };
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    type Event = BellEvent;
    fn wants() -> Wants<BellEvent> {
        Wants::of::<Bell>()
    }
    async fn react(&self, envelope: &Envelope<BellEvent>, key: &str) -> Result<(), Failure> {
        let BellEvent::Rung { times: ring } = envelope.event;
        let calls = times(&self.0).iter().filter(|times| **times == ring).count();
        self.0.lock().unwrap().push((ring, key.to_owned()));
        if (ring, calls) == (2, 0) || ring == 3 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// A call that hangs is cut, and is a failure as any other: tried again under its key, and parked in the end.
#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_is_cut() {
    let (store, model, deaf) = (MemoryStore::new(), MemoryModel::new(), Deaf::default());
    let running = Worker::new(&store).add(&model, Reactor(deaf.clone())).start().await.unwrap();
    for times in [1, 2, 3] {
        let began = Instant::now();
        let token = ring(&store, "north", 1).await;
        while running.status()[0].1.iter().map(|lane| lane.looked_to.position).max() < Some(token.position) {
            assert!(began.elapsed() < SOON, "ring {times}: {:?}", running.status());
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(began.elapsed() >= Deaf::DEADLINE, times > 1, "ring {times} took {:?}", began.elapsed());
    }
    let heard = deaf.0.lock().unwrap().clone();
    let of = |ring| heard.iter().filter(move |(times, _)| *times == ring).map(|(_, key)| key);
    assert_eq!((of(1).count(), of(2).count()), (1, 2));
    assert!(of(2).all(|key| Some(key) == of(2).next()) && of(3).count() >= 3, "{heard:?}");
    let letters = model.letters(&ProjectionId::of::<Reactor<Deaf>>(), None, Position::START, 9).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(format!("{letters:?}").contains("no answer within 5s"), "{letters:?}");
    assert!(running.drain(SOON).await);
}
