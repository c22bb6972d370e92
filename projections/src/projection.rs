//! What an author writes: a [`Projection`] says which events it wants, in which order, and what becomes of one that it
//! cannot handle; [`Project`] takes them into a read model.

use std::{marker::PhantomData, time::Duration};

use indelible_core::{
    Aggregate, Cause, Event, EventName, InvalidInput, QUERY_NAMES_MAX, QualifiedType, Query, QueryItem, RecordedEvent,
};

use crate::ReadModel;

/// A view of the log, kept by applying events one after the other.
///
/// ```
/// use indelible_projections::{
///     Cause, Envelope, Project, Projection, ReadTables, Table, Wants, WriteTables,
///     memory::{MemoryModel, MemoryTx},
/// };
/// # use indelible_core::{Aggregate, Apply, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Deposited { cents: i64 }, Withdrawn { cents: i64 } }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "account")]
/// # struct Account {}
/// # impl Apply for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
/// struct Balances;
///
/// const BALANCES: Table<String, i64> = Table::new("balances");
///
/// impl Projection for Balances {
///     const NAME: &'static str = "balances";
///     type Event = AccountEvent;
///     fn wants() -> Wants<AccountEvent> {
///         Wants::of::<Account>()
///     }
/// }
///
/// impl Project<MemoryModel> for Balances {
///     async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
///         let account = envelope.recorded.stream.id().to_owned();
///         let cents = match envelope.event {
///             AccountEvent::Deposited { cents } => cents,
///             AccountEvent::Withdrawn { cents } => -cents,
///         };
///         let balance = tx.get(&BALANCES, &account)?.unwrap_or(0);
///         Ok(tx.put(&BALANCES, &account, &(balance + cents))?)
///     }
/// }
/// # indelible_projections::Worker::new(&indelible_core::store::memory::MemoryStore::new()).add(&MemoryModel::new(), Balances);
/// ```
pub trait Projection: Send + Sync + 'static {
    /// What it is called, in its read model and wherever its progress is told. 1 to 255 bytes.
    const NAME: &'static str;

    /// Changes whenever the read model must be built anew: with what `apply` makes of an event, the events wanted, or the
    /// [number of partitions](Order::PerStream).
    const VERSION: u32 = 1;

    /// Which events come in order.
    const ORDER: Order = Order::PER_STREAM;

    /// What becomes of an event that it cannot handle, when no retry helped.
    const ON_FAILURE: OnFailure = OnFailure::Stop;

    /// How often and when an event that it could not handle is tried again.
    const RETRY: Retry = Retry::DEFAULT;

    /// The most events in one transaction, where the [runner](crate::RunnerOptions::batch_events_max) allows more: for
    /// handlers that do what no transaction undoes, and is done again with all of its batch. With such a limit, what comes
    /// after an outage is tried one by one.
    const BATCH_EVENTS_MAX: usize = usize::MAX;

    /// Its events: those of one aggregate, or an enum over several categories, as decision models have them.
    type Event: Event;

    /// Which of them it wants. Others are never delivered. One that is wanted and does not decode is a failure.
    fn wants() -> Wants<Self::Event>;
}

/// Takes events into a read model: one implementation for each kind of read model that a projection is kept in.
///
/// What is written to the transaction is committed with the checkpoint, or not at all (P1). So a handler does all that
/// must happen once through `tx`; whatever else it does may happen again. It runs again after a failure, with another
/// transaction.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not project into `{M}`",
    note = "write `impl Project<{M}> for {Self}`"
)]
pub trait Project<M: ReadModel>: Projection {
    /// What makes room for a version in its read model, once, before its first event, in that read model's language: for
    /// PostgreSQL the statements that create its tables. The others need none.
    const SETUP: &'static str = "";

