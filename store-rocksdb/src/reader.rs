//! The handle of a reader: a store that another process writes to, or none at all. What it sees is made by
//! [`follow`](self::follow), and read as in the writing process.

use std::{
    fmt,
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use indelible_core::{
    Append, AppendOutcome, Category, CheckpointStore, Codec, EventId, EventStore, InvalidInput, Limits, Page, Position,
    ReadLog, ReadStream, RecordedEvent, Snapshot, SnapshotStore, StoreError, StoreId, StreamHead, StreamId, Token,
    Version, check_reader,
};
use tokio::{
    sync::{Semaphore, watch},
    time,
};

use crate::{
    OpenError, Options, checkpoint,
    engine::{Fault, Tier},
    export, open,
    read::View,
    snapshot,
    store::{DISK_READS_MAX, blocking, in_turn},
};

mod follow;

use follow::{Follower, Run};

/// How long a token is waited for that this reader has not come to, and how old what it sees gets before it warns.
const PATIENCE: Duration = Duration::from_secs(5);

/// A store that is opened for reading, beside the one process that writes to it, or without one. Any number of readers
/// may be open.
///
/// It sees the log up to the anchor, which the writing process moves about once a second while events come in: what lies
/// behind may not be durable. It looks for it at least once a second, so it is some two seconds behind, and never sees an
/// event that is lost later. [`published`](EventStore::published) moves with what it sees, so that subscriptions follow live,
/// and an idle store costs it two small reads a second. A token that is ahead of it is waited for, up to five seconds;
/// after that the answer is [`Unavailable`](StoreError::Unavailable).
///
/// It holds the index of the log's end in memory, 64 MiB of it at most. Where the index on the disk is gone, or further behind,
/// no reader is opened, and one that is open stays where it is, until the writing process has made it anew:
/// [`stale_for`](Self::stale_for) tells.
///
/// The writing process may close the store, be killed, and open it again meanwhile. Where the log turns out to be another
/// one, restored or with events lost that were seen here, the reader stops: all calls are answered
/// [`Stopped`](StoreError::Stopped), and one that is opened then finds older tokens [`Diverged`](StoreError::Diverged).
///
/// ```
/// use indelible_core::EventStore;
/// use indelible_rocksdb::RocksStore;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let store = RocksStore::open(path)?;
/// let reader = RocksStore::options().open_read_only(path)?; // in whatever process
/// assert_eq!(reader.head().await?, store.head().await?);
/// # Ok(()) }
/// ```
///
/// Appends, checkpoints and snapshots are refused as [`Invalid`](StoreError::Invalid). A cheap handle; clones share the
/// reader, which stops when it is [closed](Self::close) or the last one is dropped. It keeps all tables of the store open,
/// and what RocksDB has to write for itself is in a directory for temporary files.
#[derive(Clone)]
pub struct RocksReader {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    follower: Mutex<Option<(Sender<()>, thread::JoinHandle<()>)>>,
}

struct Shared {
    id: StoreId,
    options: Options,
    /// Taken out when the reader is closed.
    run: RwLock<Option<Arc<Run>>>,
    /// What stopped it, if it was not closed.
    failure: Mutex<Option<String>>,
    published: watch::Receiver<Position>,
    /// When it last knew where the log ends.
    looked_at: Mutex<Instant>,
    /// Of those that read the disk at once.
    turns: Arc<Semaphore>,
}

impl RocksReader {
    pub(crate) fn start(path: &Path, options: Options) -> Result<Self, OpenError> {
        let (id, run) = follow::open(path, options.segment_bytes)?;
        let head = run.seen.last().position;
        tracing::info!(path = %path.display(), store = %id, %head, "opened for reading");
        let (publish, published) = watch::channel(head);
        let run = RwLock::new(Some(Arc::new(run)));
        let looked_at = Mutex::new(Instant::now());
        let turns = Arc::new(Semaphore::new(DISK_READS_MAX));
        let shared = Arc::new(Shared { id, options, run, failure: Mutex::default(), published, looked_at, turns });
        let (stop, stopped) = channel();
        let follower = Follower { path: path.into(), shared: Arc::clone(&shared), publish, stopped };
        let thread = thread::Builder::new().name("indelible-follower".into()).spawn(|| follower.run());
        let thread = thread.map_err(|error| open::refuse(path, StoreError::unavailable("its thread", error).into()))?;
        Ok(Self { handle: Arc::new(Handle { shared, follower: Mutex::new(Some((stop, thread))) }) })
    }

    /// Stops the reader: later calls on any handle are answered [`Stopped`](StoreError::Stopped), subscriptions end.
    pub async fn close(&self) {
        let handle = Arc::clone(&self.handle);
        // It cannot fail.
        let _ = blocking(move || {
            handle.stop();
            Ok(())
        })
        .await;
    }

    /// How long ago this reader last knew how far the log goes: a second or two while all is well. It grows where the store
    /// can't be read for now, its anchor gone or its index being made anew, and goes on being served as it was last seen; after
    /// some seconds of that it warns.
    pub fn stale_for(&self) -> Duration {
        self.handle.shared.stale_for()
    }

    /// As [`RocksStore::export`](crate::RocksStore::export), up to what this reader sees.
    ///
    /// # Errors
    /// As there.
    pub async fn export(&self, from: Position, out: impl Write + Send + 'static) -> Result<Position, StoreError> {
        let shared = Arc::clone(&self.handle.shared);
        blocking(move || {
            let head = shared.run()?.seen.last().position;
            let read = |from| {
                let run = shared.run()?;
                Ok(View::of(&run.engine, &run.seen, shared.id, Tier::Disk, |view| export::chunk(view, from, head))?)
            };
            export::export(out, shared.id, from, head, read)?;
            Ok(head)
        })
        .await
    }

    /// At once where all that it needs is in memory, else on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&View<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = &self.handle.shared;
        let (run, id) = (shared.run()?, shared.id);
        match View::of(&run.engine, &run.seen, id, Tier::Memory, &read) {
            Err(Fault::NotInMemory) => {}
            found => return Ok(found?),
        }
        in_turn(&shared.turns, move || Ok(View::of(&run.engine, &run.seen, id, Tier::Disk, &read)?)).await
    }
}

