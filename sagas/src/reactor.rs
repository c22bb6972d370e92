//! Reactors: what is done because of an event, where no process needs to be remembered.

use std::{collections::HashMap, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use indelible_core::{Cause, Event};
use indelible_projections::{Envelope, OnFailure, Order, Project, Projection, ReadModel, ReadModelError, Retry, Wants};
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;

/// Does something outside because of an event: sends a mail, tells a service, starts a saga.
///
/// A reactor is [run](Reactor) as a projection is: with its checkpoint in a read model, its failure policy, its dead
/// letters, its leases. Each event comes *at least once*, with the same [key](React::react); those of a stream in order,
/// those of different streams side by side [in each batch](React::ORDER). (What comes again comes behind what came since: also from a worker that has
/// stood still, and doesn't know yet that another has taken over.) History, and a rebuild, bring nothing about, unless it is
/// [asked to](React::ON_HISTORY); see there, and [what a new version leaves out](React::VERSION).
///
/// ```
/// # use indelible_core::{*, store::memory::MemoryStore};
/// # use indelible_projections::{Envelope, Wants, Worker, memory::MemoryModel};
/// # use indelible_sagas::{Failure, Past, Plan, React, Reactor, Saga, SagaError, Sagas, Standing, Step};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum OrderEvent { Placed { item: String }, Signed }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "order")]
/// # struct Order {}
/// # impl Apply for Order { type Event = OrderEvent; fn apply(&mut self, _: &OrderEvent) {} }
/// # struct Place;
/// # impl Handle<Place> for Order {
/// #     type Error = std::convert::Infallible;
/// #     fn handle(&self, _: &Place, _: &Context<Self>) -> Result<Events<OrderEvent>, Self::Error> {
/// #         Ok([OrderEvent::Placed { item: "tea".into() }, OrderEvent::Signed].into())
/// #     }
/// # }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Delivery { item: String }
/// # impl Saga for Delivery {
/// #     const NAME: &'static str = "delivery";
/// #     type Effect = String;
/// #     fn plan(&self, _: &Past) -> Plan<String> { Plan::new().step(Step::signal("signed")) }
/// # }
/// /// Orders start deliveries, and tell them that they are signed.
/// struct Route {
///     deliveries: Sagas<Delivery>,
/// }
///
/// impl React for Route {
///     const NAME: &'static str = "route_deliveries";
///     type Event = OrderEvent;
///     fn wants() -> Wants<OrderEvent> {
///         Wants::of::<Order>()
///     }
///     async fn react(&self, envelope: &Envelope<OrderEvent>, _: &str) -> Result<(), Failure> {
///         let order = envelope.recorded.stream.id();
///         // Idempotent by the event's id: however often it comes, it counts once.
///         let because = Sagas::<Delivery>::because(&envelope.recorded)?;
///         let told = match &envelope.event {
///             OrderEvent::Placed { item } => {
///                 self.deliveries.start_in(because, order, Delivery { item: item.clone() }).await
///             }
///             OrderEvent::Signed => self.deliveries.signal_in(because, order, "signed", &true).await,
///         };
///         match told {
///             // One that somebody else has started, or that is over, wants nothing of this, and must not stop the others.
///             Ok(_) | Err(CommandError::Rejected(SagaError::AlreadyStarted | SagaError::Ended)) => Ok(()),
///             Err(error) => Err(error.into()),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (store, model) = (MemoryStore::new(), MemoryModel::new());
/// let deliveries = Sagas::<Delivery>::new(&store);
/// let running = Worker::new(&store).add(&model, Reactor(Route { deliveries: deliveries.clone() })).start().await?;
/// # Repository::<Order>::new(&store).execute("7", Place).await?;
/// # deliveries.ended("7", Duration::from_secs(5)).await?.unwrap();
/// # Ok(()) }
/// ```
pub trait React: Send + Sync + 'static {
    /// What it is called: its projection's name.
    const NAME: &'static str;
    /// Another version has for its history all that the log holds when it is first run. **What the version before has not
    /// reacted to by then, nobody ever reacts to**, unless it [reacts to history](Self::ON_HISTORY). So let that one catch
    /// up while nothing is appended, before the other is first run; or keep the version: a reactor has no tables to be
    /// built anew. While both run, both react to what comes, under the same keys.
    const VERSION: u32 = 1;
    /// Which events come in order. A partition takes batches of up to [`CALLS_MAX`](Self::CALLS_MAX) events, in which streams
    /// go side by side, and the next begins when the slowest call of the last is through. When one fails, its batch is made
    /// again, one by one, and the partition pauses until it is tried again. So what must not wait for others' calls has
    /// more partitions than the one of [`PER_STREAM`](Order::PER_STREAM); or is a saga.
    const ORDER: Order = Order::PER_STREAM;
    /// What becomes of an event that can't be reacted to, when no retry helped.
    const ON_FAILURE: OnFailure = OnFailure::Stop;
    /// How it is tried again.
    const RETRY: Retry = Retry::DEFAULT;
    /// Whether it reacts to events that were there before it, and again to all of them when it is rebuilt.
    const ON_HISTORY: bool = false;
    /// The longest time that one call may take.
    const DEADLINE: Duration = Duration::from_secs(30);
    /// The most calls at once in a partition; and the most that are made again when one of them fails.
    const CALLS_MAX: usize = 16;

    /// Its events.
    type Event: Event;

    /// Which of them it wants.
    fn wants() -> Wants<Self::Event>;

    /// Reacts. What can't succeed however often it is tried, and doesn't matter, is no failure: after the last attempt the
    /// event stops its partition, or is parked, by [`ON_FAILURE`](Self::ON_FAILURE). So think of commands that the domain
    /// rejects: a saga that has ended takes no signal.
    ///
    /// The key is the same each time for this event and reactor; hand it to whoever is called.
    ///
    /// # Errors
    /// A [`Failure`]. After [`NotNow`](Failure::NotNow) it is tried again, and that is not held against the event.
    fn react(&self, envelope: &Envelope<Self::Event>, key: &str) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A [`React`] as a projection: `Worker::new(&store).add(&model, Reactor(Mails))`. It writes nothing into the read model
/// but its checkpoint.
pub struct Reactor<R>(pub R);

impl<R: React> Projection for Reactor<R> {
    const NAME: &'static str = R::NAME;
    const VERSION: u32 = R::VERSION;
    const ORDER: Order = R::ORDER;
    const ON_FAILURE: OnFailure = R::ON_FAILURE;
    const RETRY: Retry = R::RETRY;
    // What a failure brings about once more.
    const BATCH_EVENTS_MAX: usize = if R::CALLS_MAX > 1 { R::CALLS_MAX } else { 1 };
    type Event = R::Event;

    fn wants() -> Wants<R::Event> {
        R::wants()
    }
}

impl<R: React, M: ReadModel> Project<M> for Reactor<R> {
    // Calls take their time, in which no transaction is to be open.
    async fn before_batch(&self, envelopes: &[Envelope<R::Event>]) -> Result<(), Cause> {
        if R::ORDER == Order::WholeLog {
            for envelope in envelopes {
                self.react(envelope).await?;
            }
            return Ok(());
        }
        let mut streams: HashMap<_, Vec<_>> = HashMap::new();
        for envelope in envelopes {
            streams.entry(&envelope.recorded.stream).or_default().push(envelope);
        }
        let reactions = streams.into_values().map(|envelopes| async move {
            for envelope in envelopes {
                self.react(envelope).await?;
            }
            Ok(())
        });
        stream::iter(reactions.collect::<Vec<_>>()).buffer_unordered(R::CALLS_MAX.max(1)).try_collect().await
    }

    async fn apply(&self, _: &Envelope<R::Event>, _: &mut M::Tx) -> Result<(), Cause> {
        Ok(())
    }
}

impl<R: React> Reactor<R> {
    async fn react(&self, envelope: &Envelope<R::Event>) -> Result<(), Cause> {
        if envelope.replaying && !R::ON_HISTORY {
            return Ok(());
        }
        let key = format!("{}/{}", R::NAME, envelope.recorded.id);
        let until = Instant::now() + R::DEADLINE;
        loop {
            match timeout(R::DEADLINE, self.0.react(envelope, &key)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(Failure::NotNow(time))) if Instant::now() + time < until => sleep(time).await,
                // As an outage of the read model it is not held against the event.
                Ok(Err(Failure::NotNow(_))) => {
                    return Err(ReadModelError::unavailable(R::NAME, "now is not the time").into());
                }
                Ok(Err(failure)) => return Err(failure.to_string().into()),
                Err(_) => return Err(format!("no answer within {:?}", R::DEADLINE).into()),
            }
        }
    }
}
