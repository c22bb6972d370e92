//! One process opens a store at a time, and only once.

use indelible_rocksdb::{OpenError, RocksStore};

use crate::child::{Running, command};

#[test]
fn a_second_opening_is_refused_with_the_path_and_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let error = RocksStore::open(dir.path()).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is open already, in this process", dir.path().display()));
    drop(store);
    RocksStore::open(dir.path()).expect("the lock is free again");
}

#[test]
fn another_name_of_the_directory_does_not_help() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("store"), &link).unwrap();
    let _store = RocksStore::open(dir.path().join("store")).unwrap();
    assert!(matches!(RocksStore::open(&link), Err(OpenError::Locked { .. })));
}

#[test]
fn another_process_holds_it_until_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = Running::start(command("hold", dir.path(), &[]));
    assert_eq!(holder.line().as_deref(), Some("open"));
    match RocksStore::open(dir.path()) {
        Err(OpenError::Locked { path, owner }) => {
            assert_eq!((path.as_path(), owner), (dir.path(), Some(holder.pid())));
        }
        other => panic!("must be refused, got {other:?}"),
    }
    drop(holder); // with SIGKILL
    RocksStore::open(dir.path()).expect("the lock died with its process");
}

#[tokio::test]
async fn a_closed_store_frees_the_directory_though_handles_remain() {
    use indelible_core::{EventStore, StoreError};

    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let other = store.clone();
    let mut published = other.published();
    store.close().await.unwrap();
    store.close().await.expect("closing twice is no harm");
    let _again = RocksStore::open(dir.path()).unwrap();
    assert!(matches!(other.head().await, Err(StoreError::Stopped { .. })));
    assert!(published.changed().await.is_err(), "subscriptions end");
}
