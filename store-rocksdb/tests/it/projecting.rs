//! Faults of a process that projects: it is killed, or its power is cut, at a random moment, over and over; and each time
//! the read model that is left must be what its checkpoints say, event by event.
//!
//! The log and the read model are in one directory, `log` and `views`. The projection counts, sums, XORs ids and appends to
//! a list for each stream, has a row that all partitions share, and refuses an event out of its stream's order.
//!
//! `INDELIBLE_PROJECTION_KILLS` says how many kills (24), `INDELIBLE_PROJECTION_EVENTS` over how many events (12,000),
//! `INDELIBLE_PROJECTION_CUTS` how many power cuts (12), and `INDELIBLE_SEED` from which numbers.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
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
    Envelope, Order, Partition, Project, Projection, ProjectionId, ReadModel, ReadModelError, ReadTables, Registration,
    RunnerOptions, Table, Tables, Waited, Wants, Worker, WriteTables,
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
        let handled = HANDLED.fetch_add(1, SeqCst) + 1;
        if handled.is_multiple_of(50) {
            say(&format!("handled {handled}"));
        }
        Ok(())
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
    let appends = (0..events.div_ceil(100)).map(async |part| {
        let mut append = Append::new();
        for n in part * 100..events.min(part * 100 + 100) {
            append = append.event(account(n * 7 % 89), deposited(n));
        }
        store.append(append).await.unwrap();
    });
    stream::iter(appends).buffer_unordered(16).collect::<Vec<_>>().await;
}

