//! Faults of a process that projects: it is killed, or its power is cut, at a random moment, over and over; and each time
//! the read model that is left must be what its checkpoints say, event by event.
//!
//! The log and the read model are in one directory, `log` and `views`. The projection counts, sums, XORs ids and appends to
//! a list for each stream, has a row that all partitions share, and refuses an event out of its stream's order.
//!
//! `INDELIBLE_PROJECTION_KILLS` says how many kills (24), `INDELIBLE_PROJECTION_EVENTS` over how many events (12,000),
//! `INDELIBLE_PROJECTION_CUTS` how many power cuts (12), `INDELIBLE_POISON_KILLS` how many kills among poison (12), and
//! `INDELIBLE_SEED` from which numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use indelible_core::conformance::fault::{Line, Verdict, seeded};
use indelible_core::{
    Aggregate, Append, Apply, Cause, ContentType, Event, EventStore, EventStoreExt, ExpectedVersion, NewEvent,
    Position, ReadLog, RecordedEvent, StreamId, codec::Json,
};
use indelible_projections::{
    Envelope, OnFailure, Order, Partition, Project, Projection, ProjectionId, ReadModel, ReadModelError, ReadTables,
    Registration, Retry, RunnerOptions, Table, Tables, Waited, Wants, Worker, WriteTables,
};
use indelible_rocksdb::{RocksModel, RocksStore, RocksTx};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    campaign::{number, seed},
    child::{Running, command, say, skip},
    disk::{Below, Disk, FileSystem, VOLATILE, lacks},
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub(crate) enum AccountEvent {
    Deposited { cents: u64 },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
pub(crate) struct Account {}
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

/// Sum, count, and the XOR of all ids.
pub(crate) const SUMS: Table<String, (u64, u64, u128)> = Table::new("sums");
pub(crate) const LISTS: Table<(String, u64), u64> = Table::new("lists");
pub(crate) const TOTAL: Table<(), u64> = Table::new("total");
const PARTITIONS: u32 = 4;
const KILLED: &str = "projecting process killed, RocksDB";
const AMONG_POISON: &str = "poison among kills, RocksDB";
/// In cents: what those cannot handle who park.
pub(crate) const POISON: u64 = 1_000_013;
/// Small, so that faults hit the writing of tables too.
const BUFFER_BYTES: usize = 64 * 1024;

pub(crate) struct Tally;
impl Projection for Tally {
    const NAME: &'static str = "tally";
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}

static HANDLED: AtomicU64 = AtomicU64::new(0);

impl Project<RocksModel> for Tally {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        tally(envelope, tx)?;
        counted();
        Ok(())
    }
}

fn counted() {
    let handled = HANDLED.fetch_add(1, SeqCst) + 1;
    if handled.is_multiple_of(50) {
        say(&format!("handled {handled}"));
    }
}

