//! The memory store: the contract at its simplest, and what applications test with. Nothing outlives the process.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Append, AppendOutcome, Appended, Category, CheckpointStore, Codec, Direction, EventId, EventStore, Facts,
    InvalidInput, Judgement, Limits, LogTime, Page, Position, Query, ReadLog, ReadStream, RecordedEvent, Snapshot,
    SnapshotStore, StoreError, StoreId, StreamHead, StreamId, Timestamp, Token, Version, check_reader,
    codec::Json,
    judge,
    read::{PAGE_BYTES_MAX, PAGE_EVENTS_MAX},
};

/// A store in memory. Clones share the log; it ends with the last of them.
///
/// ```
/// # use indelible_core::{*, store::memory::MemoryStore};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let opened = NewEvent::new(EventType::new("Opened")?, ContentType::JSON, "{}");
/// store.append(Append::to("account-1".parse()?, ExpectedVersion::NoStream, [opened])).await?;
/// assert_eq!(store.head().await?.position, Position::FIRST);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    codec: &'static dyn Codec,
}

#[derive(Debug)]
struct Shared {
    id: StoreId,
    limits: Limits,
    log: Mutex<Log>,
    published: watch::Sender<Position>,
    snapshots: Mutex<HashMap<StreamId, Snapshot>>,
    checkpoints: Mutex<HashMap<String, Token>>,
}

#[derive(Debug, Default)]
struct Log {
    /// The event at position n is at index n − 1.
    events: Vec<RecordedEvent>,
    /// The positions of a stream's events: version n is at index n − 1.
    streams: BTreeMap<StreamId, Vec<Position>>,
    ids: HashMap<EventId, Position>,
    time: Option<LogTime>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty log.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty log with limits of its own.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                id: StoreId::new(),
                limits,
                log: Mutex::default(),
                published: watch::Sender::new(Position::START),
                snapshots: Mutex::default(),
                checkpoints: Mutex::default(),
            }),
            codec: &Json,
        }
    }

    /// This handle with another codec for events whose type is pinned to none: one of those that are
    /// [always there](crate::codec).
    #[must_use]
    pub fn with_codec(self, codec: &'static dyn Codec) -> Self {
        Self { codec, ..self }
    }

    /// What time it is to the log: the system's clock, and what was skipped.
    pub fn now(&self) -> Timestamp {
        self.log().now()
    }

    /// Puts the log's clock forward, for tests that skip time: what is recorded from now on is recorded so much later.
    pub fn skip(&self, time: Duration) {
        let mut log = self.log();
        let later = log.now() + time;
        log.time = Some(LogTime::from(later));
    }

    /// A store of its own with what this one holds up to `head`, as if it had been stopped there and opened again: for
    /// the conformance suite.
    #[cfg(feature = "conformance")]
    pub fn reopened(&self, limits: Limits, head: Position) -> Self {
        let mut log = Log::default();
        let kept = self.log().events.iter().take_while(|event| event.position <= head).cloned().collect::<Vec<_>>();
        log.record(&kept);
        log.time = kept.last().map(|last| LogTime::from(last.recorded_at));
        Self {
            shared: Arc::new(Shared {
                id: self.shared.id,
                limits,
                published: watch::Sender::new(log.head()),
                log: Mutex::new(log),
                snapshots: Mutex::new(lock(&self.shared.snapshots).clone()),
                checkpoints: Mutex::new(lock(&self.shared.checkpoints).clone()),
            }),
            codec: self.codec,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.shared.log)
    }

    fn token_at(&self, log: &Log, position: Position) -> Token {
        let event = log.get(position).map_or(EventId::NIL, |event| event.id);
        Token { store: self.shared.id, position, event }
    }
}

/// No method leaves shared state half changed, so that of a panicked one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn get(&self, position: Position) -> Option<&RecordedEvent> {
        self.events.get(usize::try_from(position.get()).ok()?.checked_sub(1)?)
    }

    fn record(&mut self, events: &[RecordedEvent]) {
        for event in events {
            self.streams.entry(event.stream.clone()).or_default().push(event.position);
            self.ids.insert(event.id, event.position);
        }
        self.events.extend_from_slice(events);
    }

    fn now(&mut self) -> Timestamp {
        let clock = Timestamp::now();
        self.time.get_or_insert_with(|| LogTime::from(clock)).now(clock)
    }
}

impl Facts for Log {
    type Error = Infallible;

