//! Opening: the lock, the two databases, and the proof that what was found is a whole log.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use indelible_core::{Cause, InvalidInput, Position, StoreError, StoreId, Timestamp, Token, Version};
use rocksdb::{DB, Error, ErrorKind, IteratorMode, WriteBatch};
use uuid::Uuid;

use crate::{
    Durability, Options,
    anchor::{Anchor, Place},
    append::SEGMENT_BYTES,
    block, bugs, checkpoint,
    engine::{self, Engine, Fault, Setup, Tier, chain, write_options},
    index::{self, Mark},
    log::{Blocks, Events},
    tail::{Entry, Segment, Tail},
    wal::{self, Cuts},
};

/// The version of all that is the truth: the log's blocks, the identity, checkpoints, the anchor.
const FORMAT: u32 = 1;
/// Where the log's database keeps it, and the store's id.
const FORMAT_KEY: &[u8] = b"format";
pub(crate) const STORE_KEY: &[u8] = b"store";
/// Its lock is held as long as the store is open; its content is the process that holds it.
const LOCK_FILE: &str = "indelible.lock";
/// How much must fit on the disk for a store to go on that found it full: a commit group and what RocksDB writes at opening.
const ROOM_BYTES: usize = 16 * 1024 * 1024;
/// What the index of the log's end takes in memory at most, in a store that can't move it to the disk: for want of room, or
/// because another process does that.
pub(crate) const FULL_TAIL_BYTES: usize = 4 * SEGMENT_BYTES;
/// How many events are proved to be whole at opening, back from the head.
const CHECKED_EVENTS: u64 = 1_000;

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
    #[error("{} holds something else: {what}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What was found there.
        what: String,
    },
    /// The store was written by a newer version of this crate.
    #[error("{}: {what} is in format {found}, this version reads up to format {supported}", path.display())]
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// The store, or what in it.
        what: String,
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
    pub(crate) setup: Setup,
    pub(crate) id: StoreId,
    /// The last event.
    pub(crate) last: Place,
    /// When it was recorded.
    pub(crate) head_time: Option<Timestamp>,
    pub(crate) anchor: Anchor,
    pub(crate) anchored: Place,
    pub(crate) mark: Mark,
    pub(crate) tail: Tail,
    /// Why it can only be read.
    pub(crate) full: Option<String>,
}

/// What makes a directory ours.
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // A process that another thread is just starting has a copy of the open file, and would hold the lock for a
        // moment longer where ours were closed only.
        let _ = self.0.unlock();
    }
}

/// Opens the directory, and proves what can be proved quickly: the log's tables tile it without a hole, its end is whole and
/// not before the anchor, and no checkpoint is of an event that is not there. Then it brings the index up to date.
pub(crate) fn open(path: &Path, options: &Options) -> Result<Opened, OpenError> {
    let io = |what, error: io::Error| OpenError::Io { path: path.into(), what, source: error.into() };
    create_dir_durably(path).map_err(|error| io("creating the directory", error))?;
    let lock = lock(path)?;
    let setup = Setup::new();
    let log_dir = engine::log_dir(path);
    let is_new = is_new(path, &log_dir)?;
    let anchor = match Anchor::open(path).map_err(|error| io("reading the anchor", error))?.transpose() {
        Ok(anchor) => anchor,
        Err(damage) => return Err(refuse(path, Fault::damage("the anchor", damage))),
    };
    let mut cuts = Cuts::default();
    if !is_new {
        if let Some(manifest) = wal::endless_manifest(&log_dir) {
            let what = format!("{} has a record of a type that is none", manifest.display());
            return Err(OpenError::Corrupted { path: path.into(), what, source: None });
        }
        let was_buffered = anchor.as_ref().is_some_and(|(anchor, _)| anchor.durability() == Durability::Buffered);
        let mended = wal::mend(&log_dir, &path.join("torn"), was_buffered);
        cuts = mended
            .map_err(|error| io("looking at the write-ahead log", error))?
            .map_err(|rot| OpenError::Corrupted { path: path.into(), what: rot.to_string(), source: None })?;
        // What the last process has written and not synced is there now, and must be there for good before anyone sees it.
        sync_logs(&log_dir).map_err(|error| io("syncing the write-ahead log", error))?;
    }
    match prove(path, &setup, &log_dir, is_new, anchor, options, lock) {
        Ok(opened) => Ok(opened),
        Err(error) => {
            // The lock went with what was opened. Who has it by now has seen the log as it is.
            if let Ok(_lock) = self::lock(path)
                && let Err(kept) = cuts.undo()
            {
                tracing::warn!(path = %path.display(), error = %kept, "what was cut off the write-ahead log stays in torn/");
            }
            Err(error)
        }
    }
}

