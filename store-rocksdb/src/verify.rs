//! Verifying: all that the disk holds, read and compared. Called by applications through the handle, and by `backup` for
//! each copy before it counts as one.
//!
//! It works on a [`Frozen`] copy, so that what it reads stands still, comes from the disk and not from a cache, and stops
//! nobody. The log is walked once (`verify/log.rs`) and the index once (`verify/index.rs`), each in the order that it lies in;
//! they are compared by sums (`verify/sums.rs`), and only where those differ does it look entries up. The memory that this
//! takes does not grow with the log.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indelible_core::{Position, StoreError, StoreId, Token};
use rocksdb::{DB, ErrorKind, IteratorMode, ReadOptions, properties::ESTIMATE_NUM_KEYS};
use uuid::Uuid;

use crate::{
    RocksStore,
    anchor::{Anchor, Slot},
    checkpoint,
    engine::{self, Setup, Tier, chain},
    frozen::Frozen,
    index::{Mark, mark},
    log::Events,
    open::STORE_KEY,
    snapshot,
    store::{Shared, blocking},
};

mod index;
mod log;
mod sums;
mod tail;

use sums::Sums;

/// So many problems are told in full; the others are counted.
const PROBLEMS_MAX: usize = 100;

/// What of a store is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The truth: what is lost here is in a backup, or nowhere.
    Log,
    /// What is derived from it: [`rebuild_indexes`](RocksStore::rebuild_indexes) makes it anew.
    Index,
}

/// Something that is not as it was written, or not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where.
    pub part: Part,
    /// What it is, with its positions.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Log => "the log",
            Part::Index => "the index",
        };
        write!(f, "{part}: {}", self.what)
    }
}

/// What a store was found to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Verification {
    /// The last event that was verified.
    pub head: Token,
    /// How many events were read.
    pub events: u64,
    /// How many streams they are of.
    pub streams: u64,
    /// The last position that the index on the disk goes to. What is behind it was compared in memory.
    pub indexed: Position,
    /// How many snapshots can be read.
    pub snapshots: u64,
    /// How many can't. A snapshot is a cache, so that is no problem: one that is damaged is none, and is overwritten.
    pub damaged_snapshots: u64,
    /// What is wrong, the first hundred of it.
    pub problems: Vec<Problem>,
    /// How much is wrong. The search for what the index lacks ends when the list is full.
    pub problem_count: u64,
    /// How long it took.
    pub took: Duration,
    /// The checksum of the log's last block.
    pub(crate) checksum: u32,
}

impl Verification {
    /// Whether all is as it must be.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    /// Whether all that is wrong can be made anew.
    pub fn is_log_clean(&self) -> bool {
        self.problems.iter().all(|problem| problem.part == Part::Index)
            && self.problems.len() as u64 == self.problem_count
    }

    fn log(&mut self, what: impl Into<String>) {
        self.problem(Part::Log, what.into());
    }

    fn index(&mut self, what: impl Into<String>) {
        self.problem(Part::Index, what.into());
    }

    fn problem(&mut self, part: Part, what: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { part, what });
        }
    }
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What it does.
    pub step: Step,
    /// How much of that it has done, in positions, or in entries of the index.
    pub done: u64,
    /// How much there is, about.
    pub total: u64,
}

/// What a verification does, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Reads all events.
    Log,
    /// Reads all that the index holds.
    Index,
    /// Looks entries up where the two differ.
    Search,
    /// Looks up, in memory, the events that the index on the disk does not hold yet.
    Tail,
}

/// Who wants to know how far it is, and whether anybody does.
pub(crate) struct Watch<'a> {
    go_on: &'a dyn Fn() -> Result<(), StoreError>,
    progress: &'a mut (dyn FnMut(Progress) + Send),
    ticks: u64,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        go_on: &'a dyn Fn() -> Result<(), StoreError>,
        progress: &'a mut (dyn FnMut(Progress) + Send),
    ) -> Self {
        Self { go_on, progress, ticks: 0 }
    }

    /// Once a step; tells every thousandth, and the one that makes it all.
    fn tick(&mut self, step: Step, done: u64, total: u64) -> Result<(), StoreError> {
        self.ticks += 1;
        if self.ticks.is_multiple_of(1024) || done == total {
            (self.progress)(Progress { step, done, total: total.max(done) });
            self.go_on()?;
        }
        Ok(())
    }

    /// Fails where nobody waits for it any more.
    pub(crate) fn go_on(&self) -> Result<(), StoreError> {
        (self.go_on)()
    }
}

