//! A process writes, something strikes, and what was said is held against what is there: positions without holes, each
//! acknowledged append once and where it was said to be, none that was refused, each without an answer whole or not at
//! all. What is written and how that is judged is the suite's ([`indelible_core::conformance::fault`]).
//!
//! What strikes: the process is killed; all connections are ended by an administrator; the server is stopped in the way
//! of a crash, or killed, and started again, or one of its processes is killed; it hangs; its disk is full; a synchronous
//! standby takes over from it. A process that lives through its fault must go on by itself, and so must a subscriber in this
//! one, which sees the whole log once and in order.
//!
//! `INDELIBLE_FAULTS` says how many of each (6; a third of that where it takes long), `INDELIBLE_SEED` from which numbers.

use std::{
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use indelible_core::{
    Delivery, EventId, EventStore, Filter, StartFrom, Subscription,
    conformance::fault::{Journal, Line, Running, Verdict, Work, judge_store, seeded, skip},
};
use indelible_postgres::PostgresStore;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::Runtime;
use tokio_postgres::types::Type;

use crate::{
    child::{number, seed, writer},
    cluster::{Cluster, Disk, fresh_schema},
    fail_over::{Pair, pair},
    writing::{SOON, client},
};

/// Cycles of a life: each life has a schema of its own, so that judging stays quick.
const LIFE: u64 = 6;

/// How long calls wait for a server that hangs.
const PATIENCE: Duration = Duration::from_millis(600);

/// The servers of a life, and what strikes there.
trait Fault {
    const NAME: &str;
    /// Whether the writing process dies of it.
    const ENDS_PROCESS: bool = false;
    const PATIENCE: Duration = Duration::from_secs(30);
    fn url(&self) -> String;
    fn strike(&mut self, child: &mut Running, random: &mut StdRng);
    /// Makes it as it was, for another life.
    fn renew(&mut self) {}
}

struct Kill(Cluster);
impl Fault for Kill {
    const NAME: &str = "writing process killed";
    const ENDS_PROCESS: bool = true;
    fn url(&self) -> String {
        self.0.url()
    }
    fn strike(&mut self, child: &mut Running, _: &mut StdRng) {
        child.kill();
    }
}

struct Terminate(Cluster, Runtime);
impl Fault for Terminate {
    const NAME: &str = "connections ended";
    fn url(&self) -> String {
        self.0.url()
    }
    fn strike(&mut self, _: &mut Running, random: &mut StdRng) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'indelible'";
        self.1.block_on(async {
            let client = client(&self.0.direct_url()).await;
            for _ in 0..4 {
                client.simple_query(end).await.unwrap();
                tokio::time::sleep(Duration::from_millis(random.random_range(10..40))).await;
            }
        });
    }
}

struct Crash(Cluster);
impl Fault for Crash {
    const NAME: &str = "server stopped at once, it or one of its processes killed";
    fn url(&self) -> String {
        self.0.url()
    }
    fn strike(&mut self, _: &mut Running, random: &mut StdRng) {
        match random.random_range(0..3) {
            0 => self.0.crash_and_launch(),
            1 => self.0.kill_and_launch(),
            _ => self.0.kill_one(),
        }
    }
}

struct Hang(Cluster);
impl Fault for Hang {
    const NAME: &str = "server hung";
    const PATIENCE: Duration = PATIENCE;
    fn url(&self) -> String {
        self.0.url()
    }
    fn strike(&mut self, _: &mut Running, random: &mut StdRng) {
        self.0.pause();
        // Some of it for longer than callers have patience: what was sent is written when nobody waits any more.
        thread::sleep(random.random_range(PATIENCE / 2..PATIENCE * 3));
        self.0.resume();
    }
}

/// On a file system of its own, too small for long.
struct FullDisk(Cluster, Disk);
impl Fault for FullDisk {
    const NAME: &str = "disk full";
    fn url(&self) -> String {
        self.0.url()
    }
    fn strike(&mut self, _: &mut Running, random: &mut StdRng) {
        self.1.fill();
        thread::sleep(Duration::from_millis(random.random_range(300..1_000)));
        self.1.free();
        self.0.launch_if_down();
    }
}