    /// Does what no transaction undoes, before the batch's begins: so one that takes long keeps none open. It happens again
    /// whenever the batch does; and a worker that has lost its partition without knowing it does it once more, before its
    /// transaction is refused.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn before_batch(&self, envelopes: &[Envelope<Self::Event>]) -> impl Future<Output = Result<(), Cause>> + Send {
        let _ = envelopes;
        async { Ok(()) }
    }

    /// Takes one event into the read model.
    ///
    /// # Errors
    /// Whatever makes the event impossible to handle now; a panic counts as one. A
    /// [`ReadModelError`](crate::ReadModelError) that is [retryable](crate::ReadModelError::is_retryable) is not held
    /// against the event.
    fn apply(&self, envelope: &Envelope<Self::Event>, tx: &mut M::Tx)
    -> impl Future<Output = Result<(), Cause>> + Send;

    /// Takes several events at once, in their order: for handlers that work on sets. All of it must have the effect of
    /// [`apply`](Self::apply) one by one, since a batch that fails is tried again so, each as a batch of one.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn apply_batch(
        &self,
        envelopes: &[Envelope<Self::Event>],
        tx: &mut M::Tx,
    ) -> impl Future<Output = Result<(), Cause>> + Send {
        async move {
            for envelope in envelopes {
                self.apply(envelope, tx).await?;
            }
            Ok(())
        }
    }
}

/// An event as a projection gets it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Envelope<E> {
    /// The event, decoded and upcast to its shape of today.
    pub event: E,
    /// What the log says of it: stream, version, position, time, causation, metadata.
    pub recorded: RecordedEvent,
    /// Whether it is history: it was recorded before this version of the projection was first run, or was reset. The
    /// answer for an event is always the same, also after a crash; a handler with effects outside leaves them out.
    pub replaying: bool,
}

impl<E: Event> Envelope<E> {
    /// Decodes a recorded event.
    ///
    /// # Errors
    /// [`DecodeError`](indelible_core::DecodeError), as [`RecordedEvent::decode`].
    pub fn decode(recorded: RecordedEvent, replaying: bool) -> Result<Self, indelible_core::DecodeError> {
        Ok(Self { event: recorded.decode()?, recorded, replaying })
    }
}

/// Which events a projection wants.
#[derive(Clone, Debug)]
pub struct Wants<E> {
    types: Vec<QualifiedType>,
    event: PhantomData<fn() -> E>,
}

impl<E: Event> Wants<E> {
    /// All events of an aggregate: of the types that its enum has, by their names there. What was recorded under a name that
    /// it has no more is passed over.
    pub fn of<A: Aggregate<Event = E>>() -> Self {
        Self::named(E::shapes().into_iter().map(|shape| QualifiedType {
            category: A::CATEGORY,
            event_type: indelible_core::EventType::from_static(shape.name),
        }))
    }

    /// These events of an aggregate, named by the derive's constants.
    pub fn types<A: Aggregate<Event = E>>(types: impl IntoIterator<Item = EventName<E>>) -> Self {
        Self::named(types.into_iter().map(EventName::of::<A>))
    }

    /// All events of an enum whose variants are those of a category each.
    pub fn all() -> Self {
        Self::named(E::shapes().into_iter().filter_map(|shape| {
            let event_type = indelible_core::EventType::from_static(shape.name);
            Some(QualifiedType { category: shape.category?, event_type })
        }))
    }

    /// These events of such an enum: `Wants::named([CourseEvent::OPENED.of::<Course>(), …])`.
    pub fn named(types: impl IntoIterator<Item = QualifiedType>) -> Self {
        Self { types: types.into_iter().collect(), event: PhantomData }
    }

    /// Their types.
    pub fn any_type(&self) -> &[QualifiedType] {
        &self.types
    }

