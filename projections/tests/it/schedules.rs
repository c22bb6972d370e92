//! Random schedules of workers that come, drain, die, stand still beyond their lease and lose their connections, in
//! simulated time. Each comes from its seed, and comes again with it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use indelible_core::{
    EventStore,
    conformance::fault::{Line, seeded},
    store::memory::MemoryStore,
};
use indelible_projections::{bugs::Bug, memory::MemoryModel, *};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    chaos::{Chaos, Seen},
    fixture::*,
};

const LEASE: Duration = Duration::from_secs(3);
const SCHEDULES: &str = "random schedules of workers, in simulated time";
const WORKERS_MAX: usize = 4;

/// What happened in a schedule.
#[derive(Default)]
struct Told {
    seen: Arc<Seen>,
    deaths: usize,
    drains: usize,
    stalls: usize,
    events: u64,
}

/// Plays a schedule, and panics where the read model is not what a clean pass gives.
fn play(seed: u64) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut random = StdRng::seed_from_u64(seed);
        let faults = Arc::new(Mutex::new(StdRng::seed_from_u64(!seed)));
        let (store, model, mut told) = (MemoryStore::new(), MemoryModel::shared(LEASE), Told::default());
        let mut options = RunnerOptions::default();
        options.batch_events_max = random.random_range(1..8);
        let mut workers: Vec<(Chaos, Running)> = Vec::new();
        for _ in 0..30 {
            for _ in 0..random.random_range(0..6) {
                append(&store, random.random_range(0..8), deposited(random.random_range(0..100))).await;
            }
            let one = (!workers.is_empty()).then(|| random.random_range(0..workers.len()));
            match (random.random_range(0..10), one) {
                (0..=2, _) if workers.len() < WORKERS_MAX => {
                    let chaos = Chaos::with_faults(&model, &faults, &told.seen);
                    if let Ok(running) = Worker::new(&store).with_options(options).add(&chaos, Tally).start().await {
                        workers.push((chaos, running));
                    }
                }
                (3, Some(one)) => {
                    let (chaos, running) = workers.swap_remove(one);
                    chaos.go_on();
                    running.drain(LEASE).await;
                    told.drains += 1;
                }
                (4, Some(one)) => {
                    workers.swap_remove(one).0.stall(); // for ever
                    told.deaths += 1;
                }
                (5..=6, Some(one)) => {
                    workers[one].0.stall();
                    told.stalls += 1;
                }
                (7..=8, Some(one)) => workers[one].0.go_on(),
                _ => {}
            }
            sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        }
        // All is well again, and so must the read model be: a lease and two seconds later.
        for (chaos, _) in &workers {
            chaos.go_on();
        }
        let chaos = Chaos::new(&model);
        let last = Worker::new(&store).with_options(options).add(&chaos, Tally).start().await.unwrap();
        for (_, running) in workers {
            running.drain(LEASE).await;
        }
        let head = store.head().await.unwrap();
        let waited = last.wait_for(&head, LEASE + Duration::from_secs(2)).await.unwrap();
        assert_eq!(waited, Waited::Reached, "seed {seed}: {:?}", last.status());
        assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await, "seed {seed}");
        told.events = head.position.get();
        told
    })
}

fn schedules() -> u64 {
    std::env::var("INDELIBLE_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(150)
}

#[test]
fn whatever_becomes_of_the_workers_the_read_model_is_what_a_clean_pass_gives() {
    let (mut deaths, mut drains, mut stalls) = (0, 0, 0);
    let (mut outages, mut fenced, mut commits, mut takes, mut events) = (0, 0, 0, 0, 0);
    for seed in 0..schedules() {
        let told = play(seed);
        (deaths, drains, stalls) = (deaths + told.deaths, drains + told.drains, stalls + told.stalls);
        outages += told.seen.outages.load(Relaxed);
        fenced += told.seen.fenced.load(Relaxed);
        commits += told.seen.commits.load(Relaxed);
        takes += told.seen.takes.load(Relaxed);
        events += told.events;
    }
    let controls = format!(
        "{deaths} deaths, {drains} drains, {stalls} stalls, {outages} outages, {takes} takes, {commits} commits, \
         {fenced} fenced off"
    );
    Line::clean(SCHEDULES, schedules(), schedules(), events, &controls).seed(0).print();
    assert!([deaths, drains, stalls, outages, fenced].iter().all(|count| *count > 20), "a fault was hardly seen");
}

#[test]
fn seeded_bugs_are_caught() {
    for bug in [Bug::LeaseWithoutFencing, Bug::DoubledAtSeam] {
        bugs::choose(Some(bug));
        let caught = (0..schedules()).find(|seed| catch_unwind(AssertUnwindSafe(|| play(*seed))).is_err());
        bugs::choose(None);
        let name = format!("{bug:?}");
        seeded(SCHEDULES, &name, caught.is_some(), &format!("by schedule {caught:?}"));
    }
}
