//! Edges: where one unread status, one missing key or one process too many would make a store tell what is not so.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use indelible_core::{
    Append, AppendOutcome, ContentType, EventStore, EventType, ExpectedVersion, NewEvent, Position, ReadStream,
    StoreError, StreamId, Tag,
};
use indelible_rocksdb::{OpenError, RocksStore};

/// One event more, to a stream; its data tells where it lies in a file.
async fn write(store: &RocksStore, stream: &str, data: String) {
    let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, data)
        .with_tags([Tag::of("kind", "edge").unwrap()]);
    let outcome = store.append(Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event])).await;
    assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
}

fn tables(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

/// The block of a table with the end of the log is damaged: the search for the head fails, and must not be taken for a
/// log that holds nothing, whose positions would be given again.
#[tokio::test]
async fn a_damaged_end_of_the_log_is_not_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    futures::future::join_all((0..50).map(|n| write(&store, "s-1", format!("\"event {n:04} {}\"", "x".repeat(5_000)))))
        .await;
    let last = store.head().await.unwrap();
    assert_eq!(last.position, Position::new(50));
    let data = store.event(last.event).await.unwrap().unwrap().data;
    store.close().await.unwrap();
    RocksStore::open(dir.path()).unwrap().close().await.unwrap(); // which moves the write-ahead log to a table

    let mut hits = 0;
    for table in tables(dir.path()) {
        let mut bytes = fs::read(&table).unwrap();
        if let Some(at) = bytes.windows(data.len()).position(|window| window == &data[..]) {
            bytes[at + 20] ^= 1;
            fs::write(&table, bytes).unwrap();
            hits += 1;
        }
    }
    assert_eq!(hits, 1, "the last event lies in one table");
    match RocksStore::open(dir.path()) {
        Err(OpenError::Corrupted { .. }) => {}
        Err(other) => panic!("must be refused as corrupted, not {other:?}"),
        Ok(store) => panic!("opened with the head at {}", store.head().await.unwrap()),
    }
}

/// Works on the keys below the store.
fn below(dir: &Path, work: impl FnOnce(&rocksdb::DB)) {
    work(&rocksdb::DB::open_default(dir).unwrap());
}

/// A log whose records are all gone, and its indexes not, is not an empty one.
#[tokio::test]
async fn a_log_without_its_records_is_not_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, "s-1", "1".into()).await;
    store.close().await.unwrap();
    below(dir.path(), |db| db.delete([b"l".as_slice(), &1_u64.to_be_bytes()].concat()).unwrap());
    let Err(OpenError::Corrupted { what, .. }) = RocksStore::open(dir.path()) else { panic!("must be refused") };
    assert_eq!(what, "the log is empty, the index of event ids is not");
}

/// A hole in a stream's index is an error whichever way the stream is read, also at its first version.
#[tokio::test]
async fn a_stream_without_its_beginning_is_not_a_shorter_stream() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    for n in 0..3 {
        write(&store, "s-1", n.to_string()).await;
    }
    for n in 0..1_000 {
        write(&store, "other-1", n.to_string()).await; // so that opening doesn't look as far back
    }
    store.close().await.unwrap();
    below(dir.path(), |db| db.delete([b"ss-1\0".as_slice(), &1_u64.to_be_bytes()].concat()).unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    let stream: StreamId = "s-1".parse().unwrap();
    for read in [ReadStream::new(stream.clone()), ReadStream::new(stream).backwards()] {
        let answer = store.read_stream(&read).await;
        assert!(matches!(answer, Err(StoreError::Corrupted { .. })), "{:?}: {answer:?}", read.direction);
    }
}

/// What conditions are judged by is proved at opening, as the events are.
#[tokio::test]
async fn an_event_that_is_missing_in_an_index_of_queries_is_refused() {
    for (kind, name) in [("c", "s"), ("t", "s\0Written"), ("g", "kind:edge")] {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        for n in 0..3 {
            write(&store, "s-1", n.to_string()).await;
        }
        store.close().await.unwrap();
        let key = [kind.as_bytes(), name.as_bytes(), b"\0", &2_u64.to_be_bytes()].concat();
        below(dir.path(), |db| {
            assert!(db.get(&key).unwrap().is_some());
            db.delete(&key).unwrap();
        });
        match RocksStore::open(dir.path()) {
            Err(error @ OpenError::Corrupted { .. }) => assert!(error.to_string().contains("position 2"), "{error}"),
            other => panic!("the index {kind} lacks position 2: {other:?}"),
        }
    }
}

/// A process that is being started holds a copy of every open file for a moment, the lock's too. A store that is closed
/// is free all the same.
#[test]
fn a_closed_store_is_free_while_processes_are_started() {
    let dir = tempfile::tempdir().unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
        }
        let locked = (0..30).find_map(|n| RocksStore::open(dir.path()).err().map(|error| (n, error)));
        is_over.store(true, Relaxed);
        assert!(locked.is_none(), "{locked:?}");
    });
}

/// Who asks for the published head and waits for a change waits for the next one, not for all since the opening.
#[tokio::test]
async fn what_was_published_before_is_no_change() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, "s-1", "1".into()).await;
    assert!(!store.published().has_changed().unwrap());
}
