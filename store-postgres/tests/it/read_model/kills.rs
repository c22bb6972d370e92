//! P1, P3 and P4: workers in processes of their own that are killed, stopped, and cut off at random moments. Whenever they
//! were struck, the read model is what the log gives up to its checkpoints; and at the end, byte by byte what a clean pass
//! gives.
//!
//! `INDELIBLE_MODEL_KILLS` says how many kills (16), `INDELIBLE_MODEL_ROUNDS` how many rounds of three workers (6),
//! `INDELIBLE_MODEL_EVENTS` over how many events each (8,000), `INDELIBLE_POISON_KILLS` how many kills among poison (10),
//! and `INDELIBLE_SEED` from which numbers.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

#[cfg(feature = "bugs")]
use indelible_core::conformance::fault::seeded;
use indelible_core::{
    EventStore,
    conformance::fault::{Line, Verdict},
};
use indelible_projections::{ReadModel, Worker};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{task::block_in_place, time::sleep};

use super::{
    fixture::*,
    letters::{How, Picky},
    process::*,
};
use crate::{
    child::{number, seed},
    cluster::{Cluster, shared_url},
    writing::client,
};

pub(super) const KILLED: &str = "projecting process killed, PostgreSQL";
pub(super) const AMONG_POISON: &str = "poison among kills, PostgreSQL";
const STRUCK: &str = "three workers come, go, stall and lose connections";

/// How far all partitions are, added up, when they have seen all events.
fn whole(events: &[Known]) -> u64 {
    events.len() as u64 * u64::from(PARTITIONS)
}

// ---- kills -----------------------------------------------------------------------------------------------------------

#[derive(Debug, Default)]
struct Killed {
    verdict: Verdict,
    kills: u64,
    /// Those that struck it amid its work.
    amid: u64,
    /// The most dead letters that there were, and how often some of them were left.
    letters: usize,
    redriven_in_part: u64,
}

