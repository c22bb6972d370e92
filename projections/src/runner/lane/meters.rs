//! What a partition does, through the `metrics` facade and as a `tracing` span a batch.

use std::{collections::BTreeSet, time::Instant};

use indelible_core::Timestamp;
use metrics::{Counter, Histogram, Label, counter, histogram};
use tracing::{Span, field::display};

use crate::{Claim, Envelope, Partition, ProjectionId};

/// How many correlation ids a span names.
const CORRELATIONS_MAX: usize = 16;

pub(super) struct Meters {
    events: Counter,
    batches: Counter,
    batch_events: Histogram,
    batch_seconds: Histogram,
    lag_seconds: Histogram,
    pub retries: Counter,
    pub dead_letters: Counter,
}

impl Meters {
    pub fn of(projection: &ProjectionId, partition: Partition) -> Self {
        let labels =
            vec![Label::new("projection", projection.to_string()), Label::new("partition", partition.to_string())];
        Self {
            events: counter!("indelible_projection_events_total", labels.clone()),
            batches: counter!("indelible_projection_batches_total", labels.clone()),
            batch_events: histogram!("indelible_projection_batch_events", labels.clone()),
            batch_seconds: histogram!("indelible_projection_batch_seconds", labels.clone()),
            lag_seconds: histogram!("indelible_projection_lag_seconds", labels.clone()),
            retries: counter!("indelible_projection_retries_total", labels.clone()),
            dead_letters: counter!("indelible_projection_dead_letters_total", labels),
        }
    }

    /// A batch was committed.
    pub fn committed<E>(&self, events: &[Envelope<E>], handled: usize, began_at: Instant) {
        let Some(last) = events.last() else { return };
        self.events.increment(handled as u64);
        self.dead_letters.increment((events.len() - handled) as u64);
        self.batches.increment(1);
        self.batch_events.record(events.len() as f64);
        self.batch_seconds.record(began_at.elapsed().as_secs_f64());
        self.lag_seconds.record(Timestamp::now().since(last.recorded.recorded_at).as_secs_f64());
    }
}

/// The span of a batch. Its field `correlations` has the correlation ids of the events inside, the first 16.
pub(super) fn span<E>(claim: &Claim, events: &[Envelope<E>]) -> Span {
    let span = tracing::info_span!(
        "projection batch",
        projection = %claim.projection,
        partition = %claim.partition,
        events = events.len(),
        first = events.first().map(|first| first.recorded.position.get()),
        last = events.last().map(|last| last.recorded.position.get()),
        correlations = tracing::field::Empty,
    );
    if !span.is_disabled() {
        let mut seen = BTreeSet::new();
        let ids = events.iter().filter_map(|event| event.recorded.correlation_id.as_ref()).map(ToString::to_string);
        let named: Vec<String> = ids.filter(|id| seen.insert(id.clone())).take(CORRELATIONS_MAX).collect();
        span.record("correlations", display(named.join(" ")));
    }
    span
}
