//! The handle: what applications hold. It checks and queues appends for `append`'s sequencer, and gives reads a
//! connection.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Instant,
};

use async_trait::async_trait;
use indelible_core::{
    Append, AppendOutcome, Category, Codec, EventId, EventStore, Limits, LogTime, Page, Position, QueueRoom, ReadLog,
    ReadStream, RecordedEvent, StoreError, StoreId, StreamHead, StreamId, Token, Version,
};
use tokio::{
    sync::{Mutex, Notify, OwnedSemaphorePermit, mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    OpenError, Options, Statistics,
    append::{Job, Known, Sequencer, Waiting},
    connect::Connector,
    open,
    read::Reader,
    sql::Statements,
    statistics::Counters,
    subscription::{Follower, Publisher},
};

/// What an event takes in the queue beside its own bytes, and what each name does that an append demands something of.
const OVERHEAD_BYTES: usize = 256;

/// An event store in a schema of a PostgreSQL database, shared with other processes.
///
/// A cheap handle; clones share the connections. It lives in the tokio runtime that it was opened in. What was handed
/// over is still written and answered when [`close`](Self::close) is called, or the last handle is dropped while the
/// runtime goes on.
#[derive(Clone)]
pub struct PostgresStore {
    handle: Arc<Handle>,
}

struct Handle {
    reader: Reader,
    published: watch::Receiver<Position>,
    queue: mpsc::UnboundedSender<Job>,
    room: QueueRoom,
    tasks: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
}

/// What the handle, the sequencer and the readers share.
pub(crate) struct Shared {
    pub(crate) id: StoreId,
    pub(crate) options: Options,
    pub(crate) statements: Statements,
    /// What stopped the store, if it was not closed.
    failure: OnceLock<String>,
    has_failed: Notify,
    pub(crate) counters: Counters,
}

impl Shared {
    /// Keeps what stopped the store; the first cause is the one that is told.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(store = %self.id, %reason, "stopped: nothing is read or written until the store is opened again");
        let _ = self.failure.set(reason);
        self.has_failed.notify_one();
    }

    /// Waits until something stops the store. For the sequencer, which ends then, and everything with it.
    pub(crate) async fn failed(&self) {
        self.has_failed.notified().await;
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn stopped(&self) -> StoreError {
        StoreError::stopped(self.failure().unwrap_or("it was closed"))
    }
}

impl PostgresStore {
    /// Opens the store at a `postgresql://` URL with the default [`Options`], or makes one there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(url: &str) -> Result<Self, OpenError> {
        Options::new().open(url).await
    }

    /// Options to open a store with.
    pub fn options() -> Options {
        Options::new()
    }

    pub(crate) async fn start(url: &str, options: Options) -> Result<Self, OpenError> {
        let connector = Connector::new(url, options.certificates.as_deref(), options.patience)?;
        let statements = Statements::new(&options.schema);
        let opened = open::open(&connector, &statements, &options).await?;
        let pool = connector.pool(&options)?;
        let schema = options.schema.clone();
        let room = QueueRoom::new(options.queue_bytes, options.queue_wait);
        let shared = Arc::new(Shared {
            id: opened.id,
            options,
            statements,
            failure: OnceLock::new(),
            has_failed: Notify::new(),
            counters: Counters::default(),
        });
        let (publisher, published) = Publisher::new(opened.id);
        let reader = Reader {
            shared: Arc::clone(&shared),
            pool,
            seen: publisher.place(),
            kinds: Arc::default(),
            row_bytes: Arc::default(),
        };
        let refused = |error: StoreError| OpenError::Refused {
            schema: schema.clone(),
            what: "reading the head",
            source: error.into(),
        };
        let head = reader.head().await.map_err(refused)?;
        let last = reader.event_of(head.event).await.map_err(refused)?;
        tracing::info!(%schema, store = %opened.id, head = %head.position, "opened");
        publisher.publish(head);
        let (queue, jobs) = mpsc::unbounded_channel();
        let (running, until) = watch::channel(());
        let follower =
            Follower { shared: Arc::clone(&shared), connector: connector.clone(), publisher: publisher.clone(), until };
        let sequencer = Sequencer {
            shared,
            connector,
            reader: reader.clone(),
            publisher,
            room: room.clone(),
            session: Some(opened.session),
            known: Known::default(),
            is_contended: false,
            given_up: Vec::new(),
            time: last.map(|last| LogTime::from(last.recorded_at)),
        };
        let writing = tokio::spawn(async move {
            sequencer.run(jobs).await;
            drop(running);
        });
        let tasks = Mutex::new(Some((writing, tokio::spawn(follower.run()))));
        Ok(Self { handle: Arc::new(Handle { reader, published, queue, room, tasks }) })
    }

    /// Stops the store: what was handed over is written and answered, later calls on any handle are answered
    /// [`Stopped`](StoreError::Stopped), and subscriptions end.
    ///
    /// # Errors
    /// [`Stopped`](StoreError::Stopped) where something else had stopped it before.
    pub async fn close(&self) -> Result<(), StoreError> {
        let Handle { queue, tasks, reader, .. } = &*self.handle;
        // Refused where the sequencer has ended already.
        let _ = queue.send(Job::Close);
        // A second caller waits here until the first is through.
        if let Some((writing, following)) = tasks.lock().await.take() {
            let ended = (writing.await, following.await);
            if ended.0.is_err() || ended.1.is_err() {
                reader.shared.fail("one of its tasks panicked".into());
            }
            reader.pool.close();
            tracing::info!(store = %reader.shared.id, head = %*self.handle.published.borrow(), "closed");
        }
        match reader.shared.failure() {
            Some(_) => Err(reader.shared.stopped()),
            None => Ok(()),
        }
    }

    /// What this process has done with the store since it opened it, and how it is now.
    pub fn statistics(&self) -> Statistics {
        let Handle { reader, room, .. } = &*self.handle;
        reader.shared.counters.snapshot(room.taken(), reader.seen.token().position)
    }

    pub(crate) fn reader(&self) -> &Reader {
        &self.handle.reader
    }

    /// Waits for room in the queue.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let Handle { room, reader, .. } = &*self.handle;
        room.take(bytes).await?.ok_or_else(|| reader.shared.stopped())
    }
}