/// What [`open`] does once the write-ahead log is in order.
fn prove(
    path: &Path,
    setup: &Setup,
    log_dir: &Path,
    is_new: bool,
    anchor: Option<(Anchor, Place)>,
    options: &Options,
    lock: Lock,
) -> Result<Opened, OpenError> {
    let durability = options.durability;
    let io = |what, error: io::Error| OpenError::Io { path: path.into(), what, source: error.into() };
    let failed = |error| engine_error(path, "opening the log", error);
    // A first opening that was killed on its way left one of two column families, or no identity; no anchor and no table.
    let is_begun = || -> Result<bool, OpenError> {
        Ok(anchor.is_none() && !has_tables(log_dir).map_err(|error| io("listing the log", error))?)
    };
    // RocksDB deletes at opening what it knows nothing of, as a damaged manifest knows nothing of the log's tables: so it
    // is only looked at until it is known to be whole.
    let looked_at = match if is_new { Ok(None) } else { setup.look_at_log(log_dir).map(Some) } {
        Ok(None) => None,
        Ok(Some(log)) => match stored_identity(path, &log)? {
            Some(_) => Some(log),
            None if is_begun()? => None,
            None => {
                let what = "the log has no identity".into();
                return Err(OpenError::Corrupted { path: path.into(), what, source: None });
            }
        },
        Err(error) if error.to_string().contains("Column family not found") && is_begun()? => None,
        Err(error) => return Err(failed(error)),
    };
    let is_looked_at = looked_at.is_some();
    let log = looked_at.map_or_else(|| setup.open_log(log_dir, is_new), Ok).map_err(failed)?;
    let id = identity(path, &log)?;
    let (index, mut full) = open_index(path, setup)?;
    let mut engine = Engine { log, index, dir: path.into(), _lock: Some(lock) };

    let refuse = |fault: Fault| refuse(path, fault);
    let last = check_log(&engine).map_err(refuse)?;
    let (mut anchor, anchored) = check_anchor(&engine, anchor, id, durability, last).map_err(refuse)?;
    let head_time = check_end(&engine, last.position).map_err(refuse)?;
    for entry in checkpoint::all(&engine.log) {
        let (reader, token) = entry.map_err(refuse)?;
        if token.store != id
            || token.position > last.position
            || token != token_at(&engine, id, token.position).map_err(refuse)?
        {
            return Err(OpenError::Diverged { path: path.into(), reader, token, head: last.position });
        }
    }

    if is_looked_at && full.is_none() {
        // What the operating system has said to be synced after it had failed to, it may have forgotten: what was in the
        // write-ahead log is written anew.
        match setup.open_log(log_dir, false).map(|log| engine.log = log).and_then(|()| engine.flush_log()) {
            Ok(()) => {}
            Err(error) if is_full(&error) => full = Some(without_room(&error)),
            Err(error) => return Err(failed(error)),
        }
        if full.is_none() {
            engine.log = engine::merge_small_tables(engine.log, || setup.open_log(log_dir, false)).map_err(failed)?;
        }
        if check_log(&engine).map_err(refuse)? != last {
            let what = format!("the log no longer ends at position {}", last.position);
            return Err(OpenError::Corrupted { path: path.into(), what, source: None });
        }
    }

    let mark = match index::mark(&engine.index) {
        // One that can't be read is none, and there is more than nothing.
        Err(Fault::Store(StoreError::Corrupted { .. })) => Some(Mark { position: Position::MAX, ..Mark::START }),
        mark => mark.map_err(refuse)?,
    };
    let mark = match mark {
        Some(mark) if bugs::is_on(bugs::BELIEVE_MARK) || is_of(&engine, mark, last.position).map_err(refuse)? => mark,
        // Nothing was taken in yet.
        None if engine.index.iterator(IteratorMode::Start).next().is_none() => Mark::START,
        found if full.is_none() => {
            tracing::warn!(path = %path.display(), ?found, "the index is not that of the log: it is made anew");
            drop(engine.index);
            engine.index = new_index(path, setup)?;
            Mark::START
        }
        _ => return Err(io("making the index anew", io::ErrorKind::StorageFull.into())),
    };
    let mark = match bugs::is_on(bugs::FORGET_REBUILD) {
        true => Mark { position: last.position, event: last.event, ..mark },
        false => mark,
    };
    let read = |mark, segment_bytes| {
        read_tail(&engine.log, (&engine.index, path), setup, mark, last.position, segment_bytes, || Ok(()))
    };
    let mut read_to = read(mark, full.is_none().then_some(options.segment_bytes));
    if full.is_none()
        && let Err(Fault::Store(error)) = &read_to
        && is_full(error)
    {
        full = Some(without_room(error));
        // Some of it was moved by then.
        let moved = index::mark(&engine.index).map_err(refuse)?;
        read_to = read(moved.unwrap_or(mark), None);
    }
    let (segment, mark) = read_to.map_err(refuse)?;
    if full.is_none() {
        let index_dir = engine::index_dir(path);
        let failed = |error| engine_error(path, "opening the index", error);
        engine.index = engine::merge_small_tables(engine.index, || setup.open_index(&index_dir)).map_err(failed)?;
    }
    let tail = Tail::new(segment);
    if anchor.durability() != durability && full.is_none() {
        anchor.set_durability(durability, last).map_err(|error| io("writing the anchor", error))?;
    }
    let last = if bugs::is_on(bugs::REUSE_POSITIONS) { anchored } else { last };
    Ok(Opened { engine, setup: setup.clone(), id, last, head_time, anchor, anchored, mark, tail, full })
}

