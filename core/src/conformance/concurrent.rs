//! All clauses at once: random load by many callers, and each answer judged by the [checker](super::history).

use super::{
    Harness,
    history::{Workload, run_histories},
};

/// Enough that callers meet, and little enough for a store whose every append waits for a distant disk.
const CALLS: usize = 1_500;

async fn run(h: &mut dyn Harness, workload: Workload) {
    match run_histories(h, workload).await {
        Ok(checked) => println!("seed {}: {checked}", workload.seed),
        Err(anomaly) => panic!("seed {}: {anomaly}", workload.seed),
    }
}

/// No answer but could have been given by one caller after the other.
pub(super) async fn all_concurrent_histories_are_right(h: &mut dyn Harness) {
    run(h, Workload::new(rand::random(), CALLS)).await;
}

/// The same over power cuts and clean stops: what was answered before them holds after them.
pub(super) async fn all_histories_go_on_over_crashes(h: &mut dyn Harness) {
    run(h, Workload::new(rand::random(), CALLS).crashes(2)).await;
}
