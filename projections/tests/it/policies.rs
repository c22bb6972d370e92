//! Every poison by every policy. What cannot be handled stops its partition or is parked, with its reason; others go
//! on; and nothing is skipped without a record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{
    ContentType, EventType, NewEvent, Position,
    conformance::fault::{Line, seeded},
    store::memory::MemoryStore,
};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};

use crate::fixture::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Poison {
    Error,
    Panic,
    Endless,
    Undecodable,
    /// Whoever decodes it panics.
    DecodingPanics,
    /// Of a schema version that has no upcaster any more, or not yet.
    NoUpcaster,
    /// Of a type that nobody asked for.
    UnknownType,
}
use Poison::*;

/// Where the dead letters fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Letters {
    Work,
    Refuse,
    AreDown,
}

/// Fails at deposits of 13 in its own way, until it is mended.
#[derive(Clone)]
struct Picky<const PARK: bool> {
    poison: Poison,
    mended: Arc<AtomicBool>,
}
impl<const PARK: bool> Projection for Picky<PARK> {
    const NAME: &'static str = "tally";
    const ORDER: Order = Order::PerStream { partitions: 4 };
    const ON_FAILURE: OnFailure = if PARK { OnFailure::PARK } else { OnFailure::Stop };
    const RETRY: Retry =
        Retry { attempts_max: 3, pause_first: Duration::from_millis(1), pause_max: Duration::from_millis(2) };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl<const PARK: bool> Project<Table21> for Picky<PARK> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await?;
        let poisoned = matches!(envelope.event, AccountEvent::Deposited { cents: 13 }) && !self.mended.load(SeqCst);
        match self.poison {
            Error if poisoned => Err("13 is bad luck".into()),
            Panic if poisoned => panic!("the beast"),
            Endless if poisoned => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

/// A memory read model whose dead letters may fail.
#[derive(Clone)]
struct Table21(MemoryModel, Letters);
impl ReadModel for Table21 {
    type Tx = MemoryTx;
    const PARKS: bool = true;
    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        self.0.register(registration).await
    }
    async fn take(&self, id: &ProjectionId, at: Partition, worker: &WorkerId) -> Result<Option<Claim>, ReadModelError> {
        self.0.take(id, at, worker).await
    }
    async fn begin(&self, advance: &Advance) -> Result<MemoryTx, ReadModelError> {
        self.0.begin(advance).await
    }
    async fn commit(&self, tx: MemoryTx) -> Result<(), ReadModelError> {
        self.0.commit(tx).await
    }
    async fn partitions(&self, id: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        self.0.partitions(id).await
    }
    async fn stopped(&self, claim: &Claim, error: &str) -> Result<(), ReadModelError> {
        self.0.stopped(claim, error).await
    }
    async fn versions(&self, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
        self.0.versions(name).await
    }
    async fn park(&self, tx: &mut MemoryTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
        match self.1 {
            Letters::Work => self.0.park(tx, letter).await,
            Letters::Refuse => Err(ReadModelError::rejected("a dead letter", "no such table")),
            Letters::AreDown => Err(ReadModelError::unavailable("a dead letter", "the connection is lost")),
        }
    }
    async fn letters(
        &self,
        id: &ProjectionId,
        stream: Option<&indelible_core::StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        self.0.letters(id, stream, after, limit).await
    }
    async fn unpark(&self, tx: &mut MemoryTx, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        self.0.unpark(tx, letter, end).await
    }
}

/// What came of it.
#[derive(Debug, PartialEq)]
enum Outcome {
    HandledAll,
    Stopped,
    Parked,
    Waits,
}

async fn outcome<const PARK: bool>(poison: Poison, letters: Letters) -> Outcome {
    let what = format!("{poison:?}, {}, letters {letters:?}", if PARK { "park" } else { "stop" });
    let (store, model) = (MemoryStore::new(), Table21(MemoryModel::new(), letters));
    let typed = |name: &str, data: &'static str| NewEvent::new(EventType::new(name).unwrap(), ContentType::JSON, data);
    append(&store, "a", deposited(1)).await;
    let poisoned = match poison {
        Undecodable => append(&store, "a", typed("Deposited", r#"{"cents":"many"}"#)).await,
        DecodingPanics => append(&store, "a", deposited(UNREADABLE)).await,
        NoUpcaster => {
            let mut event = deposited(13);
            event.schema_version = 7;
            append(&store, "a", event).await
        }
        UnknownType => append(&store, "a", typed("Exploded", "{}")).await,
        Error | Panic | Endless => append(&store, "a", deposited(13)).await,
    };
    append(&store, "a", deposited(2)).await;
    let head = deposits(&store, 12).await;

    let picky = Picky::<PARK> { poison, mended: Arc::default() };
    let mut options = RunnerOptions::default();
    options.batch_time_max = Duration::from_secs(1);
    let running = Worker::new(&store).with_options(options).add(&model, picky.clone()).start().await.unwrap();
    let home = Partition::of(&stream("a"), 4);
    for free in (0..20).map(stream).filter(|other| Partition::of(other, 4) != home) {
        assert_eq!(running.wait_for_stream(&head, &free, SOON).await.unwrap(), Waited::Reached, "{what}");
    }
    let waited = running.wait_for_stream(&head, &stream("a"), SOON).await.unwrap();
    let row = model.partitions(&ProjectionId::of::<Tally>()).await.unwrap().remove(home.0 as usize);
    let parked = model.letters(&ProjectionId::of::<Tally>(), None, Position::START, 9).await.unwrap();
    let counted = model.0.query::<Tally>().unwrap().get(&SUMS, &"a".to_owned()).unwrap();

    let outcome = match waited {
        Waited::Reached => {
            assert_eq!((poison, parked.len(), counted), (UnknownType, 0, Some((3, 2))), "{what}: it was skipped");
            return Outcome::HandledAll;
        }
        Waited::Stopped(error) => {
            assert_eq!(row.stopped.as_deref(), Some(&*error), "{what}");
            assert!(!error.is_empty() && row.position.position < poisoned.position, "{what}");
            Outcome::Stopped
        }
        Waited::Parked(_) => {
            let (first, second) = (&parked[0], &parked[1]);
            assert_eq!((first.position, first.attempts, second.attempts), (poisoned.position, 3, 0), "{what}");
            assert!(!first.error.as_ref().unwrap().is_empty() && second.error.is_none(), "{what}");
            Outcome::Parked
        }
        Waited::TimedOut => {
            assert!(row.position.position < poisoned.position, "{what}");
            Outcome::Waits
        }
    };
    assert_eq!(counted, Some((1, 1)), "{what}");

    // What failed in the handler comes right when that is mended.
    picky.mended.store(true, SeqCst);
    if matches!(poison, Error | Panic | Endless) {
        match outcome {
            Outcome::Parked => assert_eq!(running.redrive::<Picky<PARK>>(&stream("a")).await.unwrap(), 2),
            _ => running.restart::<Picky<PARK>>().await.unwrap(),
        }
        tokio::time::timeout(SOON, async {
            while running.wait_for(&head, SOON).await.unwrap() != Waited::Reached {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(model.0.query::<Tally>().unwrap(), clean_pass(&store).await, "{what}");
    }
    outcome
}

#[tokio::test(start_paused = true)]
async fn each_poison_meets_its_policy() {
    let mut rows = 0;
    for poison in [Error, Panic, Endless, Undecodable, DecodingPanics, NoUpcaster] {
        assert_eq!(outcome::<false>(poison, Letters::Work).await, Outcome::Stopped, "{poison:?}");
        assert_eq!(outcome::<true>(poison, Letters::Work).await, Outcome::Parked, "{poison:?}");
        assert_eq!(outcome::<true>(poison, Letters::Refuse).await, Outcome::Stopped, "{poison:?}");
        assert_eq!(outcome::<true>(poison, Letters::AreDown).await, Outcome::Waits, "{poison:?}");
        rows += 4;
    }
    for letters in [Letters::Work, Letters::Refuse, Letters::AreDown] {
        assert_eq!(outcome::<false>(UnknownType, letters).await, Outcome::HandledAll);
        assert_eq!(outcome::<true>(UnknownType, letters).await, Outcome::HandledAll);
        rows += 2;
    }
    Line::clean("poison events", rows, rows, rows, "seven kinds of poison, three of letters").print();
}

#[test]
fn a_poison_that_is_skipped_is_noticed() {
    let play = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(outcome::<false>(Error, Letters::Work))
    };
    assert_eq!(play(), Outcome::Stopped);
    bugs::choose(Some(bugs::Bug::SkipsPoison));
    let skipped = std::panic::catch_unwind(play);
    bugs::choose(None);
    seeded("poison events", "SkipsPoison", skipped.is_err(), &"it was skipped");
}
