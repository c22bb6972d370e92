//! The read model: that it does what the memory one does, what it refuses to open, and what becomes of poison, of a
//! take-over and of a reset while events come in.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::conformance::fault::{Verdict, seeded};
use indelible_core::{
    Append, Cause, EventId, EventStore, EventType, ExpectedVersion, Position, StoreId, Timestamp, Token, Version,
};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};
use indelible_rocksdb::{OpenError, RocksModel, RocksStore, RocksTx};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    campaign::{number, seed},
    child::{Running as Child, command, say},
    projecting::{AccountEvent, LISTS, SUMS, TOTAL, Tally, account, deposited, fill, tally},
};

mod poison;
mod versions;

const SOON: Duration = Duration::from_secs(30);

// ---- beside the memory one -----------------------------------------------------------------------------------------

const BY_OWNER: Index<String, u64, String> = Index::new("by_owner", |_, owner| owner.clone());
const OWNERS: Table<u64, String> = Table::new("owners").indexed(&[&BY_OWNER]);
const NUMBERS: Table<(u8, u8), u8> = Table::new("own");

/// A read model, and the transaction that is open.
struct Side<M: ReadModel> {
    model: M,
    open: Option<(M::Tx, Advance)>,
    /// A letter was ended in it.
    has_ended: bool,
}

/// What both are told, and what they answer, as text.
async fn answer<M: ReadModel>(side: &mut Side<M>, seed: u64, store: StoreId, begun: &mut u64) -> String
where
    M::Tx: WriteTables,
{
    let mut random = StdRng::seed_from_u64(seed);
    let random = &mut random;
    let model = &side.model;
    let name = *["a", "ab"].choose(random).unwrap();
    let id = ProjectionId { name: name.into(), version: random.random_range(1..=3) };
    let token = |position: u64| match position {
        0 => Token::start(store),
        _ => Token {
            store,
            position: Position::new(position),
            event: EventId::from_uuid(uuid::Uuid::from_u128(position.into())),
        },
    };
    let partition = Partition(random.random_range(0..2));
    let number = random.random_range(1..8);
    let stream = account(number % 4);
    let letter = DeadLetter {
        partition: Partition::of(&stream, 2),
        event: EventId::from_uuid(uuid::Uuid::nil()),
        stream: stream.clone(),
        version: Version::new(1),
        position: Position::new(number),
        event_type: EventType::from_static("T"),
        error: random.random::<bool>().then(|| "no".to_owned()),
        attempts: 2,
        parked_at: Timestamp::from_micros(5).unwrap(),
    };
    if let Some((tx, step)) = &mut side.open {
        let key = random.random_range(0..6);
        let (low, high) = ((random.random_range(0..3), random.random_range(0..3)), (random.random_range(0..3), 1));
        return match random.random_range(0..12) {
            0 | 1 => text(tx.put(&OWNERS, &key, &["ada", "bob", ""].choose(random).unwrap().to_string())),
            2 => text(tx.delete(&OWNERS, &key)),
            3 => text(tx.put(&NUMBERS, &low, &7)),
            4 => text(tx.get(&OWNERS, &key)),
            5 => text(tx.find(&OWNERS, &BY_OWNER, &"ada".to_owned(), random.random_range(0..4))),
            6 => text(tx.scan(&NUMBERS, low..high, random.random_range(0..5))),
            7 => text(tx.scan(&NUMBERS, ..=high, 9)) + &text(tx.scan_prefix(&NUMBERS, &low.0, 9)),
            // The memory one parks first and ends then, whatever the order.
            8 if letter.partition == step.partition && !side.has_ended => text(model.park(tx, &letter).await),
            9 => {
                let letters = model.letters(&step.projection, None, Position::START, 9).await.unwrap_or_default();
                let mut letters = letters.into_iter().filter(|letter| letter.partition == step.partition);
                let Some(letter) = letters.next().filter(|_| !side.has_ended) else { return "none".into() };
                side.has_ended = true;
                let end = if key < 3 { LetterEnd::Redriven } else { LetterEnd::Discarded("why".into()) };
                text(model.unpark(tx, &letter, &end).await)
            }
            10 => {
                side.open = None;
                "undone".into()
            }
            _ => text(model.commit(side.open.take().unwrap().0).await),
        };
    }
    match random.random_range(0..13) {
        0 | 1 => text(model.register(&Registration { projection: id, partitions: 2, head: token(9), setup: "" }).await),
        2 if model.partitions(&id).await.is_ok() => {
            text(model.register(&Registration { projection: id, partitions: 3, head: token(9), setup: "" }).await)
        }
        3 => text(model.take(&id, partition, &WorkerId("w".into())).await),
        4..7 => {
            let rows = model.partitions(&id).await.unwrap_or_default();
            let Some(row) = rows.get(partition.0 as usize) else { return "none".into() };
            let stale = u64::from(random.random_range(0..8) == 0);
            let from = if random.random_range(0..8) == 0 { token(77) } else { row.position };
            let to = token(row.position.position.get() + 1);
            let step = Advance { projection: id, partition, epoch: Epoch(row.epoch.0 + stale), from, to };
            match model.begin(&step).await {
                Ok(tx) => {
                    *begun += 1;
                    (side.open, side.has_ended) = (Some((tx, step)), false);
                    "begun".into()
                }
                Err(error) => error.to_string(),
            }
        }
        7 => text(model.take_over(&id).await),
        8 => text(model.drop_version(&id).await),
        9 => text(model.reset(&id, token(11)).await),
        10 => text(model.caught_up(&id).await),
        11 => {
            let max = Want::BuildingEventsPerSecondMax(random.random_range(0..3));
            text(model.want(&id, *[Want::Paused(true), Want::Paused(false), max].choose(random).unwrap()).await)
        }
        _ => text(
            model
                .letters(&id, random.random::<bool>().then_some(&stream), Position::new(random.random_range(0..4)), 3)
                .await,
        ),
    }
}

