//! What a process has done with a store and how that stands, as a struct and through the `metrics` facade. Fed by
//! `append` and `read`.
//!
//! | name, behind `indelible_postgres_` | kind | what |
//! |---|---|---|
//! | `appends_total`, `events_total` | counters | written |
//! | `reads_total` | counter | statements that read |
//! | `judged_batches_total` | counter | batches that had to be judged append by append |
//! | `lost_calls_total` | counter | calls of the server whose answer never came |
//! | `batch_events`, `batch_seconds` | histograms | events a batch, and how long the server took over it |
//! | `appends_under_way`, `queue_bytes` | gauges | callers that wait, and what they sent, after each batch |
//! | `head` | gauge | the last position that was seen, after each batch |

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use indelible_core::Position;

/// What a process has done with a store since it opened it, and how it is now. Cheap to ask for: no server is asked.
///
/// The same goes to the [`metrics`] facade, under names that begin with `indelible_postgres_`: counters `appends_total`,
/// `events_total`, `reads_total`, `judged_batches_total`, `lost_calls_total`; histograms `batch_events`, `batch_seconds`; and the gauges, set after
/// each batch: `appends_under_way`, `queue_bytes`, `head`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Appends that were written.
    pub appends: u64,
    /// Events that were written.
    pub events: u64,
    /// Batches of appends that the server answered.
    pub batches: u64,
    /// Those of them that the server judged append by append: what an append expects was not there, it has conditions or
    /// closes a stream, an event was the first of its kind, an id is in the log already, or others had written its streams.
    /// Each may have taken two round trips instead of one. Many of them are a sign of writers that contend for streams.
    pub judged_batches: u64,
    /// The most events that were written by one of them.
    pub largest_batch: u64,
    /// How long they took together.
    pub batch_time: Duration,
    /// Calls whose answer never came: the connection was lost, or patience.
    pub lost_calls: u64,
    /// Statements that read: pages, heads, events, tokens, snapshots and checkpoints.
    pub reads: u64,

    /// Appends that were called and not answered yet.
    pub appends_under_way: u64,
    /// What they hold of the [queue](crate::Options::queue_bytes).
    pub queue_bytes: u64,
    /// The last position that this process has seen.
    pub head: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    appends: AtomicU64,
    events: AtomicU64,
    batches: AtomicU64,
    judged_batches: AtomicU64,
    largest_batch: AtomicU64,
    batch_nanos: AtomicU64,
    lost_calls: AtomicU64,
    reads: AtomicU64,
    under_way: AtomicU64,
}

/// An append that is under way, until this is dropped.
pub(crate) struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Counters {
    pub(crate) fn snapshot(&self, queue_bytes: usize, head: Position) -> Statistics {
        Statistics {
            appends: self.appends.load(Relaxed),
            events: self.events.load(Relaxed),
            batches: self.batches.load(Relaxed),
            judged_batches: self.judged_batches.load(Relaxed),
            largest_batch: self.largest_batch.load(Relaxed),
            batch_time: Duration::from_nanos(self.batch_nanos.load(Relaxed)),
            lost_calls: self.lost_calls.load(Relaxed),
            reads: self.reads.load(Relaxed),
            appends_under_way: self.under_way.load(Relaxed),
            queue_bytes: queue_bytes as u64,
            head: head.get(),
        }
    }

    pub(crate) fn enter(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(&self.under_way)
    }

    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Relaxed);
        metrics::counter!("indelible_postgres_reads_total").increment(1);
    }

    pub(crate) fn judged(&self) {
        self.judged_batches.fetch_add(1, Relaxed);
        metrics::counter!("indelible_postgres_judged_batches_total").increment(1);
    }

    pub(crate) fn lost(&self) {
        self.lost_calls.fetch_add(1, Relaxed);
        metrics::counter!("indelible_postgres_lost_calls_total").increment(1);
    }

    /// A batch was answered, in so much time.
    pub(crate) fn batch(&self, appends: u64, events: u64, took: Duration) {
        self.appends.fetch_add(appends, Relaxed);
        self.events.fetch_add(events, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.largest_batch.fetch_max(events, Relaxed);
        self.batch_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        metrics::counter!("indelible_postgres_appends_total").increment(appends);
        metrics::counter!("indelible_postgres_events_total").increment(events);
        metrics::histogram!("indelible_postgres_batch_events").record(events as f64);
        metrics::histogram!("indelible_postgres_batch_seconds").record(took);
    }
}

/// What stands after a batch.
pub(crate) fn tell(now: &Statistics) {
    metrics::gauge!("indelible_postgres_appends_under_way").set(now.appends_under_way as f64);
    metrics::gauge!("indelible_postgres_queue_bytes").set(now.queue_bytes as f64);
    metrics::gauge!("indelible_postgres_head").set(now.head as f64);
}
