//! P1 and P4: workers in processes of their own that are killed, stopped, and cut off at random moments. Whenever one is
//! gone, the read model is what the log gives up to its checkpoints; and at the end, byte by byte what a clean pass gives.
//!
//! `INDELIBLE_MODEL_KILLS` says how many kills (24), `INDELIBLE_MODEL_ROUNDS` how many rounds of three workers (10),
//! `INDELIBLE_MODEL_EVENTS` over how many events each (12,000), and `INDELIBLE_SEED` from which numbers.

use std::time::{Duration, Instant};

use indelible_core::conformance::fault::Line;
use indelible_projections::ReadModel;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use super::{fixture::*, process::*};
use crate::{
    child::{number, seed},
    cluster::{Cluster, shared_url},
    writing::client,
};

pub(super) const KILLED: &str = "projecting process killed, PostgreSQL";
pub(super) const STRUCK: &str = "three workers come, go, stall and lose connections";

/// How far all partitions are, added up, when they have seen all events.
fn whole(events: &[Known]) -> u64 {
    events.len() as u64 * u64::from(PARTITIONS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_random_moments_loses_and_doubles_nothing() {
    let url = shared_url();
    let cycles = number("INDELIBLE_MODEL_KILLS").unwrap_or(24);
    let total = number("INDELIBLE_MODEL_EVENTS").unwrap_or(12_000);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new(&url).await;
    let mut looking = client(&url).await;
    let mut events: Vec<Known> = Vec::new();
    let (mut killed, mut in_the_middle, mut reached) = (0, 0, 0);
    // Where the machine is too busy for most to strike in time, more are needed.
    while killed < cycles || (in_the_middle * 3 < cycles && killed < 4 * cycles) {
        events.extend(deposits(&site.store, total.div_ceil(cycles)).await.into_iter().map(Known::from));
        // The same name: whoever comes after a crash need not wait for its own lease.
        let mut process = site.start(25, "worker");
        let before = reached;
        if killed % 5 == 0 {
            sleep(Duration::from_millis(random.random_range(1..80))).await;
        } else {
            process.is_running();
            // Somewhere in the work that is left.
            let goal = before + random.random_range(0..whole(&events) - before);
            let until = Instant::now() + 10 * SOON;
            while site.come_to().await <= goal {
                assert!(Instant::now() < until, "it does not go on");
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(process);
        killed += 1;
        if site.model.versions("tally").await.unwrap().is_empty() {
            continue; // it was killed before it had made its tables
        }
        reached = check(&mut looking, &site.model_schema, &events).await;
        in_the_middle += u64::from(reached > before && reached < whole(&events));
    }
    let process = site.start(1_000, "worker");
    site.catches_up(patience(total)).await;
    drop(process);
    assert_eq!(check(&mut looking, &site.model_schema, &events).await, whole(&events));
    site.is_as_after_a_clean_pass().await;
    let events = events.len() as u64;
    Line::clean(KILLED, killed, in_the_middle, events, "seen: amid its work").seed(seed).print();
    assert!(in_the_middle * 3 >= cycles, "only {in_the_middle} of {cycles} kills struck it at work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_go_stall_and_lose_connections_lose_and_double_nothing() {
    // A server of its own: all connections to it are cut.
    let cluster = tokio::task::block_in_place(|| Cluster::start(""));
    let url = cluster.url();
    let rounds = number("INDELIBLE_MODEL_ROUNDS").unwrap_or(10);
    let total = number("INDELIBLE_MODEL_EVENTS").unwrap_or(12_000);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::new(&url).await;
    let admin = client(&url).await;
    let mut events: Vec<Known> = Vec::new();
    let mut processes: Vec<Process> = Vec::new();
    let mut started = 0;
    let (mut stalls, mut zombies, mut kills, mut cuts) = (0, 0, 0, 0);
    for round in 0..rounds {
        while processes.len() < 3 {
            started += 1;
            let mut process = site.start(25, &format!("worker-{started}"));
            process.is_running();
            processes.push(process);
        }
        let some = tokio::spawn({
            let store = site.store.clone();
            async move {
                let mut some = Vec::new();
                for _ in 0..8 {
                    some.extend(deposits(&store, total.div_ceil(rounds * 8)).await);
                    sleep(Duration::from_millis(40)).await;
                }
                some
            }
        });
        sleep(Duration::from_millis(random.random_range(50..300))).await;
        let one = random.random_range(0..processes.len());
        match round % 3 {
            0 => {
                // Beyond its lease, in the middle of whatever it does.
                let held = site.held_by(&processes[one]).await;
                processes[one].signal("-STOP");
                let stopped = Instant::now();
                loop {
                    sleep(LEASE + Duration::from_millis(700)).await;
                    let rows = site.rows().await;
                    let taken =
                        |(partition, epoch)| rows.iter().any(|row| row.partition == partition && row.epoch > epoch);
                    // It still believes that it has them.
                    let count = held.iter().filter(|held| taken(**held)).count();
                    zombies += count;
                    // Where the machine is slow, others take them later.
                    if count > 0 || held.is_empty() || stopped.elapsed() > SOON {
                        break;
                    }
                }
                processes[one].signal("-CONT");
                stalls += 1;
            }
            1 => {
                drop(processes.swap_remove(one));
                kills += 1;
            }
            _ => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                           WHERE application_name = 'indelible' AND pid <> pg_backend_pid()";
                cuts += admin.query_one(end, &[]).await.unwrap().get::<_, i64>(0);
            }
        }
        events.extend(some.await.unwrap().into_iter().map(Known::from));
    }
    site.catches_up(patience(total)).await;
    drop(processes);
    let mut looking = client(&url).await;
    check(&mut looking, &site.model_schema, &events).await;
    site.is_as_after_a_clean_pass().await;
    let controls = format!(
        "{kills} kills, {stalls} stalls, in which others took {zombies} partitions, {cuts} connections cut; \
         {started} workers came"
    );
    Line::clean(STRUCK, rounds, rounds, events.len() as u64, &controls).seed(seed).print();
    assert!(zombies > 0 && kills > 0 && cuts > 0, "{controls}");
}
