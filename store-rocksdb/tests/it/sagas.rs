//! Sagas whose process is killed at random moments: each comes to what it would have come to, and no effect is lost, added
//! or changed. Log and agenda are in one directory, with the world outside.
//!
//! `INDELIBLE_SAGA_KILLS` says how many kills (12), `INDELIBLE_SAGA_COUNT` over how many sagas (600);
//! `INDELIBLE_STORE_SAGAS` how many random sagas die at every point (2), `INDELIBLE_STORE_SAGA_PAIRS` at how many pairs of
//! points each (10).

use std::{path::Path, time::Duration};

use indelible_rocksdb::{RocksModel, RocksStore};
use indelible_sagas::{
    SagaWorker,
    testing::{
        Crashes, crash_everywhere_on,
        killed::{KeptOutside, judge_errands, start_errands},
        random::{SMALL, random_scenario},
    },
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    campaign::{number, seed},
    child::{Running, command, say},
};

const SOON: Duration = Duration::from_secs(60);

fn count() -> u64 {
    number("INDELIBLE_SAGA_COUNT").unwrap_or(600)
}

/// The child: starts its errands, and runs all until they have ended.
pub(crate) async fn run(dir: &Path) {
    let store = RocksStore::open(dir.join("log")).unwrap();
    let model = RocksModel::open(dir.join("agenda")).unwrap();
    let outside = KeptOutside::new(dir.join("outside"));
    let running = SagaWorker::new(&store).add(&model, outside).start().await.unwrap();
    say("running");
    start_errands(&store, 0..count()).await;
    say("started");
    judge_errands(&store, &dir.join("outside"), 0..count(), SOON).await;
    assert!(running.drain(SOON).await);
    say("ended");
}

#[test]
fn killed_sagas_come_to_what_they_would_have() {
    let kills = number("INDELIBLE_SAGA_KILLS").unwrap_or(12);
    let mut random = StdRng::seed_from_u64(seed());
    let dir = tempfile::tempdir().unwrap();
    let (mut killed, mut ended) = (0, false);
    while killed < kills && !ended {
        let mut child = Running::start(command("sagas", dir.path(), &[]));
        while child.line().is_some_and(|line| line != "running") {}
        std::thread::sleep(Duration::from_millis(random.random_range(0..200)));
        child.kill();
        while let Some(line) = child.line() {
            ended |= line == "ended";
        }
        killed += u64::from(!ended);
    }
    assert!(Running::start(command("sagas", dir.path(), &[])).succeeds());
    let judged = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = RocksStore::open(dir.path().join("log")).unwrap();
        judge_errands(&store, &dir.path().join("outside"), 0..count(), SOON).await
    });
    println!("{killed} kills: {judged:?}");
    assert!(killed >= 3, "only {killed} kills struck them at work");
    assert!(judged.compensated > 0);
}

#[tokio::test]
async fn random_sagas_come_to_the_same_wherever_they_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path().join("log")).unwrap();
    let model = RocksModel::open(dir.path().join("agenda")).unwrap();
    let (first, count) = (number("INDELIBLE_SEED").unwrap_or(3), number("INDELIBLE_STORE_SAGAS").unwrap_or(2));
    let (pairs, mut all) = (number("INDELIBLE_STORE_SAGA_PAIRS").unwrap_or(10), Crashes::default());
    for seed in first..first + count {
        let scenario = random_scenario(seed);
        let report = crash_everywhere_on(&store, &model, &format!("s{seed}"), &scenario, pairs as usize).await;
        assert!(report.faults.is_empty(), "INDELIBLE_SEED={seed}: {report}:\n{}", report.faults.join("\n"));
        assert_eq!(report.pairs, report.pairs_in_all.min(pairs as usize), "INDELIBLE_SEED={seed}");
        all += report;
    }
    println!("{count} random sagas, each at {pairs} pairs of points: {all}");
}

/// Small sagas whose processes die at every point and at pairs of them: at as many as `INDELIBLE_SMALL_SAGA_PAIRS` says, which
/// may be all that there are. Otherwise it is one saga, and four pairs.
#[tokio::test]
async fn small_sagas_come_to_the_same_at_pairs_of_points() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path().join("log")).unwrap();
    let model = RocksModel::open(dir.path().join("agenda")).unwrap();
    let asked = number("INDELIBLE_SMALL_SAGA_PAIRS");
    let (pairs, few) = asked.map_or((4, 1), |pairs| (pairs, SMALL.len()));
    let mut all = Crashes::default();
    for seed in SMALL.into_iter().take(few) {
        let report =
            crash_everywhere_on(&store, &model, &format!("s{seed}"), &random_scenario(seed), pairs as usize).await;
        assert!(report.faults.is_empty(), "saga {seed}: {report}:\n{}", report.faults.join("\n"));
        assert_eq!(report.pairs, report.pairs_in_all.min(pairs as usize), "saga {seed}");
        all += report;
    }
    println!("{all}; they died {:?}", all.died);
}
