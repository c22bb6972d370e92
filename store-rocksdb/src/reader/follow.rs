//! How a reader follows: RocksDB's secondary instances of the log and the index, which see what the writing process has
//! written when they are told to look, and the log's end indexed in memory, as there. One thread looks, when the anchor has
//! moved.
//!
//! The writing process goes on meanwhile: it deletes tables (which stay readable here, being open), is killed, cuts a torn
//! group off its write-ahead log, makes its index anew. Whatever goes wrong with looking, all is opened again beside what is
//! there, and takes its place once it goes as far and holds the same event at the old head.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use indelible_core::{EventId, Position, StoreError, StoreId};
use rocksdb::{DB, ErrorKind, IteratorMode};
use tokio::sync::watch;
use uuid::Uuid;

use super::{PATIENCE, Shared};
use crate::{
    Durability, OpenError,
    anchor::{Anchor, Place, Slot},
    bugs,
    engine::{self, Engine, Fault, Setup, Tier},
    index::{self, Mark},
    log::{Events, corrupted},
    open,
    seen::Seen,
    tail::{Segment, Tail},
    wal,
};

/// How soon it looks again after something was new, and after nothing was, in the end.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_secs(1);
/// For how long opening is tried beside a process that is at work.
const TRIED_FOR: Duration = Duration::from_secs(3);

/// What a reader sees.
pub(super) struct Run {
    pub(super) engine: Engine,
    pub(super) seen: Seen,
    /// Whether the tail holds more than is seen, because a look failed on its way: it is not gone on with.
    is_torn: AtomicBool,
    segment_bytes: usize,
    /// Which databases these are; an index that was made anew is another.
    log_identity: String,
    index_identity: String,
    /// The log's `CURRENT` where what is read is a copy of it: the next writer will write another.
    copy_of: Option<String>,
    _private: Private,
}

impl Run {
    /// Sees what was written to the log since the anchor moved: checkpoints don't move it.
    pub(super) fn catch_up(&self) -> Result<(), StoreError> {
        // One that was put in its place is not this one's to read, and a copy goes no further.
        if identity(&engine::log_dir(&self.engine.dir)) != self.log_identity || self.copy_of.is_some() {
            return Ok(());
        }
        let caught_up = self.engine.log.try_catch_up_with_primary();
        caught_up.map_err(|error| StoreError::unavailable("reading what was written since", error))
    }

    /// Indexes the log from behind a position up to a place, and shows it. `before` is the checksum of the block that ends at
    /// that position, where it is known.
    fn advance(&self, from: Position, mut before: Option<u32>, place: Place) -> Result<(), Fault> {
        self.is_torn.store(true, Ordering::Relaxed);
        let mut events = Events::new(&self.engine, Tier::Disk);
        let end = events.blocks().at(place.position)?;
        if end.last != place.position || end.checksum != place.checksum {
            return Err(another(place.position).into());
        }
        let mut position = from.plus(1);
        let mut scratch = Vec::new();
        while position <= place.position {
            let block = *events.blocks().at(position)?;
            if block.first == position {
                if before.is_some_and(|before| before != block.previous) {
                    return Err(another(position).into());
                }
                before = Some(block.checksum);
            }
            let (version, head) = events.head_at(position)?;
            let segments = self.seen.tail.segments();
            let added = open::add(segments.active(), position, version, &head, &mut scratch);
            added.map_err(|damage| corrupted(position, damage))?;
            if block.last == position {
                segments.active().end_block(position);
                if segments.bytes() > open::FULL_TAIL_BYTES {
                    let what = format!("the index goes to position {} only, for now", segments.indexed());
                    return Err(StoreError::Unavailable { what, source: None }.into());
                }
            }
            if block.last == position && segments.active().bytes() >= self.segment_bytes {
                // It does not wait: what is indexed is let go when the index is seen to go so far.
                self.seen.tail.rotate(position, || true);
            }
            position = position.plus(1);
        }
        self.seen.publish(place);
        self.is_torn.store(false, Ordering::Relaxed);
        Ok(())
    }
}

