//! P4: how soon others go on where a worker was killed, and how a read model comes on when all that keeps it stood still.
//!
//! `INDELIBLE_FAIL_OVERS` says how many workers are killed (1).

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use indelible_core::conformance::fault::Line;
use indelible_projections::Worker;
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

/// Within its lease and two seconds. More is forgiven only where the machine was too slow to tell, since other tests have the
/// processor and the disk too: where meanwhile another, whose partitions nobody else has, once takes a second and more for as
/// many events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_a_killed_worker_are_soon_processed_again() {
    let url = shared_url();
    let within = LEASE + Duration::from_secs(2);
    let times = number("INDELIBLE_FAIL_OVERS").unwrap_or(1);
    let (mut took, mut late) = (Vec::new(), 0);
    while (took.len() as u64) < times {
        let FailOver { stood, alone } = fails_over(&url).await;
        println!("it took {stood:?}, and as much took one alone {alone:?} meanwhile");
        if stood < within {
            took.push(stood);
            continue;
        }
        assert!(alone > Duration::from_secs(1), "partitions stood for {stood:?}, while one alone took {alone:?}");
        late += 1;
        assert!(late < times.max(5), "this machine is too slow to tell: it took {stood:?}, and {took:?} before");
    }
    took.sort();
    let controls = format!(
        "lease {LEASE:?}; partitions stood for {:.2?} to {:.2?}, {:.2?} in the median; {late} more for longer than \
         {within:?}, while the machine was slow",
        took[0],
        took[took.len() - 1],
        took[took.len() / 2]
    );
    Line::clean(FAILED_OVER, times, times, 400 * times, &controls).print();
}

struct FailOver {
    /// How long partitions stood.
    stood: Duration,
    /// How long as many events took at the most, in the same time, where nobody died.
    alone: Duration,
}

/// Kills one of two workers, amid its work, or just before or behind it.
async fn fails_over(url: &str) -> FailOver {
    let (site, control) = (Site::new(url).await, Site::new(url).await);
    let worker = Worker::new(&control.store).with_options(batches_of(25)).add(&control.model, Tally);
    let _running = worker.start().await.unwrap();
    let both = ["one", "two"].map(|name| site.start(25, name));
    both.iter().for_each(Process::is_running);
    site.is_shared(&both, 2).await;
    let [one, two] = both;
    deposits(&site.store, 200).await;
    sleep(Duration::from_millis(rand::random_range(0..20))).await;
    drop(one);
    let killed = Instant::now();
    let stands = AtomicBool::new(true);
    let (stood, alone) = tokio::join!(
        async {
            deposits(&site.store, 200).await;
            site.catches_up(SOON).await;
            stands.store(false, SeqCst);
            killed.elapsed()
        },
        async {
            let mut longest = Duration::ZERO;
            while stands.load(SeqCst) {
                let began = Instant::now();
                deposits(&control.store, 200).await;
                deposits(&control.store, 200).await;
                control.catches_up(SOON).await;
                longest = longest.max(began.elapsed());
                sleep(Duration::from_millis(50)).await;
            }
            longest
        }
    );
    drop(two);
    site.is_as_after_a_clean_pass().await;
    FailOver { stood, alone }
}

/// All workers and the server are stopped for longer than the lease, as when a machine sleeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_paused_catches_up() {
    let cluster = block_in_place(|| Cluster::start(""));
    let site = Site::new(&cluster.url()).await;
    let workers = ["one", "two"].map(|name| site.start(25, name));
    workers.iter().for_each(Process::is_running);
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
