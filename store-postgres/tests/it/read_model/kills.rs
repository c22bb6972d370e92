//! P1 and P4: workers in processes of their own that are killed, stopped, and cut off at random moments. Whenever one is
//! gone, the read model is what the log gives up to its checkpoints; and at the end, byte by byte what a clean pass gives.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command},
    time::{Duration, Instant},
};

use indelible_core::EventStore;
use indelible_postgres::{PostgresModel, PostgresStore};
use indelible_projections::{ReadModel, Waited, Worker, WorkerId};
use rand::Rng;
use tokio::time::sleep;

use super::fixture::*;
use crate::{
    child,
    cluster::{Cluster, shared_url},
    writing::client,
};

const LEASE: Duration = Duration::from_secs(1);

/// What a child does: runs the tally until it is killed. Its job names the schemas of the store and the read model, the
/// most events of a batch, and itself.
pub(crate) async fn project(url: &str, job: &str) {
    let [store, model, batch, name] = job.split(' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let store = PostgresStore::options().schema(store).connections(2).open(url).await.unwrap();
    let model = PostgresModel::options().schema(model).lease(LEASE).open(url).await.unwrap();
    let worker = Worker::new(&store).with_options(batches_of(batch.parse().unwrap())).with_id(WorkerId(name.into()));
    let _running = worker.add(&model, Tally).start().await.unwrap();
    println!("running {name}");
    std::future::pending::<()>().await;
}

/// A worker in a process of its own, which dies with this.
struct Process {
    child: Child,
    name: String,
}

impl Process {
    fn start(url: &str, store: &str, model: &str, batch: usize, name: &str) -> Self {
        let mut command = child::command(&format!("project {store} {model} {batch} {name}"), url);
        let child = command.stderr(std::process::Stdio::inherit()).spawn().unwrap();
        Self { child, name: name.into() }
    }

    /// Waits until it has its projection started.
    fn is_running(&mut self) {
        let lines = BufReader::new(self.child.stdout.take().unwrap()).lines();
        let running = format!("running {}", self.name);
        assert!(lines.map_while(Result::ok).any(|line| line.contains(&running)), "{} did not start", self.name);
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "{signal} to {}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// What a clean pass over the log gives.
async fn clean_pass(url: &str, store: &PostgresStore) -> Vec<String> {
    let name = fresh_model();
    let model = PostgresModel::options().schema(&name).open(url).await.unwrap();
    let running = Worker::new(store).add(&model, Tally).start().await.unwrap();
    let head = store.head().await.unwrap();
    assert_eq!(running.wait_for(&head, 30 * SOON).await.unwrap(), Waited::Reached);
    running.drain(SOON).await;
    contents(url, &name, 1).await
}

/// Waits until all partitions are at the end of the log.
async fn caught_up(model: &PostgresModel, end: u64, time: Duration) {
    let until = Instant::now() + time;
    loop {
        let rows = model.partitions(&id("tally", 1)).await.unwrap();
        if rows.iter().all(|row| row.position.position.get() >= end) {
            return;
        }
        assert!(Instant::now() < until, "the read model does not catch up with {end}: {rows:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// How far all partitions are, added up, when they have seen all events.
fn whole(events: &[Known]) -> u64 {
    events.len() as u64 * u64::from(PARTITIONS)
}

async fn has_come_to(model: &PostgresModel, goal: u64) -> bool {
    let rows = model.partitions(&id("tally", 1)).await.unwrap();
    rows.iter().map(|row| row.position.position.get()).sum::<u64>() > goal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_random_moments_loses_and_doubles_nothing() {
    let url = shared_url();
    let cycles = number("INDELIBLE_MODEL_KILLS", 24);
    let total = number("INDELIBLE_MODEL_EVENTS", 12_000);
    let (store_schema, name) = (crate::cluster::fresh_schema(), fresh_model());
    let store = PostgresStore::options().schema(&store_schema).connections(4).open(&url).await.unwrap();
    let model = PostgresModel::options().schema(&name).lease(LEASE).open(&url).await.unwrap();
    let mut looking = client(&url).await;
    let mut events: Vec<Known> = Vec::new();
    let (mut killed, mut in_the_middle, mut reached) = (0, 0, 0);
    // Where the machine is too busy for most to strike in time, more are needed.
    while killed < cycles || (in_the_middle * 3 < cycles && killed < 4 * cycles) {
        events.extend(deposits(&store, total / cycles).await.into_iter().map(Known::from));
        // The same name: whoever comes after a crash need not wait for its own lease.
        let mut process = Process::start(&url, &store_schema, &name, 25, "worker");
        let before = reached;
        if killed % 5 == 0 {
            sleep(Duration::from_millis(rand::rng().random_range(1..80))).await;
        } else {
            tokio::task::block_in_place(|| process.is_running());
            // Somewhere in the work that is left.
            let goal = before + rand::rng().random_range(0..whole(&events) - before);
            let until = Instant::now() + 10 * SOON;
            while !has_come_to(&model, goal).await {
                assert!(Instant::now() < until, "it does not go on");
            }
        }
        drop(process);
        killed += 1;
        if model.versions("tally").await.unwrap().is_empty() {
            continue; // it was killed before it had made its tables
        }
        reached = check(&mut looking, &name, &events).await;
        in_the_middle += u64::from(reached > before && reached < whole(&events));
    }
    let _process = Process::start(&url, &store_schema, &name, 1_000, "worker");
    caught_up(&model, events.len() as u64, 30 * SOON).await;
    drop(_process);
    assert_eq!(check(&mut looking, &name, &events).await, whole(&events));
    let clean = clean_pass(&url, &store).await;
    assert_eq!(contents(&url, &name, 1).await, clean, "it is not what a clean pass gives");
    println!("{killed} kills over {} events, {in_the_middle} of them in the middle of its work", events.len());
    assert!(in_the_middle * 3 >= cycles, "only {in_the_middle} of {cycles} kills struck it at work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_go_stall_and_lose_connections_lose_and_double_nothing() {
    // A server of its own: all connections to it are cut.
    let cluster = tokio::task::block_in_place(|| Cluster::start(""));
    let url = cluster.url();
    let rounds = number("INDELIBLE_MODEL_ROUNDS", 10);
    let total = number("INDELIBLE_MODEL_EVENTS", 12_000);
    let (store_schema, name) = (crate::cluster::fresh_schema(), fresh_model());
    let store = PostgresStore::options().schema(&store_schema).connections(4).open(&url).await.unwrap();
    let model = PostgresModel::options().schema(&name).lease(LEASE).open(&url).await.unwrap();
    let admin = client(&url).await;
    let mut events: Vec<Known> = Vec::new();
    let mut processes: Vec<Process> = Vec::new();
    let mut next = 0;
    let start = |next: &mut u32| {
        *next += 1;
        Process::start(&url, &store_schema, &name, 25, &format!("worker-{next}"))
    };
    let (mut stalls, mut kills, mut cuts) = (0, 0, 0);
    for round in 0..rounds {
        while processes.len() < 3 {
            let mut process = start(&mut next);
            tokio::task::block_in_place(|| process.is_running());
            processes.push(process);
        }
        let some = tokio::spawn({
            let store = store.clone();
            async move {
                let mut some = Vec::new();
                for _ in 0..8 {
                    some.extend(deposits(&store, total / rounds / 8).await);
                    sleep(Duration::from_millis(40)).await;
                }
                some
            }
        });
        sleep(Duration::from_millis(rand::rng().random_range(50..300))).await;
        let one = rand::rng().random_range(0..processes.len());
        match round % 3 {
            0 => {
                // Beyond its lease, in the middle of whatever it does.
                processes[one].signal("-STOP");
                sleep(LEASE + Duration::from_millis(700)).await;
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
    assert!(stalls > 0 && kills > 0 && cuts > 0);
    caught_up(&model, store.head().await.unwrap().position.get(), 30 * SOON).await;
    let owners: std::collections::BTreeSet<_> =
        model.partitions(&id("tally", 1)).await.unwrap().into_iter().filter_map(|row| row.owner).collect();
    drop(processes);
    let mut looking = client(&url).await;
    check(&mut looking, &name, &events).await;
    let clean = clean_pass(&url, &store).await;
    assert_eq!(contents(&url, &name, 1).await, clean, "it is not what a clean pass gives");
    println!(
        "{stalls} stalls, {kills} kills, {cuts} connections cut, {} events, {} owners",
        events.len(),
        owners.len()
    );
}

/// Within its lease and two seconds: at the first attempt of three, since other tests have the processor too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_partitions_of_a_killed_worker_are_soon_processed_again() {
    let url = shared_url();
    let within = LEASE + Duration::from_secs(2);
    for attempt in 1..=3 {
        let took = fails_over(&url).await;
        println!("caught up {took:?} after a worker was killed, with a lease of {LEASE:?}");
        if took < within {
            return;
        }
        assert!(attempt < 3, "it took {took:?}");
    }
}

/// Kills one of two workers; says how long its partitions stood.
async fn fails_over(url: &str) -> Duration {
    let (store_schema, name) = (crate::cluster::fresh_schema(), fresh_model());
    let store = PostgresStore::options().schema(&store_schema).connections(4).open(url).await.unwrap();
    let model = PostgresModel::options().schema(&name).lease(LEASE).open(url).await.unwrap();
    let [mut one, mut two] = ["one", "two"].map(|worker| Process::start(url, &store_schema, &name, 25, worker));
    tokio::task::block_in_place(|| {
        one.is_running();
        two.is_running();
    });
    // Both have their share.
    let until = Instant::now() + SOON;
    loop {
        let rows = model.partitions(&id("tally", 1)).await.unwrap();
        let share = |name: &str| rows.iter().filter(|row| row.owner == Some(WorkerId(name.into()))).count();
        if (share("one"), share("two")) == (2, 2) {
            break;
        }
        assert!(Instant::now() < until, "the workers do not share: {rows:?}");
        sleep(Duration::from_millis(20)).await;
    }
    drop(one);
    let killed = Instant::now();
    let end = deposits(&store, 400).await.len() as u64;
    caught_up(&model, end, SOON).await;
    let took = killed.elapsed();
    drop(two);
    assert_eq!(contents(url, &name, 1).await, clean_pass(url, &store).await);
    took
}
