//! What a store says of itself: how many streams there are, and that it has stopped; what it tells monitors and traces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread::{self, ThreadId},
    time::Duration,
};

use indelible_core::{
    Append, AppendOutcome, ContentType, Delivery, EventStore, EventType, ExpectedVersion, Filter, NewEvent, ReadLog,
    StartFrom, StoreError, Subscription,
};
use indelible_rocksdb::RocksStore;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tracing::{Subscriber, span, subscriber::Interest};

use crate::conformance::copy_files;

/// Opens a store that moves each group into the index.
fn open(dir: &Path) -> RocksStore {
    RocksStore::options().segment_bytes(1).open(dir).unwrap()
}

async fn write(store: &RocksStore, streams: std::ops::Range<u64>) {
    for stream in streams {
        let events = [0, 1].map(|_| NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}"));
        let append = Append::to(format!("s-{stream}").parse().unwrap(), ExpectedVersion::Any, events);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
}

#[tokio::test]
async fn streams_are_counted_wherever_they_are_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert_eq!(store.statistics().streams, 0);
    write(&store, 0..7).await;
    write(&store, 3..9).await;
    assert_eq!(store.statistics().streams, 9, "in memory");
    assert!(store.statistics().open_for > Duration::ZERO);
    store.close().await.unwrap();
    let store = open(dir.path());
    assert_eq!(store.statistics().streams, 9, "from the index");
    write(&store, 5..20).await;
    assert_eq!(store.statistics().streams, 20, "in both");
    let killed = tempfile::tempdir().unwrap();
    copy_files(dir.path(), killed.path());
    let again = open(killed.path());
    assert_eq!(again.statistics().streams, 20, "after a kill");
    again.rebuild_indexes().await.unwrap();
    assert_eq!(again.statistics().streams, 20, "rebuilt");
    store.close().await.unwrap();
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let store = open(dir.path());
    assert_eq!(store.statistics().streams, 20, "made anew");
    for store in [store, again] {
        let found = store.verify(|_| {}).await.unwrap();
        assert!(found.is_clean() && found.streams == 20, "{:?}", found.problems);
    }
}

/// A store that can't go on says so, and ends subscriptions, also where nothing more is written.
#[tokio::test]
async fn a_store_that_stopped_itself_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    assert!(matches!(subscription.next().await, Ok(Delivery::CaughtUp(_))));
    assert!(!store.statistics().is_stopped);
    // What is moved into the index has no place.
    let in_the_way = dir.path().join("ingest");
    fs::write(&in_the_way, "").unwrap();
    write(&store, 0..1).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Err(error) = subscription.next().await {
                break error;
            }
        }
    });
    let error = ended.await.expect("it ends");
    assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
    assert!(store.statistics().is_stopped);
    fs::remove_file(in_the_way).unwrap();
    store.resume().await.unwrap();
    assert!(!store.statistics().is_stopped);
    write(&store, 1..2).await;
    assert!(matches!(subscription.next().await, Ok(Delivery::Event(_) | Delivery::CaughtUp(_))));
    store.close().await.unwrap();
    assert!(store.statistics().is_stopped);
}

/// All that is told under a name: a counter's sum, a gauge's bits, how often a histogram was told something.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<BTreeMap<String, Arc<Number>>>>);
#[derive(Default)]
struct Number(Arc<AtomicU64>);
impl HistogramFn for Number {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, SeqCst);
    }
}
impl Told {
    fn number(&self, key: &Key) -> Arc<Number> {
        Arc::clone(self.0.lock().unwrap().entry(key.name().into()).or_default())
    }
    fn now(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap().iter().map(|(name, number)| (name.clone(), number.0.load(SeqCst))).collect()
    }
}
impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(&self.number(key).0))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::clone(&self.number(key).0))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.number(key))
    }
}

/// The names of the spans of one thread. It is everybody's subscriber: one that is a thread's alone may find spans turned off
/// by threads that have none.
struct Spans(ThreadId, Arc<Mutex<BTreeSet<&'static str>>>);
impl Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && thread::current().id() == self.0
    }
    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> Interest {
        Interest::sometimes()
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        self.1.lock().unwrap().insert(span.metadata().name());
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Other tests' stores tell the same recorder: it has at least what this one did.
#[tokio::test]
async fn monitors_and_traces_are_told() {
    let (told, spans) = (Told::default(), Arc::default());
    metrics::set_global_recorder(told.clone()).unwrap();
    tracing::subscriber::set_global_default(Spans(thread::current().id(), Arc::clone(&spans))).unwrap();
    tracing::callsite::rebuild_interest_cache();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    write(&store, 0..5).await;
    store.head().await.unwrap();
    store.read_log(&ReadLog::all()).await.unwrap();
    // What the keeper tells, its gauges once a second.
    let awaited = [
        "index_seconds",
        "appends_under_way",
        "queue_bytes",
        "head",
        "streams",
        "index_lag_events",
        "anchor_lag_events",
        "log_bytes",
        "index_bytes",
        "buffered_bytes",
        "compaction_pending_bytes",
        "write_stopped",
        "stopped",
    ];
    let prefixed = |name: &str| format!("indelible_rocksdb_{name}");
    let all = async {
        while !awaited.iter().all(|name| told.now().contains_key(&prefixed(name))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("they are told");
    let (now, statistics) = (told.now(), store.statistics());
    let is_told = |name: &str, least: u64| {
        let found = now.get(&prefixed(name));
        assert!(found.is_some_and(|found| *found >= least), "{name}: {found:?} of {least}");
    };
    assert_eq!((statistics.appends, statistics.events, statistics.head), (5, 10, 10));
    is_told("appends_total", statistics.appends);
    is_told("events_total", statistics.events);
    is_told("reads_total", 2);
    is_told("group_events", statistics.groups);
    is_told("sync_seconds", statistics.syncs);
    is_told("index_seconds", 1);
    assert_eq!(*spans.lock().unwrap(), BTreeSet::from(["append", "read", "read_log"]));
    store.close().await.unwrap();
}
