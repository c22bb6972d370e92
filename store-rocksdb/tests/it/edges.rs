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

use crate::damage::below;

/// One event more, to a stream; its data tells where it lies in a file.
async fn write(store: &RocksStore, stream: &str, data: impl Into<bytes::Bytes>) {
    let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, data)
        .with_tags([Tag::of("kind", "edge").unwrap()]);
    let outcome = store.append(Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event])).await;
    assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
}

pub(crate) fn tables(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

/// The block of a table with the end of the log is damaged: the search for the head fails, and must not be taken for a
/// log that holds nothing, whose positions would be given again.
#[tokio::test]
async fn a_damaged_end_of_the_log_is_not_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    // Of bytes that can't be compressed, so that they stand in the table as they are.
    let data = || rand::random_iter().take(5_000).collect::<Vec<u8>>();
    futures::future::join_all((0..50).map(|_| write(&store, "s-1", data()))).await;
    let last = store.head().await.unwrap();
    assert_eq!(last.position, Position::new(50));
    let data = store.event(last.event).await.unwrap().unwrap().data;
    store.close().await.unwrap();

    let mut hits = 0;
    for table in tables(&dir.path().join("log")) {
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

/// A log whose records are all gone, and its indexes not, is not an empty one.
#[tokio::test]
async fn a_log_without_its_records_is_not_an_empty_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    write(&store, "s-1", "1").await;
    store.close().await.unwrap();
    below(dir.path(), "log", &["default", "state"], |db| db.delete(1_u64.to_be_bytes()).unwrap());
    let Err(OpenError::Corrupted { what, .. }) = RocksStore::open(dir.path()) else { panic!("must be refused") };
    assert_eq!(what, "the event at position 1 is missing");
}

/// A hole in a stream's index is an error whichever way the stream is read, also at its first version.
#[tokio::test]
async fn a_stream_without_its_beginning_is_not_a_shorter_stream() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    for n in 0..3 {
        write(&store, "s-1", n.to_string()).await;
    }
    store.close().await.unwrap();
    let chunk = [b"ss-1\0".as_slice(), &3_u64.to_be_bytes()].concat();
    below(dir.path(), "index", &["default", "snapshots"], |db| {
        assert!(db.get(&chunk).unwrap().is_some());
        db.delete(&chunk).unwrap();
    });
    let store = RocksStore::open(dir.path()).unwrap();
    let stream: StreamId = "s-1".parse().unwrap();
    for read in [ReadStream::new(stream.clone()), ReadStream::new(stream).backwards()] {
        let answer = store.read_stream(&read).await;
        assert!(matches!(answer, Err(StoreError::Corrupted { .. })), "{:?}: {answer:?}", read.direction);
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
    write(&store, "s-1", "1").await;
    assert!(!store.published().has_changed().unwrap());
}

/// Whoever reads while the store is being closed gets an answer, or is told that it was closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_until_a_store_is_closed() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        for n in 0..40 {
            write(&store, &format!("s-{n}"), vec![b'x'; 100_000]).await;
        }
        let readers: Vec<_> = (0..4)
            .map(|n| {
                let (store, stream) = (store.clone(), format!("s-{n}").parse().unwrap());
                tokio::spawn(async move {
                    loop {
                        match store.stream_head(&stream).await {
                            Ok(head) => assert_eq!(head.version.get(), 1),
                            Err(StoreError::Stopped { .. }) => return,
                            Err(error) => panic!("{error:?}"),
                        }
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        store.close().await.unwrap();
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