impl Shared {
    /// What is to be seen now. It stays readable for as long as it is held.
    fn run(&self) -> Result<Arc<Run>, StoreError> {
        let run = self.run.read().unwrap_or_else(PoisonError::into_inner);
        run.clone().ok_or_else(|| {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            StoreError::stopped(failure.as_deref().unwrap_or("it was closed"))
        })
    }

    fn looked(&self) {
        *self.looked_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn stale_for(&self) -> Duration {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn replace(&self, run: Option<Run>) {
        let old = std::mem::replace(&mut *self.run.write().unwrap_or_else(PoisonError::into_inner), run.map(Arc::new));
        drop(old);
    }

    fn fail(&self, reason: String) {
        tracing::error!(store = %self.id, %reason, "stopped: nothing more is read until the store is opened again");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.replace(None);
    }
}

impl Handle {
    fn stop(&self) {
        if let Some((stop, thread)) = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(stop);
            // A panic of it was told already.
            let _ = thread.join();
        }
        self.shared.replace(None);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for RocksReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { id, options, .. } = &*self.handle.shared;
        f.debug_struct("RocksReader").field("id", id).field("options", options).finish_non_exhaustive()
    }
}

fn read_only(what: &'static str) -> StoreError {
    InvalidInput::new(what, "cannot be written: the store was opened for reading only").into()
}

#[async_trait]
impl EventStore for RocksReader {
    fn id(&self) -> StoreId {
        self.handle.shared.id
    }

    fn limits(&self) -> &Limits {
        &self.handle.shared.options.limits
    }

    fn default_codec(&self) -> &'static dyn Codec {
        self.handle.shared.options.default_codec
    }

    async fn append(&self, _append: Append) -> Result<AppendOutcome, StoreError> {
        Err(read_only("append"))
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
        let mut published = self.handle.shared.published.clone();
        published.mark_unchanged();
        published
    }

    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        if token.store == self.id() {
            let mut published = self.published();
            // Where the wait is in vain, what follows says so.
            let _ = time::timeout(PATIENCE, published.wait_for(|head| *head >= token.position)).await;
        }
        let head = self.head().await?;
        let found = match token.position <= head.position {
            true => self.token(token.position).await?,
            false if token.store == self.id() => {
                let what = format!(
                    "waiting for position {}: what is certainly durable ends at {}",
                    token.position, head.position
                );
                return Err(StoreError::Unavailable { what, source: None });
            }
            false => head,
        };
        match found == *token {
            true => Ok(()),
            false => Err(StoreError::Diverged { token: *token, found }),
        }
    }
}

#[async_trait]
impl CheckpointStore for RocksReader {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        check_reader(reader)?;
        let reader = reader.to_owned();
        let shared = Arc::clone(&self.handle.shared);
        in_turn(&self.handle.shared.turns, move || {
            let run = shared.run()?;
            run.catch_up()?;
            Ok(View::of(&run.engine, &run.seen, shared.id, Tier::Disk, |view| checkpoint::load(view, &reader))?)
        })
        .await
    }

    async fn save_checkpoint(&self, _reader: &str, _token: Token) -> Result<(), StoreError> {
        Err(read_only("checkpoint"))
    }
}

#[async_trait]
impl SnapshotStore for RocksReader {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let stream = stream.clone();
        self.read(move |view| snapshot::load(view, &stream)).await
    }

    async fn save_snapshot(&self, _snapshot: Snapshot) -> Result<(), StoreError> {
        Err(read_only("snapshot"))
    }

    async fn delete_snapshot(&self, _stream: &StreamId) -> Result<(), StoreError> {
        Err(read_only("snapshot"))
    }
}
