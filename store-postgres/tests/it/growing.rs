//! A store grows from nothing in one session, whose plans were made for an empty table: what is asked for at the end
//! costs what it returns, as it does for a session that begins there. `INDELIBLE_GROWTH` says to how many events.

use std::time::{Duration, Instant};

use futures::future::join_all;
use indelible_core::{
    Append, AppendOutcome, Category, Condition, EventStore, ExpectedVersion, Filter, Position, QualifiedType, Query,
    QueryItem, ReadLog, ReadStream, Tag,
    conformance::fault::{Line, Verdict},
};
use indelible_postgres::PostgresStore;

use crate::{
    child::number,
    cluster::{Cluster, Pooler},
    writing::{event, stream},
};

const APPENDS: u64 = 20;
const EVENTS: u64 = 250;
/// More than this is a scan, at a size at which one shows.
const SLOW: Duration = Duration::from_millis(60);

fn tag(name: &str, n: u64) -> Tag {
    Tag::of(name, n).unwrap()
}

/// One of each question, on what was written last and what is rare; the longest time that one took, of the best of some
/// tries each.
async fn longest(store: &PostgresStore, written: u64) -> (&'static str, Duration) {
    let rare = Query::new([QueryItem::tags([tag("rare", 0)])]);
    let of_type = QualifiedType { category: Category::new("a").unwrap(), event_type: event("Rare").event_type };
    let typed = Query::new([QueryItem::types([of_type]).and_tag(tag("all", 0))]);
    let mut took = Vec::new();
    for (what, read) in [
        ("the log's end", ReadLog::all().backwards().limit(10)),
        ("the log's middle", ReadLog::all().from(Position::new(written / 2)).limit(10)),
        ("a rare tag", ReadLog::matching(rare.clone())),
        ("a type and a tag", ReadLog::matching(typed)),
        ("a rare category", ReadLog::matching(Filter::categories([Category::new("rare").unwrap()]))),
    ] {
        let mut best = Duration::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            let page = store.read_log(&read).await.unwrap();
            best = best.min(started.elapsed());
            assert!(!page.events.is_empty() && page.events.len() <= 20, "{what}: {}", page.events.len());
        }
        took.push((what, best));
    }
    let mut best = [Duration::MAX; 3];
    for _ in 0..5 {
        let started = Instant::now();
        assert_eq!(store.read_stream(&ReadStream::new(stream("rare-1")).limit(9)).await.unwrap().events.len(), 1);
        best[0] = best[0].min(started.elapsed());
        let started = Instant::now();
        assert!(store.stream_head(&stream("a-1")).await.unwrap().version.get() > 0);
        best[1] = best[1].min(started.elapsed());
        let started = Instant::now();
        let condition = Condition::none_after(rare.clone(), Position::START);
        let told =
            store.append(Append::to(stream("b-1"), ExpectedVersion::Any, [event("No")]).require(condition)).await;
        assert!(matches!(told, Ok(AppendOutcome::Conflict(_))), "{told:?}");
        best[2] = best[2].min(started.elapsed());
    }
    took.extend(["a stream", "a stream's head", "a condition"].into_iter().zip(best));
    took.into_iter().max_by_key(|(_, took)| *took).unwrap()
}

async fn grow(through: &str, store: &PostgresStore, fresh: impl AsyncFn() -> PostgresStore) {
    let wanted = number("INDELIBLE_GROWTH").unwrap_or(30_000);
    let first = event("Rare").with_tags([tag("rare", 0), tag("all", 0)]);
    let append = Append::to(stream("rare-1"), ExpectedVersion::NoStream, [first.clone()]);
    // Of two categories, each found by its own.
    let append = append.event(stream("a-1"), event("Rare").with_tags([tag("all", 0)]));
    assert!(matches!(store.append(append).await.unwrap(), AppendOutcome::Appended(_)));
    let (mut written, mut paces) = (2, Vec::new());
    while written < wanted {
        // Each kind of call is made on tables of any size.
        longest(store, written).await;
        let started = Instant::now();
        let part = written;
        while written < wanted && written < part + wanted / 8 {
            let appends = (0..APPENDS).map(|n| {
                let to = stream(&format!("a-{}", written / EVENTS + n));
                let events = (0..EVENTS).map(|e| event("Written").with_tags([tag("all", 0), tag("n", written + e)]));
                store.append(Append::to(to, ExpectedVersion::Any, events))
            });
            for told in join_all(appends).await {
                assert!(matches!(told.unwrap(), AppendOutcome::Appended(_)));
            }
            written += APPENDS * EVENTS;
        }
        paces.push((written - part) as f64 / started.elapsed().as_secs_f64());
    }
    let mut tries = 0;
    // A plan that is wrong is slow each time, a machine that is busy is not.
    let (what, old, new) = loop {
        let (what, old) = longest(store, written).await;
        let (_, new) = longest(&fresh().await, written).await;
        tries += 1;
        if old < SLOW.max(new * 4) || tries == 5 {
            break (what, old, new);
        }
    };
    let told = format!("{what} takes {old:.1?}; the longest in a fresh session {new:.1?}");
    println!("{written} events: {told}; events/s {paces:.0?}");
    assert!(old < SLOW.max(new * 4), "{what} takes {old:?} in the session that grew the store, {new:?} in another");
    store.verify().await.unwrap();
    let verdict = Verdict { acknowledged: written / EVENTS, ..Verdict::default() };
    Line::new(&format!("grown from nothing in one session{through}"), 1, 1, &verdict, &told).print();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_stay_right_from_nothing_on() {
    let cluster = Cluster::start("");
    let open = || async { PostgresStore::options().connections(1).open(&cluster.url()).await.unwrap() };
    grow("", &open().await, open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_that_are_prepared_stay_right() {
    let cluster = Cluster::start("");
    let open = || async { PostgresStore::options().prepared().connections(1).open(&cluster.url()).await.unwrap() };
    grow(", prepared", &open().await, open).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_stay_right_behind_a_pooler() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(""));
    let pooler = Pooler::before(&cluster);
    let open = || async { PostgresStore::options().connections(1).open(&pooler.url()).await.unwrap() };
    grow(", behind a pooler", &open().await, open).await;
}
