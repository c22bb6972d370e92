//! P4: how soon others go on where a worker was killed, and how a read model comes on when all that keeps it stood still.
//!
//! `INDELIBLE_FAIL_OVERS` says how many workers are killed (1).

use std::time::{Duration, Instant};

use indelible_core::conformance::fault::Line;
use tokio::{
    task::block_in_place,
    time::{sleep, timeout},
};

use super::{fixture::*, process::*};
use crate::{
    child::number,
    cluster::{Cluster, shared_url},
};

const FAILED_OVER: &str = "one of two workers killed, the other goes on";

/// Within its lease and two seconds: at one attempt of ten, since other tests have the processor too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_a_killed_worker_are_soon_processed_again() {
    let url = shared_url();
    let within = LEASE + Duration::from_secs(2);
    let times = number("INDELIBLE_FAIL_OVERS").unwrap_or(1);
    let (mut took, mut late) = (Vec::new(), 0);
    while (took.len() as u64) < times {
        match fails_over(&url).await {
            soon if soon < within => took.push(soon),
            long => {
                println!("it took {long:?}");
                late += 1;
                assert!(late < times.max(10), "it took {long:?}, and {took:?} before");
            }
        }
    }
    took.sort();
    let controls = format!(
        "lease {LEASE:?}; partitions stood for {:.2?} to {:.2?}, {:.2?} in the median; {late} more for longer than {within:?}",
        took[0],
        took[took.len() - 1],
        took[took.len() / 2]
    );
    Line::clean(FAILED_OVER, times, times, 400 * times, &controls).print();
}

/// Kills one of two workers; says how long its partitions stood.
async fn fails_over(url: &str) -> Duration {
    let site = Site::new(url).await;
    let [mut one, mut two] = ["one", "two"].map(|name| site.start(25, name));
    one.is_running();
    two.is_running();
    let both = [one, two];
    site.is_shared(&both, 2).await;
    let [one, two] = both;
    drop(one);
    let killed = Instant::now();
    deposits(&site.store, 400).await;
    site.catches_up(SOON).await;
    let took = killed.elapsed();
    drop(two);
    site.is_as_after_a_clean_pass().await;
    took
}

/// All workers and the server are stopped for longer than the lease, as when a machine sleeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_paused_catches_up() {
    let cluster = block_in_place(|| Cluster::start(""));
    let site = Site::new(&cluster.url()).await;
    let mut workers = ["one", "two"].map(|name| site.start(25, name));
    workers.iter_mut().for_each(Process::is_running);
    site.is_shared(&workers, 2).await;
    let mut paused = Duration::ZERO;
    for _ in 0..2 {
        let writing = tokio::spawn({
            let store = site.store.clone();
            async move { deposits(&store, 4_000).await }
        });
        let begins = timeout(SOON, async {
            while site.come_to().await == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        });
        begins.await.expect("it does not begin");
        workers.iter().for_each(|worker| worker.signal("-STOP"));
        block_in_place(|| cluster.pause());
        sleep(LEASE + Duration::from_millis(500)).await;
        block_in_place(|| cluster.resume());
        workers.iter().for_each(|worker| worker.signal("-CONT"));
        let resumed = Instant::now();
        writing.await.unwrap();
        site.catches_up(SOON).await;
        paused = paused.max(resumed.elapsed());
    }
    println!("caught up {paused:?} after a pause of all of it, at the latest");
    drop(workers);
    site.is_as_after_a_clean_pass().await;
}