/// Does what takes long on a thread that may block. It ends early where the future is dropped, or the store is closed.
pub(crate) async fn stoppable<T: Send + 'static>(
    shared: &Arc<Shared>,
    mut work: impl FnMut(&dyn Fn() -> Result<(), StoreError>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    let stop = Stop(Arc::default());
    let (flag, shared) = (Arc::clone(&stop.0), Arc::clone(shared));
    blocking(move || {
        // What the work holds, the last handle perhaps, goes when it is no longer waited for.
        shared.work_long(|go_on| {
            work(&|| match flag.load(Relaxed) {
                true => Err(StoreError::Unavailable { what: "it was asked to stop".into(), source: None }),
                false => go_on(),
            })
        })
    })
    .await
}

impl RocksStore {
    /// Reads all that the store holds up to its present head, and compares it: that the log has each position once, each
    /// block whole and the successor of the one before, each event readable and the next version of its stream; that it has
    /// what the anchor and all checkpoints saw of it; and that the index says of it all that is true and nothing else.
    ///
    /// Everybody may go on reading and writing meanwhile. Takes one thread, the time to read the whole store, about 100 MiB
    /// of memory whatever its size, and while it runs the disk space of tables that RocksDB would have deleted. Dropping the
    /// future ends it. `progress` must not wait for the store to be closed, which waits for it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where the copy that is read can't be made or opened for other reasons than damage: the disk
    /// may have no room for a copy of the write-ahead log; or where the store was opened again meanwhile, as by
    /// [`rebuild_indexes`](Self::rebuild_indexes).
    /// [`StoreError::Stopped`] where the store was closed. Damage is no error, but what it
    /// [reports](Verification::problems).
    pub async fn verify(
        &self,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Verification, StoreError> {
        let shared = Arc::clone(self.shared());
        stoppable(self.shared(), move |go_on| live(&shared, &mut Watch::new(go_on, &mut progress))).await
    }
}

#[tracing::instrument(level = "info", name = "verify", skip_all, fields(store = %shared.id))]
fn live(shared: &Shared, watch: &mut Watch<'_>) -> Result<Verification, StoreError> {
    let started = Instant::now();
    let (opening, head, frozen) = shared.with_run(|run| (run.opening, run.seen.last().position, Frozen::of(run)))?;
    let frozen = frozen?;
    let mut report = copy(frozen.dir(), watch)?;
    reaches(&mut report, head);
    tail::compare(shared, &mut report, watch)?;
    // What it has found missing in memory may be what another one has lost.
    shared.with_opening(opening, |_| ())?;
    report.took = started.elapsed();
    Ok(report)
}

/// A copy that was made when the store had this head.
pub(crate) fn reaches(report: &mut Verification, head: Position) {
    if report.head.position < head && report.is_clean() {
        let (from, to) = (report.head.position.plus(1), head);
        report.log(format!(
            "the events at positions {from} to {to} are not in the write-ahead log, as far as it can be read"
        ));
    }
}

/// Verifies a copy of a store that nobody works on.
pub(crate) fn copy(dir: &Path, watch: &mut Watch<'_>) -> Result<Verification, StoreError> {
    let started = Instant::now();
    let mut report = Verification {
        head: Token::start(StoreId::from_uuid(Uuid::nil())),
        events: 0,
        streams: 0,
        indexed: Position::START,
        snapshots: 0,
        damaged_snapshots: 0,
        problems: Vec::new(),
        problem_count: 0,
        took: Duration::ZERO,
        checksum: 0,
    };
    let (log, index) = Setup::new().look_at(dir);
    if let Some(log) = opened(log, Part::Log, &mut report)? {
        let index = opened(index, Part::Index, &mut report)?;
        compare(dir, &log, index.as_ref(), &mut report, watch)?;
    }
    report.took = started.elapsed();
    Ok(report)
}

fn opened(db: Result<DB, rocksdb::Error>, part: Part, report: &mut Verification) -> Result<Option<DB>, StoreError> {
    match db {
        Ok(db) => Ok(Some(db)),
        Err(error) if error.kind() == ErrorKind::Corruption => {
            report.problem(part, format!("it can't be opened: {error}"));
            Ok(None)
        }
        Err(error) => Err(StoreError::unavailable("opening a copy", error)),
    }
}

fn compare(
    dir: &Path,
    log: &DB,
    index: Option<&DB>,
    report: &mut Verification,
    watch: &mut Watch<'_>,
) -> Result<(), StoreError> {
    let stored = log.get_cf(engine::state(log), STORE_KEY);
    let stored = stored.map_err(|error| StoreError::unavailable("reading the store's identity", error))?;
    match stored.and_then(|id| Uuid::from_slice(&id).ok()) {
        Some(id) => report.head = Token::start(StoreId::from_uuid(id)),
        None => report.log("its identity is damaged"),
    }
    let mut events = Events::of(log, Tier::Disk);
    let head = match events.blocks().last() {
        Ok(None) => Position::START,
        Ok(Some(block)) => {
            report.checksum = block.checksum;
            block.last
        }
        Err(fault) => {
            report.log(format!("its end can't be read: {}", chain(&StoreError::from(fault))));
            Position::START
        }
    };
    let marked = index.map(|index| marked(index, head, &mut events, report));
    let mut of_log = Sums::up_to(marked.map_or(Position::START, |mark| mark.position));
    let end = log::Walk::new(report, watch, &mut of_log).run(log, head)?;
    report.head.position = end.position;
    match marked {
        Some(mark) if mark.streams != end.indexed_streams && report.is_clean() => {
            report.index(format!("it counts {} streams, the log has {} there", mark.streams, end.indexed_streams));
        }
        None if report.streams > log::STREAMS_MAX as u64 => {
            let what = format!("without it the versions of streams behind the first {} can't be", log::STREAMS_MAX);
            report.index(format!("{what} compared"));
        }
        _ => {}
    }
    if report.head.position > Position::START
        && let Ok(event) = events.at(report.head.position)
    {
        report.head.event = event.id;
    }
    anchored(dir, &mut events, report)?;
    checkpoints(log, &mut events, report);
    if let (Some(index), Some(mark)) = (index, marked) {
        report.indexed = mark.position;
        index::compare(log, index, &of_log, report, watch)?;
        snapshots(index, report)?;
    }
    Ok(())
}

/// How far the index goes, as far as it says so of this log.
fn marked(index: &DB, head: Position, events: &mut Events<'_>, report: &mut Verification) -> Mark {
    match mark(index) {
        Err(fault) => report.index(format!("its mark can't be read: {}", chain(&StoreError::from(fault)))),
        Ok(None) if head > Position::START && index.iterator(IteratorMode::Start).next().is_some() => {
            report.index("it has no mark");
        }
        Ok(None) => {}
        Ok(Some(mark)) if mark.position > head => {
            report.index(format!("it goes up to position {}, the log to {head}", mark.position));
            return Mark { position: head, ..mark };
        }
        Ok(Some(mark)) => {
            if mark.position > Position::START
                && let Ok(event) = events.at(mark.position)
                && event.id != mark.event
            {
                report.index(format!("it is of another log, with another event at position {}", mark.position));
            }
            return mark;
        }
    }
    Mark::START
}

fn anchored(dir: &Path, events: &mut Events<'_>, report: &mut Verification) -> Result<(), StoreError> {
    let anchor = Anchor::read(dir).map_err(|error| StoreError::unavailable("reading the anchor", error))?;
    match anchor {
        None => report.log("the anchor is missing"),
        Some(Err(damage)) => report.log(format!("the anchor: {damage}")),
        Some(Ok(Slot { store, .. })) if store != report.head.store => {
            report.log(format!("the anchor is that of another store, {store}"));
        }
        Some(Ok(Slot { place, .. })) if place.position > report.head.position => {
            let (head, seen) = (report.head.position, place.position);
            report.log(format!("it ends at position {head}, and has lost its events up to {seen}, as the anchor says"));
        }
        Some(Ok(Slot { place, .. })) if place.position > Position::START => {
            // One that can't be read was told of.
            if let Ok(block) = events.blocks().at(place.position)
                && (block.last != place.position || block.checksum != place.checksum)
            {
                let at = place.position;
                report.log(format!("the block that ends at position {at} is not the one that the anchor has seen"));
            }
        }
        Some(Ok(_)) => {}
    }
    Ok(())
}

fn checkpoints(log: &DB, events: &mut Events<'_>, report: &mut Verification) {
    for entry in checkpoint::all(log) {
        let (reader, token) = match entry {
            Ok(entry) => entry,
            Err(fault) => {
                report.log(chain(&StoreError::from(fault)));
                continue;
            }
        };
        let is_there = match token.position {
            position if position > report.head.position => false,
            Position::START => true,
            position => events.at(position).map_or(true, |event| event.id == token.event),
        };
        if token.store != report.head.store || !is_there {
            let head = report.head.position;
            report.log(format!("the checkpoint of {reader} is {token}, which it does not hold; it ends at {head}"));
        }
    }
}

fn snapshots(index: &DB, report: &mut Verification) -> Result<(), StoreError> {
    for entry in index.iterator_cf(engine::snapshots(index), IteratorMode::Start) {
        match entry {
            Ok((key, value)) => match snapshot::decode(&value) {
                Ok(snapshot) if snapshot.stream.as_str().as_bytes() == &*key => report.snapshots += 1,
                _ => report.damaged_snapshots += 1,
            },
            Err(error) if error.kind() == ErrorKind::Corruption => report.index(format!("the snapshots: {error}")),
            Err(error) => return Err(StoreError::unavailable("reading snapshots", error)),
        }
    }
    Ok(())
}

/// For reading much, once: what is read is not kept.
fn options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(1024 * 1024);
    options
}

/// About how many entries an index has.
fn entries(index: &DB) -> u64 {
    index.property_int_value(ESTIMATE_NUM_KEYS).ok().flatten().unwrap_or(0)
}
