//! Repositories: the aggregates of one type in a store, now and as they were.

use std::marker::PhantomData;

use futures::{StreamExt, stream::BoxStream};

use crate::{
    Aggregate, AsStore, EventStoreExt, Handle, IntoId, InvalidInput, LoadError, Position, ReadStream, RecordedEvent,
    SnapshotPolicy, Timestamp, Version,
    command::{Execution, One},
    executor::Executor,
    load::{Loaded, take_snapshot},
};

/// The aggregates of one type. A cheap handle.
///
/// ```
/// # use indelible_core::{*, store::memory::MemoryStore};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum CounterEvent { Counted }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "counter")]
/// # struct Counter { count: u64 }
/// # impl Apply for Counter {
/// #     type Event = CounterEvent;
/// #     fn apply(&mut self, _: &CounterEvent) { self.count += 1 }
/// # }
/// # struct Count;
/// # impl Handle<Count> for Counter {
/// #     type Error = std::convert::Infallible;
/// #     fn handle(&self, _: &Count, _: &Context<Self>) -> Result<Events<CounterEvent>, Self::Error> {
/// #         Ok(CounterEvent::Counted.into())
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new();
/// let counters = Repository::<Counter>::new(&store);
/// for _ in 0..3 {
///     counters.execute("visits", Count).await?;
/// }
/// assert_eq!(counters.load("visits").await?.count, 3);
/// assert_eq!(counters.load_as_of("visits", AsOf::Version(Version::new(2))).await?.count, 2);
/// # Ok(()) }
/// ```
pub struct Repository<A> {
    executor: Executor,
    snapshots: SnapshotPolicy,
    aggregate: PhantomData<fn() -> A>,
}

impl<A> Clone for Repository<A> {
    fn clone(&self) -> Self {
        Self { executor: self.executor.clone(), snapshots: self.snapshots, aggregate: PhantomData }
    }
}

/// A moment in the past of an aggregate, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// When its stream had this version.
    Version(Version),
    /// When the log had come to this position.
    Position(Position),
    /// When the log's time was this.
    Time(Timestamp),
}

impl AsOf {
    fn includes(self, event: &RecordedEvent) -> bool {
        match self {
            Self::Version(version) => event.version <= version,
            Self::Position(position) => event.position <= position,
            Self::Time(time) => event.recorded_at <= time,
        }
    }
}

/// Events with their envelopes, one after the other.
pub type HistoryStream<'a, E> = BoxStream<'a, Result<(RecordedEvent, E), LoadError>>;

impl<A: Aggregate> Repository<A> {
    /// The aggregates in a store, with an executor of its own.
    pub fn new(store: &impl AsStore) -> Self {
        Self::on(&Executor::new(store))
    }

    /// The aggregates that an executor works on. Repositories on one executor share its cache.
    pub fn on(executor: &Executor) -> Self {
        Self { executor: executor.clone(), snapshots: A::SNAPSHOTS, aggregate: PhantomData }
    }

    /// With another snapshot policy than the aggregate's own.
    #[must_use]
    pub fn with_snapshots(mut self, policy: SnapshotPolicy) -> Self {
        self.snapshots = policy;
        self
    }

    /// Lets an aggregate handle a command: decides, appends, and decides again when another command came first.
    ///
    /// It is executed when awaited: `accounts.execute("ada", Deposit { cents: 100 }).await?`.
    pub fn execute<C>(&self, id: impl IntoId<A::Id>, command: C) -> Execution<One<A, C>>
    where
        A: Handle<C>,
        C: Send + Sync + 'static,
    {
        Execution::new(self.executor.clone(), One::new(id.into_id(), command, self.snapshots))
    }

    /// An aggregate as it is now; its [`Default`] where nothing happened to it yet.
    ///
    /// # Errors
    /// [`LoadError::Decode`] for an event that can't be read, [`LoadError::Store`] for what the store says.
    pub async fn load(&self, id: impl IntoId<A::Id>) -> Result<Loaded<A>, LoadError> {
        let (loaded, _) = self.executor.load::<A>(&A::stream(&id.into_id())?, true).await?;
        Ok(std::sync::Arc::unwrap_or_clone(loaded))
    }

    /// An aggregate as it was. A position or a time replays its stream from the start, a version from the snapshot where
    /// there is one before it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_as_of(&self, id: impl IntoId<A::Id>, moment: AsOf) -> Result<Loaded<A>, LoadError> {
        let stream = A::stream(&id.into_id())?;
        let newest_snapshot = match moment {
            AsOf::Version(version) => version,
            AsOf::Position(_) | AsOf::Time(_) => Version::NONE,
        };
        let mut loaded: Loaded<A> = self.executor.restore(&stream, newest_snapshot).await?;
        loaded.catch_up(self.executor.store(), &stream, |event| moment.includes(event)).await?;
        Ok(loaded)
    }

    /// What happened to an aggregate, from the first event on, read as it is asked for.
    ///
    /// # Errors
    /// [`InvalidInput`] for an id that makes no stream name. The stream ends with its first error, which is as of
    /// [`load`](Self::load).
    pub fn history(&self, id: impl IntoId<A::Id>) -> Result<HistoryStream<'_, A::Event>, InvalidInput> {
        let events = self.executor.store().stream(ReadStream::new(A::stream(&id.into_id())?));
        let decode = |event: RecordedEvent| {
            let decoded = event.decode()?;
            Ok((event, decoded))
        };
        Ok(events.map(move |event| decode(event?)).boxed())
    }

    /// Takes a snapshot by hand, and says of which version; `None` where there is nothing to take one of, or it could
    /// not be taken, which is logged.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn snapshot(&self, id: impl IntoId<A::Id>) -> Result<Option<Version>, LoadError> {
        let id = id.into_id();
        let stream = A::stream(&id)?;
        let mut loaded = self.load(&id).await?;
        let taken = take_snapshot(self.executor.store(), &stream, &mut loaded).await;
        let version = loaded.version();
        self.executor.remember(&stream, loaded.into());
        Ok(taken.then_some(version))
    }

    /// The executor, for transactions and decisions.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }
}
