//! A slow disk, and callers that don't wait for it.
//!
//! The fault: each write to the disk takes 20 ms, and 256 callers hand over all they have. The queue takes so many bytes and
//! no more; a caller that finds no room in time is answered *overloaded*, and what it had is not written; reads and
//! other tasks go on; what was acknowledged is there.
//!
//! Needs root, a loop device, nbdkit and nbdfuse.

use std::{
    collections::HashSet,
    fs::File,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, ContentType, EventId, EventStore, EventStoreExt, EventType, ExpectedVersion, NewEvent,
    ReadLog, StoreError,
    conformance::fault::{Line, Verdict},
};
use indelible_rocksdb::RocksStore;

use crate::{
    child::skip,
    disk::{Disk, FileSystem, SLOW, lacks},
    verification::prove,
};

const FAULT: &str = "disk slow";
const CALLERS: u64 = 256;
const APPENDS_EACH: u64 = 8;
const EVENT_BYTES: usize = 2_000;
const QUEUE_BYTES: usize = 100_000;

#[derive(Default)]
struct Answers {
    done: Vec<EventId>,
    overloaded: Vec<EventId>,
}

async fn call(store: RocksStore, caller: u64) -> Answers {
    let mut answers = Answers::default();
    for _ in 0..APPENDS_EACH {
        let event =
            NewEvent::new(EventType::from_static("Written"), ContentType::from_static("bytes"), vec![7; EVENT_BYTES]);
        let id = event.id;
        let stream = format!("caller-{caller}").parse().unwrap();
        match store.append(Append::to(stream, ExpectedVersion::Any, [event])).await {
            Ok(AppendOutcome::Appended(_)) => answers.done.push(id),
            Err(StoreError::Overloaded { .. }) => answers.overloaded.push(id),
            other => panic!("on a slow disk: {other:?}"),
        }
    }
    answers
}

/// How long the control takes for a record.
fn plain_file(disk: &Disk) -> u128 {
    let mut file = File::create(disk.mounted().join("plain")).unwrap();
    let started = Instant::now();
    for _ in 0..5 {
        file.write_all(&[7; EVENT_BYTES]).and_then(|()| file.sync_data()).unwrap();
    }
    started.elapsed().as_millis() / 5
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_disk_makes_callers_wait_or_tells_them() {
    if let Some(lack) = lacks(FileSystem::Ext4, SLOW) {
        skip(&lack);
        return;
    }
    let disk = Disk::new(FileSystem::Ext4, SLOW, 64);
    let options = RocksStore::options().queue_bytes(QUEUE_BYTES).queue_wait(Duration::from_millis(60));
    let store = options.open(disk.mounted().join("store")).unwrap();
    let longest_us = Arc::new(AtomicU64::new(0));
    let (reader, longest) = (store.clone(), Arc::clone(&longest_us));
    let reads = tokio::spawn(async move {
        loop {
            let started = Instant::now();
            let read = ReadLog::all().backwards().limit(10);
            reader.log(read).try_collect::<Vec<_>>().await.expect("reads go on");
            longest.fetch_max(started.elapsed().as_micros() as u64, Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let callers = (0..CALLERS).map(|caller| tokio::spawn(call(store.clone(), caller)));
    let answers: Vec<Answers> = futures::future::try_join_all(callers).await.unwrap();
    reads.abort();
    let done: HashSet<EventId> = answers.iter().flat_map(|answers| answers.done.clone()).collect();
    let overloaded: Vec<EventId> = answers.iter().flat_map(|answers| answers.overloaded.clone()).collect();
    let log: Vec<EventId> = store.log(ReadLog::all()).map_ok(|event| event.id).try_collect().await.unwrap();
    let logged: HashSet<EventId> = log.iter().copied().collect();
    prove(&store).await;
    store.close().await.unwrap();

    let mut verdict = Verdict { acknowledged: done.len() as u64, ..Verdict::default() };
    verdict.lost = done.difference(&logged).count() as u64;
    if logged != done || log.len() != done.len() {
        verdict.wrong("refused, yet there", || format!("{} acknowledged, {} in the log", done.len(), log.len()));
    }
    let file_ms = plain_file(&disk);
    let longest = longest_us.load(Relaxed) / 1_000;
    let controls = format!(
        "{} answered overloaded; longest read {longest} ms; plain file: {file_ms} ms a record",
        overloaded.len()
    );
    println!("{FAULT}: {verdict}; {controls}");
    Line::new(FAULT, 1, 1, &verdict, &controls).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(file_ms >= 20, "the disk is not slow");
    // What the queue holds at first is written, however slow all is.
    let least = QUEUE_BYTES / EVENT_BYTES / 2;
    assert!(!overloaded.is_empty() && done.len() > least, "nothing was overloaded, or everything: {controls}");
    drop(disk);
}
