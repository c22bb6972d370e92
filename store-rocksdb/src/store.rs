//! The handle: what applications hold. It checks and queues appends for `append`'s sequencer, and gives reads a thread
//! that may block.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    thread,
};

use async_trait::async_trait;
use indelible_core::{
    Append, AppendOutcome, Category, Codec, EventId, EventStore, InvalidInput, Limits, Page, Position, ReadLog,
    ReadStream, RecordedEvent, StoreError, StoreId, StreamHead, StreamId, Token, Version,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch},
    task, time,
};

use crate::{
    OpenError, Options, Statistics,
    append::{Job, Keep, Sequencer},
    open::{self, Engine},
    read::View,
    statistics::Counters,
};

/// What an event takes in the queue beside its own bytes, and what each name does that an append demands something of.
const OVERHEAD_BYTES: usize = 256;
/// The largest snapshot.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An event store in a directory.
///
/// A cheap handle; clones share the store. It is used inside a tokio runtime with time enabled. The store stops when [`close`](Self::close)
/// is called or the last handle is dropped: what was handed over is still written and answered first, and dropping waits
/// for that, blocking its thread.
#[derive(Clone)]
pub struct RocksStore {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    options: Options,
    queue: mpsc::UnboundedSender<Job>,
    room: Arc<Semaphore>,
    sequencer: Mutex<Option<thread::JoinHandle<()>>>,
}

/// What the handle, the sequencer and the readers share.
pub(crate) struct Shared {
    pub(crate) id: StoreId,
    /// Taken out when the store is closed, which waits for reads under way.
    pub(crate) engine: RwLock<Option<Engine>>,
    published: watch::Receiver<Position>,
    /// What stopped the store, if it was not closed.
    failure: OnceLock<String>,
    pub(crate) counters: Counters,
}

impl RocksStore {
    /// Opens the store in a directory with the default [`Options`], or makes one there. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Options::new().open(path)
    }

    /// Options to open a store with.
    pub fn options() -> Options {
        Options::new()
    }

    pub(crate) fn start(path: &Path, options: Options) -> Result<Self, OpenError> {
        let opened = open::open(path)?;
        tracing::info!(path = %path.display(), store = %opened.id, head = %opened.head, "opened");
        let (publish, published) = watch::channel(opened.head);
        let (queue, jobs) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(options.queue_bytes));
        let shared = Arc::new(Shared {
            id: opened.id,
            engine: RwLock::new(Some(opened.engine)),
            published,
            failure: OnceLock::new(),
            counters: Counters::default(),
        });
        let sequencer = Sequencer {
            shared: Arc::clone(&shared),
            jobs,
            room: Arc::clone(&room),
            publish,
            durability: options.durability,
            clock: options.clock,
            head: opened.head,
            head_time: opened.head_time,
        };
        let thread = thread::Builder::new().name("indelible-sequencer".into()).spawn(|| sequencer.run());
        let thread = thread.map_err(|error| OpenError::Io {
            path: path.into(),
            what: "starting its thread",
            source: error.into(),
        })?;
        let handle = Handle { shared, options, queue, room, sequencer: Mutex::new(Some(thread)) };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Stops the store: what was handed over is written and answered, later calls on any handle are answered
    /// [`Stopped`](StoreError::Stopped), subscriptions end. When this returns the directory is free to be opened again.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] where the store had stopped itself before, [`StoreError::Unavailable`] where the last sync
    /// failed. It is closed all the same.
    pub async fn close(&self) -> Result<(), StoreError> {
        let handle = Arc::clone(&self.handle);
        blocking(move || handle.stop()).await
    }

    /// What the store has done since it was opened.
    pub fn statistics(&self) -> Statistics {
        self.handle.shared.counters.snapshot()
    }

    /// Reads what is published, on a thread that may block.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&View<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.handle.shared);
        blocking(move || shared.read(read)).await
    }

    /// Writes a snapshot or a checkpoint, or removes it.
    pub(crate) async fn keep(&self, keep: Keep) -> Result<(), StoreError> {
        let bytes = keep.key.len() + keep.value.as_ref().map_or(0, Vec::len);
        if bytes > SNAPSHOT_BYTES_MAX {
            let reason = format!("has {bytes} bytes, at most {SNAPSHOT_BYTES_MAX} are kept");
            return Err(InvalidInput::new("snapshot", reason).into());
        }
        let room = self.room(bytes).await?;
        let (answer, kept) = oneshot::channel();
        self.hand_over(Job::Keep { keep, answer, room })?;
        kept.await.unwrap_or_else(|_| Err(self.handle.shared.stopped()))
    }

    /// Waits for room in the queue.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, StoreError> {
        let Handle { room, options, shared, .. } = &*self.handle;
        let permits = u32::try_from(bytes.clamp(1, options.queue_bytes)).unwrap_or(u32::MAX);
        match Arc::clone(room).try_acquire_many_owned(permits) {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(shared.stopped()),
            Err(TryAcquireError::NoPermits) => {}
        }
        match time::timeout(options.queue_wait, Arc::clone(room).acquire_many_owned(permits)).await {
            Ok(permit) => permit.map_err(|_| shared.stopped()),
            Err(_) => Err(StoreError::Overloaded {
                what: format!("no room for {bytes} bytes in the queue within {:?}", options.queue_wait),
            }),
        }
    }

    fn hand_over(&self, job: Job) -> Result<(), StoreError> {
        self.handle.queue.send(job).map_err(|_| self.handle.shared.stopped())
    }
}

