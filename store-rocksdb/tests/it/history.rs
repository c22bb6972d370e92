//! Histories of many concurrent callers, each answer judged by the checker of the conformance suite: as the suite does
//! it, and longer. The fault, in one of two rounds: in the midst of appends the files are copied as a kill would leave them, and
//! the copy goes on.
//!
//! `INDELIBLE_HISTORY_OPS` says how many calls in all, `INDELIBLE_SEED` from which numbers the first round goes.

use std::time::Instant;

use indelible_core::conformance::{
    fault::Line,
    history::{Checked, Workload, run_histories},
};

use crate::{
    campaign::{number, seed},
    conformance::Rocks,
};

const FAULT: &str = "calls at once";

/// Calls of one round, each on a store of its own: what is written down is kept in memory.
const ROUND: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_contradicts_the_log() {
    let wanted = number("INDELIBLE_HISTORY_OPS").unwrap_or(25_000) as usize;
    let first = seed();
    let started = Instant::now();
    let mut all = Checked::default();
    for seed in first.. {
        // Hundreds of callers make large groups, a few make small ones.
        let workload = Workload::new(seed, ROUND).callers([4, 16, 64, 256][seed as usize % 4]);
        let workload = workload.crashes(usize::from(seed % 2 == 1) * 2);
        let mut rocks = Rocks::new();
        match run_histories(&mut rocks, workload).await {
            Ok(checked) => all += checked,
            Err(anomaly) => panic!("{workload:?}: {anomaly}"),
        }
        rocks.prove().await;
        if all.calls >= wanted {
            break;
        }
    }
    println!("seeds from {first}, {:.1?}: {all}", started.elapsed());
    assert!(all.contended * 10 > all.calls, "too few calls met: {all}");
    for kind in ["written", "repeated", "conflict", "id conflict", "invalid", "unknown", "read", "delivery"] {
        assert!(all.answers.contains_key(kind), "nothing was {kind}: {all}");
    }
    let (calls, written) = (all.calls as u64, all.answers["written"] as u64);
    Line::clean(FAULT, calls, all.contended as u64, written, "answers changed to what cannot be: see the core's tests")
        .seed(first)
        .print();
}
