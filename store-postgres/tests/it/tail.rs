//! Many writers in several processes, whose transactions take their time at random, and readers that follow: none misses
//! an event, sees one twice, or out of order. The same test finds what a cursor over a sequence loses.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use futures::FutureExt;
use indelible_core::{
    Append, AppendOutcome, Delivery, EventStore, ExpectedVersion, Filter, StartFrom, Subscription, Version,
    conformance::fault::{Line, Verdict},
};
use indelible_postgres::PostgresStore;
use tokio_postgres::types::Type;

use crate::{
    child::{self, number},
    cluster::{fresh_schema, shared_url},
    writing::{SOON, append, client, event, log, stream},
};

const PROCESSES: usize = 8;
const WRITERS: usize = 4;

/// How long to write, in seconds; `INDELIBLE_TAIL_SECONDS` says otherwise.
fn seconds() -> u64 {
    number("INDELIBLE_TAIL_SECONDS").unwrap_or(12)
}

/// Slows transactions down before they end: up to 50 ms, and 2 % of them up to 4 s.
fn slowing(table: &str, schema: &str) -> String {
    format!(
        "CREATE FUNCTION {schema}.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_sleep(random() * CASE WHEN random() < 0.02 THEN 4 ELSE 0.05 END); RETURN NULL; END $$; \
         CREATE TRIGGER dawdle AFTER INSERT ON {schema}.{table} FOR EACH STATEMENT EXECUTE FUNCTION {schema}.dawdle()"
    )
}

/// What a child does: some writers, on streams of their own and, where it shares, on one of all who do. Who doesn't finds all
/// its streams as it left them, while others write.
pub(crate) async fn write(url: &str, schema: &str, shares: bool) {
    let store = PostgresStore::options().schema(schema).connections(2).open(url).await.unwrap();
    let until = Instant::now() + Duration::from_secs(seconds());
    let mut writers = Vec::new();
    for n in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let (mut version, mut written) = (0, 0);
            while Instant::now() < until {
                let own = stream(&format!("writer-{}-{n}", std::process::id()));
                let second = if shares { stream("shared-1") } else { own.clone() };
                let append = Append::to(own, ExpectedVersion::Exact(Version::new(version)), [event("Own")])
                    .event(second, event("Second"));
                match store.append(append).await.unwrap() {
                    AppendOutcome::Appended(_) => version += if shares { 1 } else { 2 },
                    conflict => panic!("{conflict:?}"),
                }
                written += 2;
            }
            written
        }));
    }
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    println!("\nwritten {written}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_many_slow_writers_misses_nothing() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    client(&url).await.batch_execute(&slowing("log", &schema)).await.unwrap();
    let jobs = ["append", "append apart"].into_iter().cycle().take(PROCESSES);
    let children: Vec<_> = jobs.map(|job| child::command(&format!("{job} {schema}"), &url).spawn().unwrap()).collect();
    let writing = tokio::task::spawn_blocking(move || {
        let mut written = 0;
        for child in children {
            let output = child.wait_with_output().unwrap();
            let said = child::said(&output);
            let count = said.lines().find_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok());
            written += count.unwrap_or_else(|| panic!("a writer failed: {said}"));
        }
        written
    });
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    let mut seen = Vec::new();
    let mut end = None;
    let mut writing = std::pin::pin!(writing);
    let deadline = Instant::now() + Duration::from_secs(seconds()) + 2 * SOON;
    while end != Some(seen.len() as u64) {
        assert!(Instant::now() < deadline, "{} of {end:?} events seen", seen.len());
        tokio::select! {
            delivery = subscription.next() => if let Delivery::Event(event) = delivery.unwrap() {
                seen.push(event);
            },
            written = &mut writing, if end.is_none() => end = Some(written.unwrap()),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    let mut verdict = Verdict { acknowledged: seen.len() as u64 / 2, ..Verdict::default() };
    let ids: HashSet<_> = seen.iter().map(|event| event.id).collect();
    verdict.lost = end.unwrap_or_default() - ids.len() as u64;
    for (event, position) in seen.iter().zip(1..) {
        verdict.holes += u64::from(event.position.get() != position);
    }
    if ids.len() < seen.len() {
        verdict.wrong("doubled", || format!("{} events are {}", seen.len(), ids.len()));
    }
    if !seen.is_sorted_by_key(|event| event.recorded_at) {
        verdict.wrong("time", || "time went back".into());
    }
    let (others, lost) = cursor_over_a_sequence(seconds()).await;
    let controls = format!("a cursor over a sequence lost {lost} of {others} events");
    println!("{} events of {PROCESSES} processes: {verdict}; {controls}", seen.len());
    Line::new(
        "slow transactions, 32 writers in 8 processes",
        end.unwrap_or_default() / 2,
        seen.len() as u64 / 2,
        &verdict,
        &controls,
    )
    .print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(seen.len() as u64 > 20 * seconds(), "only {} events", seen.len());
    assert!(lost > 0, "the pauses show nothing: {controls}");
}

/// The control: the same pauses and as many writers, each on a connection of its own; positions from a sequence, and a
/// reader that goes on behind the last position it has seen. How many events there are, and how many it lost.
async fn cursor_over_a_sequence(seconds: u64) -> (i64, i64) {
    let (url, schema) = (shared_url(), fresh_schema());
    let reader = client(&url).await;
    reader
        .batch_execute(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.log (position bigserial PRIMARY KEY, name text); {}",
            slowing("log", &schema)
        ))
        .await
        .unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..PROCESSES * WRITERS {
        let (is_over, client, schema) = (Arc::clone(&is_over), client(&url).await, schema.clone());
        writers.push(tokio::spawn(async move {
            while !is_over.load(SeqCst) {
                let insert = format!("INSERT INTO {schema}.log (name) VALUES ('writer-{n}')");
                client.batch_execute(&insert).await.unwrap();
            }
        }));
    }
    let until = Instant::now() + Duration::from_secs(seconds.min(60));
    let (mut position, mut seen) = (0_i64, 0);
    loop {
        let is_last = Instant::now() > until;
        if is_last && !is_over.swap(true, SeqCst) {
            for writer in writers.drain(..) {
                writer.await.unwrap();
            }
        }
        let read = format!("SELECT position FROM {schema}.log WHERE position > $1 ORDER BY position LIMIT 100");
        let rows = reader.query_typed(&read, &[(&position, Type::INT8)]).await.unwrap();
        seen += rows.len() as i64;
        position = rows.last().map_or(position, |row| row.get(0));
        if is_last && rows.is_empty() {
            break;
        }
    }
    let row = reader.query_typed_one(&format!("SELECT count(*) FROM {schema}.log"), &[]).await.unwrap();
    let all: i64 = row.get(0);
    (all, all - seen)
}

/// Who asked for the next event and does not come back for it keeps no connection from others.
#[tokio::test]
async fn a_subscriber_who_stays_away_keeps_no_connection() {
    let options = PostgresStore::options().schema(fresh_schema()).connections(1);
    let store = options.open(&shared_url()).await.unwrap();
    store.append(append("a-1", 0)).await.unwrap();
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    assert!(subscription.next().now_or_never().is_none(), "a server takes longer than that");
    assert_eq!(log(&store).await.len(), 1);
    assert!(subscription.next().await.unwrap().into_event().is_some());
}
