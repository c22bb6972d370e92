//! Opening: the lock, the engine and its options, and the proof that what was found is a whole log.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use indelible_core::{Cause, EventId, InvalidInput, Position, StoreError, StoreId, Timestamp, Token};
use rocksdb::{
    BlockBasedOptions, DB, DBCompressionType, DBRawIterator, DBRecoveryMode, ErrorKind, IteratorMode, LogLevel,
    WriteBatch,
};
use uuid::Uuid;

use crate::{
    append::write_options,
    checkpoint,
    keys::{self, Series},
    read::View,
};

/// The version of all that is written in `keys`, `record`, `snapshot` and `checkpoint`.
const FORMAT: u32 = 1;
/// Its lock is held as long as the store is open; its content is the process that holds it.
const LOCK_FILE: &str = "indelible.lock";
/// How many events are proved to be whole at opening, back from the head.
const TAIL_EVENTS: u64 = 1_000;

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// One process opens a store at a time, and only once: clone its handle.
    #[error("{} is open already, in {}", path.display(), Owner(*owner))]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// The id of the process that has it open, where it said so.
        owner: Option<u32>,
    },
    /// The directory holds something else.
    #[error("{} holds something else than a store: {what}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        what: String,
    },
    /// The store was written by a newer version of this crate.
    #[error("{} is written in format {found}, this version reads up to format {supported}", path.display())]
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that can be read.
        supported: u32,
    },
    /// What is stored is not what was written. Nothing was repaired, nothing was deleted.
    #[error("{} is corrupted: {what}", path.display())]
    Corrupted {
        /// The store's directory.
        path: PathBuf,
        /// What is damaged, with its positions.
        what: String,
        /// How it was noticed.
        #[source]
        source: Option<Cause>,
    },
    /// A checkpoint in this store is of an event that the log does not hold: the log has lost events at its end, or was
    /// restored without its checkpoints.
    #[error("{} has lost events: the checkpoint of {reader} is {token}, the log ends at position {head}", path.display())]
    Diverged {
        /// The store's directory.
        path: PathBuf,
        /// Whose checkpoint it is.
        reader: String,
        /// The checkpoint.
        token: Token,
        /// Where the log ends.
        head: Position,
    },
    /// An option makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The operating system or the engine said no.
    #[error("cannot open {}: {what}", path.display())]
    Io {
        /// The store's directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was answered.
        #[source]
        source: Cause,
    },
}

/// Names a process, for messages.
struct Owner(Option<u32>);

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) if pid == std::process::id() => f.write_str("this process"),
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// An open store: the engine, and what was found in it.
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) id: StoreId,
    pub(crate) head: Position,
    /// When the event at the head was recorded.
    pub(crate) head_time: Option<Timestamp>,
}

/// RocksDB, and the lock that makes it ours. Fields are dropped in this order.
pub(crate) struct Engine {
    pub(crate) db: DB,
    _lock: Lock,
}

struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that another thread is just starting has a copy of the open file, and would hold the lock for a
        // moment longer where ours were closed only.
        let _ = self.0.unlock();
    }
}

/// Opens the directory, and proves what can be proved quickly: the head's neighbourhood is whole and indexed, and no
/// checkpoint is of an event that is not there.
pub(crate) fn open(path: &Path) -> Result<Opened, OpenError> {
    let io = |what, error: io::Error| OpenError::Io { path: path.into(), what, source: error.into() };
    create_dir_durably(path).map_err(|error| io("creating the directory", error))?;
    let lock = lock(path)?;
    let is_new = is_new(path)?;
    let db = DB::open(&engine_options(is_new), path).map_err(|error| engine_error(path, "opening RocksDB", error))?;
    let id = identity(path, &db)?;
    let engine = Engine { db, _lock: lock };

    let store_error = |error| refuse(path, error);
    let head = find_head(path, &engine.db)?;
    let view = View { db: &engine.db, store: id, head };
    let head_time = check_tail(&view).map_err(store_error)?;
    for entry in checkpoint::all(&engine.db) {
        let (reader, token) = entry.map_err(store_error)?;
        if token.store != id || token.position > head || view.token(token.position).map_err(store_error)? != token {
            return Err(OpenError::Diverged { path: path.into(), reader, token, head });
        }
    }
    Ok(Opened { engine, id, head, head_time })
}

