//! A store whose process may die at any append, before it or after it, and whose events have the test's time.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use indelible_core::{
    AnyStore, Append, AppendOutcome, EventId, RecordedEvent, Store, StoreError, Timestamp, testing::Layer,
};

/// The moments of a run at which its process may die.
#[derive(Debug, Default)]
pub(super) struct Moments {
    passed: AtomicUsize,
    deadly: BTreeSet<usize>,
    dead: AtomicBool,
    died: Mutex<Vec<&'static str>>,
}

impl Moments {
    /// With death at these.
    pub fn deadly(at: impl IntoIterator<Item = usize>) -> Arc<Self> {
        Arc::new(Self { deadly: at.into_iter().collect(), ..Self::default() })
    }

    /// Comes to the next moment, of this kind; a process that dies goes no further.
    pub async fn pass(&self, kind: &'static str) {
        let moment = self.passed.fetch_add(1, Ordering::SeqCst);
        if self.deadly.contains(&moment) {
            self.died.lock().unwrap_or_else(PoisonError::into_inner).push(kind);
            self.dead.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }

    /// How many there were.
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
    }

    /// At which kinds of moments processes died.
    pub fn died(&self) -> Vec<&'static str> {
        self.died.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the process has died; another may begin then.
    pub fn took_it(&self) -> bool {
        self.dead.swap(false, Ordering::SeqCst)
    }
}

/// The store.
#[derive(Clone)]
pub(super) struct MortalStore {
    log: AnyStore,
    moments: Arc<Moments>,
    clock: Arc<Mutex<Times>>,
}

/// What time it is in the test, and when each event was recorded by it.
#[derive(Debug)]
struct Times {
    now: Timestamp,
    recorded: HashMap<EventId, Timestamp>,
}

impl MortalStore {
    pub fn new(log: &AnyStore, moments: &Arc<Moments>) -> Self {
        let now = Timestamp::from_micros(0).unwrap_or_else(|_| Timestamp::now());
        let clock = Arc::new(Mutex::new(Times { now, recorded: HashMap::new() }));
        Self { log: log.clone(), moments: moments.clone(), clock }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        self.times().now
    }

    /// It is so late now, if it wasn't later.
    pub fn pass_to(&self, time: Timestamp) {
        let mut times = self.times();
        times.now = times.now.max(time);
    }

    /// When an event was recorded.
    pub fn recorded_at(&self, event: &RecordedEvent) -> Timestamp {
        let mut times = self.times();
        let now = times.now;
        *times.recorded.entry(event.id).or_insert(now)
    }
}

#[async_trait]
impl Layer for MortalStore {
    fn beneath(&self) -> &dyn Store {
        &*self.log
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        self.moments.pass("before an append").await;
        let outcome = self.log.append(append).await?;
        if let AppendOutcome::Appended(appended) = &outcome {
            for event in &appended.events {
                self.recorded_at(event);
            }
        }
        self.moments.pass("after an append").await;
        Ok(outcome)
    }
}
