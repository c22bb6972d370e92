//! What `verify` finds.
//!
//! The faults: entries of the log and of the index changed, taken out and put in below the store, where RocksDB's own
//! checksums are right; and bytes changed in its files. Each is found and told with its position, of the log or of the index
//! as it may be; what is the index's is whole after a rebuild, and an undamaged store is clean.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indelible_core::conformance::fault::Line;
use indelible_core::{
    Append, AppendOutcome, ContentType, EventId, EventStore, EventType, ExpectedVersion, Fingerprint, NewEvent,
    Position, Snapshot, SnapshotStore, StoreError, StreamId, Tag, Timestamp, Token, Version,
};
use indelible_rocksdb::{Durability, Part, Progress, RocksStore, Step, Verification};
use rocksdb::{DB, IteratorMode};
use tempfile::TempDir;
use tokio::time;
use uuid::Uuid;

use crate::{
    conformance::copy_files,
    damage::{below, framed},
};

const EVENTS: u64 = 1_600;

/// The id of the event at a position of [`store`].
fn id(position: u64) -> Uuid {
    Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(position))
}

/// A closed store: an event at a time, over twenty streams of two categories, with two types and a few tags. The stream of
/// event 7 is closed by it.
async fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    for position in 1..=EVENTS {
        let outcome = store.append(append(position)).await;
        assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
    }
    let snapshot = Snapshot {
        stream: "even-2".parse().unwrap(),
        version: Version::FIRST,
        event_id: EventId::from_uuid(id(2)),
        fingerprint: Fingerprint::of(["state"]),
        taken_at: Timestamp::now(),
        content_type: ContentType::JSON,
        data: "{}".into(),
    };
    store.save_snapshot(snapshot).await.unwrap();
    store.close().await.unwrap();
    dir
}