/// Makes the directory, so that it is still there after a power cut: each new one is an entry in its parent.
fn create_dir_durably(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    fs::create_dir_all(path)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// The lock is the file's and not the name's, so it holds against any other path to the same directory, in this process
/// or another. The kernel frees it when the process ends, however it ends.
fn lock(path: &Path) -> Result<Lock, OpenError> {
    let io = |error: io::Error| OpenError::Io { path: path.into(), what: "locking it", source: error.into() };
    let name = path.join(LOCK_FILE);
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(name).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Only for the message: the owner may not have written it yet.
            let _ = file.read_to_string(&mut owner);
            return Err(OpenError::Locked { path: path.into(), owner: owner.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    let mut lock = Lock(file);
    lock.0.set_len(0).and_then(|()| writeln!(lock.0, "{}", std::process::id())).map_err(io)?;
    Ok(lock)
}

/// Whether a store may be made here. RocksDB would make one wherever its `CURRENT` file is missing, and delete what it
/// takes for leftovers; we do so only where no data can be.
fn is_new(path: &Path) -> Result<bool, OpenError> {
    let io = |error: io::Error| OpenError::Io { path: path.into(), what: "listing it", source: error.into() };
    if path.join("CURRENT").try_exists().map_err(io)? {
        return Ok(false);
    }
    let mut stranger = None;
    for entry in fs::read_dir(path).map_err(io)? {
        let name = entry.map_err(io)?.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            // What a first opening leaves behind that was killed on its way.
            LOCK_FILE | "LOCK" | "LOG" | "IDENTITY" | "MANIFEST-000001" => {}
            temporary if temporary.ends_with(".dbtmp") || temporary.starts_with("LOG.old.") => {}
            data if data.ends_with(".sst") || data.ends_with(".log") || data.starts_with("MANIFEST-") => {
                let what = format!("the file CURRENT is missing, {data} is there");
                return Err(OpenError::Corrupted { path: path.into(), what, source: None });
            }
            _ => stranger = Some(name),
        }
    }
    match stranger {
        Some(what) => Err(OpenError::NotAStore { path: path.into(), what }),
        None => Ok(true),
    }
}

fn engine_options(is_new: bool) -> rocksdb::Options {
    let mut tables = BlockBasedOptions::default();
    // Most event ids that are looked up are new.
    tables.set_bloom_filter(10.0, false);
    let mut options = rocksdb::Options::default();
    options.set_block_based_table_factory(&tables);
    options.create_if_missing(is_new);
    // The default mode drops synced events in silence after one damaged byte; this one forgives an incomplete last
    // write and refuses all else. It excludes the recycling of log files, which is off by default.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(4);
    options.set_log_level(LogLevel::Warn);
    // An idle store does nothing.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// The store's id, given to it when it is empty.
fn identity(path: &Path, db: &DB) -> Result<StoreId, OpenError> {
    let read = |key| db.get(key).map_err(|error| engine_error(path, "reading its format", error));
    let corrupted = |what: &str| OpenError::Corrupted { path: path.into(), what: what.into(), source: None };
    let Some(format) = read(keys::FORMAT)? else {
        if let Some(entry) = db.iterator(IteratorMode::Start).next() {
            entry.map_err(|error| engine_error(path, "reading", error))?;
            return Err(OpenError::NotAStore { path: path.into(), what: "another RocksDB database".into() });
        }
        let id = StoreId::new();
        let mut batch = WriteBatch::default();
        batch.put(keys::FORMAT, FORMAT.to_be_bytes());
        batch.put(keys::STORE, id.as_uuid().as_bytes());
        db.write_opt(batch, &write_options(true)).map_err(|error| engine_error(path, "writing its identity", error))?;
        return Ok(id);
    };
    let found = format.try_into().map(u32::from_be_bytes).map_err(|_| corrupted("its format version"))?;
    if found > FORMAT {
        return Err(OpenError::NewerFormat { path: path.into(), found, supported: FORMAT });
    }
    let id = read(keys::STORE)?.and_then(|id| Uuid::from_slice(&id).ok()).ok_or_else(|| corrupted("its identity"))?;
    Ok(StoreId::from_uuid(id))
}

/// The last position of the log, which must begin with the first.
fn find_head(path: &Path, db: &DB) -> Result<Position, OpenError> {
    let log = Series::log();
    let mut records = db.raw_iterator();
    // A search that fails looks like one that finds nothing, and the next one forgets it: an unreadable end would be an
    // empty log, whose positions are given again.
    let number = |records: &DBRawIterator<'_>| match records.status() {
        Ok(()) => Ok(records.key().and_then(|key| log.number(key)).map_or(Position::START, Position::new)),
        Err(error) => Err(engine_error(path, "looking for its head", error)),
    };
    records.seek_for_prev(log.key(u64::MAX));
    let head = number(&records)?;
    records.seek(log.key(0));
    let first = number(&records)?;
    if head > Position::START && first != Position::FIRST {
        let what = format!("the events at positions 1 to {} are missing", first.before());
        return Err(OpenError::Corrupted { path: path.into(), what, source: None });
    }
    let ids = keys::id(EventId::NIL);
    records.seek(&ids);
    if head == Position::START && records.key().is_some_and(|key| key.first() == ids.first()) {
        let what = "the log is empty, the index of event ids is not".into();
        return Err(OpenError::Corrupted { path: path.into(), what, source: None });
    }
    Ok(head)
}

/// Proves that the last events are there, whole and indexed, and that the last append is; says when the last was
/// recorded.
fn check_tail(view: &View<'_>) -> Result<Option<Timestamp>, StoreError> {
    let mut head_time: Option<Timestamp> = None;
    let last = view.head.get();
    for position in (last.saturating_sub(TAIL_EVENTS) + 1..=last).rev().map(Position::new) {
        let event = view.event(position)?;
        let unindexed = |index: &str| StoreError::corrupted(format!("{index} does not hold position {position}"));
        if view.find(event.id)? != Some(position) {
            return Err(unindexed("the index of event ids"));
        }
        if view.version_at(&event.stream, event.version)? != Some(position) {
            return Err(unindexed("its stream's index"));
        }
        for series in keys::postings(&event) {
            if view.get(&series.key(position.get()))?.is_none() {
                return Err(unindexed("an index of its category, type and tags"));
            }
        }
        if position == view.head {
            head_time = Some(event.recorded_at);
            if !event.ends_append {
                let what = format!("the log ends at position {position} in the middle of an append");
                return Err(StoreError::corrupted(what));
            }
        }
    }
    Ok(head_time)
}

fn refuse(path: &Path, error: StoreError) -> OpenError {
    let path = path.into();
    match error {
        StoreError::Corrupted { what, source } => OpenError::Corrupted { path, what, source },
        error => OpenError::Io { path, what: "checking it", source: error.into() },
    }
}

fn engine_error(path: &Path, what: &'static str, error: rocksdb::Error) -> OpenError {
    let path = path.into();
    match error.kind() {
        ErrorKind::Corruption => OpenError::Corrupted { path, what: what.into(), source: Some(error.into()) },
        _ => OpenError::Io { path, what, source: error.into() },
    }
}
