//! The handle: what applications hold. It hands appends over to `append`'s sequencer, and reads in memory, or where that is
//! not enough on a thread that may block.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Sender, channel},
    },
    thread,
    time::Instant,
};

use async_trait::async_trait;
use indelible_core::{
    Append, AppendOutcome, Category, Codec, EventId, EventStore, Limits, PAGE_EVENTS_MAX, Page, Position, QueueRoom,
    ReadLog, ReadStream, RecordedEvent, StoreError, StoreId, StreamHead, StreamId, Token, Version,
};
use rocksdb::DB;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task,
};

use crate::{
    OpenError, Options, Statistics,
    ahead::{self, Ahead, Reader, Reading},
    append::{Asked, Inlet, Job, Keep, Sequencer, WORTH_BEGINNING},
    bell::Bell,
    bugs,
    engine::{Engine, Fault, Setup, Tier},
    frozen,
    keeper::{Errand, Keeper},
    open::{self, Opened},
    queue::Queue,
    read::View,
    seen::Seen,
    statistics::{self, Counters},
};

/// How many reads may be at the disk at once: each makes a page, on a thread of its own. Appends don't wait for them.
pub(crate) const DISK_READS_MAX: usize = 16;

#[cfg(test)]
mod resumed;

/// An event store in a directory.
///
/// A cheap handle; clones share the store. It is used inside a tokio runtime with time enabled. The store stops when [`close`](Self::close)
/// is called or the last handle is dropped: what was handed over is still written and answered first, a verification or backup
/// ends, and dropping waits for that, blocking its thread.
#[derive(Clone)]
pub struct RocksStore {
    handle: Arc<Handle>,
}

pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

/// What the handle, its threads and the readers share.
pub(crate) struct Shared {
    pub(crate) id: StoreId,
    pub(crate) options: Options,
    path: PathBuf,
    /// Taken out when the store is closed, which waits for reads under way.
    pub(crate) run: RwLock<Option<Run>>,
    /// What stopped the store, if it was not closed.
    failure: Mutex<Option<String>>,
    has_failed: AtomicBool,
    /// Whether it was closed, or is about to be.
    is_closed: AtomicBool,
    /// Shared by those who work on the store's files for long, for whom closing waits.
    long_work: RwLock<()>,
    openings: AtomicU64,
    pub(crate) counters: Counters,
    pub(crate) opened_at: Instant,
    /// Of those that read the disk at once.
    turns: Arc<Semaphore>,
}

/// The store from one opening to its end.
pub(crate) struct Run {
    /// Which one: what was seen of it, the next may have lost.
    pub(crate) opening: u64,
    pub(crate) engine: Engine,
    pub(crate) setup: Setup,
    pub(crate) seen: Seen,
    pub(crate) room: QueueRoom,
    pub(crate) queue: Arc<Queue<Job>>,
    published: watch::Receiver<Position>,
    pub(crate) bell: Bell,
    /// Ends with it.
    pub(crate) ahead: Arc<Ahead>,
}

impl Run {
    pub(crate) fn wake_keeper(&self, keeper: &Sender<Errand>) {
        if self.bell.ring() {
            // One that has ended has failed, which the next group sees.
            let _ = keeper.send(Errand::Anchor);
        }
    }

