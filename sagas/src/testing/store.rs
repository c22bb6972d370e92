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
    AnyStore, Append, AppendOutcome, Category, CheckpointStore, EventId, EventStore, Limits, Page, Position, ReadLog,
    ReadStream, RecordedEvent, Snapshot, SnapshotStore, StoreError, StoreId, StreamHead, StreamId, Timestamp, Token,
    Version,
};
use tokio::sync::watch;

/// The moments of a run at which its process may die.
#[derive(Debug, Default)]
pub(super) struct Moments {
    passed: AtomicUsize,
    deadly: BTreeSet<usize>,
    dead: AtomicBool,
}

impl Moments {
    /// With death at these.
    pub fn deadly(at: impl IntoIterator<Item = usize>) -> Arc<Self> {
        Arc::new(Self { deadly: at.into_iter().collect(), ..Self::default() })
    }

    /// Comes to the next moment; a process that dies goes no further.
    pub async fn pass(&self) {
        let moment = self.passed.fetch_add(1, Ordering::SeqCst);
        if self.deadly.contains(&moment) {
            self.dead.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }

    /// How many there were.
    pub fn passed(&self) -> usize {
        self.passed.load(Ordering::SeqCst)
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
impl EventStore for MortalStore {
    fn id(&self) -> StoreId {
        self.log.id()
    }
    fn limits(&self) -> &Limits {
        self.log.limits()
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        self.moments.pass().await;
        let outcome = self.log.append(append).await?;
        if let AppendOutcome::Appended(appended) = &outcome {
            for event in &appended.events {
                self.recorded_at(event);
            }
        }
        self.moments.pass().await;
        Ok(outcome)
    }
    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        self.log.read_stream(read).await
    }
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        self.log.read_log(read).await
    }
    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.log.event(id).await
    }
    async fn head(&self) -> Result<Token, StoreError> {
        self.log.head().await
    }
    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.log.token(position).await
    }
    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.log.stream_head(stream).await
    }
    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.log.streams(category, after, limit).await
    }
    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.log.categories(after, limit).await
    }
    fn published(&self) -> watch::Receiver<Position> {
        self.log.published()
    }
}

#[async_trait]
impl SnapshotStore for MortalStore {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.log.load_snapshot(stream).await
    }
    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.log.save_snapshot(snapshot).await
    }
    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.log.delete_snapshot(stream).await
    }
}

#[async_trait]
impl CheckpointStore for MortalStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        self.log.load_checkpoint(reader).await
    }
    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        self.log.save_checkpoint(reader, token).await
    }
}