/// Kills a worker so many times while it projects so many events, and judges what each has left. Among poison it parks, and
/// one time of four is to redrive what was parked.
async fn kill(site: &Site, cycles: u64, total: u64, seed: u64, among_poison: bool) -> (Killed, Vec<Known>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut looking = client(&site.url).await;
    let mut events: Vec<Known> = Vec::new();
    let (mut tally, mut reached, mut parked) = (Killed::default(), 0, BTreeSet::new());
    // Where the machine is too busy for most to strike in time, more are needed.
    while tally.verdict.is_clean() && (tally.kills < cycles || (tally.amid * 3 < cycles && tally.kills < 4 * cycles)) {
        events.extend(deposits(&site.store, total.div_ceil(cycles)).await.into_iter().map(Known::from));
        let way = match tally.kills % 4 {
            _ if !among_poison => Way::Counts,
            3 => Way::Redrives,
            _ => Way::Parks,
        };
        // The same name: whoever comes after a crash need not wait for its own lease.
        let process = site.start_as(way, 25, "worker");
        let before = reached;
        if tally.kills % 5 == 0 {
            sleep(Duration::from_millis(random.random_range(1..80))).await;
        } else if way == Way::Redrives {
            process.is_running();
            sleep(Duration::from_millis(random.random_range(0..300))).await;
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
        tally.kills += 1;
        if site.model.versions("tally").await.unwrap().is_empty() {
            continue; // it was killed before it had made its tables
        }
        let letters;
        (reached, letters) = judge(&mut looking, &site.model_schema, &events, &mut tally.verdict).await;
        tally.amid += u64::from(reached > before && reached < whole(&events));
        tally.letters = tally.letters.max(letters.len());
        let left = parked.intersection(&letters).count();
        tally.redriven_in_part += u64::from(0 < left && left < parked.len());
        parked = letters;
    }
    tally.verdict.acknowledged = events.len() as u64;
    (tally, events)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_at_random_moments_loses_and_doubles_nothing() {
    let cycles = number("INDELIBLE_MODEL_KILLS").unwrap_or(16);
    let total = number("INDELIBLE_MODEL_EVENTS").unwrap_or(8_000);
    let (site, seed) = (Site::new(&shared_url()).await, seed());
    let (mut tally, events) = kill(&site, cycles, total, seed, false).await;
    if tally.verdict.is_clean() {
        let process = site.start(1_000, "worker");
        site.catches_up(patience(total)).await;
        drop(process);
        let looking = &mut client(&site.url).await;
        let (reached, _) = judge(looking, &site.model_schema, &events, &mut tally.verdict).await;
        assert_eq!(reached, whole(&events));
        site.beside_a_clean_pass(&mut tally.verdict).await;
    }
    let Killed { verdict, kills, amid, .. } = &tally;
    Line::new(KILLED, *kills, *amid, verdict, "seen: amid its work").seed(seed).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(amid * 3 >= cycles, "only {amid} of {kills} kills struck it at work");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_among_poison_keeps_what_is_parked() {
    let cycles = number("INDELIBLE_POISON_KILLS").unwrap_or(10);
    let (site, seed) = (Site::new(&shared_url()).await, seed());
    let (mut tally, events) = kill(&site, cycles, cycles * 300, seed, true).await;
    if tally.verdict.is_clean() {
        let process = site.start_as(Way::Parks, 25, "worker");
        site.catches_up(patience(cycles * 300)).await;
        drop(process);
        let looking = &mut client(&site.url).await;
        judge(looking, &site.model_schema, &events, &mut tally.verdict).await;
        let mended = Worker::new(&site.store).with_id(indelible_projections::WorkerId("worker".into()));
        let mended = mended.add(&site.model, Picky::new(How::Writes, true)).start().await.unwrap();
        let (_, left) = mended.redrive_all::<Picky>().await.unwrap();
        assert!(left.is_empty(), "{left:?}, {:?}", mended.status());
        mended.drain(SOON).await;
        let (reached, letters) = judge(looking, &site.model_schema, &events, &mut tally.verdict).await;
        assert_eq!((reached, letters.len()), (whole(&events), 0));
        site.beside_a_clean_pass(&mut tally.verdict).await;
    }
    let Killed { verdict, kills, amid, letters, redriven_in_part } = &tally;
    let controls =
        format!("up to {letters} letters; {redriven_in_part} kills left some of those that were being redriven");
    Line::new(AMONG_POISON, *kills, *amid, verdict, &controls).seed(seed).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(amid * 3 >= cycles && *letters > 3, "only {amid} of {kills} kills struck it at work: {controls}");
}

// ---- three workers ---------------------------------------------------------------------------------------------------

/// What came of workers that were struck.
#[derive(Debug, Default)]
struct Struck {
    verdict: Verdict,
    rounds: u64,
    /// Kills of a worker that had events before it, stalls in which others took what a worker had, and rounds in which a
    /// transaction was cut off that had written.
    kills: u64,
    stalls: u64,
    cuts: u64,
    /// Partitions that were taken from workers who stood still, and batches that were then refused.
    taken: usize,
    fenced: usize,
    /// Connections that were cut.
    connections: i64,
    workers: u64,
}

impl Struck {
    fn seen(&self) -> u64 {
        self.kills + self.stalls + self.cuts
    }

    fn is_enough(&self, rounds: u64) -> bool {
        self.rounds >= rounds
            && self.seen() * 2 >= rounds
            && [self.kills, self.stalls, self.cuts, self.fenced as u64].iter().all(|count| *count > 0)
    }
}

/// Strikes one of three workers, or all their connections, so many times, while so many events come in; and judges after
/// each time what they make of those.
async fn strike(rounds: u64, total: u64, seed: u64, bug: Option<&str>) -> Struck {
    const LOTS: u64 = 8;
    // A server of its own: all connections to it are cut, and what it refuses is in its log.
    let cluster = block_in_place(|| Cluster::start(""));
    let mut random = StdRng::seed_from_u64(seed);
    let site = Site::with(&cluster.url(), bug).await;
    let (admin, mut looking) = (client(&site.url).await, client(&site.url).await);
    let lot = total.div_ceil(rounds * LOTS);
    let mut events: Vec<Known> = Vec::new();
    let mut processes: Vec<Process> = Vec::new();
    let mut tally = Struck::default();
    while tally.verdict.is_clean() && !tally.is_enough(rounds) && tally.rounds < 4 * rounds {
        while processes.len() < 3 {
            tally.workers += 1;
            let process = site.start(25, &format!("worker-{}", tally.workers));
            process.is_running();
            processes.push(process);
        }
        // Somewhere in the first half of the work.
        let goal = site.come_to().await + random.random_range(1..=lot * LOTS * u64::from(PARTITIONS) / 2);
        let some = tokio::spawn({
            let store = site.store.clone();
            async move {
                let mut some = Vec::new();
                for _ in 0..LOTS {
                    some.extend(deposits(&store, lot).await);
                    sleep(Duration::from_millis(40)).await;
                }
                some
            }
        });
        while site.come_to().await < goal && !some.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        let mut one = random.random_range(0..processes.len());
        let mut held = site.held_by(&processes[one]).await;
        for _ in 1..processes.len() {
            if held.is_empty() {
                one = (one + 1) % processes.len();
                held = site.held_by(&processes[one]).await;
            }
        }
        match tally.rounds % 3 {
            0 => {
                // Beyond its lease, in the middle of whatever it does, until others have all that it believes to have.
                processes[one].signal("-STOP");
                let until = Instant::now() + SOON / 4;
                let mut taken = 0;
                while taken < held.len() && Instant::now() < until {
                    sleep(Duration::from_millis(50)).await;
                    let rows = site.rows().await;
                    let is_taken =
                        |(partition, epoch)| rows.iter().any(|row| row.partition == partition && row.epoch > epoch);
                    taken = held.iter().filter(|held| is_taken(**held)).count();
                }
                events.extend(some.await.unwrap().into_iter().map(Known::from));
                // It finds more than it knows of when it goes on.
                events.extend(deposits(&site.store, lot).await.into_iter().map(Known::from));
                processes[one].signal("-CONT");
                tally.taken += taken;
                tally.stalls += u64::from(taken > 0);
            }
            1 => {
                let head = site.store.head().await.unwrap().position.get();
                drop(processes.swap_remove(one));
                let mut left = site.rows().await;
                left.retain(|row| held.iter().any(|(partition, _)| row.partition == *partition));
                events.extend(some.await.unwrap().into_iter().map(Known::from));
                let was_at_work = left.iter().any(|row| {
                    let before_it = row.position.position.get() + 1..=head;
                    events.iter().any(|event| event.partition == row.partition.0 && before_it.contains(&event.position))
                });
                tally.kills += u64::from(was_at_work);
            }
            _ => {
                let end = "SELECT count(pg_terminate_backend(pid)),
                                  count(*) FILTER (WHERE application_name = 'worker' AND backend_xid IS NOT NULL)
                             FROM pg_stat_activity WHERE application_name IN ('indelible', 'worker')";
                let cut = admin.query_one(end, &[]).await.unwrap();
                tally.connections += cut.get::<_, i64>(0);
                tally.cuts += u64::from(cut.get::<_, i64>(1) > 0);
                events.extend(some.await.unwrap().into_iter().map(Known::from));
            }
        }
        tally.rounds += 1;
        judge(&mut looking, &site.model_schema, &events, &mut tally.verdict).await;
        tally.fenced = cluster.log().matches("ERROR:  partition ").count();
    }
    tally.verdict.acknowledged = events.len() as u64;
    if tally.verdict.is_clean() {
        site.catches_up(patience(total)).await;
        drop(processes);
        let (reached, _) = judge(&mut looking, &site.model_schema, &events, &mut tally.verdict).await;
        assert_eq!(reached, whole(&events));
        site.beside_a_clean_pass(&mut tally.verdict).await;
    }
    tally
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_go_stall_and_lose_connections_lose_and_double_nothing() {
    let rounds = number("INDELIBLE_MODEL_ROUNDS").unwrap_or(6);
    let total = number("INDELIBLE_MODEL_EVENTS").unwrap_or(8_000);
    let seed = seed();
    let tally = strike(rounds, total, seed, None).await;
    let Struck { verdict, kills, stalls, cuts, taken, fenced, connections, workers, .. } = &tally;
    let controls = format!(
        "{kills} kills, {stalls} stalls, in which others took {taken} partitions, {fenced} batches fenced off, \
         {connections} connections cut, {cuts} times amid a transaction; {workers} workers came"
    );
    Line::new(STRUCK, tally.rounds, tally.seen(), verdict, &controls).seed(seed).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(tally.is_enough(rounds), "of {} rounds: {controls}", tally.rounds);
}

#[cfg(feature = "bugs")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_and_go_find_a_lease_without_a_fence() {
    let tally = strike(6, 6_000, seed(), Some("lease-without-fence")).await;
    seeded(STRUCK, "lease-without-fence", !tally.verdict.is_clean(), &format!("{tally:?}"));
}
