//! Sagas whose process is killed at random moments: each comes to what it would have come to, and no effect is lost, added
//! or changed. Log and agenda are in one directory, with the world outside.
//!
//! `INDELIBLE_SAGA_KILLS` says how many kills (12), `INDELIBLE_SAGA_COUNT` over how many sagas (600);
//! `INDELIBLE_STORE_SAGAS` how many random sagas die at every point (2), `INDELIBLE_STORE_SAGA_PAIRS` at how many pairs of
//! points each (10).

use std::{path::Path, time::Duration};

use indelible_core::conformance::fault::Line;
use indelible_rocksdb::{RocksModel, RocksStore};
use indelible_sagas::{
    SagaWorker,
    testing::{
        killed::{KeptOutside, judge_errands, start_errands},
        random::{SMALL, crash_random_sagas_on},
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
    Line::clean("process killed, RocksDB", kills, killed, judged.sagas, &judged.to_string()).print();
    assert!(killed >= 3, "only {killed} kills struck them at work");
    assert!(judged.compensated > 0);
}

/// `INDELIBLE_SMALL_SAGA_PAIRS` may be all pairs that there are; otherwise it is one small saga, and four.
#[tokio::test]
async fn sagas_come_to_the_same_wherever_they_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path().join("log")).unwrap();
    let model = RocksModel::open(dir.path().join("agenda")).unwrap();
    let (first, count) = (number("INDELIBLE_SEED").unwrap_or(3), number("INDELIBLE_STORE_SAGAS").unwrap_or(2));
    let pairs = number("INDELIBLE_STORE_SAGA_PAIRS").unwrap_or(10) as usize;
    let random = crash_random_sagas_on(&store, &model, "random", first..first + count, pairs).await;
    let (pairs, few) = number("INDELIBLE_SMALL_SAGA_PAIRS").map_or((4, 1), |pairs| (pairs as usize, SMALL.len()));
    let small = crash_random_sagas_on(&store, &model, "small", SMALL.into_iter().take(few), pairs).await;
    let (crashes, runs) = ((random.crashes + small.crashes) as u64, (random.runs + small.runs) as u64);
    let controls = format!("of {count} random sagas {random}; of {few} small ones {small}");
    Line::clean("process dies at a point, or at two, RocksDB", crashes, crashes, runs, &controls).seed(first).print();
}