fn another(position: Position) -> StoreError {
    StoreError::corrupted(format!("the block at position {position} is not the one that was written"))
}

/// Opens a store for reading.
pub(super) fn open(path: &Path, segment_bytes: usize) -> Result<(StoreId, Run), OpenError> {
    let found = engine::log_dir(path).join("CURRENT").try_exists();
    if !found.map_err(|error| open::refuse(path, StoreError::unavailable("looking for it", error).into()))? {
        return Err(OpenError::NotAStore { path: path.into(), what: "no log".into() });
    }
    let started = Instant::now();
    loop {
        match open_once(path, segment_bytes) {
            // A process that is at work deletes and makes files while this looks at them.
            Err(OpenError::Corrupted { .. } | OpenError::Io { .. }) if started.elapsed() < TRIED_FOR => {
                thread::sleep(SOON / 2);
            }
            opened => return opened,
        }
    }
}

fn open_once(path: &Path, segment_bytes: usize) -> Result<(StoreId, Run), OpenError> {
    let refuse = |fault: Fault| open::refuse(path, fault);
    let io = |what: &'static str| move |error: io::Error| Fault::from(StoreError::unavailable(what, error));
    let private = Private::new().map_err(io("making a temporary directory")).map_err(refuse)?;
    let setup = Setup::new();
    // In this order: the log goes as far as the anchor and the index's mark then.
    let (log_dir, index_dir) = (engine::log_dir(path), engine::index_dir(path));
    let (log_identity, index_identity) = (identity(&log_dir), identity(&index_dir));
    let index = setup.follow_index(&index_dir, &private.0.join("index"));
    let found = Anchor::read(path).map_err(io("reading the anchor")).map_err(refuse)?;
    let found = found.transpose().map_err(|damage| refuse(Fault::damage("the anchor", damage)))?;
    let corrupted = |what: &str| refuse(StoreError::corrupted(what).into());
    let Slot { store, place, durability, .. } = found.ok_or_else(|| corrupted("the anchor is missing"))?;
    if wal::endless_manifest(&log_dir).is_some() {
        return Err(corrupted("the log's manifest"));
    }
    let current = current(&log_dir);
    let (log, copy_of) = match setup.follow_log(&log_dir, &private.0.join("log")) {
        Err(error) if error.kind() == ErrorKind::Corruption => {
            (mended(&setup, &log_dir, &private.0.join("mended"), durability).map_err(refuse)?, Some(current))
        }
        log => (log.map_err(|error| open::engine_error(path, "opening the log", error))?, None),
    };
    let id = open::stored_identity(path, &log)?.ok_or_else(|| corrupted("the log has no identity"))?;
    if store != id {
        return Err(corrupted("the anchor is that of another store"));
    }

    // One that can't be used is as good as one that holds nothing: a log that is longer than memory may take is not opened then.
    let mut engine = match index {
        Ok(index) => Engine { log, index, dir: path.into(), _lock: None },
        Err(_) => Engine { log, index: empty(&setup, path, &private)?, dir: path.into(), _lock: None },
    };
    let mark = match index::mark(&engine.index).map_err(refuse)? {
        Some(mark) if is_of(&engine, mark) => mark,
        // Nothing was taken in yet.
        None if engine.index.iterator(IteratorMode::Start).next().is_none() => Mark::START,
        _ => {
            engine.index = empty(&setup, path, &private)?;
            Mark::START
        }
    };
    let after = mark.position.min(place.position);
    let run = Run {
        engine,
        seen: Seen::new(Place::START, mark, Tail::new(Segment::after(after, mark.streams))),
        is_torn: AtomicBool::new(false),
        segment_bytes,
        log_identity,
        index_identity,
        copy_of,
        _private: private,
    };
    if place.position > Position::START {
        run.advance(after, None, place).map_err(refuse)?;
    }
    Ok((id, run))
}