/// The child: projects until all is in the read model; with `live`, it goes on for ever, and appends meanwhile.
pub(crate) async fn project(dir: &Path, live: bool) {
    let store = RocksStore::open(dir.join("log")).unwrap();
    let model = RocksModel::open_buffering(dir.join("views"), BUFFER_BYTES).unwrap();
    say("open");
    let head = store.head().await.unwrap();
    let mut options = RunnerOptions::default();
    options.batch_events_max = 40;
    let running = Worker::new(&store).with_options(options).add(&model, Tally).start().await.unwrap();
    if !live {
        let waited = running.wait_for(&head, Duration::from_secs(100)).await.unwrap();
        assert_eq!(waited, Waited::Reached);
        return say("reached");
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

/// What is to be in the read model: each partition's events up to its checkpoint.
fn fold(log: &[RecordedEvent], looked_to: impl Fn(Partition) -> Position) -> Expected {
    let mut expected = Expected::default();
    for event in log.iter().filter(|event| event.position <= looked_to(Partition::of(&event.stream, PARTITIONS))) {
        let AccountEvent::Deposited { cents } = event.decode().unwrap();
        let name = event.stream.id().to_owned();
        let sums = expected.0.entry(name.clone()).or_default();
        *sums = (sums.0 + cents, sums.1 + 1, sums.2 ^ event.id.as_uuid().as_u128());
        expected.1.insert((name, event.version.get()), event.position.get());
        expected.2 += cents;
    }
    expected
}

async fn log(dir: &Path) -> Vec<RecordedEvent> {
    RocksStore::open(dir.join("log")).unwrap().log(ReadLog::all()).try_collect().await.unwrap()
}

/// Judges a read model by its log, and says how far it is, all partitions together.
async fn judge(dir: &Path, log: &[RecordedEvent], verdict: &mut Verdict) -> u64 {
    let model = match RocksModel::open(dir.join("views")) {
        Ok(model) => model,
        Err(error) => {
            verdict.wrong("refused to open", || format!("{error}: {error:?}"));
            return 0;
        }
    };
    let rows = match model.partitions(&ProjectionId::of::<Tally>()).await {
        Err(ReadModelError::Unknown { .. }) => return 0,
        rows => rows.unwrap(),
    };
    for row in &rows {
        let at = row.position.position.get() as usize;
        if at > 0 && log.get(at - 1).is_none_or(|event| event.id != row.position.event) {
            verdict.wrong("ahead of its log", || format!("partition {} at {}", row.partition, row.position));
        }
    }
    let expected = fold(log, |partition| rows[partition.0 as usize].position.position);
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
    rows.iter().map(|row| row.position.position.get()).sum()
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
    /// How often a batch was under way, or an opening.
    hits: u64,
    openings: u64,
    verdict: Verdict,
}

/// Kills a projecting process so many times, spread over its log, and judges what each has left.
fn kill(dir: &Path, cycles: u64, events: u64, seed: u64, bug: Option<&str>) -> Tallied {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut tally, runtime) = (Tallied::default(), runtime());
    let end = events * u64::from(PARTITIONS);
    let log = runtime.block_on(log(dir));
    while tally.cycles < cycles && tally.verdict.is_clean() {
        let mut child = command("project", dir, &[]);
        child.envs(bug.map(|bug| ("INDELIBLE_BUG", bug)));
        let mut child = Running::start(child);
        let is_opening = random.random_range(0..6) == 0;
        let handled = random.random_range(0..events / (cycles + 1));
        while let Some(line) = (!is_opening).then(|| child.line()).flatten() {
            let done = line.strip_prefix("handled ").is_some_and(|count| count.parse::<u64>().unwrap() >= handled);
            if done || line == "reached" {
                break;
            }
        }
        let most = if is_opening { 60_000 } else { 4_000 };
        thread::sleep(Duration::from_micros(random.random_range(0..most)));
        child.kill();
        drop(child);
        tally.cycles += 1;
        tally.openings += u64::from(is_opening);
        let at = runtime.block_on(judge(dir, &log, &mut tally.verdict));
        tally.hits += u64::from(is_opening || at < end);
        if at == end {
            // It was through before it was struck: the next one begins anew.
            std::fs::remove_dir_all(dir.join("views")).unwrap();
        }
    }
    tally
}

#[test]
fn kills_skip_and_double_nothing() {
    let cycles = number("INDELIBLE_PROJECTION_KILLS").unwrap_or(24);
    let events = number("INDELIBLE_PROJECTION_EVENTS").unwrap_or(12_000);
    let dir = tempfile::tempdir().unwrap();
    let filled = runtime().block_on(async {
        let store = RocksStore::open(dir.path().join("log")).unwrap();
        fill(&store, events).await;
        store.close().await
    });
    filled.unwrap();
    let seed = seed();
    let mut tally = kill(dir.path(), cycles, events, seed, None);
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

    // One clean pass over the same log, byte for byte.
    let kept = bytes(&dir.path().join("views"));
    std::fs::remove_dir_all(dir.path().join("views")).unwrap();
    assert!(Running::start(command("project", dir.path(), &[])).succeeds());
    assert!(kept == bytes(&dir.path().join("views")), "not what a clean pass gives");
}

#[cfg(feature = "bugs")]
#[test]
fn kills_find_a_checkpoint_apart_from_its_rows() {
    for bug in ["checkpoint-before-rows", "checkpoint-after-rows"] {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let store = RocksStore::open(dir.path().join("log")).unwrap();
            fill(&store, 6_000).await;
            store.close().await.unwrap();
        });
        let tally = kill(dir.path(), 24, 6_000, seed(), Some(bug));
        seeded(KILLED, bug, !tally.verdict.is_clean(), &tally.verdict);
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
            let found = runtime.block_on(judge(&dir, &log, &mut verdict));
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
        if cut_off >= cycles && went_back > 0 && in_part > 0 {
            break;
        }
        let (found, back, part) = cut(*file_system, *below, each);
        verdict.add(found);
        (went_back, in_part, cut_off) = (went_back + back, in_part + part, cut_off + each);
    }
    let cycles = cut_off;
    let controls =
        format!("a read model came back as it was earlier in {went_back} of {cycles} cuts, {in_part} in part");
    Line::new(name, cycles, cycles, &verdict, &controls).print();
    assert!(verdict.is_clean(), "{verdict}");
    // The read model isn't synced: where it lost nothing, no power was cut.
    assert!(went_back > 0, "no read model ever came back as it was earlier: the rig cuts no power");
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