    fn head(&self) -> Position {
        Position::new(self.events.len() as u64)
    }
    fn stream(&self, stream: &StreamId) -> Result<StreamHead, Infallible> {
        let last = self.streams.get(stream).and_then(|positions| self.get(*positions.last()?));
        Ok(last.map(StreamHead::at).unwrap_or_default())
    }
    fn find(&self, id: EventId) -> Result<Option<Position>, Infallible> {
        Ok(self.ids.get(&id).copied())
    }
    fn event(&self, position: Position) -> Result<Option<RecordedEvent>, Infallible> {
        Ok(self.get(position).cloned())
    }
    fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, Infallible> {
        let behind = self.events.iter().skip(after.get() as usize);
        Ok(behind.filter(|event| query.matches(event)).map(|event| event.position).next())
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    fn id(&self) -> StoreId {
        self.shared.id
    }

    fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    fn default_codec(&self) -> &'static dyn Codec {
        self.codec
    }

    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        append.validate(&self.shared.limits)?;
        let mut log = self.log();
        let Ok(judgement) = judge(&append, &*log);
        let (events, repeated) = match judgement {
            Judgement::Write => {
                let now = log.now();
                let Ok(events) = append.record(log.head(), now, |stream| log.stream(stream).map(|s| s.version));
                log.record(&events);
                self.shared.published.send_replace(log.head());
                (events, false)
            }
            Judgement::Repeated(events) => (events, true),
            Judgement::Conflict(failed) => return Ok(AppendOutcome::Conflict(failed)),
            Judgement::IdConflict(id, position) => return Err(StoreError::IdConflict { id, position }),
            Judgement::Invalid(invalid) => return Err(invalid.into()),
        };
        Ok(AppendOutcome::Appended(Appended::new(self.id(), events, repeated)))
    }

    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        let log = self.log();
        let positions = log.streams.get(&read.stream).map_or(&[][..], Vec::as_slice);
        let last = Version::new(positions.len() as u64);
        let version = |position: &Position| log.get(*position);
        let from = read.from.get() as usize;
        Ok(match read.direction {
            Direction::Forwards => {
                let wanted = positions.iter().skip(from.saturating_sub(1)).filter_map(version);
                page(wanted, read.limit, |event| (event.version < last).then(|| event.version.plus(1)))
            }
            Direction::Backwards => {
                let wanted = positions.iter().take(from).rev().filter_map(version);
                page(wanted, read.limit, |event| (event.version > Version::FIRST).then(|| event.version.before()))
            }
        })
    }

    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        read.filter.validate()?;
        let log = self.log();
        let within = |low: Position, high: Position| {
            let low = (low.get().max(1) - 1).min(log.events.len() as u64);
            &log.events[low as usize..high.get().clamp(low, log.events.len() as u64) as usize]
        };
        let wanted = |event: &&RecordedEvent| read.filter.matches(event);
        Ok(match read.direction {
            Direction::Forwards => {
                let to = read.to.min(log.head());
                page(within(read.from, to).iter().filter(wanted), read.limit, |event| {
                    (event.position < to).then(|| event.position.plus(1))
                })
            }
            Direction::Backwards => {
                let to = read.to.max(Position::FIRST);
                page(within(to, read.from).iter().rev().filter(wanted), read.limit, |event| {
                    (event.position > to).then(|| event.position.before())
                })
            }
        })
    }

    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        let log = self.log();
        Ok(log.ids.get(&id).and_then(|position| log.get(*position)).cloned())
    }

    async fn head(&self) -> Result<Token, StoreError> {
        let log = self.log();
        Ok(self.token_at(&log, log.head()))
    }

    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        let log = self.log();
        match position <= log.head() {
            true => Ok(self.token_at(&log, position)),
            false => {
                Err(InvalidInput::new("position", format!("{position} is beyond the head, {}", log.head())).into())
            }
        }
    }

    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        let Ok(head) = self.log().stream(stream);
        Ok(head)
    }

    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        let log = self.log();
        let behind = log.streams.keys().filter(|stream| after.is_none_or(|after| *stream > after));
        let wanted = behind.filter(|stream| category.is_none_or(|c| c.as_str() == stream.category_str()));
        Ok(wanted.take(limit).cloned().collect())
    }

    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        let all: BTreeSet<Category> = self.log().streams.keys().map(StreamId::category).collect();
        Ok(all.into_iter().filter(|category| after.is_none_or(|after| category > after)).take(limit).collect())
    }

    fn published(&self) -> watch::Receiver<Position> {
        self.shared.published.subscribe()
    }
}

/// Takes a page of what is wanted; `next` says what follows an event.
fn page<'a, P>(
    wanted: impl Iterator<Item = &'a RecordedEvent>,
    limit: usize,
    next: impl Fn(&RecordedEvent) -> Option<P>,
) -> Page<P> {
    let limit = limit.min(PAGE_EVENTS_MAX);
    let mut events = Vec::new();
    let mut bytes = 0;
    let full = wanted.cloned().try_for_each(|event| {
        if events.len() == limit || bytes > PAGE_BYTES_MAX {
            return ControlFlow::Break(());
        }
        bytes += event.size();
        events.push(event);
        ControlFlow::Continue(())
    });
    let next = if full.is_break() { events.last().and_then(next) } else { None };
    Page { events, next }
}

#[async_trait]
impl SnapshotStore for MemoryStore {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        Ok(lock(&self.shared.snapshots).get(stream).cloned())
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        lock(&self.shared.snapshots).insert(snapshot.stream.clone(), snapshot);
        Ok(())
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        lock(&self.shared.snapshots).remove(stream);
        Ok(())
    }
}

#[async_trait]
impl CheckpointStore for MemoryStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        check_reader(reader)?;
        Ok(lock(&self.shared.checkpoints).get(reader).copied())
    }

    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        check_reader(reader)?;
        self.check(&token).await?;
        lock(&self.shared.checkpoints).insert(reader.to_owned(), token);
        Ok(())
    }
}
