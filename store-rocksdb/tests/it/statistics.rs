//! What a store says of itself: how many streams there are, and that it has stopped.

use std::{fs, path::Path, time::Duration};

use indelible_core::{
    Append, AppendOutcome, ContentType, Delivery, EventStore, EventType, ExpectedVersion, Filter, NewEvent, StartFrom,
    StoreError, Subscription,
};
use indelible_rocksdb::RocksStore;

use crate::conformance::copy_files;

/// Opens a store that moves each group into the index.
fn open(dir: &Path) -> RocksStore {
    RocksStore::options().segment_bytes(1).open(dir).unwrap()
}

async fn write(store: &RocksStore, streams: std::ops::Range<u64>) {
    for stream in streams {
        let events = [0, 1].map(|_| NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}"));
        let append = Append::to(format!("s-{stream}").parse().unwrap(), ExpectedVersion::Any, events);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
}

#[tokio::test]
async fn streams_are_counted_wherever_they_are_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.statistics().streams, 0);
    write(&store, 0..7).await;
    write(&store, 3..9).await;
    assert_eq!(store.statistics().streams, 9, "in memory");
    assert!(store.statistics().open_for > Duration::ZERO);
    store.close().await.unwrap();
    let store = open(dir.path());
    assert_eq!(store.statistics().streams, 9, "from the index");
    write(&store, 5..20).await;
    assert_eq!(store.statistics().streams, 20, "in both");
    let killed = tempfile::tempdir().unwrap();
    copy_files(dir.path(), killed.path());
    let again = open(killed.path());
    assert_eq!(again.statistics().streams, 20, "after a kill");
    again.rebuild_indexes().await.unwrap();
    assert_eq!(again.statistics().streams, 20, "rebuilt");
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.statistics().streams, 20, "made anew");
    for store in [store, again] {
        let found = store.verify(|_| {}).await.unwrap();
        assert!(found.is_clean() && found.streams == 20, "{:?}", found.problems);
    }
}

/// A store that can't go on says so, and ends subscriptions, also where nothing more is written.
#[tokio::test]
async fn a_store_that_stopped_itself_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    assert!(matches!(subscription.next().await, Ok(Delivery::CaughtUp(_))));
    assert!(!store.statistics().is_stopped);
    // What is moved into the index has no place.
    let in_the_way = dir.path().join("ingest");
    fs::write(&in_the_way, "").unwrap();
    write(&store, 0..1).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Err(error) = subscription.next().await {
                break error;
            }
        }
    });
    let error = ended.await.expect("it ends");
    assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
    assert!(store.statistics().is_stopped);
    fs::remove_file(in_the_way).unwrap();
    store.resume().await.unwrap();
    assert!(!store.statistics().is_stopped);
    write(&store, 1..2).await;
    assert!(matches!(subscription.next().await, Ok(Delivery::Event(_) | Delivery::CaughtUp(_))));
    store.close().await.unwrap();
    assert!(store.statistics().is_stopped);
}