/// A standby takes over, and another stands by it.
struct TakeOver(Pair);
impl Fault for TakeOver {
    const NAME: &str = "synchronous standby took over";
    fn url(&self) -> String {
        self.0.url()
    }
    fn strike(&mut self, _: &mut Running, _: &mut StdRng) {
        self.0.take_over();
    }
    fn renew(&mut self) {
        self.0 = pair(true);
    }
}

#[derive(Debug, Default)]
struct Tally {
    cycles: u64,
    /// Strikes that cost a call of the store, or its process, in the middle of an append.
    hits: u64,
    verdict: Verdict,
}

/// So many cycles in lives of [`LIFE`], or of one where each needs new servers; up to four times as many while less than a
/// third of them hit something.
fn run<F: Fault>(fault: &mut F, cycles: u64, life: u64, seed: u64, bug: Option<&str>, weakly: bool) -> Tally {
    let random = &mut StdRng::seed_from_u64(seed);
    let mut tally = Tally::default();
    let is_over = |tally: &Tally| tally.cycles >= cycles && (tally.hits * 3 >= cycles || tally.cycles >= 4 * cycles);
    while !is_over(&tally) && tally.verdict.is_clean() {
        if tally.cycles > 0 {
            fault.renew();
        }
        let verdict = live(fault, life.min(cycles), bug, weakly, random, &mut tally);
        tally.verdict.add(verdict);
    }
    println!("{}: seed {seed}, {tally:?}", F::NAME);
    tally
}

