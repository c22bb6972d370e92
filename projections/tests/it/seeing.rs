//! P7: what is told as metrics and as spans.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use indelible_core::{CorrelationId, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
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
        tokio::time::sleep(Duration::from_secs(2)).await;
        running.pause::<Tally>().await;
        append(&store, "a", deposited(1)).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    metrics::with_local_recorder(&kept, || runtime.block_on(play));
    let home = Partition::of(&stream("a"), 4);
    let number = |name: &str| kept.numbers.lock().unwrap()[name].load(std::sync::atomic::Ordering::SeqCst);
    let at = |name: &str| format!("{name}{{projection=tally@1,partition={home}}}");
    assert_eq!(number(&at("indelible_projection_events_total")), 5);
    assert_eq!(number(&at("indelible_projection_batches_total")), 2);
    assert_eq!(f64::from_bits(number(&at("indelible_projection_position"))), 5.0);
    assert_eq!(f64::from_bits(number(&at("indelible_projection_lag_events"))), 1.0);
    assert_eq!(f64::from_bits(number("indelible_projection_partitions_owned{projection=tally@1}")), 4.0);
    let samples = kept.samples.lock().unwrap();
    assert_eq!(*samples[&at("indelible_projection_batch_events")].0.lock().unwrap(), [3.0, 2.0]);
    assert_eq!(samples[&at("indelible_projection_lag_seconds")].0.lock().unwrap().len(), 2);

    let spans = spans.1.lock().unwrap();
    let batches: Vec<_> = spans.iter().filter(|span| span["name"] == "projection batch").collect();
    assert_eq!(batches.len(), 2);
    assert_eq!((&*batches[0]["first"], &*batches[0]["last"], &*batches[1]["events"]), ("1", "3", "2"));
    assert_eq!((&*batches[0]["correlations"], &*batches[1]["correlations"]), (&*correlation.to_string(), ""));
}
