//! P7: what is told as metrics and as spans.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{CorrelationId, Timestamp, store::memory::MemoryStore};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::time::sleep;
use tracing::{Subscriber, field::Visit, span};

use crate::fixture::*;

/// Keeps what is told, by name and labels.
#[derive(Default)]
struct Kept {
    numbers: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    samples: Mutex<BTreeMap<String, Arc<Samples>>>,
}
#[derive(Default)]
struct Samples(Mutex<Vec<f64>>);
impl HistogramFn for Samples {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}
impl Kept {
    fn number(&self, name: &str) -> u64 {
        self.numbers.lock().unwrap()[name].load(SeqCst)
    }
    fn gauge(&self, name: &str) -> f64 {
        f64::from_bits(self.number(name))
    }
}
fn name(key: &Key) -> String {
    let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}
impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.numbers.lock().unwrap().entry(name(key)).or_default().clone())
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.numbers.lock().unwrap().entry(name(key)).or_default().clone())
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.samples.lock().unwrap().entry(name(key)).or_default().clone())
    }
}

/// Keeps the fields of the spans of one thread. It is everybody's subscriber, for what has none where it meets a span first
/// turns that span off in all threads.
#[derive(Clone)]
struct Spans(std::thread::ThreadId, Arc<Mutex<Vec<BTreeMap<String, String>>>>);
struct Fields<'a>(&'a mut BTreeMap<String, String>);
impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}"));
    }
}
impl Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && std::thread::current().id() == self.0
    }
    fn register_callsite(&self, _: &'static tracing::Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }
    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut spans = self.1.lock().unwrap();
        spans.push(BTreeMap::from([("name".into(), span.metadata().name().into())]));
        let id = spans.len();
        span.record(&mut Fields(&mut spans[id - 1]));
        span::Id::from_u64(id as u64)
    }
    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        values.record(&mut Fields(&mut self.1.lock().unwrap()[span.into_u64() as usize - 1]));
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[test]
fn batches_are_counted_and_traced_to_what_caused_their_events() {
    let (kept, correlation) = (Kept::default(), CorrelationId::new());
    let spans = Spans(std::thread::current().id(), Arc::default());
    tracing::subscriber::set_global_default(spans.clone()).unwrap();
    tracing::callsite::rebuild_interest_cache();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let play = async {
        let (store, model) = (MemoryStore::new(), MemoryModel::new());
        let mut caused = deposited(1);
        caused.correlation_id = Some(correlation);
        append(&store, "a", caused).await;
        for _ in 0..4 {
            append(&store, "a", deposited(1)).await;
        }
        let mut options = RunnerOptions::default();
        options.batch_events_max = 3;
        let running = Worker::new(&store).with_options(options).add(&model, Tally).start().await.unwrap();
        sleep(Duration::from_secs(2)).await;
        running.pause::<Tally>().await.unwrap();
        append(&store, "a", deposited(1)).await;
        sleep(Duration::from_secs(2)).await;
    };
    metrics::with_local_recorder(&kept, || runtime.block_on(play));
    let home = Partition::of(&stream("a"), 4);
    let number = |name: &str| kept.number(name);
    let at = |name: &str| format!("{name}{{projection=tally@1,partition={home}}}");
    assert_eq!(number(&at("indelible_projection_events_total")), 5);
    assert_eq!(number(&at("indelible_projection_batches_total")), 2);
    assert_eq!(kept.gauge(&at("indelible_projection_position")), 5.0);
    assert_eq!(kept.gauge(&at("indelible_projection_lag_events")), 1.0);
    assert_eq!(kept.gauge("indelible_projection_partitions_owned{projection=tally@1}"), 4.0);
    let samples = kept.samples.lock().unwrap();
    assert_eq!(*samples[&at("indelible_projection_batch_events")].0.lock().unwrap(), [3.0, 2.0]);
    assert_eq!(samples[&at("indelible_projection_lag_seconds")].0.lock().unwrap().len(), 2);

    let spans = spans.1.lock().unwrap();
    let batches: Vec<_> = spans.iter().filter(|span| span["name"] == "projection batch").collect();
    assert_eq!(batches.len(), 2);
    assert_eq!((&*batches[0]["first"], &*batches[0]["last"], &*batches[1]["events"]), ("1", "3", "2"));
    assert_eq!((&*batches[0]["correlations"], &*batches[1]["correlations"]), (&*correlation.to_string(), ""));
}