fn text<T: std::fmt::Debug>(answer: Result<T, ReadModelError>) -> String {
    answer.map_or_else(|error| error.to_string(), |answer| format!("{answer:?}"))
}

/// All that there is of a projection, but for the clock.
async fn whole<M: ReadModel>(model: &M) -> String {
    let mut all = String::new();
    for name in ["a", "ab"] {
        for version in model.versions(name).await.unwrap() {
            let mut rows = model.partitions(&version.projection).await.unwrap();
            rows.iter_mut().for_each(|row| row.updated_at = Timestamp::from_micros(0).unwrap());
            let letters = model.letters(&version.projection, None, Position::START, 99).await.unwrap();
            all += &format!("{version:?}\n{rows:?}\n{letters:?}\n");
        }
    }
    all
}

macro_rules! asks {
    ($name:ident, $text:literal) => {
        struct $name;
        impl Projection for $name {
            const NAME: &'static str = $text;
            type Event = AccountEvent;
            fn wants() -> Wants<AccountEvent> {
                Tally::wants()
            }
        }
    };
}
asks!(A, "a");
asks!(Ab, "ab");

fn tables(views: Result<impl Tables, ReadModelError>) -> String {
    let all = || (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    let read = |views: &dyn Tables| ["owners", "by_owner", "own"].map(|name| views.rows(name, all(), 99).unwrap());
    views.map_or_else(|error| error.to_string(), |views| format!("{:?}", read(&views)))
}

#[tokio::test]
async fn it_answers_as_the_memory_model_does() {
    let sequences = number("INDELIBLE_MEMORY_SEQUENCES").unwrap_or(20);
    let first = seed();
    let (mut begun, mut seen) = (0, BTreeSet::new());
    for sequence in 0..sequences {
        let seed = first.wrapping_add(sequence);
        let mut random = StdRng::seed_from_u64(seed);
        let (dir, store) = (tempfile::tempdir().unwrap(), StoreId::new());
        let mut memory = Side { model: MemoryModel::new(), open: None::<(MemoryTx, Advance)>, has_ended: false };
        let mut rocks =
            Side { model: RocksModel::open(dir.path()).unwrap(), open: None::<(RocksTx, Advance)>, has_ended: false };
        for step in 0..400 {
            let told = random.random();
            let expected = answer(&mut memory, told, store, &mut 0).await;
            let found = answer(&mut rocks, told, store, &mut begun).await;
            assert_eq!(found, expected, "INDELIBLE_SEED={seed}, step {step}");
            seen.insert(expected.chars().take_while(|c| c.is_alphabetic()).collect::<String>());
            if step % 20 == 0 && memory.open.is_none() {
                if step % 60 == 0 {
                    drop(rocks);
                    rocks = Side { model: RocksModel::open(dir.path()).unwrap(), open: None, has_ended: false };
                }
                assert_eq!(whole(&rocks.model).await, whole(&memory.model).await, "INDELIBLE_SEED={seed}, step {step}");
                for (found, expected) in [
                    (tables(rocks.model.query::<A>()), tables(memory.model.query::<A>())),
                    (tables(rocks.model.query::<Ab>()), tables(memory.model.query::<Ab>())),
                ] {
                    assert_eq!(found, expected, "INDELIBLE_SEED={seed}, step {step}");
                }
                for version in memory.model.versions("a").await.unwrap() {
                    let id = version.projection;
                    let mut expected = memory.model.discarded(&id).unwrap();
                    expected.sort_by_key(|(letter, _)| letter.position);
                    expected.dedup_by_key(|(letter, _)| letter.position);
                    let found: Vec<_> = rocks.model.discarded(&id).await.unwrap();
                    assert_eq!(found.len(), expected.len());
                }
            }
        }
    }
    println!("{begun} transactions; answers began with {seen:?}");
    assert!(begun >= sequences * 10, "only {begun} transactions");
}

#[tokio::test]
async fn a_snapshot_sees_nothing_of_later_and_a_zombie_commits_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = RocksModel::open(dir.path()).unwrap();
    let (id, start) = (ProjectionId::of::<Tally>(), Token::start(StoreId::new()));
    model.register(&Registration { projection: id.clone(), partitions: 1, head: start, setup: "" }).await.unwrap();
    let take = async || model.take(&id, Partition(0), &WorkerId("w".into())).await.unwrap().unwrap();
    let to = Token { position: Position::new(1), event: EventId::new(), ..start };
    let step = |claim: Claim| Advance {
        projection: id.clone(),
        partition: Partition(0),
        epoch: claim.epoch,
        from: claim.position,
        to,
    };
    let mut zombie = model.begin(&step(take().await)).await.unwrap();
    zombie.put(&TOTAL, &(), &1).unwrap();
    let claim = take().await;
    assert!(matches!(model.commit(zombie).await, Err(ReadModelError::Fenced { .. })));
    let before = model.query::<Tally>().unwrap();
    let mut tx = model.begin(&step(claim)).await.unwrap();
    tx.put(&TOTAL, &(), &2).unwrap();
    tx.put(&SUMS, &"a".into(), &(1, 1, 1)).unwrap();
    model.commit(tx).await.unwrap();
    let after = model.query::<Tally>().unwrap();
    assert_eq!((before.get(&TOTAL, &()).unwrap(), before.get(&SUMS, &"a".into()).unwrap()), (None, None));
    assert_eq!((after.get(&TOTAL, &()).unwrap(), after.get(&SUMS, &"a".into()).unwrap()), (Some(2), Some((1, 1, 1))));
    drop(before);
    // Long names are refused before anything is written.
    const LONG: Table<u8, u8> = Table::new(match std::str::from_utf8(&[b'n'; 256]) {
        Ok(name) => name,
        Err(_) => "",
    });
    assert!(matches!(after.get(&LONG, &1), Err(ReadModelError::Rejected { .. })));
}

