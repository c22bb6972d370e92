//! Kills of a writing process.
//!
//! The fault: SIGKILL at a random moment, while several tasks append, or while the store is opened or closed, over and over in one
//! directory; each process opens what the one before left. The kernel keeps running, so what was handed to it stays: that
//! acknowledged events were *synced* is shown by `sync`, and by the power cuts of `power`.
//!
//! `INDELIBLE_KILL_CYCLES` says how many times (60), `INDELIBLE_SEED` from which numbers.

use std::path::PathBuf;

use indelible_core::conformance::fault::Line;
use tempfile::TempDir;

use crate::{
    campaign::{Fault, Plan, number, run, seed},
    child::Running,
    control,
};

const FAULT: &str = "process killed";

/// The bugs that kills must find.
#[cfg(feature = "bugs")]
const BUGS: &[&str] = &["acknowledge-before-write", "reuse-positions", "mark-ahead", "forget-rebuild"];

struct Kill(TempDir);

impl Kill {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl Fault for Kill {
    fn dir(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn renew(&mut self) {
        *self = Self::new();
    }

    fn strike(&mut self, child: &mut Running) {
        child.kill();
    }

    fn recover(&mut self) {}

    // A process that is killed has asked for all that it has said.
    fn trusts_late_answers(&self) -> bool {
        true
    }
}

#[test]
fn kills_lose_nothing() {
    let plan = Plan::new(FAULT, number("INDELIBLE_KILL_CYCLES").unwrap_or(60), seed());
    let tally = run(&mut Kill::new(), &plan);
    let (records, lost) = control::run(&mut Kill::new(), 5);
    let buffered = Plan::new(FAULT, 6, plan.seed).suspect(None, indelible_rocksdb::Durability::Buffered);
    let unsynced = run(&mut Kill::new(), &buffered);
    let controls = format!(
        "plain file: {lost} of {records} records lost; without syncs: events lost in {} of {} kills, which is right; {}",
        unsynced.unclean,
        unsynced.looks,
        tally.recovery()
    );
    Line::new(FAULT, tally.cycles, tally.hits(), &tally.verdict, &controls).seed(plan.seed).print();
    println!("{FAULT}: {}", tally.verdict);
    assert!(tally.verdict.is_clean(), "INDELIBLE_SEED={}: {}", plan.seed, tally.verdict);
    assert_eq!(unsynced.unclean, 0, "a kill loses what the kernel has: {}", unsynced.verdict);
    assert_eq!(lost, 0, "the control loses records: the rig is wrong");
    assert!(tally.in_flight * 4 >= tally.cycles, "only {} kills hit an append", tally.in_flight);
}

#[cfg(feature = "bugs")]
#[test]
fn kills_find_seeded_bugs() {
    for bug in BUGS {
        // It ends with the first thing that is found; some kills strike where a bug doesn't show.
        let plan = Plan::new(FAULT, 60, seed()).suspect(Some(bug), indelible_rocksdb::Durability::Synced);
        let tally = run(&mut Kill::new(), &plan);
        indelible_core::conformance::fault::seeded(FAULT, bug, tally.unclean > 0, &tally.verdict);
    }
}
