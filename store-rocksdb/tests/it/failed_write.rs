//! A failed write or sync: the first is the last.
//!
//! The faults: a file may not grow beyond a size (`RLIMIT_FSIZE`), so that a write to the write-ahead log fails in the
//! middle of a load, as with a full disk; or one sync fails (`EIO`) where the next would say yes again. Whatever was handed
//! over behind that is answered with *stopped*, reads go on, and when the store is opened again without the limit, all that was acknowledged is there, and each append without an
//! answer is there once and whole, or not at all; sent again, it is there once.

use std::sync::Arc;

use indelible_core::{
    CheckpointStore, Delivery, EventStore, Filter, SnapshotStore, StartFrom, StoreError, Subscription,
    conformance::fault::{Journal, Line, Work},
};
use indelible_rocksdb::RocksStore;

use crate::{
    child::{Running, can_trace, command, say},
    judge::verify,
};

const WRITERS: u64 = 8;

/// The child: writes until a write fails, a little longer, and asks for all else.
pub(crate) async fn write_until_it_fails(store: RocksStore) {
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Now).await.unwrap();
    let work = Work { cycle: 0, writers: WRITERS, appends: u64::MAX, weakly: false, again: Vec::new() };
    work.run(store.clone(), Arc::new(say)).await;
    let token = store.head().await.expect("reads go on");
    let head = token.position;
    let mut seen = 0;
    let ended = loop {
        match subscription.next().await {
            Ok(Delivery::Event(event)) => seen = event.position.get(),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(seen, head.get(), "a subscription delivers all that is published");
    assert!(matches!(ended, StoreError::Stopped { .. }), "and ends: {ended:?}");
    assert!(matches!(store.save_checkpoint("reader", token).await, Err(StoreError::Stopped { .. })));
    assert!(matches!(store.delete_snapshot(&"a-1".parse().unwrap()).await, Err(StoreError::Stopped { .. })));
    // It reads on.
    assert!(matches!(store.rebuild_indexes().await, Err(StoreError::Stopped { .. })));
    assert_eq!(store.head().await.unwrap(), token);
    assert!(matches!(store.close().await, Err(StoreError::Stopped { .. })));
    say(&format!("head {head}"));
}

#[test]
fn the_first_failed_write_is_the_last_write() {
    // 512 blocks of 512 bytes or of 1 KiB, as the shell has it; the signal is ignored, so that the write fails.
    writes_until_it_fails("a write failed", &["sh", "-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\""]);
}

#[test]
fn the_first_failed_sync_is_the_last_write() {
    if can_trace() {
        let inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=20"];
        writes_until_it_fails("a sync failed", &[&["strace", "-f", "-qq", "-o", "/dev/null"][..], &inject].concat());
    }
}

fn writes_until_it_fails(fault: &str, through: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Running::start(command("starve", dir.path(), through));
    let mut journal = Journal::default();
    let mut head = None;
    while let Some(line) = child.line() {
        match line.strip_prefix("head ") {
            Some(number) => head = Some(number.to_owned()),
            None => journal.take(&line, true),
        }
    }
    assert!(child.succeeds(), "the child");
    let told = |word: &str| journal.errors.iter().filter(|line| line.starts_with(word)).count() as u64;
    let verdict = verify(dir.path(), &journal);
    println!("a write failed behind position {head:?}: {verdict}; {} later appends refused", told("stopped"));
    assert!(verdict.is_clean(), "{verdict}");
    assert!(told("unknown") > 0 && told("stopped") >= WRITERS && verdict.acknowledged > 0, "no fault: {journal:?}");
    let controls = format!("{} later appends refused", told("stopped"));
    Line::new(fault, 1, 1, &verdict, &controls).print();
}
