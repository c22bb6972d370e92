//! Damaged files: what is stored is not what was written. It is refused, with its position, and never repaired or
//! deleted in silence.
//!
//! The fault: bytes changed or cut in files, or values changed below the store, where RocksDB's own checksums are right.
//! What no check at opening can notice: damage far from the head, which is found where it is read.

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
use indelible_rocksdb::{Durability, OpenError, RocksStore};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use crate::{conformance::copy_files, edges::tables, reader::anchor, verification::prove};

/// A closed store of so many appends, each of one event to one of ten streams, in a block of its own.
async fn closed(appends: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    write(&store, appends).await;
    store.close().await.unwrap();
    dir
}

/// What a kill leaves of the same, all of it in the write-ahead log.
async fn killed(appends: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, appends).await;
    let copy = tempfile::tempdir().unwrap();
    copy_files(dir.path(), copy.path());
    copy
}

async fn write(store: &RocksStore, appends: usize) {
    for n in 0..appends {
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, format!(r#"{{"n":{n}}}"#));
        let append = Append::to(format!("s-{}", n % 10).parse().unwrap(), ExpectedVersion::Any, [event]);
        let outcome = store.append(append).await;
        assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
    }
}

/// Works on a database below the store, and leaves it as if it had always been so: in tables that don't overlap.
pub(crate) fn below(dir: &Path, database: &str, families: &[&str], work: impl FnOnce(&rocksdb::DB)) {
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.join(database), families).unwrap();
    work(&db);
    db.flush().unwrap();
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
}

fn below_log(dir: &TempDir, work: impl FnOnce(&rocksdb::DB)) {
    below(dir.path(), "log", &["default", "state"], work);
}

/// What the store keeps in a frame of a version.
pub(crate) fn framed(version: u8, body: &[u8]) -> Vec<u8> {
    let checksum = crc32c::crc32c(&[&[version], body].concat());
    [&[version], checksum.to_le_bytes().as_slice(), body].concat()
}

/// A value in a frame, as a newer version would write it.
fn newer(value: &[u8]) -> Vec<u8> {
    framed(value[0] + 1, &value[5..])
}

/// A block whose head a newer version would write.
fn newer_block(value: &[u8]) -> Vec<u8> {
    let (length, rest) = value.split_at(4);
    let (head, entries) = rest.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
    [length, &newer(head), entries].concat()
}

/// Changes one byte in the middle of the block of a position.
fn damage_record(dir: &TempDir, position: u64) {
    below_log(dir, |db| {
        let mut value = db.get(position.to_be_bytes()).unwrap().unwrap();
        let middle = value.len() / 2;
        value[middle] ^= 1;
        db.put(position.to_be_bytes(), value).unwrap();
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
    below_log(&dir, |db| {
        let other = db.get(3_u64.to_be_bytes()).unwrap().unwrap();
        db.put(18_u64.to_be_bytes(), other).unwrap();
    });
    let message = refused(&dir);
    assert!(
        message.contains("position 18") && message.contains("the block of 1 events from position 3 on"),
        "{message}"
    );
}

#[tokio::test]
async fn a_hole_is_refused() {
    let dir = closed(20).await;
    below_log(&dir, |db| db.delete(15_u64.to_be_bytes()).unwrap());
    assert!(refused(&dir).contains("the event at position 15 is missing"));
}

#[tokio::test]
async fn a_log_without_its_beginning_is_refused() {
    let dir = closed(20).await;
    below_log(&dir, |db| (1..=4_u64).for_each(|position| db.delete(position.to_be_bytes()).unwrap()));
    assert!(refused(&dir).contains("positions 1 to 4 are missing"));
}

/// A snapshot is a cache: a damaged one is none, and the next takes its place.
#[tokio::test]
async fn a_damaged_snapshot_is_none() {
    let dir = closed(1).await;
    let snapshot = |data: Vec<u8>| Snapshot {
        stream: "s-0".parse().unwrap(),
        version: Version::FIRST,
        event_id: EventId::new(),
        fingerprint: Fingerprint::of(["state"]),
        taken_at: Timestamp::now(),
        content_type: ContentType::JSON,
        data: data.into(),
    };
    let (first, second) = (snapshot(b"{}".to_vec()), snapshot(b"[]".to_vec()));
    let store = RocksStore::open(dir.path()).unwrap();
    store.save_snapshot(first.clone()).await.unwrap();
    assert_eq!(store.load_snapshot(&first.stream).await.unwrap(), Some(first.clone()));
    store.close().await.unwrap();
    below(dir.path(), "index", &["default", "snapshots"], |db| {
        let snapshots = db.cf_handle("snapshots").unwrap();
        let mut value = db.get_cf(snapshots, "s-0").unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put_cf(snapshots, "s-0", value).unwrap();
    });
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.load_snapshot(&first.stream).await.unwrap(), None);
    store.save_snapshot(second.clone()).await.unwrap();
    assert_eq!(store.load_snapshot(&first.stream).await.unwrap(), Some(second.clone()));

    // The table that it is in may have rotted.
    let large = snapshot(rand::random_iter().take(100_000).collect());
    store.save_snapshot(large.clone()).await.unwrap();
    store.close().await.unwrap();
    below(dir.path(), "index", &["default", "snapshots"], |db| {
        db.flush_cf(db.cf_handle("snapshots").unwrap()).unwrap();
    });
    let tables = tables(&dir.path().join("index")).into_iter();
    let table = tables.max_by_key(|table| table.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&table).unwrap();
    bytes[50_000] ^= 1;
    fs::write(&table, bytes).unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.load_snapshot(&large.stream).await.unwrap(), None);
    store.save_snapshot(second.clone()).await.unwrap();
    assert_eq!(store.load_snapshot(&large.stream).await.unwrap(), Some(second));
}

