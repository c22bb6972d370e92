//! Publishers: readers of the log that tell others of it.

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use indelible_core::{AsStore, Cause, CloudEvent, Event, StoreId, StreamId};
use indelible_projections::{Envelope, OnFailure, Order, Project, Projection, ReadModel, ReadModelError, Retry, Wants};
use indelible_sagas::Failure;

use tokio::time::{Instant, sleep, timeout_at};

use crate::{Broker, IntegrationEvent, Outgoing};

/// For how long a message is tried at once, and with which pauses. Less than a batch may take; no transaction is open
/// meanwhile, and leases are renewed beside it.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Retry =
    Retry { attempts_max: u32::MAX, pause_first: Duration::from_millis(10), pause_max: Duration::from_secs(1) };

/// Says what of the log others are to know: which events, and as what.
///
/// It is [run](Publisher) as a projection is: with its checkpoint in a read model, its failure policy, its dead letters,
/// its leases. Each event comes out *at least once*, under the same [key](Outgoing::key), and those of a stream in order:
/// what comes again comes behind what was there before it the first time.
pub trait Publish: Send + Sync + 'static {
    /// What it is called: its projection's name, and part of the messages' source and keys.
    const NAME: &'static str;
    /// Another version publishes the whole log again, under the same keys; see [`ON_HISTORY`](Self::ON_HISTORY).
    const VERSION: u32 = 1;
    /// Which events come in order.
    const ORDER: Order = Order::PER_STREAM;
    /// What becomes of an event that can't be mapped, or that the broker refuses, when no retry helped.
    const ON_FAILURE: OnFailure = OnFailure::Stop;
    /// How it is tried again.
    const RETRY: Retry = Retry::DEFAULT;
    /// Whether it publishes what was there before it, and all again when it is reset or has another version. Unlike
    /// reactors it does: an outbox leaves nothing out, and what comes again is told by its key.
    const ON_HISTORY: bool = true;
    /// The most messages of a partition that are under way to the broker at once, each of another stream; and the most
    /// events behind which a checkpoint is written, so that no more are published again when the process dies.
    const UNACKNOWLEDGED_MAX: usize = 256;

    /// Its events.
    type Event: Event;

    /// Which of them it looks at.
    fn wants() -> Wants<Self::Event>;

    /// What others are to know of an event; `None` where it is none of their business.
    ///
    /// # Errors
    /// Whatever makes it impossible to say: that is held against the event.
    fn map(&self, envelope: &Envelope<Self::Event>) -> Result<Option<IntegrationEvent>, Cause>;
}

/// A [`Publish`] with its broker, as a projection: `Worker::new(&store).add(&model, Publisher::new(&store, broker, Orders))`.
/// It writes nothing into the read model but its checkpoint, and that behind the last event of a batch that the broker has
/// acknowledged, with all before it.
///
/// While the broker can't be reached nothing is held against an event: it is tried again for as long as it takes, and
/// [`Running::status`](indelible_projections::Running::status) says why.
pub struct Publisher<P, B> {
    publish: P,
    broker: B,
    store: StoreId,
    source: String,
}

impl<P: Publish, B: Broker> Publisher<P, B> {
    /// Publishes a store's log to a broker.
    pub fn new(store: &impl AsStore, broker: B, publish: P) -> Self {
        let store = store.as_store().id();
        Self { publish, broker, store, source: source(store, P::NAME) }
    }

    /// What is to go out for an event.
    fn outgoing(&self, envelope: &Envelope<P::Event>) -> Result<Option<Outgoing>, Cause> {
        if envelope.replaying && !P::ON_HISTORY {
            return Ok(None);
        }
        let Some(IntegrationEvent { event_type, version, data }) = self.publish.map(envelope)? else { return Ok(None) };
        let recorded = &envelope.recorded;
        let event = CloudEvent::new(recorded, self.store).for_others(&*self.source, event_type, version, data);
        let (key, stream) = (format!("{}/{}/{}", self.store, P::NAME, recorded.id), recorded.stream.clone());
        Ok(Some(Outgoing { key, stream, payload: serde_json::to_vec(&event)?.into() }))
    }