/// The log with its write-ahead log in order, as the next writer will put it: a power cut may have left the last group in
/// part. It is a copy, but for the tables, which are links; it goes no further, and is left once a writer has begun.
fn mended(setup: &Setup, log_dir: &Path, dir: &Path, durability: Durability) -> Result<DB, Fault> {
    let failed = |error: io::Error| StoreError::unavailable("copying the write-ahead log", error);
    let copy = || {
        fs::create_dir(dir)?;
        for entry in fs::read_dir(fs::canonicalize(log_dir)?)? {
            let path = entry?.path();
            let copy = dir.join(path.file_name().unwrap_or_default());
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("sst") => symlink(&path, copy)?,
                _ if path.is_file() => drop(fs::copy(&path, copy)?),
                _ => {}
            }
        }
        wal::mend(dir, &dir.join("torn"), durability == Durability::Buffered)
    };
    copy().map_err(failed)?.map_err(|rot| StoreError::corrupted(rot.to_string()))?;
    setup.look_at_log(dir).map_err(|error| Fault::engine("opening the log", error))
}

fn empty(setup: &Setup, path: &Path, private: &Private) -> Result<DB, OpenError> {
    let made = setup.open_index(&private.0.join("no index"));
    made.map_err(|error| open::engine_error(path, "making an empty index", error))
}

/// Whether the log holds the event up to which an index goes, and can be read there.
fn is_of(engine: &Engine, mark: Mark) -> bool {
    open::is_of(engine, mark, Position::MAX).unwrap_or(false)
}

/// Of a database: given to it when it is made.
fn identity(dir: &Path) -> String {
    fs::read_to_string(dir.join("IDENTITY")).unwrap_or_default()
}

/// Which manifest counts.
fn current(dir: &Path) -> String {
    fs::read_to_string(dir.join("CURRENT")).unwrap_or_default()
}

/// What a look came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// The log goes further than before.
    Further,
    AsBefore,
    /// It can't be followed for now.
    Nowhere,
}

/// Why a look failed.
enum Failure {
    /// It may not, if all is opened again.
    Trouble(Fault),
    /// This is not the log that was read so far.
    Over(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            newer @ Fault::Newer { .. } => Self::Over(StoreError::from(newer).to_string()),
            fault => Self::Trouble(fault),
        }
    }
}
impl From<rocksdb::Error> for Failure {
    fn from(error: rocksdb::Error) -> Self {
        Self::Trouble(Fault::engine("following the log", error))
    }
}

/// The thread.
pub(super) struct Follower {
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    /// Dropped when it ends, which ends subscriptions.
    pub(super) publish: watch::Sender<Position>,
    pub(super) stopped: Receiver<()>,
}

impl Follower {
    /// Works until the reader is closed, or its log is another one.
    pub(super) fn run(self) {
        match catch_unwind(AssertUnwindSafe(|| self.serve())) {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.shared.fail(reason),
            Err(_) => self.shared.fail("its follower panicked".into()),
        }
    }

