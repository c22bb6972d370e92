//! T9: a log and an agenda that are away at any moment, or lose the answer, and workers that die. What sagas come to is what they come to without.
//!
//! `INDELIBLE_SAGA_FAULTS` says over how many sagas (60), `INDELIBLE_SEED` from which number (1).

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    env, fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use indelible_core::{
    Aggregate, Append, AppendOutcome, Apply, Cause, Context, Event, EventStore, Events, Handle, Position, Repository,
    Store, StoreError, StreamId, Timestamp,
    conformance::fault::{Line, counts},
    store::memory::MemoryStore,
    testing::Layer,
};
use indelible_projections::{
    Advance, Claim, DeadLetter, LetterEnd, Partition, PartitionRow, ProjectionId, ReadModel, ReadModelError,
    Registration, VersionRow, WorkerId,
    memory::{MemoryModel, MemoryTx},
};
use indelible_sagas::{
    AgendaModel, Call, Clock, Entry, Failure, Item, Perform, Saga, SagaWorker, Work,
    testing::killed::{Errand, KeptOutside, judge_errands, start_errands},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(600);
/// How many workers die before one has done it all.
const LIVES: usize = 20;

/// What goes wrong, by chance, and how often each thing did.
#[derive(Clone)]
struct Faults(Arc<Mutex<(StdRng, BTreeMap<&'static str, u64>)>>);

impl Faults {
    fn strikes(&self, what: &'static str) -> bool {
        let (random, seen) = &mut *self.0.lock().unwrap();
        let strikes = random.random_bool(0.1);
        *seen.entry(what).or_default() += u64::from(strikes);
        strikes
    }

    fn strikes_model(&self, what: &'static str) -> Result<(), ReadModelError> {
        match self.strikes(what) {
            true => Err(ReadModelError::unavailable("a test", "the connection is lost")),
            false => Ok(()),
        }
    }
}

/// A log that fails.
#[derive(Clone)]
struct Log(MemoryStore, Faults);

#[async_trait]
impl Layer for Log {
    fn beneath(&self) -> &dyn Store {
        &self.0
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        if self.1.strikes("append: away") {
            return Err(StoreError::unavailable("a test", "it is away"));
        }
        if self.1.strikes("append: lost") {
            return Err(StoreError::OutcomeUnknown { append: Box::new(append), source: None });
        }
        let outcome = self.0.append(append.clone()).await;
        match outcome.is_ok() && self.1.strikes("append: written, answer lost") {
            true => Err(StoreError::OutcomeUnknown { append: Box::new(append), source: None }),
            false => outcome,
        }
    }
    async fn before_read(&self) -> Result<(), StoreError> {
        match self.1.strikes("read: away") {
            true => Err(StoreError::unavailable("a test", "it is away")),
            false => Ok(()),
        }
    }
}

/// A read model that fails.
#[derive(Clone)]
struct Model(MemoryModel, Faults);

impl ReadModel for Model {
    type Tx = MemoryTx;
    const PARKS: bool = true;
    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        self.0.register(registration).await
    }
    async fn take(&self, id: &ProjectionId, at: Partition, worker: &WorkerId) -> Result<Option<Claim>, ReadModelError> {
        self.0.take(id, at, worker).await
    }
    async fn begin(&self, advance: &Advance) -> Result<MemoryTx, ReadModelError> {
        self.1.strikes_model("begin")?;
        self.0.begin(advance).await
    }
    async fn commit(&self, tx: MemoryTx) -> Result<(), ReadModelError> {
        self.1.strikes_model("commit: lost")?;
        self.0.commit(tx).await?;
        self.1.strikes_model("commit: written, answer lost")
    }
    async fn partitions(&self, id: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        self.0.partitions(id).await
    }
    async fn versions(&self, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
        self.0.versions(name).await
    }
    async fn park(&self, tx: &mut MemoryTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
        self.0.park(tx, letter).await
    }
    async fn letters(
        &self,
        id: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        self.0.letters(id, stream, after, limit).await
    }
    async fn unpark(&self, tx: &mut MemoryTx, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        self.0.unpark(tx, letter, end).await
    }
}

impl AgendaModel for Model {
    async fn put(tx: &mut MemoryTx, partition: Partition, entry: &Entry) -> Result<(), Cause> {
        MemoryModel::put(tx, partition, entry).await
    }
    async fn remove(tx: &mut MemoryTx, partition: Partition, saga: &str, item: &Item) -> Result<(), Cause> {
        MemoryModel::remove(tx, partition, saga, item).await
    }
    async fn earliest<S: Saga>(
        &self,
        partition: Partition,
        work: Work,
        after: Option<&Entry>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<Timestamp>), ReadModelError> {
        self.1.strikes_model("agenda")?;
        self.0.earliest::<S>(partition, work, after, limit).await
    }
}

/// What was brought about by commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum LedgerEvent {
    Brought { key: String },
}
#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "ledger")]
struct Ledger(Vec<String>);
impl Apply for Ledger {
    type Event = LedgerEvent;
    fn apply(&mut self, LedgerEvent::Brought { key }: &LedgerEvent) {
        self.0.push(key.clone());
    }
}
struct Bring(String);
impl Handle<Bring> for Ledger {
    type Error = Infallible;
    fn handle(&self, Bring(key): &Bring, _: &Context<Self>) -> Result<Events<LedgerEvent>, Infallible> {
        Ok(LedgerEvent::Brought { key: key.clone() }.into())
    }
}

/// Has each effect in the log too, by a command.
struct Booked(KeptOutside, Repository<Ledger>);
impl Perform<Errand> for Booked {
    async fn perform(&self, effect: String, call: &Call) -> Result<Value, Failure> {
        let answer = self.0.perform(effect, call).await?;
        self.1.execute(call.saga(), Bring(call.key().into())).with(call.command()?).await?;
        Ok(answer)
    }
}

/// The test's time, which passes when nothing else does.
struct Passing(Timestamp, Instant);
impl Clock for Passing {
    fn now(&self) -> Timestamp {
        self.0 + self.1.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_those_of_a_log_and_an_agenda_that_never_fail() {
    let number = |variable, default| env::var(variable).map_or(default, |number| number.parse().unwrap());
    let (seed, count) = (number("INDELIBLE_SEED", 1), number("INDELIBLE_SAGA_FAULTS", 60_u64));
    println!("INDELIBLE_SEED={seed}");
    let faults = Faults(Arc::new(Mutex::new((StdRng::seed_from_u64(seed), BTreeMap::new()))));
    let (log, dir) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let (store, model) = (Log(log.clone(), faults.clone()), Model(MemoryModel::new(), faults.clone()));
    let start = async || loop {
        let performer = Booked(KeptOutside::new(dir.path()), Repository::new(&store));
        let clock = Passing(Timestamp::now(), Instant::now());
        if let Ok(running) = SagaWorker::new(&store).with_clock(clock).add(&model, performer).start().await {
            break running;
        }
    };
    start_errands(&log, 0..count).await;
    for _ in 0..LIVES {
        let running = start().await;
        let lives = faults.0.lock().unwrap().0.random_range(1..100);
        sleep(Duration::from_millis(lives)).await;
        drop(running);
    }
    let running = start().await;
    let judged = judge_errands(&log, dir.path(), 0..count, SOON).await;
    assert!(running.drain(SOON).await);
    for id in (0..count).map(|number| number.to_string()) {
        let brought = Repository::<Ledger>::new(&log).load(&id).await.unwrap().0.clone();
        let keys: BTreeSet<_> = brought.iter().collect();
        assert_eq!(keys.len(), brought.len(), "a command of {id} counted twice: {brought:?}");
        let happened = |key: &&&String| dir.path().join(key.replace('/', "+")).exists();
        assert_eq!(keys.iter().filter(happened).count(), keys.len(), "{id}: {brought:?}");
    }
    let seen = faults.0.lock().unwrap().1.clone();
    let (strikes, controls) = (seen.values().sum(), format!("{LIVES} workers died; {judged}; {}", counts(&seen)));
    Line::clean("log or agenda away, or its answer lost", strikes, strikes, judged.sagas, &controls).seed(seed).print();
    assert!(fs::read_dir(dir.path()).unwrap().count() as u64 > 4 * count);
    assert!(seen.len() == 8 && seen.values().all(|times| *times > 0), "{seen:?}");
}