    /// The query that finds them.
    ///
    /// # Errors
    /// [`InvalidInput`] where no type is named, more than 1,000 are, or one that `E` doesn't have.
    pub fn query(&self) -> Result<Query, InvalidInput> {
        let invalid = |reason: String| Err(InvalidInput::new("projection", reason));
        if self.types.is_empty() || self.types.len() > QUERY_NAMES_MAX {
            return invalid(format!("wants {} types of events, and not 1 to {QUERY_NAMES_MAX}", self.types.len()));
        }
        let shapes = E::shapes();
        let known = |wanted: &QualifiedType| {
            shapes.iter().any(|shape| {
                shape.name == wanted.event_type.as_str()
                    && shape.category.as_ref().is_none_or(|c| *c == wanted.category)
            })
        };
        match self.types.iter().find(|wanted| !known(wanted)) {
            Some(unknown) => invalid(format!("wants {unknown}, which is none of its events")),
            None => Ok(Query::new([QueryItem::types(self.types.iter().cloned())])),
        }
    }
}

/// Which events come in order (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those of each stream. The streams are dealt out to so many partitions, 1 to 1,024, which go on side by side, and
    /// are kept by different processes where the read model can be shared. What events of different streams do to the
    /// read model must commute.
    ///
    /// The number is stored with the read model, and another one is refused at the start: where a stream's events go, and
    /// how far its partition has come, hang on it. It is changed with the [version](Projection::VERSION), which is built
    /// in as many partitions as it has, beside the current one in its own, and takes over when it has caught up.
    PerStream {
        /// How many.
        partitions: u32,
    },
    /// All of them, in the order of the log: one partition, which nothing runs beside.
    WholeLog,
}

impl Order {
    /// The order of each stream, in one partition.
    pub const PER_STREAM: Self = Self::PerStream { partitions: 1 };

    /// How many partitions that makes.
    pub const fn partitions(self) -> u32 {
        match self {
            Self::PerStream { partitions } => partitions,
            Self::WholeLog => 1,
        }
    }
}

/// What becomes of an event that cannot be handled, when no retry helped (P3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Its partition stops there, and others go on.
    Stop,
    /// It goes to the dead letters, and so does every later event of its stream, until it is redriven or discarded. Needs
    /// the order of each stream.
    Park {
        /// How many streams of a partition may be parked; with one more it stops.
        streams_max: usize,
    },
}

impl OnFailure {
    /// Parks up to 1,000 streams of a partition.
    pub const PARK: Self = Self::Park { streams_max: 1_000 };
}

/// How an event that could not be handled, or a step of a saga, is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The most attempts, the first among them, at least 1.
    pub attempts_max: u32,
    /// The pause before the second attempt. It doubles with each; up to half of it, at random, is left out.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Retry {
    /// 5 attempts, after 100 ms to 10 s.
    pub const DEFAULT: Self =
        Self { attempts_max: 5, pause_first: Duration::from_millis(100), pause_max: Duration::from_secs(10) };
    /// The same pauses, and no end.
    pub const FOREVER: Self = Self { attempts_max: u32::MAX, ..Self::DEFAULT };
    /// No second attempt.
    pub const NEVER: Self = Self { attempts_max: 1, ..Self::DEFAULT };

    /// The pause after so many failed attempts, with its jitter.
    pub fn pause(&self, attempts: u32) -> Duration {
        let doubled = self.pause_first.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.min(self.pause_max).mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Refuses a projection that contradicts itself.
pub(crate) fn check<P: Projection>() -> Result<Query, InvalidInput> {
    let invalid = |reason: String| Err(InvalidInput::new("projection", reason));
    indelible_core::check_reader(P::NAME)?;
    if !(1..=crate::PARTITIONS_MAX).contains(&P::ORDER.partitions()) {
        return invalid(format!("{} has {} partitions, and not 1 to 1,024", P::NAME, P::ORDER.partitions()));
    }
    match (P::ORDER, P::ON_FAILURE) {
        (Order::WholeLog, OnFailure::Park { .. }) => {
            invalid(format!("{} parks streams, which the order of the whole log forbids", P::NAME))
        }
        _ => P::wants().query(),
    }
}