/// What an append takes in the queue. The limits count no bytes for what it demands, of which there may be far more.
fn queue_bytes(append: &Append) -> usize {
    let items = append.conditions().iter().flat_map(|condition| condition.query.items());
    let queried: usize = items.map(|item| item.any_type().len() + item.all_tags().len()).sum();
    append.size() + (append.events().len() + append.expected().len() + queried) * OVERHEAD_BYTES
}

/// Runs what may block on one of the runtime's threads for that. It goes on when the future is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::unavailable("a blocking call", error)))
}

impl Shared {
    fn read<T>(&self, read: impl FnOnce(&View<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let Engine { db, .. } = engine.as_ref().ok_or_else(|| self.stopped())?;
        self.counters.read();
        let head = *self.published.borrow();
        read(&View { db, store: self.id, head })
    }

    /// Keeps what stopped the store; the first cause is the one that is told.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(store = %self.id, %reason, "stopped: nothing more is written until the store is opened again");
        // Only a panic behind a failed write comes second.
        let _ = self.failure.set(reason);
    }

    pub(crate) fn stopped(&self) -> StoreError {
        StoreError::stopped(self.failure.get().map_or("it was closed", String::as_str))
    }
}

impl Handle {
    fn stop(&self) -> Result<(), StoreError> {
        // Refused where the sequencer has ended already.
        let _ = self.queue.send(Job::Close);
        // A second caller waits here until the first is through.
        let mut sequencer = self.sequencer.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = sequencer.take() else {
            return self.shared.failure.get().map_or(Ok(()), |_| Err(self.shared.stopped()));
        };
        if thread.join().is_err() {
            self.shared.fail("its thread panicked".into());
        }
        let engine = self.shared.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        if self.shared.failure.get().is_some() {
            return Err(self.shared.stopped());
        }
        tracing::info!(store = %self.shared.id, head = %*self.shared.published.borrow(), "closed");
        match engine.map(|engine| engine.db.flush_wal(true)) {
            Some(Err(error)) => Err(StoreError::unavailable("the last sync", error)),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.stop();
    }
}

impl fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Handle { shared, options, .. } = &*self.handle;
        f.debug_struct("RocksStore").field("id", &shared.id).field("options", options).finish_non_exhaustive()
    }
}

#[async_trait]
impl EventStore for RocksStore {
    fn id(&self) -> StoreId {
        self.handle.shared.id
    }

    fn limits(&self) -> &Limits {
        &self.handle.options.limits
    }

    fn default_codec(&self) -> &'static dyn Codec {
        self.handle.options.default_codec
    }

    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        append.validate(&self.handle.options.limits)?;
        let room = self.room(queue_bytes(&append)).await?;
        let (answer, outcome) = oneshot::channel();
        self.hand_over(Job::Append { append: append.clone(), answer, room })?;
        // No answer: the group's write failed, or the sequencer did. Whether the append is in the log, nobody knows.
        outcome.await.unwrap_or_else(|_| {
            Err(StoreError::OutcomeUnknown {
                append: Box::new(append),
                source: Some(self.handle.shared.stopped().into()),
            })
        })
    }

    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        let read = read.clone();
        self.read(move |view| view.stream_page(&read)).await
    }

    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        let read = read.clone();
        self.read(move |view| view.log_page(&read)).await
    }

    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.read(move |view| view.event_of(id)).await
    }

    async fn head(&self) -> Result<Token, StoreError> {
        self.read(|view| view.token(view.head)).await
    }

    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.read(move |view| match position <= view.head {
            true => view.token(position),
            false => Err(InvalidInput::new("position", format!("{position} is beyond the head, {}", view.head)).into()),
        })
        .await
    }

    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        let stream = stream.clone();
        self.read(move |view| view.stream_head(&stream)).await
    }

    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        let (category, after) = (category.cloned(), after.cloned());
        self.read(move |view| view.streams(category.as_ref(), after.as_ref(), limit)).await
    }

    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        let after = after.cloned();
        self.read(move |view| view.categories(after.as_ref(), limit)).await
    }

    fn published(&self) -> watch::Receiver<Position> {
        let mut published = self.handle.shared.published.clone();
        // The shared one has seen nothing since the opening.
        published.mark_unchanged();
        published
    }
}