// ---- opening -------------------------------------------------------------------------------------------------------

/// A closed log and a closed read model of it.
async fn made(events: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path().join("log")).unwrap();
    fill(&store, events).await;
    let views = dir.path().join("views");
    let model = RocksModel::open_buffering(&views, 64 * 1024).unwrap();
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    assert_eq!(running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
    assert!(running.drain(SOON).await);
    store.close().await.unwrap();
    (dir, views)
}

#[tokio::test]
async fn a_second_opening_is_refused_with_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let model = RocksModel::open(dir.path()).unwrap();
    let error = RocksModel::open(dir.path()).err().unwrap();
    assert_eq!(error.to_string(), format!("{} is open already, in this process", dir.path().display()));
    drop(model);
    let mut holder = Child::start(command("hold views", dir.path(), &[]));
    assert_eq!(holder.line().as_deref(), Some("open"));
    match RocksModel::open(dir.path()).err() {
        Some(OpenError::Locked { owner, .. }) => assert_eq!(owner, Some(holder.pid())),
        other => panic!("must be refused: {other:?}"),
    }
    drop(holder); // with SIGKILL
    RocksModel::open(dir.path()).expect("the lock died with its process");
}

#[tokio::test]
async fn what_is_no_read_model_is_refused_and_left_as_it_is() {
    let (dir, views) = made(300).await;
    let log = dir.path().join("log");
    let before = names(&log);
    assert!(matches!(RocksModel::open(&log), Err(OpenError::NotAStore { .. })));
    assert_eq!(names(&log), before);
    assert!(matches!(RocksStore::open(&views), Err(OpenError::NotAStore { .. })));
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("letter.txt"), "dear").unwrap();
    let error = RocksModel::open(&other).err().unwrap();
    assert_eq!(error.to_string(), format!("{} holds something else: letter.txt", other.display()));
    let database = dir.path().join("database");
    rocksdb::DB::open_default(database.join("tables")).unwrap().put("k", "v").unwrap();
    assert!(matches!(RocksModel::open(&database), Err(OpenError::NotAStore { .. })));
    fs::remove_file(views.join("tables/CURRENT")).unwrap();
    assert!(matches!(RocksModel::open(&views), Err(OpenError::NotAStore { .. })));
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let (_dir, views) = made(300).await;
    let newer = |key: &[u8], value: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let db = rocksdb::DB::open_default(views.join("tables")).unwrap();
        let before = db.get(key).unwrap().unwrap();
        db.put(key, value(before.clone())).unwrap();
        drop(db);
        let opened = RocksModel::open(&views);
        rocksdb::DB::open_default(views.join("tables")).unwrap().put(key, before).unwrap();
        opened.err().unwrap()
    };
    let error = newer(b"format", &|_| 2_u32.to_be_bytes().to_vec());
    assert!(matches!(error, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{error}");
    let error = newer(b"format", &|_| b"?".to_vec());
    assert!(matches!(error, OpenError::Corrupted { .. }), "{error}");
    let version = b"v\x05tally\0\0\0\x01";
    let error = newer(version, &|mut frame| {
        frame[0] = 2;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&[2]), &frame[5..]);
        frame[1..5].copy_from_slice(&sum.to_le_bytes());
        frame
    });
    assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }), "{error}");
    let error = newer(version, &|mut frame| {
        frame[7] ^= 1;
        frame
    });
    assert!(matches!(error, OpenError::Corrupted { .. }), "{error}");
    RocksModel::open(&views).unwrap();
}