fn append(position: u64) -> Append {
    let event_type = EventType::new(if position.is_multiple_of(3) { "Third" } else { "Written" }).unwrap();
    let event = NewEvent::new(event_type, ContentType::JSON, format!(r#"{{"n":{position}}}"#))
        .with_id(EventId::from_uuid(id(position)))
        .with_tags([Tag::of("digit", (position % 10).to_string()).unwrap()]);
    match position {
        7 => {
            let stream: StreamId = "closed-7".parse().unwrap();
            Append::to(stream.clone(), ExpectedVersion::NoStream, [event]).close(stream)
        }
        n => {
            let category = if n % 2 == 0 { "even" } else { "odd" };
            Append::to(format!("{category}-{}", n % 20).parse().unwrap(), ExpectedVersion::Any, [event])
        }
    }
}

/// Proves the log and its indexes: the end of every test whose own reads don't.
pub(crate) async fn prove(store: &RocksStore) {
    let found = store.verify(|_| {}).await.unwrap();
    assert!(found.is_clean(), "{}", told(&found));
}

async fn verified(dir: &Path) -> (RocksStore, Verification) {
    let store = RocksStore::open(dir).unwrap();
    let found = store.verify(|_| {}).await.unwrap();
    (store, found)
}

fn told(found: &Verification) -> String {
    found.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[tokio::test]
async fn an_undamaged_store_is_clean() {
    let dir = store().await;
    let store = RocksStore::open(dir.path()).unwrap();
    let steps: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let seen = Arc::clone(&steps);
    let found = store.verify(move |progress| seen.lock().unwrap().push(progress)).await.unwrap();
    assert!(found.is_clean(), "{}", told(&found));
    assert_eq!((found.events, found.streams, found.snapshots, found.damaged_snapshots), (EVENTS, 21, 1, 0));
    assert_eq!((found.head, found.indexed), (store.head().await.unwrap(), Position::new(EVENTS)));
    let steps = steps.lock().unwrap();
    assert!(steps.iter().any(|progress| progress.step == Step::Log && progress.total == EVENTS), "{steps:?}");
    assert!(steps.is_sorted_by_key(|progress| progress.step as u8), "{steps:?}");
    assert!(steps.iter().all(|progress| progress.done <= progress.total), "{steps:?}");
    // And nothing of it stays behind.
    let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<_> = left.collect();
    left.sort_unstable();
    left.retain(|name| name != "ingest");
    assert_eq!(left, ["anchor", "indelible.lock", "index", "log"]);
}

#[tokio::test]
async fn an_empty_store_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    let (store, found) = verified(dir.path()).await;
    assert!(found.is_clean(), "{}", told(&found));
    assert_eq!((found.events, found.head), (0, Token::start(store.id())));
    store.rebuild_indexes().await.unwrap();
    assert!(store.verify(|_| {}).await.unwrap().is_clean());
}

/// What is in memory only, and what moves from there to the index meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_at_work_is_clean_and_ends_when_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(write(store.clone(), writer, Arc::clone(&is_over)))).collect();
    let (mut indexed, started) = (Vec::new(), Instant::now());
    while indexed.len() < 3 || indexed[indexed.len() - 1] == Position::START {
        let found = store.verify(|_| {}).await.unwrap();
        assert!(found.is_clean(), "{}", told(&found));
        assert_eq!(found.events, found.head.position.get());
        indexed.push(found.indexed);
        assert!(started.elapsed() < Duration::from_secs(100), "nothing is ever indexed");
    }
    is_over.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    println!("verified at work, indexed up to {indexed:?}, head {}", store.head().await.unwrap().position);
    // Dropped, it ends: closing waits for nobody, and the copy goes.
    let verifying = store.verify(|_| std::thread::sleep(Duration::from_millis(200)));
    time::timeout(Duration::from_millis(15), verifying).await.unwrap_err();
    store.close().await.unwrap();
    assert!(matches!(store.verify(|_| {}).await, Err(StoreError::Stopped { .. })));
    let is_frozen = || fs::read_dir(dir.path()).unwrap().any(|entry| entry.unwrap().file_name().len() > 20);
    for _ in 0..500 {
        if !is_frozen() {
            return;
        }
        time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the copy that was verified is still there");
}

/// What RocksDB has in memory, and would not miss before the next opening.
#[tokio::test]
async fn damage_below_a_store_at_work_is_found() {
    for cut in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        for position in 1..=50 {
            store.append(append(position)).await.unwrap();
        }
        assert!(store.verify(|_| {}).await.unwrap().is_clean());
        let logs = fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
        let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        let log = logs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut bytes = fs::read(&log).unwrap();
        let half = bytes.len() / 2;
        match cut {
            true => bytes[half..].fill(0),
            false => bytes[half] ^= 1,
        }
        // Into the same file.
        fs::write(&log, bytes).unwrap();
        let found = store.verify(|_| {}).await.unwrap();
        println!("the write-ahead log, cut {cut}: {}", told(&found));
        assert!(!found.is_log_clean(), "{}", told(&found));
    }
}

/// A store that leaves something out of the index is found out.
#[cfg(feature = "bugs")]
#[test]
fn an_index_that_forgets_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = crate::child::command("index", dir.path(), &[]);
    command.env("INDELIBLE_BUG", "index-forgets-tags");
    assert!(crate::child::Running::start(command).succeeds());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_store, found) = runtime.block_on(verified(dir.path()));
    let is_found = told(&found).contains("the tag digit:9 at position 9 is missing");
    indelible_core::conformance::fault::seeded("entry damaged", "index-forgets-tags", is_found, &told(&found));
}

/// The child: writes a few events and closes, which indexes them.
pub(crate) async fn index(store: RocksStore) {
    for position in 1..=20 {
        store.append(append(position)).await.unwrap();
    }
    store.close().await.unwrap();
}