/// What a kill leaves between RocksDB's taking a table into the index and its removing the table's old name.
#[tokio::test]
async fn a_second_name_of_a_table_is_not_written_over() {
    let dir = closed(20).await;
    let tables = tables(&dir.path().join("index"));
    let contents: Vec<_> = tables.iter().map(|table| fs::read(table).unwrap()).collect();
    for (table, name) in tables.iter().zip(["names.sst", "ids.sst"]) {
        fs::hard_link(table, dir.path().join("ingest").join(name)).unwrap();
    }
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, 20).await;
    store.close().await.unwrap();
    assert_eq!(tables.len(), 2);
    for (table, before) in tables.iter().zip(&contents) {
        assert!(fs::read(table).unwrap() == *before, "{} was written over", table.display());
    }
}

#[tokio::test]
async fn one_changed_bit_in_the_write_ahead_log_is_refused() {
    let mut random = StdRng::seed_from_u64(11);
    for trial in 0..10 {
        let dir = killed(40).await;
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
    let dir = loop {
        let dir = killed(20).await;
        // Where the machine is slow, the last append is anchored, and must not be torn.
        if anchor(dir.path()) < 20 {
            break dir;
        }
    };
    let wal = write_ahead_log(dir.path());
    let file = fs::File::options().write(true).open(&wal).unwrap();
    file.set_len(file.metadata().unwrap().len() - 10).unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.head().await.unwrap().position, Position::new(19));
    write(&store, 1).await;
    assert_eq!(store.log(ReadLog::all()).try_collect::<Vec<_>>().await.unwrap().len(), 20);
}

/// The longest: opening has left others behind, which are empty.
pub(crate) fn write_ahead_log(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

#[tokio::test]
async fn a_lost_current_file_is_refused_and_nothing_deleted() {
    let dir = closed(20).await;
    let current = dir.path().join("log/CURRENT");
    let kept = fs::read(&current).unwrap();
    fs::remove_file(&current).unwrap();
    assert!(refused(&dir).contains("CURRENT is missing"));
    fs::write(&current, kept).unwrap();
    assert_eq!(RocksStore::open(dir.path()).unwrap().head().await.unwrap().position, Position::new(20));
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = closed(1).await;
    below_log(&dir, |db| db.put_cf(db.cf_handle("state").unwrap(), "format", 2_u32.to_be_bytes()).unwrap());
    let error = RocksStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{error:?}");
    below_log(&dir, |db| db.put_cf(db.cf_handle("state").unwrap(), "format", 0_u32.to_be_bytes()).unwrap());
    assert!(refused(&dir).contains("its format version"));
}

/// Whole, and not to be understood: that is no damage, and none is reported. A changed version byte is.
#[tokio::test]
async fn what_a_newer_version_wrote_is_refused_as_such() {
    let dir = closed(1_100).await;
    let anchor = dir.path().join("anchor");
    let kept = fs::read(&anchor).unwrap();
    for slot in 0..2 {
        let mut bytes = kept.clone();
        let slot = &mut bytes[slot * 4096..][..4096];
        slot.copy_from_slice(&newer(slot));
        fs::write(&anchor, &bytes).unwrap();
        let error = RocksStore::open(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::NewerFormat { what, found: 2, .. } if what == "the anchor"), "{error:?}");
    }
    fs::write(&anchor, kept).unwrap();

    let change = |dir: &TempDir, position: u64, change: &dyn Fn(&[u8]) -> Vec<u8>| {
        below_log(dir, |db| {
            let value = db.get(position.to_be_bytes()).unwrap().unwrap();
            db.put(position.to_be_bytes(), change(&value)).unwrap();
        });
    };
    change(&dir, 7, &newer_block);
    let store = RocksStore::open(dir.path()).unwrap();
    let error = store.token(Position::new(7)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Stopped { reason } if reason.contains("newer version")), "{error:?}");
    drop(store);
    let dir = closed(20).await;
    change(&dir, 17, &newer_block);
    let error = RocksStore::open(dir.path()).unwrap_err();
    assert!(
        matches!(&error, OpenError::NewerFormat { what, found: 2, supported: 1, .. } if what.contains("17")),
        "{error:?}"
    );
    change(&dir, 17, &|value| [&value[..4], &[1], &value[5..]].concat());
    assert!(refused(&dir).contains("17"));
}