/// What an append takes in the queue. The limits count no bytes for what it demands, of which there may be far more.
fn queue_bytes(append: &Append) -> usize {
    let items = append.conditions().iter().flat_map(|condition| condition.query.items());
    let queried: usize = items.map(|item| item.any_type().len() + item.all_tags().len()).sum();
    append.size() + (append.events().len() + append.expected().len() + queried) * OVERHEAD_BYTES
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = &self.handle.reader.shared;
        f.debug_struct("PostgresStore")
            .field("id", &shared.id)
            .field("options", &shared.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    fn id(&self) -> StoreId {
        self.reader().store()
    }

    fn limits(&self) -> &Limits {
        &self.reader().shared.options.limits
    }

    fn default_codec(&self) -> &'static dyn Codec {
        self.reader().shared.options.default_codec
    }

    #[tracing::instrument(level = "debug", skip_all, fields(events = append.events().len()))]
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        append.validate(self.limits())?;
        let _under_way = self.reader().shared.counters.enter();
        let room = self.room(queue_bytes(&append)).await?;
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting { append: append.clone(), answer, room, handed_over: Instant::now() };
        self.handle.queue.send(Job::Append(waiting)).map_err(|_| self.reader().shared.stopped())?;
        // No answer: the runtime ends, or the sequencer did. Whether the append is in the log, nobody knows.
        outcome.await.unwrap_or_else(|_| {
            let source = Some(self.reader().shared.stopped().into());
            Err(StoreError::OutcomeUnknown { append: Box::new(append), source })
        })
    }

    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        self.reader().stream_page(read).await
    }

    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        self.reader().log_page(read).await
    }

    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.reader().event_of(id).await
    }

    async fn head(&self) -> Result<Token, StoreError> {
        self.reader().head().await
    }

    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.reader().token(position).await
    }

    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        self.reader().check(token).await
    }

    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.reader().stream_head(stream).await
    }

    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.reader().streams(category, after, limit).await
    }

    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.reader().categories(after, limit).await
    }

    fn published(&self) -> watch::Receiver<Position> {
        let mut published = self.handle.published.clone();
        // The shared one has seen nothing since the opening.
        published.mark_unchanged();
        published
    }
}