    fn serve(&self) -> Result<(), String> {
        let mut wait = SOON;
        let mut is_told = false;
        while self.stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            let Ok(run) = self.shared.run() else { return Ok(()) };
            let looked = self.look(&run).or_else(|failure| match failure {
                Failure::Over(reason) => Err(reason),
                Failure::Trouble(fault) => {
                    tracing::debug!(error = %StoreError::from(fault), "the store is opened again, to be read");
                    self.open_again(run.seen.last())
                }
            })?;
            wait = if looked == Looked::Further { SOON } else { LATE.min(wait * 2) };
            let stale_for = self.shared.stale_for();
            if looked != Looked::Nowhere {
                self.shared.looked();
                is_told = false;
            } else if stale_for > PATIENCE && !is_told {
                is_told = true;
                tracing::warn!(path = %self.path.display(), ?stale_for, "the store can't be followed: what is read gets old");
            }
        }
        Ok(())
    }

    /// Where the anchor is; `None` where it can't be read.
    fn place(&self) -> Result<Option<Place>, Failure> {
        match Anchor::read(&self.path) {
            Ok(Some(Ok(slot))) if slot.store == self.shared.id => Ok(Some(slot.place)),
            Ok(Some(Ok(slot))) => Err(Failure::Over(format!("the store is another one now, {}", slot.store))),
            Ok(Some(Err(newer @ crate::frame::Damage::Newer { .. }))) => Err(Fault::damage("the anchor", newer).into()),
            // It is being written, or the store is being put in its place.
            _ => Ok(None),
        }
    }

    /// Goes on to where the anchor is.
    fn look(&self, run: &Run) -> Result<Looked, Failure> {
        let last = run.seen.last();
        let mut place = self.place()?;
        if place.is_some_and(|place| place != last && place.position <= last.position) {
            // Of two slots the older one counts while the other is being written.
            thread::sleep(SOON);
            place = self.place()?;
        }
        let Some(place) = place else { return Ok(Looked::Nowhere) };
        let place = bugs::read_past(place, &run.engine);
        if run.copy_of.as_ref().is_some_and(|copied| *copied != current(&engine::log_dir(&self.path))) {
            return Err(Failure::Trouble(StoreError::corrupted("a copy of it is read").into()));
        }
        if place == last {
            return Ok(Looked::AsBefore);
        }
        if run.is_torn.load(Ordering::Relaxed) {
            return Err(Failure::Trouble(StoreError::corrupted("the last look failed").into()));
        }
        if place.position <= last.position {
            return Err(Failure::Over(format!(
                "the log ended at position {} with event {}, and ends at position {} now",
                last.position, last.event, place.position
            )));
        }
        if identity(&engine::log_dir(&self.path)) != run.log_identity {
            return Err(Failure::Trouble(StoreError::corrupted("the log was replaced").into()));
        }
        let is_same_index = identity(&engine::index_dir(&self.path)) == run.index_identity;
        if !is_same_index {
            // Where the new one doesn't go far enough yet, the old one does for now.
            if self.open_again(last).map_err(Failure::Over)? == Looked::Further {
                return Ok(Looked::Further);
            }
        } else {
            run.engine.index.try_catch_up_with_primary()?;
            // It may have been made anew just then.
            let mark = index::mark(&run.engine.index)?.unwrap_or(Mark::START);
            let is_another = identity(&engine::index_dir(&self.path)) != run.index_identity;
            if is_another || mark.position < run.seen.tail.segments().indexed() {
                return Err(Failure::Trouble(StoreError::corrupted("the index was replaced").into()));
            }
        }
        run.engine.log.try_catch_up_with_primary()?;
        run.advance(last.position, Some(last.checksum), place)?;
        self.publish.send_replace(place.position);
        if is_same_index
            && let Some(mark) = index::mark(&run.engine.index)?
            && is_of(&run.engine, mark)
        {
            run.seen.indexed(mark);
        }
        Ok(Looked::Further)
    }

    /// Replaces what is read by the same, opened anew, where it can. Gives the reason where it must not.
    fn open_again(&self, last: Place) -> Result<Looked, String> {
        let (id, run) = match open_once(&self.path, self.shared.options.segment_bytes) {
            Ok(opened) => opened,
            Err(newer @ OpenError::NewerFormat { .. }) => return Err(newer.to_string()),
            Err(error) => {
                tracing::debug!(%error, "the store is not to be read for now");
                return Ok(Looked::Nowhere);
            }
        };
        let head = run.seen.last();
        let found = match last.position {
            _ if id != self.shared.id => return Err(format!("the store is another one now, {id}")),
            Position::START => EventId::NIL,
            position if position <= head.position => match Events::new(&run.engine, Tier::Disk).at(position) {
                Ok(event) => event.id,
                Err(_) => return Ok(Looked::Nowhere),
            },
            position => return Err(format!("the log ended at position {position}, and ends at {} now", head.position)),
        };
        if found != last.event {
            return Err(format!("the event at position {} is {found} now, and was {}", last.position, last.event));
        }
        self.shared.replace(Some(run));
        self.publish.send_replace(head.position);
        Ok(Looked::Further)
    }
}

/// A directory for what RocksDB has to write itself, removed with it.
struct Private(PathBuf);

impl Private {
    fn new() -> io::Result<Self> {
        let dir = env::temp_dir().join(format!("indelible-reader-{}", Uuid::new_v4().simple()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // What is left is small, and in a directory that is cleaned.
        let _ = fs::remove_dir_all(&self.0);
    }
}
