//! Damaged files: what is stored is not what was written. It is refused, with its position, and never repaired or
//! deleted in silence.
//!
//! The fault: bytes changed or cut in files, or values changed below the store, where RocksDB's own checksums are right.
//! What no check can notice yet: a write-ahead log that is shortened by whole appends, and files that are exchanged for
//! older ones.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, CheckpointStore, ContentType, EventId, EventStore, EventStoreExt, EventType,
    ExpectedVersion, Fingerprint, NewEvent, Position, ReadLog, Snapshot, SnapshotStore, StoreError, StreamId,
    Timestamp, Token, Version,
};
use indelible_rocksdb::{OpenError, RocksStore};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

/// A closed store of so many appends, each of one event to one of ten streams.
async fn closed(appends: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, appends).await;
    store.close().await.unwrap();
    dir
}

async fn write(store: &RocksStore, appends: usize) {
    let writes = (0..appends).map(|n| {
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, format!(r#"{{"n":{n}}}"#));
        store.append(Append::to(format!("s-{}", n % 10).parse().unwrap(), ExpectedVersion::Any, [event]))
    });
    for outcome in futures::future::join_all(writes).await {
        assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
    }
}

/// Works on the values below the store.
fn below(dir: &TempDir, work: impl FnOnce(&rocksdb::DB)) {
    work(&rocksdb::DB::open_default(dir.path()).unwrap());
}

fn record(position: u64) -> Vec<u8> {
    [b"l".as_slice(), &position.to_be_bytes()].concat()
}

/// Changes one byte in the middle of the record at a position.
fn damage_record(dir: &TempDir, position: u64) {
    below(dir, |db| {
        let mut value = db.get(record(position)).unwrap().unwrap();
        let middle = value.len() / 2;
        value[middle] ^= 1;
        db.put(record(position), value).unwrap();
    });
}

/// The message of an error with those of its causes.
fn whole(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", whole(cause)),
        None => error.to_string(),
    }
}

fn refused(dir: &TempDir) -> String {
    match RocksStore::open(dir.path()) {
        Err(error @ OpenError::Corrupted { .. }) => whole(&error),
        other => panic!("must be refused as corrupted, got {other:?}"),
    }
}

#[tokio::test]
async fn a_damaged_record_near_the_head_is_refused_at_opening() {
    let dir = closed(20).await;
    damage_record(&dir, 17);
    let message = refused(&dir);
    assert!(message.contains("the event at position 17") && message.contains("checksum"), "{message}");
}

#[tokio::test]
async fn a_damaged_record_far_from_the_head_is_refused_where_it_is_read() {
    let dir = closed(1_100).await;
    damage_record(&dir, 7);
    let store = RocksStore::open(dir.path()).unwrap();
    let by_stream: StreamId = "s-6".parse().unwrap();
    for (way, answer) in [
        ("the log", store.log(ReadLog::all()).try_collect::<Vec<_>>().await),
        ("its stream", store.stream(indelible_core::ReadStream::new(by_stream)).try_collect().await),
        ("its token", store.token(Position::new(7)).await.map(|_| Vec::new())),
    ] {
        let error = answer.expect_err(way);
        assert!(matches!(error, StoreError::Corrupted { .. }), "{way}: {error:?}");
        assert!(error.to_string().contains("position 7"), "{way}: {error}");
    }
    let others: Vec<_> = store.log(ReadLog::all().from(Position::new(8))).try_collect().await.unwrap();
    assert_eq!(others.len(), 1_093);
    write(&store, 1).await; // and one damaged event stops no writer
}

#[tokio::test]
async fn a_record_under_anothers_key_is_refused() {
    let dir = closed(20).await;
    below(&dir, |db| {
        let other = db.get(record(3)).unwrap().unwrap();
        db.put(record(18), other).unwrap();
    });
    let message = refused(&dir);
    assert!(message.contains("position 18") && message.contains("the record of position 3"), "{message}");
}

#[tokio::test]
async fn a_hole_is_refused() {
    let dir = closed(20).await;
    below(&dir, |db| db.delete(record(15)).unwrap());
    assert!(refused(&dir).contains("the event at position 15 is missing"));
}

#[tokio::test]
async fn a_log_without_its_beginning_is_refused() {
    let dir = closed(20).await;
    below(&dir, |db| (1..=4).for_each(|position| db.delete(record(position)).unwrap()));
    assert!(refused(&dir).contains("positions 1 to 4 are missing"));
}

#[tokio::test]
async fn an_event_that_no_index_holds_is_refused() {
    let dir = closed(20).await;
    let store = RocksStore::open(dir.path()).unwrap();
    let id = store.head().await.unwrap().event;
    store.close().await.unwrap();
    below(&dir, |db| db.delete([b"i".as_slice(), id.as_uuid().as_bytes()].concat()).unwrap());
    assert!(refused(&dir).contains("the index of event ids does not hold position 20"));
}

