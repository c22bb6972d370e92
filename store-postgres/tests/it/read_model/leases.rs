//! P4: one owner at a time.

use std::time::Duration;

use indelible_core::Timestamp;
use indelible_postgres::PostgresModel;
use indelible_projections::{Partition, ReadModel, ReadModelError, WorkerId, WorkerRow};
use tokio::time::{Instant, sleep};

use super::fixture::*;
use crate::cluster::shared_url;

const TABLE: &str = "CREATE TABLE t (n bigint)";

fn worker(name: &str) -> WorkerRow {
    WorkerRow {
        id: WorkerId(name.into()),
        host: "here".into(),
        since: Timestamp::from_micros(7).unwrap(),
        runs: id("p", 1),
        troubled: 3,
    }
}

async fn short(url: &str, lease: Duration) -> PostgresModel {
    PostgresModel::options().schema(fresh_model()).lease(lease).open(url).await.unwrap()
}

async fn rows(model: &PostgresModel) -> i64 {
    let mut tx = model.begin(&step(&take(model, &id("p", 1), 0, "a").await, 1)).await.unwrap();
    tx.query("SELECT count(*) FROM t", ()).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn who_took_a_partition_first_can_commit_nothing_more() {
    let model = model(&shared_url()).await;
    register(&model, &id("p", 1), 1, TABLE).await;
    let first = take(&model, &id("p", 1), 0, "a").await;
    assert_eq!(first.parked, []);
    // The owner itself takes it again: as it does when it doesn't know what became of a commit.
    let second = take(&model, &id("p", 1), 0, "a").await;
    assert!(second.epoch > first.epoch);
    let mut zombie = model.begin(&step(&first, 1)).await.unwrap();
    let written = zombie.execute("INSERT INTO t VALUES (1)", ()).await;
    let committed = model.commit(zombie).await;
    assert!(matches!(committed, Err(ReadModelError::Fenced { partition: Partition(0), .. })), "{committed:?}");
    assert!(written.is_ok() || matches!(written, Err(ReadModelError::Fenced { .. })), "{written:?}");

    // One that reads hears of it at once, and a handler that wraps what it heard changes nothing.
    let mut zombie = model.begin(&step(&first, 1)).await.unwrap();
    assert!(matches!(zombie.query("SELECT 1", ()).await, Err(ReadModelError::Fenced { .. })));
    assert!(matches!(model.trouble(&mut zombie), Some(ReadModelError::Fenced { .. })));
    drop(zombie);

    // The right epoch and another place are no better.
    let mut elsewhere = step(&second, 1);
    elsewhere.from.position = indelible_core::Position::new(7);
    let committed = model.commit(model.begin(&elsewhere).await.unwrap()).await;
    assert!(matches!(committed, Err(ReadModelError::Fenced { .. })), "{committed:?}");
    assert_eq!(rows(&model).await, 0);
    let again = step(&take(&model, &id("p", 1), 0, "a").await, 5);
    model.commit(model.begin(&again).await.unwrap()).await.unwrap();
    let row = &model.partitions(&id("p", 1)).await.unwrap()[0];
    assert_eq!((row.position, row.epoch), (again.to, again.epoch));
    assert!(matches!(model.partitions(&id("p", 2)).await, Err(ReadModelError::Unknown { .. })));
    let none = model.take(&id("p", 1), Partition(9), &WorkerId("a".into())).await;
    assert!(matches!(none, Err(ReadModelError::Unknown { .. })), "{none:?}");
}

#[tokio::test]
async fn a_lease_is_kept_renewed_given_back_and_runs_out() {
    let lease = Duration::from_secs(4);
    let model = short(&shared_url(), lease).await;
    register(&model, &id("p", 1), 2, TABLE).await;
    let take_as = async |name: &str, partition| {
        model.take(&id("p", 1), Partition(partition), &WorkerId(name.into())).await.unwrap()
    };
    let claim = take_as("a", 0).await.unwrap();
    assert!(take_as("b", 0).await.is_none());
    // As long as it is renewed, it lasts.
    let started = Instant::now();
    while started.elapsed() < 2 * lease {
        let roster = model.renew(&worker("a")).await.unwrap();
        assert_eq!(roster.workers, [worker("a")]);
        assert_eq!(roster.leases.len(), 1);
        assert!(roster.leases[0].worker.0 == "a" && roster.leases[0].expires_in <= lease, "{roster:?}");
        assert!(take_as("b", 0).await.is_none());
        sleep(lease / 4).await;
    }
    // So it does as long as it commits.
    let mut from = claim.clone();
    for _ in 0..6 {
        let on = step(&from, 1);
        model.commit(model.begin(&on).await.unwrap()).await.unwrap();
        from.position = on.to;
        assert!(take_as("b", 0).await.is_none());
        sleep(lease / 4).await;
    }
    model.release(&claim).await.unwrap();
    assert_eq!(model.partitions(&id("p", 1)).await.unwrap()[0].owner, None);
    assert!(take_as("b", 0).await.is_some());
    // What it has no more, it can't give back.
    model.release(&claim).await.unwrap();
    model.stopped(&claim, "not any more").await.unwrap();
    assert!(take_as("c", 0).await.is_none());
    sleep(lease + Duration::from_millis(50)).await;
    assert_eq!(model.partitions(&id("p", 1)).await.unwrap()[0].owner, None);
    assert!(model.renew(&worker("b")).await.unwrap().leases.is_empty(), "what has run out is not renewed");
    let claim = take_as("c", 0).await.unwrap();
    take_as("c", 1).await.unwrap();
    model.stopped(&claim, "why\0not").await.unwrap();
    assert_eq!(model.partitions(&id("p", 1)).await.unwrap()[0].stopped.as_deref(), Some("why\u{fffd}not"));
    model.renew(&worker("c")).await.unwrap();
    assert_eq!(model.workers().await.unwrap().iter().map(|w| &*w.id.0).collect::<Vec<_>>(), ["b", "c"]);
    model.leave(&WorkerId("c".into()), &id("p", 1)).await.unwrap();
    assert_eq!(model.workers().await.unwrap().len(), 1);
    assert!(model.partitions(&id("p", 1)).await.unwrap().iter().all(|row| row.owner.is_none()));
    assert!(take_as("d", 0).await.is_some());
    assert_eq!(model.partitions(&id("p", 1)).await.unwrap()[0].stopped, None);
}

/// A process that is stopped in the middle of a transaction has its row locked. Others don't wait for it longer than its
/// lease.
#[tokio::test]
async fn a_transaction_that_stands_still_keeps_nobody_out() {
    let lease = Duration::from_secs(4);
    let model = short(&shared_url(), lease).await;
    register(&model, &id("p", 1), 1, TABLE).await;
    let claim = take(&model, &id("p", 1), 0, "a").await;
    let mut stalled = model.begin(&step(&claim, 1)).await.unwrap();
    stalled.execute("INSERT INTO t VALUES (1)", ()).await.unwrap();
    stalled.flush().await.unwrap();
    let started = Instant::now();
    let taken = loop {
        match model.take(&id("p", 1), Partition(0), &WorkerId("b".into())).await {
            Ok(Some(taken)) => break taken,
            Ok(None) => {}
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        assert!(started.elapsed() < 10 * lease, "it is not to be had");
        sleep(Duration::from_millis(10)).await;
    };
    println!("taken {:?} after the last sign of its owner, with a lease of {lease:?}", started.elapsed());
    assert!(started.elapsed() < 3 * lease);
    assert_eq!(taken.position, claim.position);
    let committed = model.commit(stalled).await;
    assert!(matches!(committed, Err(ReadModelError::Unavailable { .. })), "{committed:?}");
}

/// A batch that takes longer than the lease has it again when it is committed.
#[tokio::test]
async fn a_long_batch_renews_its_lease() {
    let lease = Duration::from_secs(3);
    let model = short(&shared_url(), lease).await;
    register(&model, &id("p", 1), 1, TABLE).await;
    let claim = take(&model, &id("p", 1), 0, "a").await;
    let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
    // Longer than the lease, which would have run out by now.
    for _ in 0..8 {
        tx.query("SELECT pg_sleep(0.5)", ()).await.unwrap();
    }
    model.commit(tx).await.unwrap();
    assert!(model.take(&id("p", 1), Partition(0), &WorkerId("b".into())).await.unwrap().is_none());
}