/// Cannot handle deposits of 13 until it is mended.
#[derive(Clone, Default)]
struct Picky<const PARK: bool>(Arc<AtomicBool>);
impl<const PARK: bool> Projection for Picky<PARK> {
    const NAME: &'static str = "picky";
    const ON_FAILURE: OnFailure = if PARK { OnFailure::PARK } else { OnFailure::Stop };
    const RETRY: Retry = Retry { attempts_max: 3, ..Retry::DEFAULT };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl<const PARK: bool> Project<MemoryModel> for Picky<PARK> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, _: &mut MemoryTx) -> Result<(), Cause> {
        match envelope.event {
            AccountEvent::Deposited { cents: 13 } if !self.0.load(SeqCst) => Err("13 is bad luck".into()),
            _ => Ok(()),
        }
    }
}

/// Plays something in simulated time, and keeps what it tells.
fn told<P: Future<Output = ()>>(play: impl FnOnce(Arc<Kept>) -> P) {
    let (kept, runtime) = (Arc::new(Kept::default()), tokio::runtime::Builder::new_current_thread());
    let runtime = { runtime }.enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&*kept.clone(), || runtime.block_on(play(kept)));
}

#[test]
fn retries_dead_letters_and_parked_streams_are_counted() {
    told(async |kept| {
        let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<true>::default());
        for (account, cents) in [("a", 13), ("b", 1), ("a", 2), ("c", 13), ("a", 3)] {
            append(&store, account, deposited(cents)).await;
        }
        let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
        sleep(Duration::from_secs(10)).await;
        let counter =
            |name: &str| kept.number(&format!("indelible_projection_{name}{{projection=picky@1,partition=0}}"));
        let parked = || kept.gauge("indelible_projection_streams_parked{projection=picky@1}");
        // Each of the two thirteens is tried three times.
        assert_eq!((counter("retries_total"), counter("dead_letters_total")), (4, 4));
        assert_eq!((counter("events_total"), parked()), (1, 2.0));
        let status = running.status()[0].1[0].clone();
        assert_eq!((status.retries, status.parked.len(), status.events, status.batches), (4, 2, 1, 1));

        picky.0.store(true, SeqCst);
        assert_eq!(running.redrive::<Picky<true>>(&stream("a")).await.unwrap(), 3);
        sleep(Duration::from_secs(2)).await;
        assert_eq!((parked(), counter("retries_total"), counter("dead_letters_total")), (1.0, 4, 4));
    });
}

#[test]
fn how_long_the_oldest_event_waits_is_told_while_nothing_is_committed() {
    told(async |kept| {
        let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<false>::default());
        let running = Worker::new(&store).add(&model, picky.clone()).add(&model, Tally).start().await.unwrap();
        let behind = |id: &str| kept.gauge(&format!("indelible_projection_behind_seconds{{projection={id}}}"));
        append(&store, "a", deposited(1)).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!((behind("picky@1"), behind("tally@1")), (0.0, 0.0));

        // The log's clock is not simulated.
        let waits = Duration::from_millis(5);
        std::thread::sleep(waits);
        let before = Timestamp::now();
        append(&store, "a", deposited(13)).await;
        std::thread::sleep(waits);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(kept.gauge("indelible_projection_partitions_stopped{projection=picky@1}"), 1.0);
        let stopped = behind("picky@1");
        let at_most = Timestamp::now().since(before);
        assert!((waits.as_secs_f64()..=at_most.as_secs_f64()).contains(&stopped), "{stopped}, of {at_most:?}");
        // What comes later changes nothing of that, and one that goes on is not behind.
        append(&store, "a", deposited(1)).await;
        std::thread::sleep(waits);
        sleep(Duration::from_secs(2)).await;
        assert!(behind("picky@1") >= stopped + waits.as_secs_f64(), "{}", behind("picky@1"));
        assert_eq!(behind("tally@1"), 0.0);

        picky.0.store(true, SeqCst);
        running.restart::<Picky<false>>().await.unwrap();
        running.pause::<Tally>().await.unwrap();
        append(&store, "a", deposited(1)).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(behind("picky@1"), 0.0);
        assert!(behind("tally@1") > 0.0, "it is paused");
    });
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_told_and_goes_down_again() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    let rate = || running.rates()[0].1;
    for account in 0..1_000 {
        append(&store, account % 20, deposited(1)).await;
        sleep(Duration::from_millis(20)).await;
    }
    assert!((45.0..=55.0).contains(&rate()), "{} events a second, of 50", rate());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(rate(), 0.0);
}
