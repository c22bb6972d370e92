//! What holds back the cluster's oldest transaction holds back no reader: transactions that stay open, here or in another
//! database, and VACUUM. A reader that waits for the oldest transaction to end, as others do, sees nothing meanwhile.
//! `INDELIBLE_STALL_SECONDS` says how long to read in each state.

use std::time::{Duration, Instant};

use indelible_core::{
    Delivery, Filter, StartFrom, Subscription,
    conformance::fault::{Line, Verdict},
};
use indelible_postgres::PostgresStore;

use crate::{
    child::number,
    cluster::Cluster,
    writing::{append, appended, client},
};

/// How long an event may take from its acknowledgement to a reader in another process.
const PROMPTLY: Duration = Duration::from_secs(10);

/// Appends for a while, and takes the longest time that an event took to a follower over connections of its own.
async fn longest(writing: &PostgresStore, reading: &PostgresStore, name: &str) -> (u64, Duration) {
    let until = Instant::now() + Duration::from_secs(number("INDELIBLE_STALL_SECONDS").unwrap_or(1));
    let mut subscription = Subscription::new(reading.clone(), Filter::all(), StartFrom::Now).await.unwrap();
    let (mut version, mut longest) = (0, Duration::ZERO);
    while Instant::now() < until || version < 20 {
        let written = appended(writing, append(name, version)).await.token;
        let (acknowledged, mut is_seen) = (Instant::now(), false);
        while !is_seen {
            let next = tokio::time::timeout(PROMPTLY, subscription.next()).await.expect("readers go on").unwrap();
            is_seen = matches!(next, Delivery::Event(event) if event.id == written.event);
        }
        longest = longest.max(acknowledged.elapsed());
        version += 1;
    }
    (version, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_stalls_nobody() {
    let cluster = Cluster::start("");
    let url = cluster.url();
    let (writing, reading) = (PostgresStore::open(&url).await.unwrap(), PostgresStore::open(&url).await.unwrap());
    let admin = client(&url).await;
    let others = "CREATE TABLE others (at xid8 DEFAULT pg_current_xact_id(), n integer)";
    admin.batch_execute(others).await.unwrap();
    admin.batch_execute("CREATE DATABASE elsewhere").await.unwrap();
    let elsewhere = url.replace("/postgres?", "/elsewhere?");
    let horizon = "SELECT count(*) FROM others WHERE at < pg_snapshot_xmin(pg_current_snapshot())";
    let (mut states, mut acknowledged, mut slowest) = (0, 0, Duration::ZERO);
    let mut tell = |state: &str, (events, took): (u64, Duration)| {
        println!("{state}: {events} events, none later than {took:?}");
        (states, acknowledged, slowest) = (states + 1, acknowledged + events, slowest.max(took));
    };
    for (state, place) in [("idle in transaction here", &url), ("idle in transaction elsewhere", &elsewhere)] {
        let idle = client(place).await;
        idle.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
        admin.batch_execute("TRUNCATE others").await.unwrap();
        admin.batch_execute("INSERT INTO others (n) SELECT generate_series(1, 100)").await.unwrap();
        let seen: i64 = admin.query_one(horizon, &[]).await.unwrap().get(0);
        assert_eq!(seen, 0, "the control: a reader behind the horizon sees what is committed, {state}");
        tell(state, longest(&writing, &reading, &format!("a-{}", state.len())).await);
        idle.batch_execute("ROLLBACK").await.unwrap();
        let seen: i64 = admin.query_one(horizon, &[]).await.unwrap().get(0);
        assert_eq!(seen, 100, "the control goes on with {state} over");
    }
    let vacuum = client(&url).await;
    let vacuuming = tokio::spawn(async move {
        // As slow as it can be made.
        vacuum.batch_execute("SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1").await.unwrap();
        loop {
            vacuum.batch_execute("VACUUM (FREEZE) indelible.log").await.unwrap();
        }
    });
    tell("VACUUM", longest(&writing, &reading, "a-vacuum").await);
    assert!(!vacuuming.is_finished());
    vacuuming.abort();
    let verdict = Verdict { acknowledged, ..Verdict::default() };
    let controls = format!("none seen later than {slowest:.1?}; behind the oldest transaction 0 of 100 seen");
    Line::new("transactions left open, slow VACUUM", states, states, &verdict, &controls).print();
}
