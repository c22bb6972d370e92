//! What handlers write to: that it is one transaction, and what becomes of what goes wrong in it.

use std::time::Duration;

use futures::FutureExt;
use indelible_postgres::{PostgresModel, PostgresTx};
use indelible_projections::{Claim, ReadModel, ReadModelError};

use super::fixture::*;
use crate::cluster::shared_url;

const TABLES: &str = "CREATE TABLE t (key text PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE checked (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)";

async fn one(partitions: u32) -> (PostgresModel, Claim) {
    let model = model(&shared_url()).await;
    register(&model, &id("p", 1), partitions, TABLES).await;
    let claim = take(&model, &id("p", 1), 0, "a").await;
    (model, claim)
}

async fn n(tx: &mut PostgresTx, key: &str) -> Option<i64> {
    tx.query_opt("SELECT n FROM t WHERE key = $1", (key,)).await.unwrap().map(|row| row.get(0))
}

const ADD: &str = "INSERT INTO t VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET n = t.n + excluded.n";

#[tokio::test]
async fn a_read_sees_what_was_queued_and_nothing_is_left_of_what_is_dropped() {
    let (model, claim) = one(1).await;
    let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
    for _ in 0..5_000 {
        tx.execute(ADD, ("a", 1_i64)).await.unwrap();
    }
    assert_eq!(n(&mut tx, "a").await, Some(5_000));
    let keys = vec!["b", "c"];
    tx.execute("INSERT INTO t SELECT unnest($1::text[]), $2", (&keys, 7_i64)).await.unwrap();
    let dynamic: &[&(dyn indelible_postgres::ToSql + Sync)] = &[&"d", &8_i64];
    tx.execute(ADD, dynamic).await.unwrap();
    drop(tx);
    let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
    assert_eq!(n(&mut tx, "a").await, None);
    tx.execute(ADD, ("a", 3_i64)).await.unwrap();
    model.commit(tx).await.unwrap();
    let claim = take(&model, &id("p", 1), 0, "a").await;
    assert_eq!(claim.position.position.get(), 1);
    let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
    assert_eq!(n(&mut tx, "a").await, Some(3));
}

#[tokio::test]
async fn what_the_server_refuses_is_told_and_nothing_of_the_batch_is_kept() {
    let (model, claim) = one(1).await;
    let begin = async || model.begin(&step(&claim, 1)).await.unwrap();
    let is_rejected =
        |answer: Result<(), ReadModelError>| assert!(matches!(answer, Err(ReadModelError::Rejected { .. })));

    // Late, since nobody waits for it; also where the handler doesn't listen.
    for listens in [true, false] {
        let mut tx = begin().await;
        tx.execute(ADD, ("a", 1_i64)).await.unwrap();
        tx.execute("INSERT INTO t VALUES ('a', 1)", ()).await.unwrap();
        match listens {
            true => is_rejected(tx.flush().await),
            false => drop(tx.query("SELECT 1", ()).await.unwrap_err()),
        }
        assert!(model.trouble(&mut tx).is_none(), "it is held against the event");
        is_rejected(tx.execute(ADD, ("a", 1_i64)).await);
        is_rejected(model.commit(tx).await);
    }
    // At once, for what can't be prepared, doesn't fit, or is not a handler's business; the last two harm nothing.
    let mut tx = begin().await;
    is_rejected(tx.execute("INSERT INTO nowhere VALUES (1)", ()).await);
    is_rejected(model.commit(tx).await);
    let mut tx = begin().await;
    is_rejected(tx.execute(ADD, ("a",)).await);
    is_rejected(tx.execute(ADD, (1_i64, "a")).await);
    is_rejected(tx.execute(" commit", ()).await);
    is_rejected(tx.execute("ROLLBACK", ()).await);
    drop(tx);
    // With the commit.
    let mut tx = begin().await;
    tx.execute("INSERT INTO checked VALUES (1), (1)", ()).await.unwrap();
    tx.flush().await.unwrap();
    is_rejected(model.commit(tx).await);
    // A question that nobody waited for may have failed.
    let mut tx = begin().await;
    tx.execute(ADD, ("b", 1_i64)).await.unwrap();
    assert!(tx.query("SELECT 1 / (SELECT 0 FROM pg_sleep(0.1))", ()).now_or_never().is_none());
    is_rejected(model.commit(tx).await);

    let mut tx = begin().await;
    assert_eq!((n(&mut tx, "a").await, n(&mut tx, "b").await), (None, None));
}

/// Two partitions that read what both write: one of them is done over.
#[tokio::test]
async fn partitions_that_share_a_row_come_out_as_if_one_ran_after_the_other() {
    let (model, claim) = one(2).await;
    let other = take(&model, &id("p", 1), 1, "a").await;
    let mut conflicts = 0;
    let (mut first, mut second) = (claim, other);
    for round in 0..10 {
        let (a, b) = (step(&first, 1), step(&second, 1));
        let (mut one, mut two) = (model.begin(&a).await.unwrap(), model.begin(&b).await.unwrap());
        let seen = [n(&mut one, "shared").await, n(&mut two, "shared").await];
        assert_eq!(seen[0], seen[1]);
        let put = "INSERT INTO t VALUES ('shared', $1) ON CONFLICT (key) DO UPDATE SET n = excluded.n";
        let next = seen[0].unwrap_or(0) + 1;
        // The first has the row, and the second waits for it.
        one.execute(put, (next,)).await.unwrap();
        one.flush().await.unwrap();
        two.execute(put, (next,)).await.unwrap();
        let commit = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            model.commit(one).await.unwrap();
        };
        let committed = match tokio::join!(two.flush(), commit).0 {
            Ok(()) => model.commit(two).await,
            Err(error) => Err(error),
        };
        let Err(ReadModelError::Conflict { .. }) = committed else { panic!("{round}: {committed:?}") };
        conflicts += 1;
        // Done over.
        let mut two = model.begin(&b).await.unwrap();
        assert_eq!(n(&mut two, "shared").await, Some(round * 2 + 1));
        two.execute("UPDATE t SET n = n + 1 WHERE key = 'shared'", ()).await.unwrap();
        model.commit(two).await.unwrap();
        (first.position, second.position) = (a.to, b.to);
    }
    assert_eq!(conflicts, 10);
    // Those that share nothing are in nobody's way, however small the tables are.
    for round in 0..20 {
        let (a, b) = (step(&first, 1), step(&second, 1));
        let (mut one, mut two) = (model.begin(&a).await.unwrap(), model.begin(&b).await.unwrap());
        for (tx, key) in [(&mut one, "mine"), (&mut two, "yours")] {
            tx.execute(ADD, (format!("{key}{round}"), 1_i64)).await.unwrap();
            tx.flush().await.unwrap();
        }
        model.commit(one).await.unwrap();
        model.commit(two).await.unwrap();
        (first.position, second.position) = (a.to, b.to);
    }
}

/// A batch that is given up while the server is at work does not keep the next one from its row for long.
#[tokio::test]
async fn a_batch_that_is_given_up_is_ended_on_the_server() {
    let (model, claim) = one(1).await;
    let mut tx = model.begin(&step(&claim, 1)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), tx.query("SELECT pg_sleep(60)", ())).await.is_err());
    drop(tx);
    let next = async { model.commit(model.begin(&step(&claim, 1)).await.unwrap()).await };
    tokio::time::timeout(Duration::from_secs(30), next).await.expect("the row is free").unwrap();
}
