//! Many short sessions: each leaves small tables behind, which are made one.

use std::{fs, path::Path};

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, ContentType, EventStore, EventStoreExt, EventType, ExpectedVersion, NewEvent, Position,
    ReadLog, StoreError,
};
use indelible_rocksdb::{Durability, RocksStore};
use rand::{RngCore, SeedableRng, rngs::StdRng};

use crate::{conformance::copy_files, edges::tables};

/// Opens the store, appends so many events of so many bytes, and closes it, so many times.
async fn sessions(dir: &Path, sessions: u64, events: u64, bytes: usize) {
    let mut random = StdRng::seed_from_u64(sessions);
    for _ in 0..sessions {
        let store = RocksStore::options().durability(Durability::Buffered).open(dir).unwrap();
        let events = (0..events).map(|_| {
            let mut data = vec![0; bytes];
            random.fill_bytes(&mut data);
            NewEvent::new(EventType::from_static("Written"), ContentType::from_static("bytes"), data)
        });
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, events);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn many_sessions_leave_few_tables() {
    let dir = tempfile::tempdir().unwrap();
    sessions(dir.path(), 1, 20, 10_000).await;
    sessions(dir.path(), 1, 1_200, 1).await;
    sessions(dir.path(), 60, 1, 100).await;
    let (log, index) = (dir.path().join("log"), dir.path().join("index"));
    assert!(tables(&log).len() > 60, "each session leaves one: {}", tables(&log).len());
    let damaged = tempfile::tempdir().unwrap();
    copy_files(dir.path(), damaged.path());
    sessions(dir.path(), 10, 1, 100).await;
    println!("72 sessions: {} tables of the log, {} of the index", tables(&log).len(), tables(&index).len());
    assert!(tables(&log).len() < 20 && tables(&index).len() < 20);
    let store = RocksStore::open(dir.path()).unwrap();
    let found = store.verify(|_| {}).await.unwrap();
    assert!(found.is_clean() && found.events == 1_290, "{:?}", found.problems);

    // Where one of them can't be read, they stay as they are, and the store is opened and written to all the same.
    let table = tables(&damaged.path().join("log")).into_iter().max_by_key(|path| path.metadata().unwrap().len());
    let table = table.unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&table, bytes).unwrap();
    sessions(damaged.path(), 10, 1, 100).await;
    let store = RocksStore::open(damaged.path()).unwrap();
    assert_eq!(store.head().await.unwrap().position, Position::new(1_290));
    let behind: Vec<_> = store.log(ReadLog::all().from(Position::new(21))).try_collect().await.unwrap();
    assert_eq!(behind.len(), 1_270);
    let all = store.log(ReadLog::all()).try_collect::<Vec<_>>().await;
    assert!(matches!(all, Err(StoreError::Corrupted { .. })), "{all:?}");
}
