//! A first look at how fast batches are, beside the same statements sent by hand. The figures are printed; what is
//! demanded is little, since tests share the machine.

use std::{env, time::Instant};

use futures::future::join_all;
use indelible_projections::ReadModel;

use super::fixture::*;
use crate::{cluster::shared_url, writing::client};

const TABLE: &str = "CREATE TABLE balances (account text PRIMARY KEY, cents bigint NOT NULL)";
const UPSERT: &str = "INSERT INTO balances VALUES ($1, $2)
    ON CONFLICT (account) DO UPDATE SET cents = balances.cents + excluded.cents";
const SETS: &str =
    "INSERT INTO balances SELECT account, sum(cents)::bigint FROM unnest($1::text[], $2::bigint[]) t (account, cents)
    GROUP BY account ON CONFLICT (account) DO UPDATE SET cents = balances.cents + excluded.cents";
const BATCH: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_about_as_fast_as_the_same_by_hand() {
    let url = shared_url();
    let events: usize = env::var("INDELIBLE_MODEL_SPEED").map_or(20_000, |events| events.parse().unwrap());
    let accounts: Vec<(String, i64)> = (0..events).map(|n| (format!("account-{}", n * 7 % 1_000), n as i64)).collect();
    let model = model(&url).await;
    register(&model, &id("p", 1), 1, TABLE).await;
    let mut claim = take(&model, &id("p", 1), 0, "a").await;
    let hand = client(&url).await;
    let own = format!(
        "CREATE SCHEMA \"{0}\"; SET search_path = \"{0}\"; {TABLE}; CREATE TABLE checkpoint (n bigint);
        INSERT INTO checkpoint VALUES (0)",
        fresh_model()
    );
    hand.batch_execute(&own).await.unwrap();
    let (upsert, sets) = (hand.prepare(UPSERT).await.unwrap(), hand.prepare(SETS).await.unwrap());
    let mut best = [0.0_f64; 4];
    for round in 0..6 {
        let started = Instant::now();
        let which = if round % 2 == 0 { 0 } else { 2 };
        for batch in accounts.chunks(BATCH) {
            let on = step(&claim, batch.len() as u64);
            let mut tx = model.begin(&on).await.unwrap();
            if which == 0 {
                for (account, cents) in batch {
                    tx.execute(UPSERT, (account, cents)).await.unwrap();
                }
            } else {
                let (accounts, cents): (Vec<&str>, Vec<i64>) = batch.iter().map(|(a, c)| (a.as_str(), *c)).unzip();
                tx.execute(SETS, (accounts, cents)).await.unwrap();
            }
            model.commit(tx).await.unwrap();
            claim.position = on.to;
        }
        best[which] = best[which].max(events as f64 / started.elapsed().as_secs_f64());
        let started = Instant::now();
        for batch in accounts.chunks(BATCH) {
            hand.batch_execute("BEGIN; UPDATE checkpoint SET n = n + 1").await.unwrap();
            if which == 0 {
                let all = batch.iter().map(|(account, cents)| async { hand.execute(&upsert, &[account, cents]).await });
                join_all(all).await.into_iter().for_each(|done| assert_eq!(done.unwrap(), 1));
            } else {
                let (accounts, cents): (Vec<&str>, Vec<i64>) = batch.iter().map(|(a, c)| (a.as_str(), *c)).unzip();
                hand.execute(&sets, &[&accounts, &cents]).await.unwrap();
            }
            hand.batch_execute("COMMIT").await.unwrap();
        }
        best[which + 1] = best[which + 1].max(events as f64 / started.elapsed().as_secs_f64());
    }
    let [queued, by_hand, set_based, sets_by_hand] = best;
    println!(
        "one upsert an event: {queued:.0} events/s queued, {by_hand:.0} pipelined by hand, ratio {:.2}",
        queued / by_hand
    );
    println!(
        "a set a batch: {set_based:.0} events/s, {sets_by_hand:.0} by hand, ratio {:.2}",
        set_based / sets_by_hand
    );
    assert!(queued > 0.4 * by_hand && set_based > 0.4 * sets_by_hand);
}
