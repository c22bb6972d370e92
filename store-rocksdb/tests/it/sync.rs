//! Syncs, counted from outside: SIGKILL cannot show that the disk was asked, the system calls of the process can.
//!
//! The fault is an acknowledgement without a sync: before each of a lone caller's there must have been one since the last. Of
//! many callers it is counted how many share one.

use std::{collections::HashSet, fs, path::Path};

use indelible_core::conformance::fault::Line;
use indelible_core::{Append, AppendOutcome, ContentType, EventStore, EventType, ExpectedVersion, NewEvent};
use indelible_rocksdb::RocksStore;

use crate::child::{Running, can_trace, command, say};

const APPENDS_ALONE: u64 = 50;
const CALLERS: u64 = 256;
const APPENDS_EACH: u64 = 20;

async fn write_one(store: &RocksStore, stream: String) {
    let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
    let outcome = store.append(Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event])).await;
    assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
}

/// The child of one caller.
pub(crate) async fn write_alone(store: RocksStore) {
    say("ready");
    for n in 0..APPENDS_ALONE {
        write_one(&store, format!("alone-{n}")).await;
        say("acknowledged");
    }
    say("end");
}

/// The child of many callers.
pub(crate) async fn write_many(store: RocksStore) {
    say("ready");
    let callers = (0..CALLERS).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..APPENDS_EACH {
                write_one(&store, format!("many-{caller}")).await;
            }
        })
    });
    for caller in futures::future::join_all(callers).await {
        caller.unwrap();
    }
    say("end");
}

#[test]
fn a_lone_callers_every_acknowledgement_is_behind_a_sync_of_its_own() {
    let (Some(synced), Some(buffered)) = (trace("lone", &[]), trace("lone, buffered", &[])) else { return };
    println!("1 caller: {synced:?}; buffered: {buffered:?}");
    assert_eq!([synced.acknowledged, buffered.acknowledged], [APPENDS_ALONE; 2]);
    assert_eq!(synced.unsynced, 0, "acknowledged without a sync since the one before");
    assert!(synced.syncs >= APPENDS_ALONE);
    // The same count finds acknowledgements without syncs where there are some. The keeper syncs once a second, perhaps between
    // two of them.
    assert!(buffered.unsynced * 2 > APPENDS_ALONE, "{buffered:?}");
    let controls =
        format!("{} syncs; without syncs {} of {APPENDS_ALONE} appends are found", synced.syncs, buffered.unsynced);
    Line::clean("syncs counted", APPENDS_ALONE, APPENDS_ALONE, APPENDS_ALONE, &controls).print();
}

/// Once on this disk as it is, and once on one that takes 50 ms a sync: how many appends wait for the next sync depends on
/// how long the last one takes, and how quickly this machine sends them.
#[test]
fn many_callers_share_syncs() {
    const SLOW: &[&str] = &["-e", "inject=fdatasync:delay_exit=50000"];
    let appends = CALLERS * APPENDS_EACH;
    for (disk, options, share_min) in [("this disk", &[][..], 1), ("a slow disk", SLOW, 32)] {
        let Some(Trace { syncs, .. }) = trace("many", options) else { return };
        println!("{CALLERS} callers on {disk}: {appends} appends, {syncs} syncs, {} appends a sync", appends / syncs);
        assert!(syncs * share_min <= appends, "{disk}: {appends} appends took {syncs} syncs");
    }
}

/// What happened between a child's `ready` and its `end`.
#[derive(Debug, Default)]
struct Trace {
    syncs: u64,
    acknowledged: u64,
    /// Acknowledgements that no sync came before since the one before.
    unsynced: u64,
}

/// Runs a child under strace, where that can be.
fn trace(job: &str, options: &[&str]) -> Option<Trace> {
    if !can_trace() {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let calls = dir.path().join("calls");
    let mut strace = vec!["strace", "-f", "-y", "-qq", "-s", "64", "-e", "trace=fsync,fdatasync,writev"];
    strace.extend(options);
    strace.extend(["-o", calls.to_str().unwrap()]);
    let child = Running::start(command(job, &dir.path().join("store"), &strace));
    assert!(child.succeeds(), "the child of {job}");
    Some(parse(&calls))
}

fn parse(calls: &Path) -> Trace {
    let mut trace = Trace::default();
    let mut is_ready = false;
    let mut is_synced = false;
    // Threads whose sync of the write-ahead log has not returned yet.
    let mut syncing: HashSet<&str> = HashSet::new();
    let text = fs::read_to_string(calls).unwrap();
    for line in text.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        let call = call.trim_start();
        let says = |what: &str| call.starts_with("writev(") && call.contains(&format!(">{what}\\n"));
        let begins_sync = (call.starts_with("fdatasync(") || call.starts_with("fsync(")) && call.contains(".log>");
        let resumes_sync = call.starts_with("<... fdatasync resumed>") || call.starts_with("<... fsync resumed>");
        let returned = call.trim_end_matches(" (DELAYED)").ends_with("= 0");
        if begins_sync && !returned {
            syncing.insert(thread);
        }
        if returned && (begins_sync || (resumes_sync && syncing.remove(thread))) {
            is_synced = true;
            trace.syncs += u64::from(is_ready);
        }
        if says("ready") {
            (is_ready, is_synced) = (true, false);
        } else if says("acknowledged") {
            trace.acknowledged += 1;
            trace.unsynced += u64::from(!is_synced);
            is_synced = false;
        } else if says("end") {
            break;
        }
    }
    trace
}