/// The index can be made again, so one that a newer version made is.
#[tokio::test]
async fn a_newer_index_is_made_anew() {
    let dir = closed(30).await;
    let mark = |work: &dyn Fn(&rocksdb::DB, Vec<u8>)| {
        below(dir.path(), "index", &["default", "snapshots"], |db| work(db, db.get("m").unwrap().unwrap()));
    };
    mark(&|db, value| {
        db.put("m", newer(&value)).unwrap();
        db.put("hs-1", "what only a newer version understands").unwrap();
    });
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.stream_head(&"s-1".parse().unwrap()).await.unwrap().version, Version::new(3));
    store.close().await.unwrap();
    mark(&|_, value| assert_eq!(value[0], 2));
}

/// The index of a log that went on, beside an older copy of that.
#[tokio::test]
async fn an_index_that_is_ahead_of_its_log_is_made_anew() {
    let dir = closed(20).await;
    let older = tempfile::tempdir().unwrap();
    copy_files(dir.path(), older.path());
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, 10).await;
    store.close().await.unwrap();
    fs::remove_dir_all(older.path().join("index")).unwrap();
    copy_files(&dir.path().join("index"), &older.path().join("index"));

    let store = RocksStore::open(older.path()).unwrap();
    assert_eq!(store.stream_head(&"s-1".parse().unwrap()).await.unwrap().version, Version::new(2));
    write(&store, 10).await;
    let read = store.stream(indelible_core::ReadStream::new("s-1".parse().unwrap()));
    let positions: Vec<_> = read.map_ok(|event| event.position.get()).try_collect().await.unwrap();
    assert_eq!(positions, [2, 12, 22], "with an index that was ahead");
    prove(&store).await;
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
        below_log(&dir, |db| {
            let text = token.to_string();
            let value = framed(1, text.as_bytes());
            db.put_cf(db.cf_handle("state").unwrap(), "checkpoint reader", value).unwrap();
        });
        match RocksStore::open(dir.path()) {
            Err(OpenError::Diverged { reader, token: found, head: at, .. }) => {
                assert_eq!((reader.as_str(), found, at), ("reader", token, head.position));
            }
            other => panic!("must be refused as diverged, got {other:?}"),
        }
    }
}

/// A manifest that is older than all tables says that there is nothing. RocksDB would delete them, and the log would be a new one.
#[tokio::test]
async fn a_log_without_its_identity_is_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let manifest = || {
        let mut names = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path());
        names.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST")).unwrap()
    };
    let store = RocksStore::open(dir.path()).unwrap();
    let early = fs::read(manifest()).unwrap();
    write(&store, 20).await;
    store.close().await.unwrap();
    let whole = fs::read(manifest()).unwrap();
    assert!(whole.starts_with(&early) && whole.len() > early.len());
    let before = tables(&log);
    assert!(!before.is_empty());
    for damaged in [&early[..], &whole[..early.len() + 3]] {
        fs::write(manifest(), damaged).unwrap();
        let refused = RocksStore::open(dir.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Corrupted { .. }), "{refused:?}");
        assert_eq!(tables(&log), before, "nothing is deleted");
    }
    fs::write(manifest(), &whole).unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.head().await.unwrap().position, Position::new(20));
    prove(&store).await;
}
