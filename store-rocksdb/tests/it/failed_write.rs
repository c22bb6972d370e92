//! A failed write or sync: the first is the last.
//!
//! The faults: a file may not grow beyond a size (`RLIMIT_FSIZE`), so that a write to the write-ahead log fails in the
//! middle of a load, as with a full disk; or one sync fails (`EIO`) where the next would say yes again. Whatever was handed over behind that is answered with *stopped*, reads go on,
//! and when the store is opened again without the limit, all that was acknowledged is there, and each append without an
//! answer is there once and whole, or not at all; sent again, it is there once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use indelible_core::{
    AppendOutcome, CheckpointStore, Delivery, EventStore, Filter, StartFrom, StoreError, Subscription,
};
use indelible_rocksdb::RocksStore;

use crate::{
    child::{Running, can_trace, command, say},
    kill::{Journal, append},
};

const WRITERS: u64 = 8;

/// The child: says how each append ended.
pub(crate) async fn write_until_it_fails(store: RocksStore) {
    let has_failed = Arc::new(AtomicBool::new(false));
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Now).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let (store, has_failed) = (store.clone(), Arc::clone(&has_failed));
        tokio::spawn(async move {
            let mut left = 5;
            for n in 0.. {
                let failed_before = has_failed.load(SeqCst);
                let outcome = store.append(append(0, writer, n)).await;
                if outcome.is_err() {
                    has_failed.store(true, SeqCst);
                    left -= 1;
                }
                match outcome {
                    Ok(AppendOutcome::Appended(done)) => {
                        assert!(!failed_before, "acknowledged after a failure");
                        say(&format!("done {writer} {n} {}", done.events[0].position));
                    }
                    Err(StoreError::OutcomeUnknown { append: returned, source }) => {
                        assert_eq!(*returned, append(0, writer, n), "the append comes back");
                        assert!(source.unwrap().to_string().contains("a write failed"));
                        assert!(!failed_before, "handed over after a failure");
                        say(&format!("unknown {writer} {n}"));
                    }
                    Err(StoreError::Stopped { .. }) => say(&format!("stopped {writer} {n}")),
                    other => panic!("append {n} of writer {writer}: {other:?}"),
                }
                if left == 0 {
                    break;
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
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
    assert!(matches!(store.close().await, Err(StoreError::Stopped { .. })));
    say(&format!("head {head}"));
}

#[test]
fn the_first_failed_write_is_the_last_write() {
    // 512 blocks of 512 bytes or of 1 KiB, as the shell has it; the signal is ignored, so that the write fails.
    writes_until_it_fails(&["sh", "-c", "trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\""]);
}

#[test]
fn the_first_failed_sync_is_the_last_write() {
    if can_trace() {
        let inject = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=20"];
        writes_until_it_fails(&[&["strace", "-f", "-qq", "-o", "/dev/null"][..], &inject].concat());
    }
}

fn writes_until_it_fails(through: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Running::start(command("starve", dir.path(), through));
    let mut appends = HashMap::new();
    let (mut unknown, mut stopped, mut head) = (Vec::new(), 0, 0);
    while let Some(line) = child.line() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[0] {
            "done" => drop(appends.insert((0, number(1), number(2)), Some(number(3)))),
            "unknown" => {
                appends.insert((0, number(1), number(2)), None);
                unknown.push((number(1), number(2)));
            }
            "stopped" => stopped += 1,
            "head" => head = number(1),
            _ => panic!("the child said {line}"),
        }
    }
    assert!(child.succeeds(), "the child");
    let journal = Journal::of(appends);
    let found = journal.compare(dir.path());
    println!("a write failed behind position {head}: {found}; {stopped} later appends refused");
    assert!(found.is_clean(), "{found}\n{}", found.first);
    assert!(!unknown.is_empty() && stopped >= 4 * WRITERS && found.acknowledged > 0, "the fault did not happen");

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    runtime.block_on(async {
        for (writer, n) in unknown {
            let outcome = store.append(append(0, writer, n)).await;
            assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "sent again: {outcome:?}");
        }
    });
    drop(store);
    let found = journal.compare(dir.path());
    assert!(found.is_clean() && found.unknown == found.unknown_written, "sent again: {found}\n{}", found.first);
}