/// Makes the directory, so that it is still there after a power cut: each new one is an entry in its parent.
pub(crate) fn create_dir_durably(path: &Path) -> io::Result<()> {
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
pub(crate) fn lock(path: &Path) -> Result<Lock, OpenError> {
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
    match lock.0.set_len(0).and_then(|()| writeln!(lock.0, "{}", std::process::id())) {
        // It is for a message only, and reading needs no room.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(lock),
        written => written.map(|()| lock).map_err(io),
    }
}

/// Proves that there is room for more than a commit group, by writing a file of that size and removing it again.
pub(crate) fn prove_room(path: &Path) -> io::Result<()> {
    let name = path.join("room");
    let mut file = File::create(&name)?;
    let written =
        (0..ROOM_BYTES / 65_536).try_for_each(|_| file.write_all(&[1; 65_536])).and_then(|()| file.sync_all());
    fs::remove_file(&name)?;
    written
}

/// Whether a store may be made here. RocksDB would make a log wherever its `CURRENT` file is missing, and delete what it
/// takes for leftovers; we do so only where no data can be.
fn is_new(path: &Path, log_dir: &Path) -> Result<bool, OpenError> {
    let io = |error: io::Error| OpenError::Io { path: path.into(), what: "listing it", source: error.into() };
    if log_dir.join("CURRENT").try_exists().map_err(io)? {
        return Ok(false);
    }
    let corrupted = |found: &str| {
        let what = format!("the log's file CURRENT is missing, {found} is there");
        Err(OpenError::Corrupted { path: path.into(), what, source: None })
    };
    let mut stranger = None;
    for entry in fs::read_dir(path).map_err(io)? {
        match entry.map_err(io)?.file_name().to_string_lossy().as_ref() {
            LOCK_FILE | "log" | "room" => {}
            "anchor" => return corrupted("the anchor"),
            "index" => return corrupted("the index"),
            other => stranger = Some(other.to_owned()),
        }
    }
    if let Some(what) = stranger {
        return Err(OpenError::NotAStore { path: path.into(), what });
    }
    let entries = match fs::read_dir(log_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(io)?,
    };
    for entry in entries {
        match entry.map_err(io)?.file_name().to_string_lossy().as_ref() {
            // What a first opening leaves behind that was killed on its way.
            "LOCK" | "LOG" | "IDENTITY" | "MANIFEST-000001" => {}
            temporary if temporary.ends_with(".dbtmp") || temporary.starts_with("LOG.old.") => {}
            data => return corrupted(data),
        }
    }
    Ok(true)
}

fn sync_logs(log_dir: &Path) -> io::Result<()> {
    for file in wal::files(log_dir)? {
        File::open(file)?.sync_all()?;
    }
    File::open(log_dir)?.sync_all()
}

/// The store's id, given to it when it is empty.
fn identity(path: &Path, log: &DB) -> Result<StoreId, OpenError> {
    let corrupted = |what: &str| OpenError::Corrupted { path: path.into(), what: what.into(), source: None };
    let Some(id) = stored_identity(path, log)? else {
        if let Some(entry) = log.iterator(IteratorMode::Start).next() {
            entry.map_err(|error| engine_error(path, "reading", error))?;
            return Err(corrupted("the log has events, and no identity"));
        }
        let id = StoreId::new();
        let mut batch = WriteBatch::default();
        let state = engine::state(log);
        batch.put_cf(state, FORMAT_KEY, FORMAT.to_be_bytes());
        batch.put_cf(state, STORE_KEY, id.as_uuid().as_bytes());
        log.write_opt(batch, &write_options(true))
            .map_err(|error| engine_error(path, "writing its identity", error))?;
        return Ok(id);
    };
    Ok(id)
}

/// The store's id, where it has one yet, and its format is known.
pub(crate) fn stored_identity(path: &Path, log: &DB) -> Result<Option<StoreId>, OpenError> {
    let state = engine::state(log);
    let read = |key| log.get_cf(state, key).map_err(|error| engine_error(path, "reading its format", error));
    let corrupted = |what: &str| OpenError::Corrupted { path: path.into(), what: what.into(), source: None };
    let Some(format) = read(FORMAT_KEY)? else { return Ok(None) };
    let found = format.try_into().map(u32::from_be_bytes).map_err(|_| corrupted("its format version"))?;
    if found == 0 {
        return Err(corrupted("its format version"));
    }
    if found > FORMAT {
        let what = "the store".into();
        return Err(OpenError::NewerFormat { path: path.into(), what, found, supported: FORMAT });
    }
    let id = read(STORE_KEY)?.and_then(|id| Uuid::from_slice(&id).ok()).ok_or_else(|| corrupted("its identity"))?;
    Ok(Some(StoreId::from_uuid(id)))
}

/// The index's database. One that can't be opened is made anew: all that it holds is derived, or may be lost.
fn open_index(path: &Path, setup: &Setup) -> Result<(DB, Option<String>), OpenError> {
    let dir = engine::index_dir(path);
    if wal::endless_manifest(&dir).is_some() {
        tracing::warn!(path = %path.display(), "the index is damaged: it is made anew");
        return Ok((new_index(path, setup)?, None));
    }
    let mut full = None;
    let index = match setup.open_index(&dir) {
        Err(error) if is_full(&error) => {
            full = Some(without_room(&error));
            setup.look_at_index(&dir)
        }
        // What a damaged file, and one that is gone, is answered with.
        Err(error) if error.kind() == ErrorKind::Corruption || error.to_string().contains("No such file") => {
            tracing::warn!(path = %path.display(), %error, "the index is damaged: it is made anew");
            return Ok((new_index(path, setup)?, None));
        }
        opened => opened,
    };
    Ok((index.map_err(|error| engine_error(path, "opening the index", error))?, full))
}

/// Whether any event may be in a table of the log.
fn has_tables(log_dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(log_dir)? {
        if entry?.path().extension().is_some_and(|extension| extension == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn without_room(error: &dyn std::error::Error) -> String {
    format!("it was opened to read only: {}", chain(error))
}

/// RocksDB tells it by its words only.
fn is_full(error: &dyn std::error::Error) -> bool {
    let told = chain(error);
    ["No space left on device", "Disk quota exceeded"].iter().any(|words| told.contains(words))
}

fn new_index(path: &Path, setup: &Setup) -> Result<DB, OpenError> {
    let dir = engine::index_dir(path);
    let removed = fs::remove_dir_all(&dir);
    removed.map_err(|error| OpenError::Io { path: path.into(), what: "removing the index", source: error.into() })?;
    setup.open_index(&dir).map_err(|error| engine_error(path, "making the index", error))
}

/// Proves that the log's tables, and what follows them, hold each position once, and finds the last one.
fn check_log(engine: &Engine) -> Result<Place, Fault> {
    let files = engine.log.live_files().map_err(|error| Fault::engine("listing the log's tables", error))?;
    let bounds = files.iter().filter(|file| file.column_family_name == "default").map(|file| {
        let key = |key: &Option<Vec<u8>>| block::parse_key(key.as_deref().unwrap_or_default());
        Ok((key(&file.start_key)?, key(&file.end_key)?))
    });
    let bounds: Result<Vec<(Position, Position)>, crate::frame::Damage> = bounds.collect();
    let mut bounds = bounds.map_err(|damage| StoreError::Corrupted {
        what: "the bounds of the log's tables".into(),
        source: Some(damage.into()),
    })?;
    bounds.sort_unstable();
    let mut blocks = Blocks::new(engine, Tier::Disk);
    let mut expected = Position::FIRST;
    for (start, end) in bounds {
        // A table's first key is where its first block ends.
        let first = blocks.at(start)?.first;
        if first != expected {
            return Err(missing(expected, first).into());
        }
        expected = end.plus(1);
    }
    let Some(last) = blocks.last()?.map(|block| (block.last, block.checksum)) else {
        return Ok(Place::START);
    };
    // What is in no table yet.
    while expected <= last.0 {
        expected = blocks.at(expected)?.last.plus(1);
    }
    let event = Events::new(engine, Tier::Disk).at(last.0)?.id;
    Ok(Place { position: last.0, event, checksum: last.1 })
}

fn missing(expected: Position, found: Position) -> StoreError {
    match expected < found {
        true => StoreError::corrupted(format!("the events at positions {expected} to {} are missing", found.before())),
        false => {
            StoreError::corrupted(format!("the events at positions {found} to {} are there twice", expected.before()))
        }
    }
}

/// Proves that the log still has what the anchor saw of it.
fn check_anchor(
    engine: &Engine,
    anchor: Option<(Anchor, Place)>,
    id: StoreId,
    durability: Durability,
    last: Place,
) -> Result<(Anchor, Place), Fault> {
    let (anchor, place) = match anchor {
        Some(found) => found,
        // What a first opening leaves behind that was killed on its way.
        None if last.position == Position::START => {
            let anchor = Anchor::create(&engine.dir, id, durability);
            (anchor.map_err(|error| StoreError::unavailable("making the anchor", error))?, Place::START)
        }
        None => return Err(StoreError::corrupted("the anchor is missing").into()),
    };
    if bugs::is_on(bugs::SKIP_ANCHOR_CHECK) {
        return Ok((anchor, place));
    }
    if anchor.store() != id {
        return Err(StoreError::corrupted(format!("the anchor is that of another store, {}", anchor.store())).into());
    }
    if place.position > last.position {
        return Err(StoreError::corrupted(format!(
            "the log ends at position {}, and has lost its events up to position {}",
            last.position, place.position
        ))
        .into());
    }
    if place.position > Position::START {
        let mut events = Events::new(engine, Tier::Disk);
        let block = events.blocks().at(place.position)?;
        if block.last != place.position || block.checksum != place.checksum {
            let what = format!("the block that ends at position {} is not the one that was written", place.position);
            return Err(StoreError::corrupted(what).into());
        }
    }
    Ok((anchor, place))
}

/// Proves that the last events are whole, each block the successor of the one before, and that the last append is; says
/// when the last was recorded.
fn check_end(engine: &Engine, head: Position) -> Result<Option<Timestamp>, Fault> {
    let mut events = Events::new(engine, Tier::Disk);
    let mut position = Position::new(head.get().saturating_sub(CHECKED_EVENTS) + 1);
    let mut before = None;
    let mut head_time = None;
    while position <= head {
        let block = *events.blocks().at(position)?;
        if before.is_some_and(|before| before != block.previous) {
            let what = format!("the block that ends at position {} does not follow the one before", block.last);
            return Err(StoreError::corrupted(what).into());
        }
        before = Some(block.checksum);
        while position <= block.last {
            let event = events.at(position)?;
            if position == head && !event.ends_append {
                let what = format!("the log ends at position {position} in the middle of an append");
                return Err(StoreError::corrupted(what).into());
            }
            position = position.plus(1);
        }
        head_time = Some(block.recorded_at);
    }
    Ok(head_time)
}

fn token_at(engine: &Engine, store: StoreId, position: Position) -> Result<Token, Fault> {
    match position {
        Position::START => Ok(Token::start(store)),
        position => Ok(Token { store, position, event: Events::new(engine, Tier::Disk).at(position)?.id }),
    }
}

/// Whether the index goes up to an event that the log holds at that position.
pub(crate) fn is_of(engine: &Engine, mark: Mark, head: Position) -> Result<bool, Fault> {
    match mark.position {
        Position::START => Ok(true),
        position if position > head => Ok(false),
        position => Ok(Events::new(engine, Tier::Disk).at(position)?.id == mark.event),
    }
}

/// Reads what an index doesn't hold into a segment, and into the index, in its directory, what is more than `segment_bytes`.
/// Without room there, which is none of that, all of it stays in memory, as far as that is bounded.
pub(crate) fn read_tail(
    log: &DB,
    (index, dir): (&DB, &Path),
    setup: &Setup,
    mut mark: Mark,
    to: Position,
    segment_bytes: Option<usize>,
    go_on: impl Fn() -> Result<(), StoreError>,
) -> Result<(Segment, Mark), Fault> {
    let mut events = Events::of(log, Tier::Disk);
    let mut segment = Segment::after(mark.position, mark.streams);
    let mut scratch = Vec::new();
    let mut position = mark.position;
    while position < to {
        position = position.plus(1);
        let (version, head) = events.head_at(position)?;
        let id = head.id;
        add(&segment, position, version, &head, &mut scratch)
            .map_err(|damage| crate::log::corrupted(position, damage))?;
        let block = events.blocks().at(position)?.last;
        if position == block {
            segment.end_block(block);
        }
        let bytes = segment.bytes();
        match segment_bytes {
            None if bytes > FULL_TAIL_BYTES => {
                let what = "no room for the index of what was written last".into();
                return Err(StoreError::Unavailable { what, source: None }.into());
            }
            Some(most) if position == block && bytes >= most => {
                go_on()?;
                mark = index::ingest(index, dir, setup, &segment, mark, (position, id))?;
                segment = Segment::after(position, mark.streams);
            }
            _ => {}
        }
    }
    Ok((segment, mark))
}

pub(crate) fn add(
    segment: &Segment,
    position: Position,
    version: Version,
    head: &crate::record::Head<'_>,
    scratch: &mut Vec<u8>,
) -> Result<(), crate::frame::Damage> {
    let stream = head.stream.parse()?;
    let entry =
        Entry { position, version, id: head.id, stream: &stream, event_type: head.event_type, closes: head.closes };
    let tags = head.tags().collect::<Result<Vec<_>, _>>()?;
    segment.add(&entry, tags.into_iter(), scratch);
    Ok(())
}

pub(crate) fn refuse(path: &Path, fault: Fault) -> OpenError {
    let path = path.into();
    match fault {
        Fault::Newer { what, found, supported } => {
            OpenError::NewerFormat { path, what, found: found.into(), supported: supported.into() }
        }
        Fault::Store(StoreError::Corrupted { what, source }) => OpenError::Corrupted { path, what, source },
        fault => OpenError::Io { path, what: "checking it", source: StoreError::from(fault).into() },
    }
}

pub(crate) fn engine_error(path: &Path, what: &'static str, error: Error) -> OpenError {
    let path = path.into();
    match error.kind() {
        ErrorKind::Corruption => OpenError::Corrupted { path, what: what.into(), source: Some(error.into()) },
        _ => OpenError::Io { path, what, source: error.into() },
    }
}