    /// Lets no append in any more, and has the sequencer see that the store has failed, and end, which ends subscriptions.
    pub(crate) fn wake_sequencer(&self) {
        self.room.close();
        let _ = self.queue.put_urgent(Job::Close);
    }
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
        let opened = open::open(path, &options)?;
        // Not when it is opened again: what is being verified or copied then is no leftover.
        frozen::remove_leftovers(path).map_err(|error| OpenError::Io {
            path: path.into(),
            what: "removing what was left behind",
            source: error.into(),
        })?;
        let shared = Arc::new(Shared {
            id: opened.id,
            options,
            path: path.into(),
            run: RwLock::new(None),
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            long_work: RwLock::new(()),
            openings: AtomicU64::new(0),
            counters: Counters::default(),
            opened_at: Instant::now(),
            turns: Arc::new(Semaphore::new(DISK_READS_MAX)),
        });
        let threads = Mutex::new(Shared::begin(&shared, opened)?);
        Ok(Self { handle: Arc::new(Handle { shared, threads }) })
    }

    /// Stops the store: what was handed over is written and answered, later calls on any handle are answered
    /// [`Stopped`](StoreError::Stopped), and so are [`verify`](Self::verify), [`backup`](Self::backup) and
    /// [`rebuild_indexes`](Self::rebuild_indexes) that are under way and not about to end; subscriptions end. When this
    /// returns the directory is free to be opened again.
    ///
    /// # Errors
    /// [`StoreError::Stopped`] where the store had stopped itself before, [`StoreError::Unavailable`] where the last sync
    /// failed. It is closed all the same.
    pub async fn close(&self) -> Result<(), StoreError> {
        let handle = Arc::clone(&self.handle);
        // At once: what it would wait for may have the last thread.
        handle.shared.is_closed.store(true, Ordering::Release);
        blocking(move || handle.stop()).await
    }

    /// What the store has done since it was opened, and how it is.
    pub fn statistics(&self) -> Statistics {
        statistics::of(&self.handle.shared)
    }

    /// Brings back a store that stopped itself after a failed write, without closing it: it is opened again, with all that
    /// is proved then, and subscriptions go on when they are asked again. Does nothing to one that is running.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the disk is still full or the store can't be opened: it may be asked again, and
    /// reads on unless it could not be opened at all. [`StoreError::Corrupted`] where it is damaged, and
    /// [`StoreError::Stopped`] where it was closed.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let handle = Arc::clone(&self.handle);
        blocking(move || handle.resume()).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Reads what is published: at once where all that it needs is in memory, else on a thread that may block.
    #[tracing::instrument(level = "trace", skip_all)]
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = &self.handle.shared;
        shared.counters.read();
        match shared.view_in_memory(&read) {
            Some(found) => found,
            None => self.read_disk(read).await,
        }
    }

    /// The same for what is not in memory.
    async fn read_disk<T: Send + 'static>(
        &self,
        read: impl Fn(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = Arc::clone(&self.handle.shared);
        in_turn(&self.handle.shared.turns, move || reader.view(&read)).await
    }

    /// Writes the checkpoint that says this. It goes to the opening that the token was checked with, or is refused: what a store
    /// that is opened again has lost must not be kept.
    pub(crate) async fn keep(&self, keep: Keep, token: &Token) -> Result<(), StoreError> {
        let (room, queue) = self.handle.shared.room(keep.key.len() + keep.value.len(), false).await?;
        self.check(token).await?;
        let (answer, kept) = oneshot::channel();
        queue.put(Job::Keep { keep, answer, room }).map_err(|_| self.handle.shared.stopped())?;
        kept.await.unwrap_or_else(|_| Err(self.handle.shared.stopped()))
    }
}

/// Runs what may block on one of the runtime's threads for that. It goes on when the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::unavailable("a blocking call", error)))
}

/// The same for what reads the disk for a page, of which only so many do at once.
pub(crate) async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let turn = Arc::clone(turns).acquire_owned().await.map_err(|_| StoreError::stopped("it was closed"))?;
    // Until both the work has ended, which a dropped future does not end, and its thread is free again.
    let turn = Arc::new(turn);
    let held = Arc::clone(&turn);
    let found = blocking(move || {
        let _held = held;
        read()
    });
    let found = found.await;
    drop(turn);
    found
}