fn live<F: Fault>(
    fault: &mut F,
    cycles: u64,
    bug: Option<&str>,
    weakly: bool,
    random: &mut StdRng,
    tally: &mut Tally,
) -> Verdict {
    let (url, schema) = (fault.url(), fresh_schema());
    let runtime = Runtime::new().unwrap();
    let store = runtime.block_on(PostgresStore::options().schema(&schema).open(&url)).unwrap();
    let seen: Arc<Mutex<Vec<EventId>>> = Arc::default();
    let follower = runtime.spawn(follow(store.clone(), Arc::clone(&seen)));
    let mut journal = Journal::of_a_server();
    for cycle in 0..cycles {
        journal.next_process();
        let again = journal.unknown().into_iter().rev().take(20).collect();
        let writers = random.random_range(1..=8);
        // More than a strike takes to come, on a quick machine too.
        let appends = if F::ENDS_PROCESS { u64::MAX } else { 2_000 / writers };
        let work = Work { cycle, writers, appends, weakly, again };
        let mut child = Running::start(writer(&work, &url, &schema, F::PATIENCE, bug));
        let strike_at = random.random_range(30..150);
        let (mut is_struck, mut lost_calls) = (false, 0);
        while let Some(line) = child.line() {
            match line.strip_prefix("lost calls ") {
                Some(count) => lost_calls = count.parse().unwrap(),
                None => journal.take(&line, true),
            }
            if journal.answers >= strike_at && !is_struck {
                is_struck = true;
                thread::sleep(Duration::from_micros(random.random_range(0..5_000)));
                fault.strike(&mut child, random);
            }
        }
        tally.cycles += 1;
        let has_unknown = journal.unknown().iter().any(|name| name.cycle == cycle);
        tally.hits += u64::from(is_struck && (lost_calls > 0 || has_unknown || !journal.errors.is_empty()));
        if F::ENDS_PROCESS {
            runtime.block_on(until_alone(&url, &schema));
        }
    }
    // Of another handle: one that has seen what is lost reads nothing more.
    let judging = runtime.block_on(PostgresStore::options().schema(&schema).open(&url)).unwrap();
    let mut verdict = runtime.block_on(judge_store(&judging, &journal));
    let all_seen = async {
        let end = judging.head().await.unwrap().position.get() as usize;
        while seen.lock().unwrap().len() < end && !follower.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let is_in_time = runtime.block_on(async { tokio::time::timeout(SOON, all_seen).await.is_ok() });
    let log: Vec<EventId> = runtime.block_on(crate::writing::log(&judging)).iter().map(|event| event.id).collect();
    let seen = seen.lock().unwrap();
    // A log that has lost events tells the subscriber so.
    if !weakly && (!is_in_time || *seen != log) {
        verdict.wrong("subscription", || format!("{} events seen of {}", seen.len(), log.len()));
    }
    verdict
}

async fn follow(store: PostgresStore, seen: Arc<Mutex<Vec<EventId>>>) {
    let mut subscription = Subscription::new(store, Filter::all(), StartFrom::Beginning).await.unwrap();
    loop {
        match subscription.next().await {
            Ok(Delivery::Event(event)) => seen.lock().unwrap().push(event.id),
            Ok(_) => {}
            Err(error) if error.is_retryable() => {}
            Err(_) => return,
        }
    }
}

/// The server may still be at work for a process that is dead. Waits until it is not.
async fn until_alone(url: &str, schema: &str) {
    let client = client(url).await;
    let until = Instant::now() + SOON;
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%' || $1 || '%' \
                AND query LIKE '%append(%' AND pid <> pg_backend_pid()";
    while client.query_typed_one(busy, &[(&schema, Type::TEXT)]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < until, "the dead process's call never ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn cycles() -> u64 {
    number("INDELIBLE_FAULTS").unwrap_or(6)
}

fn tell(fault: &'static str, tally: &Tally, controls: &str) {
    Line::new(fault, tally.cycles, tally.hits, &tally.verdict, controls).print();
    assert!(tally.verdict.is_clean(), "{}", tally.verdict);
    assert!(tally.hits * 12 >= tally.cycles, "only {} of {} strikes hit a call", tally.hits, tally.cycles);
}

#[test]
fn a_killed_process_loses_nothing() {
    let mut kill = Kill(Cluster::start(""));
    let tally = run(&mut kill, cycles(), LIFE, seed(), None, false);
    tell(Kill::NAME, &tally, "");
    if cfg!(feature = "bugs") {
        let found = run(&mut kill, 12, 2, seed(), Some("answer-before-commit"), false);
        seeded(Kill::NAME, "answer-before-commit", !found.verdict.is_clean(), &found.verdict);
    }
}

#[test]
fn ended_connections_lose_nothing() {
    let mut terminate = Terminate(Cluster::start(""), Runtime::new().unwrap());
    let tally = run(&mut terminate, cycles(), LIFE, seed(), None, false);
    tell(Terminate::NAME, &tally, "");
    if cfg!(feature = "bugs") {
        let found = run(&mut terminate, 12, 2, seed(), Some("answer-before-commit"), false);
        seeded(Terminate::NAME, "answer-before-commit", !found.verdict.is_clean(), &found.verdict);
    }
}

#[test]
fn a_server_that_dies_loses_nothing() {
    let mut crash = Crash(Cluster::start("wal_writer_delay = 10s"));
    let tally = run(&mut crash, cycles(), LIFE, seed(), None, false);
    // The same rig must find the losses that the weaker mode allows.
    let weakly = run(&mut crash, 12, 2, seed(), None, true);
    let controls =
        format!("without waiting for the disk: {} events lost in {} crashes", weakly.verdict.lost, weakly.cycles);
    tell(Crash::NAME, &tally, &controls);
    assert!(!weakly.verdict.is_clean(), "{controls}");
    if cfg!(feature = "bugs") {
        let found = run(&mut crash, 12, 2, seed(), Some("answer-before-commit"), false);
        seeded(Crash::NAME, "answer-before-commit", !found.verdict.is_clean(), &found.verdict);
    }
}

#[test]
fn a_server_that_hangs_loses_nothing() {
    let tally = run(&mut Hang(Cluster::start("")), cycles().div_ceil(3), LIFE, seed(), None, false);
    tell(Hang::NAME, &tally, "");
}

#[test]
fn a_full_disk_loses_nothing() {
    if Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout != b"0\n") {
        skip("a file system of its own needs root");
        return;
    }
    let disk = Disk::new(160);
    let cluster = Cluster::start_on(&disk, "max_wal_size = 48MB\nmin_wal_size = 32MB\n");
    let tally = run(&mut FullDisk(cluster, disk), cycles().div_ceil(3), LIFE, seed(), None, false);
    tell(FullDisk::NAME, &tally, "");
}

#[test]
fn a_synchronous_standby_loses_nothing() {
    let cycles = cycles().div_ceil(12);
    let tally = run(&mut TakeOver(pair(true)), cycles, 1, seed(), None, false);
    tell(TakeOver::NAME, &tally, "");
}