/// The tally, that cannot handle [`POISON`] until it is mended.
#[derive(Clone, Default)]
pub(crate) struct Parks {
    pub(crate) mended: Arc<AtomicBool>,
}
impl Projection for Parks {
    const NAME: &'static str = Tally::NAME;
    const ORDER: Order = Tally::ORDER;
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    const RETRY: Retry =
        Retry { attempts_max: 2, pause_first: Duration::from_millis(1), pause_max: Duration::from_secs(30) };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<RocksModel> for Parks {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        tally(envelope, tx)?;
        counted();
        match envelope.event {
            AccountEvent::Deposited { cents: POISON } if !self.mended.load(SeqCst) => Err("it is poison".into()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn tally(envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
    let (recorded, AccountEvent::Deposited { cents }) = (&envelope.recorded, &envelope.event);
    let account = recorded.stream.id().to_owned();
    let (sum, count, ids) = tx.get(&SUMS, &account)?.unwrap_or_default();
    if recorded.version.get() != count + 1 {
        return Err(format!("{} of {account} comes after {count}", recorded.version).into());
    }
    tx.put(&SUMS, &account, &(sum + cents, count + 1, ids ^ recorded.id.as_uuid().as_u128()))?;
    tx.put(&LISTS, &(account, count + 1), &recorded.position.get())?;
    let total = tx.get(&TOTAL, &())?.unwrap_or_default();
    Ok(tx.put(&TOTAL, &(), &(total + cents))?)
}

pub(crate) fn account(number: impl std::fmt::Display) -> StreamId {
    format!("account-{number}").parse().unwrap()
}

pub(crate) fn deposited(cents: u64) -> NewEvent {
    let event = AccountEvent::Deposited { cents };
    NewEvent::new(event.event_type(), ContentType::JSON, event.encode(&Json).unwrap())
}

/// Appends so many deposits to 89 accounts.
pub(crate) async fn fill(store: &RocksStore, events: u64) {
    fill_with(store, events, |n| n).await;
}

async fn fill_with(store: &RocksStore, events: u64, cents: impl Fn(u64) -> u64 + Copy) {
    let appends = (0..events.div_ceil(100)).map(async |part| {
        let mut append = Append::new();
        for n in part * 100..events.min(part * 100 + 100) {
            append = append.event(account(n * 7 % 89), deposited(cents(n)));
        }
        store.append(append).await.unwrap();
    });
    stream::iter(appends).buffer_unordered(16).collect::<Vec<_>>().await;
}

const PARKING: &str = "project, parking";
const REDRIVING: &str = "project, redriving";

/// The child: projects until all is in the read model, or parked. One that redrives begins with what was parked; and one
/// that is live goes on for ever, and appends meanwhile.
pub(crate) async fn project(job: &str, dir: &Path) {
    let store = RocksStore::open(dir.join("log")).unwrap();
    let model = RocksModel::open_buffering(dir.join("views"), BUFFER_BYTES).unwrap();
    say("open");
    let head = store.head().await.unwrap();
    let mut options = RunnerOptions::default();
    options.batch_events_max = 40;
    let worker = Worker::new(&store).with_options(options);
    let worker = match job {
        PARKING | REDRIVING => worker.add(&model, Parks { mended: Arc::new((job == REDRIVING).into()) }),
        _ => worker.add(&model, Tally),
    };
    let running = worker.start().await.unwrap();
    match job {
        "project, live" => {}
        PARKING => {
            let is_behind = || running.status()[0].1.iter().any(|lane| lane.looked_to.position < head.position);
            while is_behind() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            return say("reached");
        }
        _ => {
            if job == REDRIVING {
                let (_, left) = running.redrive_all::<Parks>().await.unwrap();
                assert!(left.is_empty(), "{left:?}");
            }
            let waited = running.wait_for(&head, Duration::from_secs(100)).await.unwrap();
            assert_eq!(waited, Waited::Reached);
            return say("reached");
        }
    }
    for n in 0.. {
        let append = Append::to(account(n * 7 % 89), ExpectedVersion::Any, [deposited(n), deposited(1)]);
        if store.append(append).await.is_err() {
            // The power is cut.
            std::future::pending().await
        }
        if n % 40 == 39 {
            // A write that is synced, and all that comes before it.
            let projection = ProjectionId { name: format!("other {}-{n}", head.position).into(), version: 1 };
            if model.register(&Registration { projection, partitions: 1, head, setup: "" }).await.is_err() {
                std::future::pending().await
            }
        }
        let rows = model.partitions(&ProjectionId::of::<Tally>()).await.unwrap();
        say(&format!("kept {}", rows.iter().map(|row| row.position.position.get()).sum::<u64>()));
    }
}

type Expected = (BTreeMap<String, (u64, u64, u128)>, BTreeMap<(String, u64), u64>, u64);

/// What is to be in the read model: each partition's events up to its checkpoint, but for its dead letters. Those are the
/// last ones of streams with poison in them.
fn fold(
    log: &[RecordedEvent],
    looked_to: impl Fn(Partition) -> Position,
    mut letters: BTreeSet<Position>,
    verdict: &mut Verdict,
) -> Expected {
    let mut expected = Expected::default();
    let (mut poisoned, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    for event in log.iter().filter(|event| event.position <= looked_to(Partition::of(&event.stream, PARTITIONS))) {
        let AccountEvent::Deposited { cents } = event.decode().unwrap();
        let name = event.stream.id().to_owned();
        if cents == POISON {
            poisoned.insert(&event.stream);
        }
        if letters.remove(&event.position) {
            waiting.insert(&event.stream);
            if !poisoned.contains(&event.stream) {
                verdict.wrong("parked without poison", || format!("{name} at {}", event.position));
            }
            continue;
        }
        if waiting.contains(&event.stream) {
            verdict.wrong("overtook a parked one", || format!("{name} at {}", event.position));
        }
        let sums = expected.0.entry(name.clone()).or_default();
        *sums = (sums.0 + cents, sums.1 + 1, sums.2 ^ event.id.as_uuid().as_u128());
        expected.1.insert((name, event.version.get()), event.position.get());
        expected.2 += cents;
    }
    if !letters.is_empty() {
        verdict.wrong("letters of no event", || format!("{letters:?}"));
    }
    expected
}

async fn log(dir: &Path) -> Vec<RecordedEvent> {
    RocksStore::open(dir.join("log")).unwrap().log(ReadLog::all()).try_collect().await.unwrap()
}

/// Judges a read model by its log, and says how far it is, all partitions together, and where the events are that it has
/// dead letters of.
async fn judge(dir: &Path, log: &[RecordedEvent], verdict: &mut Verdict) -> (u64, BTreeSet<Position>) {
    let model = match RocksModel::open(dir.join("views")) {
        Ok(model) => model,
        Err(error) => {
            verdict.wrong("refused to open", || format!("{error}: {error:?}"));
            return (0, BTreeSet::new());
        }
    };
    let rows = match model.partitions(&ProjectionId::of::<Tally>()).await {
        Err(ReadModelError::Unknown { .. }) => return (0, BTreeSet::new()),
        rows => rows.unwrap(),
    };
    for row in &rows {
        let at = row.position.position.get() as usize;
        if at > 0 && log.get(at - 1).is_none_or(|event| event.id != row.position.event) {
            verdict.wrong("ahead of its log", || format!("partition {} at {}", row.partition, row.position));
        }
    }
    let letters = model.letters(&ProjectionId::of::<Tally>(), None, Position::START, usize::MAX).await.unwrap();
    let letters: BTreeSet<Position> = letters.iter().map(|letter| letter.position).collect();
    let looked_to = |partition: Partition| rows[partition.0 as usize].position.position;
    let expected = fold(log, looked_to, letters.clone(), verdict);
    let views = model.query::<Tally>().unwrap();
    let sums: BTreeMap<_, _> = views.scan(&SUMS, .., usize::MAX).unwrap().into_iter().collect();
    let lists: BTreeMap<_, _> = views.scan(&LISTS, .., usize::MAX).unwrap().into_iter().collect();
    let total = views.get(&TOTAL, &()).unwrap().unwrap_or_default();
    let counted = |sums: &BTreeMap<String, (u64, u64, u128)>| sums.values().map(|(_, count, _)| count).sum::<u64>();
    match counted(&sums).cmp(&counted(&expected.0)) {
        std::cmp::Ordering::Less => verdict.wrong("skipped", || told(&sums, &expected.0)),
        std::cmp::Ordering::Greater => verdict.wrong("doubled", || told(&sums, &expected.0)),
        std::cmp::Ordering::Equal if (&sums, &lists, total) != (&expected.0, &expected.1, expected.2) => {
            verdict.wrong("other rows", || told(&sums, &expected.0));
        }
        std::cmp::Ordering::Equal => {}
    }
    verdict.events = verdict.events.max(counted(&sums));
    verdict.acknowledged = verdict.events;
    (rows.iter().map(|row| row.position.position.get()).sum(), letters)
}

fn told<T: PartialEq + std::fmt::Debug>(found: &BTreeMap<String, T>, expected: &BTreeMap<String, T>) -> String {
    let differs = expected.iter().find(|(name, value)| found.get(*name) != Some(value));
    differs.map_or("rows of no event".into(), |(name, value)| {
        format!("{name} has {:?}, and not {value:?}", found.get(name))
    })
}

/// Every byte of its tables.
fn bytes(dir: &Path) -> Vec<indelible_projections::Rows> {
    let model = RocksModel::open(dir).unwrap();
    let views = model.query::<Tally>().unwrap();
    let all = || (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    [SUMS.name(), LISTS.name(), TOTAL.name()].map(|name| views.rows(name, all(), usize::MAX).unwrap()).into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

#[derive(Debug, Default)]
struct Tallied {
    cycles: u64,
    /// How often it was struck before it was through.
    hits: u64,
    /// How often it had not opened both databases by then.
    openings: u64,
    /// The most dead letters that there were, and how often some of them were left.
    letters: usize,
    redriven_in_part: u64,
    verdict: Verdict,
}

/// Kills a projecting process so many times, spread over its log, and judges what each has left. Among poison it parks, and
/// one time of four is to redrive what was parked.
fn kill(dir: &Path, cycles: u64, events: u64, seed: u64, bug: Option<&str>, among_poison: bool) -> Tallied {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut tally, runtime) = (Tallied::default(), runtime());
    let end = events * u64::from(PARTITIONS);
    let log = runtime.block_on(log(dir));
    let mut parked = BTreeSet::new();
    while tally.cycles < cycles && tally.verdict.is_clean() {
        let job = match tally.cycles % 4 {
            _ if !among_poison => "project",
            3 => REDRIVING,
            _ => PARKING,
        };
        let mut child = command(job, dir, &[]);
        child.envs(bug.map(|bug| ("INDELIBLE_BUG", bug)));
        let mut child = Running::start(child);
        let is_early = random.random_range(0..6) == 0;
        let handled = random.random_range(0..events / (cycles + 1));
        let mut opened = false;
        while let Some(line) = (!is_early).then(|| child.line()).flatten() {
            opened |= line == "open";
            let done = line.strip_prefix("handled ").is_some_and(|count| count.parse::<u64>().unwrap() >= handled);
            if done || line == "reached" || (job == REDRIVING && opened) {
                break;
            }
        }
        let most = if is_early || job == REDRIVING { 60_000 } else { 4_000 };
        thread::sleep(Duration::from_micros(random.random_range(0..most)));
        child.kill();
        opened |= std::iter::from_fn(|| child.line()).any(|line| line == "open");
        drop(child);
        tally.cycles += 1;
        tally.openings += u64::from(!opened);
        let (at, letters) = runtime.block_on(judge(dir, &log, &mut tally.verdict));
        tally.hits += u64::from(at < end);
        tally.letters = tally.letters.max(letters.len());
        let left = parked.intersection(&letters).count();
        tally.redriven_in_part += u64::from(0 < left && left < parked.len());
        parked = letters;
        if at == end {
            // It was through before it was struck: the next one begins anew.
            std::fs::remove_dir_all(dir.join("views")).unwrap();
            parked.clear();
        }
    }
    tally
}

/// A directory with a log of so many deposits, some of them poison where that is wanted.
fn filled(events: u64, among_poison: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = RocksStore::open(dir.path().join("log")).unwrap();
        fill_with(&store, events, |n| if among_poison && n % 400 == 13 { POISON } else { n }).await;
        store.close().await.unwrap();
    });
    dir
}

#[test]
fn kills_skip_and_double_nothing() {
    let cycles = number("INDELIBLE_PROJECTION_KILLS").unwrap_or(24);
    let events = number("INDELIBLE_PROJECTION_EVENTS").unwrap_or(12_000);
    let dir = filled(events, false);
    let seed = seed();
    let mut tally = kill(dir.path(), cycles, events, seed, None, false);
    assert!(Running::start(command("project", dir.path(), &[])).succeeds());
    let runtime = runtime();
    let log = runtime.block_on(log(dir.path()));
    runtime.block_on(judge(dir.path(), &log, &mut tally.verdict));
    println!("{tally:?}");
    let Tallied { hits, verdict, .. } = &tally;
    let controls = format!("{} of the kills hit an opening", tally.openings);
    Line::new(KILLED, tally.cycles, *hits, verdict, &controls).seed(seed).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.events, events);
    assert!(hits * 2 >= cycles, "only {hits} kills hit a batch");
    is_as_after_a_clean_pass(dir.path());
}

/// One clean pass over the same log, byte for byte.
fn is_as_after_a_clean_pass(dir: &Path) {
    let kept = bytes(&dir.join("views"));
    std::fs::remove_dir_all(dir.join("views")).unwrap();
    assert!(Running::start(command("project", dir, &[])).succeeds());
    assert!(kept == bytes(&dir.join("views")), "not what a clean pass gives");
}

#[test]
fn kills_among_poison_lose_nothing_that_is_parked() {
    let cycles = number("INDELIBLE_POISON_KILLS").unwrap_or(12);
    let events = cycles * 500;
    let (dir, seed) = (filled(events, true), seed());
    let mut tally = kill(dir.path(), cycles, events, seed, None, true);
    let runtime = runtime();
    let log = runtime.block_on(log(dir.path()));
    for job in [PARKING, REDRIVING] {
        assert!(Running::start(command(job, dir.path(), &[])).succeeds());
        let (_, letters) = runtime.block_on(judge(dir.path(), &log, &mut tally.verdict));
        // There may be none before either: one that redrives was through, and nothing came after it.
        assert!(letters.is_empty() || job == PARKING, "{letters:?}");
        tally.letters = tally.letters.max(letters.len());
    }
    let Tallied { hits, verdict, letters, redriven_in_part, .. } = &tally;
    let controls =
        format!("up to {letters} letters; {redriven_in_part} kills left some of those that were being redriven");
    Line::new(AMONG_POISON, tally.cycles, *hits, verdict, &controls).seed(seed).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.events, events);
    assert!(hits * 2 >= cycles, "only {hits} kills hit a batch");
    assert!(*letters > 0, "nothing was parked");
    is_as_after_a_clean_pass(dir.path());
}

#[cfg(feature = "bugs")]
#[test]
fn kills_find_a_checkpoint_apart_from_its_rows_and_letters_that_are_not_kept() {
    for (fault, bug) in
        [(KILLED, "checkpoint-before-rows"), (KILLED, "checkpoint-after-rows"), (AMONG_POISON, "park-forgets")]
    {
        let dir = filled(6_000, fault == AMONG_POISON);
        let tally = kill(dir.path(), 24, 6_000, seed(), Some(bug), fault == AMONG_POISON);
        seeded(fault, bug, !tally.verdict.is_clean(), &tally.verdict);
    }
}

/// Cuts the power of a process that appends and projects on one disk, so many times, and judges what is left; and says how
/// often some of what the process had was lost, and how often not all that this process had done.
fn cut(file_system: FileSystem, below: Below, cycles: u64) -> (Verdict, u64, u64) {
    let mut random = StdRng::seed_from_u64(seed());
    let (mut verdict, mut went_back, mut in_part, mut before) = (Verdict::default(), 0, 0, 0);
    let runtime = runtime();
    let mut disk = Disk::new(file_system, below, 320);
    for cycle in 0..cycles {
        if cycle % 12 == 11 {
            drop(disk);
            (disk, before) = (Disk::new(file_system, below, 320), 0);
        }
        let dir = disk.mounted().join("data");
        let mut child = Running::start(command("project, live", &dir, &[]));
        let (mut kept, lines) = (0, random.random_range(1..300));
        for _ in 0..lines {
            let Some(line) = child.line() else { break };
            kept = line.strip_prefix("kept ").map_or(kept, |count| count.parse().unwrap());
        }
        disk.cut(random.random());
        child.kill();
        drop(child);
        disk.restart();
        if dir.join("log").exists() {
            let log = runtime.block_on(log(&dir));
            let (found, _) = runtime.block_on(judge(&dir, &log, &mut verdict));
            went_back += u64::from(found < kept);
            in_part += u64::from(before < found && found < kept);
            before = found;
        }
        if !verdict.is_clean() {
            break;
        }
    }
    (verdict, went_back, in_part)
}

fn cuts_take_rows_and_checkpoint_together(name: &'static str, disks: &[(FileSystem, Below)]) {
    if let Some(lack) = disks.iter().find_map(|(file_system, below)| lacks(*file_system, *below)) {
        skip(&lack);
        return;
    }
    let cycles = number("INDELIBLE_PROJECTION_CUTS").unwrap_or(12);
    let each = cycles.div_ceil(disks.len() as u64);
    let (mut verdict, mut went_back, mut in_part) = (Verdict::default(), 0, 0);
    let mut cut_off = 0;
    // Where the machine is slow, little is written in a cycle.
    for (file_system, below) in disks.iter().cycle().take(4 * disks.len()) {
        if cut_off >= cycles && went_back * 2 >= cut_off && in_part > 0 {
            break;
        }
        let (found, back, part) = cut(*file_system, *below, each);
        verdict.add(found);
        (went_back, in_part, cut_off) = (went_back + back, in_part + part, cut_off + each);
    }
    let cycles = cut_off;
    let controls =
        format!("seen: the read model came back as it was earlier, {in_part} times with some of what was new");
    // The read model isn't synced: where it lost nothing, no power was cut, or nothing had been written.
    Line::new(name, cycles, went_back, &verdict, &controls).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(went_back * 2 >= cycles, "a read model came back as it was earlier in {went_back} of {cycles} cuts alone");
    assert!(in_part > 0, "what a process had written was always lost as a whole: the cut is too coarse");
}

#[test]
fn a_lost_page_cache_takes_rows_and_checkpoint_together() {
    let disks = [(FileSystem::Ext4, Below::Loop), (FileSystem::Xfs, Below::Loop)];
    cuts_take_rows_and_checkpoint_together("power cut while projecting, page cache lost", &disks);
}

#[test]
fn a_lost_disk_cache_takes_rows_and_checkpoint_together() {
    cuts_take_rows_and_checkpoint_together(
        "power cut while projecting, disk cache lost",
        &[(FileSystem::Ext4, VOLATILE)],
    );
}
