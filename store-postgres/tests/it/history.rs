//! Histories of many concurrent callers of two handles, each answer judged by the checker of the conformance suite: as
//! the suite does it, and longer. In one of two rounds with faults: the process goes away, or the server dies, in the
//! midst of appends.
//!
//! `INDELIBLE_HISTORY_OPS` says how many calls in all, `INDELIBLE_HISTORY_SEED` from which numbers the first round goes.

use std::time::Instant;

use indelible_core::conformance::{
    Harness,
    fault::{Line, Verdict},
    history::{Checked, Workload, run_histories},
};
use indelible_postgres::PostgresStore;

use crate::{
    child::number,
    cluster::{Cluster, shared_url},
    conformance::Postgres,
    crash::Crashing,
    writing::prepared,
};

const FAULT: &str = "histories, process or server gone";
/// Calls of one round, each on a store of its own: what is written down is kept in memory.
const ROUND: usize = 4_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_contradicts_the_log() {
    let wanted = number("INDELIBLE_HISTORY_OPS").unwrap_or(12_000) as usize;
    let first = number("INDELIBLE_HISTORY_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let (started, mut all, mut rounds, mut faults) = (Instant::now(), Checked::default(), 0, 0);
    for seed in first.. {
        // Hundreds of callers make large batches, a few make small ones.
        let workload = Workload::new(seed, ROUND).callers([4, 16, 64, 256][seed as usize % 4]);
        let workload = workload.crashes(usize::from(rounds % 2 == 1));
        let mut harness: Box<dyn Harness> = match rounds % 4 {
            3 => Box::new(Crashing::new(tokio::task::block_in_place(|| Cluster::start(""))).await),
            2 => Box::new(Postgres::with(shared_url(), prepared(PostgresStore::options())).await),
            _ => Box::new(Postgres::new(shared_url()).await),
        };
        match run_histories(&mut *harness, workload).await {
            Ok(checked) => all += checked,
            Err(anomaly) => panic!("{workload:?}: {anomaly}"),
        }
        (rounds, faults) = (rounds + 1, faults + workload.crashes as u64);
        if all.calls >= wanted {
            break;
        }
    }
    println!("seeds from {first}, {:.1?}: {all}", started.elapsed());
    let acknowledged = all.answers.get("written").copied().unwrap_or_default() as u64;
    let verdict = Verdict { acknowledged, ..Verdict::default() };
    let told = format!("{} calls, each answer possible", all.calls);
    Line::new(FAULT, faults, faults, &verdict, &told).print();
    assert!(all.contended * 10 > all.calls, "too few calls met: {all}");
    for kind in ["written", "repeated", "conflict", "id conflict", "invalid", "read", "delivery"] {
        assert!(all.answers.contains_key(kind), "nothing was {kind}: {all}");
    }
}
