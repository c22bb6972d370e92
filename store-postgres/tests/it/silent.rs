//! Servers that say nothing, callers that go away, and questions that would take everything: each caller is answered in
//! time, and the next one finds what it needs.

use std::time::{Duration, Instant};

use futures::{TryStreamExt, future::join_all};
use indelible_core::{
    Append, CheckpointStore, Delivery, EventStore, EventStoreExt, ExpectedVersion, Filter, Metadata, PAGE_BYTES_MAX,
    ReadLog, ReadStream, StartFrom, StoreError, Subscription,
};
use indelible_postgres::PostgresStore;

use crate::{
    cluster::{Cluster, fresh_schema, shared_url},
    writing::{SOON, append, appended, client, event, log, stream},
};

const PATIENCE: Duration = Duration::from_secs(3);

/// The server hangs: the kernel takes connections for it, and nobody answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_keeps_nobody() {
    let cluster = Cluster::start("");
    let store = PostgresStore::options().patience(PATIENCE).open(&cluster.url()).await.unwrap();
    appended(&store, append("a-1", 0)).await;
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    while !matches!(subscription.next().await.unwrap(), Delivery::CaughtUp(_)) {}
    cluster.pause();
    let started = Instant::now();
    // The first finds a connection that is of no use, the others none.
    let unknown = store.append(append("a-1", 1)).await;
    assert!(matches!(unknown, Err(StoreError::OutcomeUnknown { .. })), "{unknown:?}");
    let refused = store.append(append("a-2", 0)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    for _ in 0..2 {
        let refused = store.head().await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    }
    assert!(started.elapsed() < 8 * PATIENCE, "four calls took {:?}", started.elapsed());

    // What waits behind many others is answered as soon as they are: its patience has ended as theirs did.
    let batches = (0..12).map(|n| {
        let events = (0..4_000).map(|_| event("Written"));
        Append::to(stream(&format!("b-{n}")), ExpectedVersion::Any, events)
    });
    let batches: Vec<Append> = batches.collect();
    let started = Instant::now();
    for told in join_all(batches.into_iter().map(|batch| store.append(batch))).await {
        assert!(matches!(told, Err(StoreError::Unavailable { .. })), "{told:?}");
    }
    assert!(started.elapsed() < 6 * PATIENCE, "twelve batches took {:?}", started.elapsed());

    cluster.resume();
    let written = appended(&store, append("c-1", 0)).await.token;
    let caught_up =
        async { while !matches!(subscription.next().await, Ok(Delivery::CaughtUp(to)) if to == written) {} };
    tokio::time::timeout(SOON, caught_up).await.expect("the subscription goes on by itself");
    assert_eq!(log(&store).await.last().unwrap().id, written.event);
}

/// All connections of the pool are busy: who asks waits for one, no longer than it has patience.
#[tokio::test]
async fn an_exhausted_pool_makes_callers_wait() {
    let (url, schema) = (shared_url(), fresh_schema());
    let options = PostgresStore::options().schema(&schema).connections(2).patience(PATIENCE);
    let store = options.open(&url).await.unwrap();
    appended(&store, append("a-1", 0)).await;
    let mut other = client(&url).await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {schema}.checkpoints IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let started = Instant::now();
    for told in join_all((0..20).map(|_| store.load_checkpoint("reader"))).await {
        assert!(matches!(told, Err(StoreError::Unavailable { .. })), "{told:?}");
    }
    assert!(started.elapsed() < 3 * PATIENCE, "twenty reads took {:?}", started.elapsed());
    lock.rollback().await.unwrap();
    let patient = PostgresStore::options().schema(&schema).connections(2).open(&url).await.unwrap();
    let read = join_all((0..200).map(|_| patient.head())).await;
    assert!(read.iter().all(Result::is_ok), "{read:?}");
}

/// Who gives up waiting leaves no connection behind that still works for it.
#[tokio::test]
async fn a_read_that_is_given_up_keeps_no_connection() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).connections(1).open(&url).await.unwrap();
    appended(&store, append("a-1", 0)).await;
    let mut other = client(&url).await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {schema}.tags IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let by_tag = ReadLog::matching(indelible_core::Tag::new("t").unwrap());
    for _ in 0..2 {
        let given_up = tokio::time::timeout(Duration::from_millis(50), store.verify()).await;
        assert!(given_up.is_err(), "{given_up:?}");
        let given_up = tokio::time::timeout(Duration::from_millis(50), store.read_log(&by_tag)).await;
        assert!(given_up.is_err(), "{given_up:?}");
        let head = tokio::time::timeout(Duration::from_secs(5), store.head()).await;
        head.expect("the connection is of use to others").unwrap();
    }
}

/// A page is bounded by all that is in its events, not by their data alone.
#[tokio::test]
async fn pages_count_metadata_and_tags() {
    const EVENTS: usize = 150;
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let metadata = Metadata::new().with("key", "x".repeat(60_000)).unwrap();
    let events = (0..EVENTS).map(|_| {
        let mut event = event("Written");
        event.metadata = metadata.clone();
        event
    });
    store.append(Append::to(stream("a-1"), ExpectedVersion::Any, events)).await.unwrap();
    let wanted = PAGE_BYTES_MAX / 2..PAGE_BYTES_MAX + 70_000;
    let size = |events: &[indelible_core::RecordedEvent]| events.len() * 60_000;
    let prefix = || ReadLog::matching(Filter::stream_prefix("a-").unwrap());
    for read in [prefix(), prefix().backwards(), ReadLog::all(), ReadLog::all().backwards(), prefix()] {
        let page = store.read_log(&read).await.unwrap();
        assert!(wanted.contains(&size(&page.events)), "{} events of {read:?}", page.events.len());
        let all: Vec<_> = store.log(read).try_collect().await.unwrap();
        assert_eq!(all.len(), EVENTS);
    }
    for read in [ReadStream::new(stream("a-1")), ReadStream::new(stream("a-1")).backwards()] {
        let page = store.read_stream(&read).await.unwrap();
        assert!(wanted.contains(&size(&page.events)), "{} events of {read:?}", page.events.len());
        let all: Vec<_> = store.stream(read).try_collect().await.unwrap();
        assert_eq!(all.len(), EVENTS);
    }
}

/// An append that names the ids of large events is told from them without reading them all.
#[tokio::test]
async fn a_false_repetition_is_told_at_its_first_event() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let large: Vec<_> = (0..60)
        .map(|_| {
            let mut event = event("Written");
            event.data = vec![b'x'; 500_000].into();
            event
        })
        .collect();
    let ids: Vec<_> = large.iter().map(|event| event.id).collect();
    store.append(Append::to(stream("a-1"), ExpectedVersion::Any, large)).await.unwrap();
    let reads = store.statistics().reads;
    let same_ids = ids.iter().map(|id| event("Written").with_id(*id));
    let told = store.append(Append::to(stream("a-1"), ExpectedVersion::Any, same_ids)).await;
    assert!(matches!(told, Err(StoreError::IdConflict { id, .. }) if id == ids[0]), "{told:?}");
    let reads = store.statistics().reads - reads;
    assert!(reads <= 3, "{reads} pages and kinds were read");
}