#[tokio::test]
async fn damaged_files_are_refused_or_stop_the_projection_and_are_held_against_no_event() {
    let (dir, views) = made(3_000).await;
    let copy = |to: &str| {
        let to = dir.path().join(to);
        crate::child::copy_all(&views, &to);
        to
    };
    let files = |views: &Path, extension: &str| {
        let names = names(&views.join("tables")).into_iter().filter(|name| name.contains(extension));
        names.map(|name| views.join("tables").join(name)).collect::<Vec<_>>()
    };
    assert!(!files(&views, ".sst").is_empty());
    for (case, extension, damage) in [
        ("cut tables", ".sst", (|bytes| bytes.truncate(bytes.len() / 2)) as fn(&mut Vec<u8>)),
        ("no manifest", "MANIFEST", |bytes| bytes.clear()),
        ("damaged manifest", "MANIFEST", |bytes| bytes[20] ^= 1),
    ] {
        let views = copy(case);
        for file in files(&views, extension) {
            let mut bytes = fs::read(&file).unwrap();
            damage(&mut bytes);
            fs::write(file, bytes).unwrap();
        }
        let opened = RocksModel::open(&views);
        assert!(matches!(opened, Err(OpenError::Corrupted { .. })), "{case}: {:?}", opened.err());
    }
    let gone = copy("gone");
    files(&gone, ".sst").into_iter().for_each(|file| fs::remove_file(file).unwrap());
    assert!(matches!(RocksModel::open(&gone), Err(OpenError::Corrupted { .. })));

    // Rows are read when they are asked for.
    let flipped = copy("flipped");
    for file in files(&flipped, ".sst") {
        let mut bytes = fs::read(&file).unwrap();
        let data = bytes.len() / 3;
        bytes[..data].iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(file, bytes).unwrap();
    }
    let store = RocksStore::open(dir.path().join("log")).unwrap();
    let Ok(model) = RocksModel::open(&flipped) else { return };
    fill(&store, 100).await;
    let running = Worker::new(&store).add(&model, crate::projecting::Parks::default()).start().await.unwrap();
    let Waited::Stopped(error) = running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap() else {
        panic!("went on")
    };
    assert!(error.starts_with("the read model is damaged"), "{error}");
    assert_eq!(model.letters(&ProjectionId::of::<Tally>(), None, Position::START, 9).await.unwrap(), []);
}

/// The children.
pub(crate) async fn scenario(job: &str, dir: &Path) {
    let verdict = match job {
        "park" => poison::park(dir).await,
        "take turns" => versions::take_turns(dir).await,
        _ => versions::take_over(dir).await.0,
    };
    say(&if verdict.is_clean() { "clean".into() } else { format!("{verdict}").replace('\n', " ") });
}

#[cfg(feature = "bugs")]
#[test]
fn seeded_bugs_are_found() {
    let bugs = [
        ("poison events", "park", "park-forgets"),
        (versions::REBUILT, "take over", "reset-keeps-rows"),
        (versions::REBUILT, "take over", "take-over-behind"),
    ];
    for (fault, job, bug) in bugs {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command(job, dir.path(), &[]);
        command.env("INDELIBLE_BUG", bug).env_remove("INDELIBLE_REBUILD_EVENTS");
        let mut child = Child::start(command);
        let said = std::iter::from_fn(|| child.line()).filter(|line| !line.starts_with("handled")).last();
        let mut verdict = Verdict::default();
        // One that panics has found nothing.
        if let Some(said) = said.filter(|said| said != "clean") {
            verdict.wrong("found", || said);
        }
        seeded(fault, bug, !verdict.is_clean(), &verdict);
    }
}