impl Shared {
    /// Begins to serve what was opened.
    fn begin(shared: &Arc<Self>, opened: Opened) -> Result<Vec<thread::JoinHandle<()>>, OpenError> {
        let Opened { engine, setup, id, last, head_time, anchor, anchored, mark, tail, full } = opened;
        tracing::info!(path = %shared.path.display(), store = %id, head = %last.position, "opened");
        let (publish, published) = watch::channel(last.position);
        let queue = Arc::new(Queue::new(WORTH_BEGINNING));
        let inlet = Inlet(Arc::clone(&queue));
        let (keeper, errands) = channel();
        let run = Run {
            opening: shared.openings.fetch_add(1, Ordering::Relaxed),
            engine,
            setup,
            seen: Seen::new(last, mark, tail),
            room: QueueRoom::new(shared.options.queue_bytes, shared.options.queue_wait),
            queue,
            published,
            bell: Bell::new(),
            ahead: Arc::default(),
        };
        shared.counters.anchored(anchored.position);
        if anchored != last {
            run.wake_keeper(&keeper);
        }
        if let Some(reason) = full {
            run.room.close();
            *shared.run.write().unwrap_or_else(PoisonError::into_inner) = Some(run);
            shared.fail(reason);
            return Ok(Vec::new());
        }
        *shared.run.write().unwrap_or_else(PoisonError::into_inner) = Some(run);
        statistics::set_stopped(false);
        let sequencer = Sequencer { shared: Arc::clone(shared), inlet, publish, keeper, head_time };
        let keeper = Keeper { shared: Arc::clone(shared), errands, anchor, anchored, mark };
        let failed = |error: std::io::Error| OpenError::Io {
            path: shared.path.clone(),
            what: "starting its threads",
            source: error.into(),
        };
        let thread = |name: &str| thread::Builder::new().name(name.into());
        let keeper = thread("indelible-keeper").spawn(|| keeper.run()).map_err(failed)?;
        match thread("indelible-sequencer").spawn(|| sequencer.run()) {
            Ok(sequencer) => Ok(vec![sequencer, keeper]),
            Err(error) => {
                // It ends when the sequencer does, which has not begun.
                let _ = keeper.join();
                Err(failed(error))
            }
        }
    }

    /// Uses what is open.
    pub(crate) fn with_run<T>(&self, work: impl FnOnce(&Run) -> T) -> Result<T, StoreError> {
        let run = self.run.read().unwrap_or_else(PoisonError::into_inner);
        run.as_ref().map(work).ok_or_else(|| self.stopped())
    }

    /// The same, unless the store was opened again meanwhile.
    pub(crate) fn with_opening<T>(&self, opening: u64, work: impl FnOnce(&Run) -> T) -> Result<T, StoreError> {
        let done = self.with_run(|run| (run.opening == opening).then(|| work(run)))?;
        let what = "the store was opened again meanwhile, perhaps without what was seen before";
        done.ok_or_else(|| StoreError::Unavailable { what: what.into(), source: None })
    }