    async fn publish(&self, envelopes: &[Envelope<P::Event>]) -> Result<(), Cause> {
        // All are mapped first, so that one that can't be keeps none of the others from being published once.
        let (mut runs, mut known): (Vec<Vec<Outgoing>>, HashMap<&StreamId, usize>) = Default::default();
        for envelope in envelopes {
            let Some(outgoing) = self.outgoing(envelope)? else { continue };
            let run = match P::ORDER {
                Order::WholeLog => 0,
                Order::PerStream { .. } => *known.entry(&envelope.recorded.stream).or_insert(runs.len()),
            };
            match runs.get_mut(run) {
                Some(run) => run.push(outgoing),
                None => runs.push(vec![outgoing]),
            }
        }
        let published = metrics::counter!("indelible_published_total", "publisher" => P::NAME);
        let runs = runs.into_iter().map(|run| async {
            let count = run.len() as u64;
            self.publish_run(run).await?;
            published.increment(count);
            Ok(())
        });
        stream::iter(runs).buffer_unordered(P::UNACKNOWLEDGED_MAX.max(1)).try_collect().await
    }

    /// One after the other: what follows one that may be lost could overtake it.
    async fn publish_run(&self, run: Vec<Outgoing>) -> Result<(), Cause> {
        #[cfg(feature = "bugs")]
        if crate::bugs::is(crate::bugs::Bug::RetriesBehindTheNext) {
            return self.publish_and_retry_behind(run).await;
        }
        for message in &run {
            #[cfg(feature = "bugs")]
            if crate::bugs::is(crate::bugs::Bug::CheckpointBeforeAcknowledgement) {
                // Handed over, and no longer waited for.
                let _ = tokio::time::timeout(Duration::from_micros(200), self.broker.publish(message)).await;
                continue;
            }
            self.publish_one(message).await?;
        }
        Ok(())
    }

    /// Tries it again where it stands for a while, so that a broker that is soon back costs the others of the batch nothing.
    async fn publish_one(&self, message: &Outgoing) -> Result<(), Cause> {
        let (until, mut attempts) = (Instant::now() + PATIENCE, 0);
        loop {
            let failure = match timeout_at(until, self.broker.publish(message)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::unsure(format!("no answer within {PATIENCE:?}")),
            };
            attempts += 1;
            let pause = match failure {
                Failure::Refused(why) => return Err(format!("the broker refuses {}: {why}", message.key).into()),
                Failure::NotNow(time) => time,
                Failure::Unsure(_) | Failure::OutcomeUnknown(_) => AGAIN.pause(attempts),
            };
            if Instant::now() + pause > until {
                // Held against nobody.
                let what = format!("publishing {}", message.key);
                return Err(ReadModelError::unavailable(what, failure.to_string()).into());
            }
            sleep(pause).await;
        }
    }

    #[cfg(feature = "bugs")]
    async fn publish_and_retry_behind(&self, run: Vec<Outgoing>) -> Result<(), Cause> {
        let mut left = run;
        for _ in 0..20 {
            let mut failed = Vec::new();
            for message in left {
                if self.broker.publish(&message).await.is_err() {
                    failed.push(message);
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            left = failed;
        }
        Err("it failed many times".into())
    }
}

/// What messages of a store's publisher name as their source: a URI, in which two publishers differ.
fn source(store: StoreId, name: &str) -> String {
    let mut source = format!("urn:uuid:{store}#");
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => source.push(byte.into()),
            _ => source.push_str(&format!("%{byte:02X}")),
        }
    }
    source
}

impl<P: Publish, B: Broker> Projection for Publisher<P, B> {
    const NAME: &'static str = P::NAME;
    const VERSION: u32 = P::VERSION;
    const ORDER: Order = P::ORDER;
    const ON_FAILURE: OnFailure = P::ON_FAILURE;
    const RETRY: Retry = P::RETRY;
    // What a failure publishes once more.
    const BATCH_EVENTS_MAX: usize = if P::UNACKNOWLEDGED_MAX > 1 { P::UNACKNOWLEDGED_MAX } else { 1 };
    type Event = P::Event;

    fn wants() -> Wants<P::Event> {
        P::wants()
    }
}

impl<P: Publish, B: Broker, M: ReadModel> Project<M> for Publisher<P, B> {
    // The broker takes its time, in which no transaction is to be open.
    async fn before_batch(&self, envelopes: &[Envelope<P::Event>]) -> Result<(), Cause> {
        self.publish(envelopes).await
    }

    async fn apply(&self, _: &Envelope<P::Event>, _: &mut M::Tx) -> Result<(), Cause> {
        Ok(())
    }
}
