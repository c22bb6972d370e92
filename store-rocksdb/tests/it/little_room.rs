//! Little room on the disk.
//!
//! The fault: a process was killed before what it wrote was indexed, and the disk has so many bytes of room when the store is
//! opened, from none to enough, in small steps. It opens each time, if only to be read, all is there, and it goes on when
//! there is room again.
//!
//! Needs root.

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, ContentType, EventStore, EventStoreExt, EventType, ExpectedVersion, NewEvent, ReadStream,
    Tag,
};
use indelible_rocksdb::RocksStore;

use crate::{
    child::skip,
    conformance::copy_files,
    disk::{Below, Disk, FileSystem, lacks},
    full_disk::{fill, free},
};

const MIB: u64 = 48;

#[test]
fn a_store_opens_with_whatever_room_there_is() {
    const EVENTS: usize = 600;
    const STEP: u64 = 32 << 10;
    if let Some(lack) = lacks(FileSystem::Tmpfs, Below::Loop) {
        skip(&lack);
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let written = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let store = RocksStore::open(written.path()).unwrap();
        append(&store, EVENTS).await;
        copy_files(written.path(), killed.path());
    });
    let options = || RocksStore::options().segment_bytes(4_000);
    let mut full = 0;
    let is_enough = |leave: u64| {
        let disk = Disk::new(FileSystem::Tmpfs, Below::Loop, MIB);
        let dir = disk.mounted().join("store");
        copy_files(killed.path(), &dir);
        fill(&disk, leave);
        let store = options().open(&dir).unwrap_or_else(|error| panic!("with {leave} bytes of room: {error:?}"));
        let is_stopped = store.statistics().is_stopped;
        runtime.block_on(async {
            let stream = ReadStream::new("s-1".parse().unwrap());
            let events: Vec<_> = store.stream(stream).try_collect().await.unwrap();
            assert_eq!(events.len(), EVENTS, "with {leave} bytes of room");
            free(&disk, u64::MAX);
            store.resume().await.unwrap();
            append(&store, 1).await;
            let found = store.verify(|_| {}).await.unwrap();
            assert!(found.is_clean(), "with {leave} bytes of room: {:?}", found.problems);
        });
        !is_stopped
    };
    while !is_enough(full * STEP) {
        full += 1;
    }
    let enough = full * STEP / 1024;
    println!("{EVENTS} events not indexed: opened {full} times to be read, and to be written with {enough} KiB");
    assert!(full > 2, "it was full {full} times");
}

async fn append(store: &RocksStore, events: usize) {
    for n in 0..events {
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
        let event = event.with_tags([Tag::of("n", n).unwrap()]);
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, [event]);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
}