/// Appends, the first of them with many long tags, of which few fill a segment of the index in memory.
pub(crate) async fn write(store: RocksStore, writer: u64, is_over: Arc<AtomicBool>) -> u64 {
    let mut n = 0;
    while !is_over.load(Relaxed) {
        let events = (0..4).map(|part| {
            let tags = if n < 150 { 0..32 } else { 0..1 };
            let tags = tags.map(|tag| Tag::new(format!("{writer} {n} {part} {tag} {}", "long".repeat(50))).unwrap());
            NewEvent::new(EventType::from_static("Written"), ContentType::JSON, format!(r#"{{"n":{n}}}"#))
                .with_tags(tags)
        });
        let append = Append::to(format!("s-{writer}").parse().unwrap(), ExpectedVersion::Any, events);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
        time::sleep(Duration::from_millis(if n < 150 { 2 } else { 10 })).await;
        n += 1;
    }
    n
}

/// What a store says of itself, at work and at rest.
#[tokio::test]
async fn statistics_say_how_a_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    futures::future::join_all((1..=20).map(|position| store.append(append(position)))).await;
    let busy = store.statistics();
    assert_eq!((busy.appends, busy.events, busy.head, busy.index_lag), (20, 20, 20, 20));
    assert_eq!((busy.appends_under_way, busy.stalls), (0, 0));
    assert!(busy.syncs > 0 && busy.sync_time > Duration::ZERO && busy.groups <= 20, "{busy:?}");
    assert!(busy.largest_group > 1 && busy.largest_group <= 20, "{busy:?}");
    assert!(busy.buffered_bytes > 0 && busy.log_bytes == 0 && !busy.is_write_stopped, "{busy:?}");
    let mut waiting = Box::pin(store.append(append(21)));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(store.statistics().appends_under_way, 1);
    waiting.await.unwrap();
    let is_anchored = async || {
        while store.statistics().anchor_lag > 0 {
            time::sleep(Duration::from_millis(100)).await;
        }
    };
    time::timeout(Duration::from_secs(30), is_anchored()).await.expect("the anchor follows");
    assert_eq!(store.statistics().queue_bytes, 0);
    store.close().await.unwrap();
    assert_eq!((store.statistics().appends, store.statistics().head), (21, 0), "counters stay");
    let again = RocksStore::open(dir.path()).unwrap().statistics();
    assert_eq!((again.appends, again.head, again.index_lag, again.anchor_lag), (0, 21, 0, 0));
    assert!(again.log_bytes > 0 && again.index_bytes > 0, "{again:?}");
}

/// Damage of a store's files.
type Below<'a> = &'a dyn Fn(&Path);

/// Damage of the index, by its entries.
type Damage = fn(&DB);

fn series(name: &[u8], number: u64) -> Vec<u8> {
    [name, &[0], &number.to_be_bytes()].concat()
}

fn number(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 0x7f {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// The key of the chunk in which a series has a position or a version, and the numbers in it.
fn chunk(db: &DB, name: &[u8], at: u64) -> (Vec<u8>, Vec<u64>) {
    let mut entries = db.iterator(IteratorMode::From(&series(name, at), rocksdb::Direction::Forward));
    let (key, value) = entries.next().unwrap().unwrap();
    assert!(key.starts_with(name));
    let mut numbers = Vec::new();
    let (mut number, mut shift) = (0, 0);
    for byte in value {
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            numbers.push(number);
            (number, shift) = (0, 0);
        }
    }
    (key.into(), numbers)
}

fn put_chunk(db: &DB, key: &[u8], numbers: &[u64]) {
    db.put(key, numbers.iter().flat_map(|n| number(*n)).collect::<Vec<_>>()).unwrap();
}

/// Takes the second position out of a chunk.
fn forget(db: &DB, name: &[u8]) {
    let (key, mut numbers) = chunk(db, name, 1);
    let gone = numbers.remove(1);
    numbers[1] += gone;
    put_chunk(db, &key, &numbers);
}

fn id_key(id: Uuid) -> Vec<u8> {
    [b"u".as_slice(), id.as_bytes()].concat()
}

#[tokio::test]
async fn damage_of_the_index_is_found_and_a_rebuild_cures_it() {
    let base = store().await;
    let cases: [(&str, Damage, &str); 25] = [
        (
            "a stream's block wrong",
            |db| {
                let (key, mut numbers) = chunk(db, b"seven-2", 1);
                numbers[2] += 1;
                put_chunk(db, &key, &numbers);
            },
            "version 1 of even-2 at position 2 is in an entry that is damaged: it names another block",
        ),
        (
            "an id missing",
            |db| db.delete(id_key(id(700))).unwrap(),
            "the id 01980000-0000-7000-8000-0000000002bc at position 700 is missing",
        ),
        ("an id elsewhere", |db| db.put(id_key(id(700)), number(701)).unwrap(), "at position 700 is said to be at 701"),
        (
            "a stray id",
            |db| db.put(id_key(Uuid::from_u128(5)), number(700)).unwrap(),
            "the id 00000000-0000-0000-0000-000000000005 at position 700 is there",
        ),
        (
            "an id beyond the mark",
            |db| db.put(id_key(Uuid::from_u128(5)), number(9_000)).unwrap(),
            "it names position 9000",
        ),
        ("an unreadable id", |db| db.put(id_key(id(700)), [0xff]).unwrap(), "it ends too early"),
        ("a category's position missing", |db| forget(db, b"ceven"), "the category even at position 4 is missing"),
        (
            "a type's position missing",
            |db| forget(db, b"teven\0Third"),
            "the type even.Third at position 12 is missing",
        ),
        ("a tag's position missing", |db| forget(db, b"gdigit:3"), "the tag digit:3 at position 13 is missing"),
        (
            "a tag's chunk missing",
            |db| db.delete(chunk(db, b"gdigit:3", 1).0).unwrap(),
            "the tag digit:3 at position 3 is missing",
        ),
        (
            "a stray category",
            |db| put_chunk(db, &series(b"cother", 9), &[9]),
            "the category other at position 9 is there",
        ),
        (
            "a stray type",
            |db| put_chunk(db, &series(b"todd\0Fourth", 9), &[9]),
            "the type odd.Fourth at position 9 is there",
        ),
        ("a stray tag", |db| put_chunk(db, &series(b"gother", 9), &[9]), "the tag other at position 9 is there"),
        (
            "a tag's position that is another's",
            |db| {
                let (key, mut numbers) = chunk(db, b"gdigit:3", 1);
                (numbers[1], numbers[2]) = (numbers[1] + 1, numbers[2] - 1);
                put_chunk(db, &key, &numbers);
            },
            "the tag digit:3 at position 14 is there",
        ),
        (
            "a chunk under a wrong key",
            |db| {
                let (key, mut numbers) = chunk(db, b"gdigit:3", 1);
                numbers[1] += 1;
                put_chunk(db, &key, &numbers);
            },
            "its positions are not those that its key tells",
        ),
        (
            "a stream's position wrong",
            |db| {
                let (key, mut numbers) = chunk(db, b"seven-2", 1);
                // The first version; then for each a position, and how far its block goes on behind that.
                (numbers[3], numbers[5]) = (numbers[3] + 1, numbers[5] - 1);
                put_chunk(db, &key, &numbers);
            },
            "version 2 of even-2 at position 22 is said to be at 23",
        ),
        (
            "a stream's versions missing",
            |db| db.delete(chunk(db, b"seven-2", 1).0).unwrap(),
            "the head of even-2 is there, and no version of it",
        ),
        (
            "a stray stream",
            |db| {
                put_chunk(db, &series(b"sother-1", 1), &[1, 9, 0]);
                db.put("hother-1", [1, 9, 0]).unwrap();
            },
            "version 1 of other-1 at position 9 is there",
        ),
        ("a head missing", |db| db.delete("heven-2").unwrap(), "the head of even-2 is missing"),
        (
            "a head with a wrong version",
            |db| {
                let mut value = db.get("heven-2").unwrap().unwrap();
                value[0] += 1;
                db.put("heven-2", value).unwrap();
            },
            "the head of even-2 is version 81",
        ),
        (
            "a head that forgets that its stream is closed",
            |db| db.put("hclosed-7", [1, 7, 0]).unwrap(),
            "the end of closed-7 at position 7 is missing",
        ),
        (
            "a head that closes its stream",
            |db| {
                let mut value = db.get("heven-2").unwrap().unwrap();
                *value.last_mut().unwrap() = 1;
                db.put("heven-2", value).unwrap();
            },
            "the end of even-2 at position 1582 is there",
        ),
        ("an entry of no kind", |db| db.put("x", "y").unwrap(), "the entry x: it is of no kind"),
        (
            "the last of all versions",
            |db| put_chunk(db, &series(b"seven-2", u64::MAX), &[u64::MAX, 5, 0]),
            "it begins with version 18446744073709551615 at position 5",
        ),
        (
            "a wrong count of streams",
            |db| {
                let mark = db.get("m").unwrap().unwrap();
                let (body, _) = mark[5..].split_last_chunk::<8>().unwrap();
                db.put("m", framed(mark[0], &[body, &22_u64.to_le_bytes()].concat())).unwrap();
            },
            "it counts 22 streams, the log has 21 there",
        ),
    ];
    let count = cases.len();
    for (name, damage, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy_files(base.path(), dir.path());
        below(dir.path(), "index", &["default", "snapshots"], damage);
        let (store, found) = verified(dir.path()).await;
        assert!(found.problems.iter().all(|problem| problem.part == Part::Index), "{name}: {}", told(&found));
        assert!(told(&found).contains(message), "{name}: {}", told(&found));
        assert!(found.is_log_clean() && !found.is_clean());
        store.rebuild_indexes().await.unwrap();
        let cured = store.verify(|_| {}).await.unwrap();
        assert!(cured.is_clean(), "{name}: {}", told(&cured));
        assert_eq!((cured.snapshots, cured.indexed), (1, Position::new(EVENTS)), "{name}");
        assert!(matches!(store.append(append(EVENTS + 1)).await, Ok(AppendOutcome::Appended(_))));
        store.close().await.unwrap();
    }
    Line::clean("entry damaged", count as u64, count as u64, EVENTS, "each is cured by a rebuild").print();
}

#[tokio::test]
async fn a_damaged_snapshot_is_counted() {
    let dir = store().await;
    below(dir.path(), "index", &["default", "snapshots"], |db| {
        db.put_cf(db.cf_handle("snapshots").unwrap(), "even-2", "nonsense").unwrap();
    });
    let (_store, found) = verified(dir.path()).await;
    assert!(found.is_clean(), "{}", told(&found));
    assert_eq!((found.snapshots, found.damaged_snapshots), (0, 1));
}

/// The checksum of a frame of version 1.
fn sum(body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[1]), body)
}