/// A snapshot is a cache: a damaged one is none, and the next takes its place.
#[tokio::test]
async fn a_damaged_snapshot_is_none() {
    let dir = closed(1).await;
    let snapshot = |data: &'static str| Snapshot {
        stream: "s-0".parse().unwrap(),
        version: Version::FIRST,
        event_id: EventId::new(),
        fingerprint: Fingerprint::of(["state"]),
        taken_at: Timestamp::now(),
        content_type: ContentType::JSON,
        data: data.into(),
    };
    let (first, second) = (snapshot("{}"), snapshot("[]"));
    let store = RocksStore::open(dir.path()).unwrap();
    store.save_snapshot(first.clone()).await.unwrap();
    assert_eq!(store.load_snapshot(&first.stream).await.unwrap(), Some(first.clone()));
    store.close().await.unwrap();
    below(&dir, |db| {
        let mut value = db.get("ps-0").unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put("ps-0", value).unwrap();
    });
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.load_snapshot(&first.stream).await.unwrap(), None);
    store.save_snapshot(second.clone()).await.unwrap();
    assert_eq!(store.load_snapshot(&first.stream).await.unwrap(), Some(second));
}

#[tokio::test]
async fn one_changed_bit_in_the_write_ahead_log_is_refused() {
    let mut random = StdRng::seed_from_u64(11);
    for trial in 0..10 {
        let dir = closed(40).await;
        let wal = write_ahead_log(dir.path());
        let mut bytes = fs::read(&wal).unwrap();
        // Behind the first append, before the last: what is torn at the very end is another matter.
        let at = random.random_range(bytes.len() / 4..bytes.len() * 3 / 4);
        bytes[at] ^= 1 << random.random_range(0..8);
        fs::write(&wal, &bytes).unwrap();
        refused(&dir);
        assert_eq!(fs::read(&wal).unwrap(), bytes, "trial {trial}: a refused file is left as it is");
    }
}

/// What a power cut may do to a write that was under way: nobody was told that it is there.
#[tokio::test]
async fn a_torn_last_append_is_forgiven() {
    let dir = closed(0).await;
    let store = RocksStore::open(dir.path()).unwrap();
    for _ in 0..20 {
        write(&store, 1).await;
    }
    store.close().await.unwrap();
    let wal = write_ahead_log(dir.path());
    let file = fs::File::options().write(true).open(&wal).unwrap();
    file.set_len(file.metadata().unwrap().len() - 10).unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.head().await.unwrap().position, Position::new(19));
    write(&store, 1).await;
    assert_eq!(store.log(ReadLog::all()).try_collect::<Vec<_>>().await.unwrap().len(), 20);
}

/// The longest: opening has left others behind, which are empty.
fn write_ahead_log(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_lost_current_file_is_refused_and_nothing_deleted() {
    let dir = closed(20).await;
    let current = dir.path().join("CURRENT");
    let kept = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    assert!(refused(&dir).contains("CURRENT is missing"));
    fs::write(&current, kept).unwrap();
    assert_eq!(RocksStore::open(dir.path()).unwrap().head().await.unwrap().position, Position::new(20));
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = closed(1).await;
    below(&dir, |db| db.put("mformat", 2_u32.to_be_bytes()).unwrap());
    let error = RocksStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{error:?}");
}

#[test]
fn other_peoples_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    assert!(matches!(RocksStore::open(dir.path()), Err(OpenError::NotAStore { .. })));

    let dir = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    rocksdb::DB::open(&options, dir.path()).unwrap().put("theirs", "").unwrap();
    assert!(matches!(RocksStore::open(dir.path()), Err(OpenError::NotAStore { .. })));
}

/// A log that lost its end would give the same positions to other events, and the reader would never see them.
#[tokio::test]
async fn a_log_behind_a_checkpoint_is_refused() {
    let dir = closed(20).await;
    let store = RocksStore::open(dir.path()).unwrap();
    let head = store.head().await.unwrap();
    store.save_checkpoint("reader", head).await.unwrap();
    store.close().await.unwrap();
    RocksStore::open(dir.path()).expect("a checkpoint at the head is well").close().await.unwrap();

    let ahead = Token { position: head.position.plus(1), event: EventId::new(), ..head };
    let other = Token { event: EventId::new(), ..head };
    for token in [ahead, other] {
        below(&dir, |db| {
            let text = token.to_string();
            let value = [&[1], crc32fast::hash(text.as_bytes()).to_le_bytes().as_slice(), text.as_bytes()].concat();
            db.put("kreader", value).unwrap();
        });
        match RocksStore::open(dir.path()) {
            Err(OpenError::Diverged { reader, token: found, head: at, .. }) => {
                assert_eq!((reader.as_str(), found, at), ("reader", token, head.position));
            }
            other => panic!("must be refused as diverged, got {other:?}"),
        }
    }
}