    /// Does what takes long; given to it is whether to go on.
    pub(crate) fn work_long<T>(
        &self,
        work: impl FnOnce(&dyn Fn() -> Result<(), StoreError>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let _held = self.long_work.read().unwrap_or_else(PoisonError::into_inner);
        let go_on = || match self.is_closed.load(Ordering::Acquire) {
            true => Err(self.stopped()),
            false => Ok(()),
        };
        go_on()?;
        work(&go_on)
    }

    pub(crate) fn view<T>(&self, read: impl Fn(&View<'_>) -> Result<T, Fault>) -> Result<T, StoreError> {
        self.with_run(|run| View::of(&run.engine, &run.seen, self.id, Tier::Disk, read))?.map_err(StoreError::from)
    }

    /// Looks no further than memory; `None` where that is not enough, or the store is being closed.
    fn view_in_memory<T>(&self, read: impl Fn(&View<'_>) -> Result<T, Fault>) -> Option<Result<T, StoreError>> {
        let run = self.run.try_read().ok()?;
        let run = run.as_ref()?;
        match View::of(&run.engine, &run.seen, self.id, Tier::Memory, read) {
            Err(Fault::NotInMemory) => None,
            found => Some(found.map_err(StoreError::from)),
        }
    }

    /// Reads for an append, which waits for no reader.
    pub(crate) async fn look<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl Fn(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.view_in_memory(&read) {
            Some(found) => found,
            None => {
                let shared = Arc::clone(self);
                blocking(move || shared.view(&read)).await
            }
        }
    }

    /// Waits for room in the queue, however long where it `is_handed_over`. What takes it goes into this queue and no other:
    /// while it waits for something else, the store may be opened again, with another one.
    pub(crate) async fn room(
        &self,
        bytes: usize,
        is_handed_over: bool,
    ) -> Result<(OwnedSemaphorePermit, Arc<Queue<Job>>), StoreError> {
        let bytes = if bugs::is_on(bugs::UNBOUNDED_QUEUE) { 1 } else { bytes };
        let there = |run: &Run| run.room.try_take(bytes).map(|room| (room, Arc::clone(&run.queue)));
        if let Some(found) = self.with_run(there)? {
            return Ok(found);
        }
        let (room, queue) = self.with_run(|run| (run.room.clone(), Arc::clone(&run.queue)))?;
        let room = match is_handed_over {
            true => room.take_patiently(bytes).await,
            false => room.take(bytes).await?,
        };
        Ok((room.ok_or_else(|| self.stopped())?, queue))
    }

    /// Begins to read a page, unless too many are being read.
    fn read_ahead(self: &Arc<Self>, read: ReadLog) -> Option<Reading> {
        let (turn, shared) = (Arc::clone(&self.turns).try_acquire_owned().ok()?, Arc::clone(self));
        Some(task::spawn_blocking(move || {
            let _turn = turn;
            shared.view(|view| view.log_page(&read))
        }))
    }

    /// Keeps what stopped the store; the first cause is the one that is told.
    pub(crate) fn fail(&self, reason: String) {
        tracing::error!(store = %self.id, %reason, "stopped: nothing more is written until the store is opened again");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.has_failed.store(true, Ordering::Release);
        statistics::set_stopped(true);
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Fails where it has stopped: it reads on then, and writes nothing more.
    pub(crate) fn writes(&self) -> Result<(), StoreError> {
        if self.has_failed() { Err(self.stopped()) } else { Ok(()) }
    }

    pub(crate) fn stopped(&self) -> StoreError {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        StoreError::stopped(failure.as_deref().unwrap_or("it was closed"))
    }
}

impl Handle {
    pub(crate) fn stop(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.is_closed.store(true, Ordering::Release);
        drop(shared.long_work.write().unwrap_or_else(PoisonError::into_inner));
        // A second caller waits here until the first is through, and all until it is resumed.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let run = self.end(&mut threads);
        if shared.has_failed() {
            return Err(shared.stopped());
        }
        let Some(run) = run else { return Ok(()) };
        tracing::info!(store = %shared.id, head = %run.seen.last().position, "closed");
        run.engine.log.flush_wal(true).map_err(|error| StoreError::unavailable("the last sync", error))
    }

    /// Has all written and answered that was handed over, and takes out what was open. What has failed ends as soon as it sees
    /// that.
    fn end(&self, threads: &mut Vec<thread::JoinHandle<()>>) -> Option<Run> {
        // Refused where the sequencer has ended already.
        let _ = self.shared.with_run(|run| run.queue.put_urgent(Job::Close).is_ok());
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                self.shared.fail("one of its threads panicked".into());
            }
        }
        self.shared.run.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes a store that works and is in this opening, has something done to its index that nobody uses then, and opens it
    /// again.
    pub(crate) fn reopen(
        &self,
        opening: u64,
        change: impl FnOnce(DB) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        shared.writes()?;
        shared.with_opening(opening, |_| ())?;
        let run = self.end(&mut threads);
        let Some(Run { engine, .. }) = run.filter(|_| !shared.has_failed()) else { return Err(shared.stopped()) };
        let Engine { log, index, dir, _lock: lock } = engine;
        let changed = change(index);
        drop((log, lock));
        let opened = open::open(&dir, &shared.options).and_then(|opened| Shared::begin(shared, opened));
        match opened {
            Ok(begun) => *threads = begun,
            Err(error) => {
                shared.fail(format!("it was not opened again: {error}"));
                return Err(StoreError::unavailable("opening it again", error));
            }
        }
        changed
    }

    fn resume(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.is_closed.load(Ordering::Acquire) {
            return Err(StoreError::stopped("it was closed"));
        }
        if !shared.has_failed() {
            return Ok(());
        }
        open::prove_room(&shared.path).map_err(|error| StoreError::unavailable("making sure of room", error))?;
        // Its lock goes with it, so it can't be opened beside the old one.
        drop(self.end(&mut threads));
        let failed = |error| match error {
            OpenError::Corrupted { what, source, .. } => StoreError::Corrupted { what, source },
            error => StoreError::unavailable("opening it again", error),
        };
        let opened = open::open(&shared.path, &shared.options).map_err(failed)?;
        shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.has_failed.store(false, Ordering::Release);
        *threads = Shared::begin(shared, opened).map_err(|error| {
            shared.fail(format!("it was not begun again: {error}"));
            failed(error)
        })?;
        match shared.has_failed() {
            true => Err(StoreError::unavailable("opening it again to write", shared.stopped())),
            false => Ok(()),
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
        let Shared { id, options, .. } = &*self.handle.shared;
        f.debug_struct("RocksStore").field("id", id).field("options", options).finish_non_exhaustive()
    }
}

#[async_trait]
impl EventStore for RocksStore {
    fn id(&self) -> StoreId {
        self.handle.shared.id
    }

    fn limits(&self) -> &Limits {
        &self.handle.shared.options.limits
    }

    fn default_codec(&self) -> &'static dyn Codec {
        self.handle.shared.options.default_codec
    }

    #[tracing::instrument(level = "debug", skip_all, fields(events = append.events().len()))]
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        if !bugs::is_on(bugs::IGNORE_LIMITS) {
            append.validate(self.limits())?;
        }
        let _under_way = self.handle.shared.counters.enter();
        Asked::of(&self.handle.shared, append).answer(&self.handle.shared).await
    }

    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        let read = read.clone();
        self.read(move |view| view.stream_page(&read)).await
    }

    #[tracing::instrument(level = "trace", skip_all)]
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        let shared = &self.handle.shared;
        let (head, ahead) = shared.with_run(|run| (*run.published.borrow(), Arc::clone(&run.ahead)))?;
        let is_whole = ahead::is_whole(read, head);
        let mut reader = if is_whole { ahead.take(read) } else { None };
        let read_ahead = match &mut reader {
            Some(reader) => reader.page().await,
            None => None,
        };
        let found = match read_ahead {
            Some(found) => {
                shared.counters.read();
                found
            }
            None => {
                let read = read.clone();
                self.read(move |view| view.log_page(&read)).await?
            }
        };
        let left = read.limit - found.events.len();
        if is_whole
            && left > 0
            && let Some(next) = found.next
        {
            let next = read.clone().from(next).limit(left);
            let reader = match reader {
                Some(mut reader) => {
                    let was_full = found.events.len() == PAGE_EVENTS_MAX;
                    reader.read_ahead(&next, was_full, head, |read| shared.read_ahead(read));
                    reader
                }
                None => Reader::new(&next),
            };
            ahead.put(reader);
        }
        Ok(found)
    }

    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.read(move |view| view.event_of(id)).await
    }

    async fn head(&self) -> Result<Token, StoreError> {
        self.read(|view| view.token(view.head)).await
    }

    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.read(move |view| view.token(position)).await
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
        let published = self.handle.shared.with_run(|run| run.published.clone());
        // Of a store that is closed, one that says so.
        let mut published = published.unwrap_or_else(|_| watch::channel(Position::START).1);
        // The shared one has seen nothing since the opening.
        published.mark_unchanged();
        published
    }
}