/// The blocks of a log, of one event each, by their positions: the bodies of their heads, and their entries.
struct Blocks(BTreeMap<u64, (Vec<u8>, Vec<u8>)>);

impl Blocks {
    fn read(dir: &Path) -> Self {
        let mut blocks = BTreeMap::new();
        below(dir, "log", &["default", "state"], |db| {
            for found in db.iterator(IteratorMode::Start) {
                let (key, value) = found.unwrap();
                let position = u64::from_be_bytes(key.as_ref().try_into().unwrap());
                let (head, entry) = value[4..].split_at(u32::from_le_bytes(value[..4].try_into().unwrap()) as usize);
                blocks.insert(position, (head[5..].to_vec(), entry.to_vec()));
            }
        });
        Self(blocks)
    }

    /// Writes them back, from the first up to one or all, each the successor of the one before.
    fn write(mut self, dir: &Path, to: u64) {
        let mut checksum = 0_u32;
        below(dir, "log", &["default", "state"], |db| {
            for (position, (body, entry)) in &mut self.0 {
                let previous = number(*position).len();
                if *position <= to {
                    body[previous..previous + 4].copy_from_slice(&checksum.to_le_bytes());
                    let end = body.len() - 4;
                    body[end..].copy_from_slice(&crc32c::crc32c(entry).to_le_bytes());
                }
                checksum = sum(body);
                let length = u32::try_from(5 + body.len()).unwrap().to_le_bytes();
                let value = [length.as_slice(), &[1], &checksum.to_le_bytes(), body, entry].concat();
                db.put(position.to_be_bytes(), value).unwrap();
            }
        });
        // The anchor has seen the last one, and has its checksum behind two ids and two numbers.
        let mut anchor = fs::read(dir.join("anchor")).unwrap();
        for slot in anchor.chunks_mut(4096).filter(|slot| slot[0] != 0) {
            let at = 5 + 8 + 16 + 8 + 16;
            slot[at..at + 4].copy_from_slice(&checksum.to_le_bytes());
            let sum = sum(&slot[5..]);
            slot[1..5].copy_from_slice(&sum.to_le_bytes());
        }
        fs::write(dir.join("anchor"), anchor).unwrap();
    }
}

#[tokio::test]
async fn damage_of_the_log_is_found() {
    let base = store().await;
    let below_log = |dir: &Path, damage: fn(&DB)| below(dir, "log", &["default", "state"], damage);
    let swap = |dir: &Path| {
        below_log(dir, |db| {
            let (a, b) =
                (db.get(20_u64.to_be_bytes()).unwrap().unwrap(), db.get(30_u64.to_be_bytes()).unwrap().unwrap());
            db.put(20_u64.to_be_bytes(), b).unwrap();
            db.put(30_u64.to_be_bytes(), a).unwrap();
        });
    };
    let hole = |dir: &Path| below_log(dir, |db| (20..=30_u64).for_each(|at| db.delete(at.to_be_bytes()).unwrap()));
    let byte = |dir: &Path| {
        below_log(dir, |db| {
            let mut value = db.get(20_u64.to_be_bytes()).unwrap().unwrap();
            *value.last_mut().unwrap() ^= 1;
            db.put(20_u64.to_be_bytes(), value).unwrap();
        });
    };
    let head = |dir: &Path| {
        below_log(dir, |db| {
            let mut value = db.get(20_u64.to_be_bytes()).unwrap().unwrap();
            value[14] ^= 1;
            db.put(20_u64.to_be_bytes(), value).unwrap();
        });
    };
    // With its checksums right again: only the next one knows.
    let another = |dir: &Path| {
        let mut blocks = Blocks::read(dir);
        let (_, entry) = blocks.0.get_mut(&20).unwrap();
        *entry.last_mut().unwrap() ^= 1;
        blocks.write(dir, 20);
    };
    let stray = |dir: &Path| below_log(dir, |db| db.put([0, 0, 0, 0, 0, 0, 0, 20, 0], "").unwrap());
    let rewritten = |dir: &Path, change: fn(&mut [u8], &mut [u8])| {
        let mut blocks = Blocks::read(dir);
        let (body, entry) = blocks.0.get_mut(&40).unwrap();
        change(body, entry);
        blocks.write(dir, EVENTS);
    };
    // An entry is its version, flags, an id, a name.
    let version = |dir: &Path| rewritten(dir, |_, entry| entry[0] += 1);
    let twice = |dir: &Path| rewritten(dir, |_, entry| entry[2..18].copy_from_slice(id(39).as_bytes()));
    let record = |dir: &Path| rewritten(dir, |_, entry| entry[18] = 255);
    let append = |dir: &Path| rewritten(dir, |_, entry| entry[1] &= !2);
    // The body of a head is a position, a checksum, a time.
    let time = |dir: &Path| rewritten(dir, |body, _| body[5 + 6] -= 1);
    let table = |dir: &Path| {
        let tables = fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
        let tables = tables.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
        let path = tables.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        // In the second of its blocks: at opening the first is looked at, and the last thousand events are read.
        bytes[7_000] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let cases: [(&str, Below<'_>, &str); 12] = [
        (
            "swapped blocks",
            &swap,
            "the block that ends at position 20, from 20 on: it is the block of 1 events from position 30 on",
        ),
        ("a hole", &hole, "the events at positions 20 to 30 are missing"),
        ("a changed byte", &byte, "the event at position 20: its checksum is wrong"),
        ("a changed byte of a head", &head, "the block that ends at position 20, from 20 on: its checksum is wrong"),
        ("another block", &another, "the block that ends at position 21 does not follow the one before"),
        ("a stray key", &stray, "the key \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x14\\x00 is none of the log's"),
        ("a wrong version", &version, "the event at position 40 is version 3 of even-0, behind 1"),
        ("an id twice", &twice, "the events at positions 39 and 40 have the same id"),
        ("an unreadable record", &record, "the event at position 40: it ends too early"),
        ("a time that goes back", &time, "the block that ends at position 40 was recorded before the one before it"),
        ("an append without an end", &append, "the append that position 40 is in does not end"),
        ("a table's byte", &table, "can't be read: Corruption"),
    ];
    let count = cases.len();
    for (name, damage, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        copy_files(base.path(), dir.path());
        damage(dir.path());
        let (_store, found) = verified(dir.path()).await;
        let expected = told(&found);
        assert!(
            expected.contains(&format!("the log: {message}"))
                || (name == "a table's byte" && expected.contains(message)),
            "{name}: {expected}"
        );
        assert!(!found.is_log_clean(), "{name}");
        println!("{name}: {expected}");
    }
    Line::clean("block damaged", count as u64, count as u64, EVENTS, "RocksDB's own checksums are right").print();
}
