//! Reading: what is asked for, and lazy streams over a store's pages (L6).

use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};

use crate::{EventStore, Filter, Position, RecordedEvent, StoreError, StreamId, Version};

/// The most events in one page.
pub const PAGE_EVENTS_MAX: usize = 1_000;
/// About the most bytes of events in one page; a page has at least one event all the same.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Which way to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub enum Direction {
    /// From the past to the present.
    #[default]
    Forwards,
    /// From the present to the past.
    Backwards,
}

/// A read of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct ReadStream {
    /// The stream.
    pub stream: StreamId,
    /// The first version that is wanted, inclusive: its first event forwards, its last backwards.
    pub from: Version,
    /// Which way.
    pub direction: Direction,
    /// The most events that are wanted.
    pub limit: usize,
}

impl ReadStream {
    /// The whole stream, forwards.
    pub fn new(stream: StreamId) -> Self {
        Self { stream, from: Version::FIRST, direction: Direction::Forwards, limit: usize::MAX }
    }

    /// From this version on, inclusive.
    #[must_use]
    pub fn from(mut self, version: Version) -> Self {
        self.from = version;
        self
    }

    /// From the end, or from the version named after this, towards the first event.
    #[must_use]
    pub fn backwards(mut self) -> Self {
        self.direction = Direction::Backwards;
        self.from = Version::MAX;
        self
    }

    /// At most so many events.
    #[must_use]
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = events;
        self
    }
}

/// A read of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct ReadLog {
    /// Which events.
    pub filter: Filter,
    /// The first position that is looked at, inclusive.
    pub from: Position,
    /// The last position that is looked at, inclusive; by default the end of the log in that direction.
    pub to: Position,
    /// Which way.
    pub direction: Direction,
    /// The most events that are wanted.
    pub limit: usize,
}

impl ReadLog {
    /// The whole log, forwards.
    pub fn all() -> Self {
        Self::matching(Filter::all())
    }

    /// The events that a filter or a query lets through, forwards.
    pub fn matching(filter: impl Into<Filter>) -> Self {
        Self {
            filter: filter.into(),
            from: Position::FIRST,
            to: Position::MAX,
            direction: Direction::Forwards,
            limit: usize::MAX,
        }
    }

    /// From this position on, inclusive.
    #[must_use]
    pub fn from(mut self, position: Position) -> Self {
        self.from = position;
        self
    }

    /// No further than this position, inclusive.
    #[must_use]
    pub fn to(mut self, position: Position) -> Self {
        self.to = position;
        self
    }

    /// From the end of the log, or from the position named after this, towards the first event.
    #[must_use]
    pub fn backwards(mut self) -> Self {
        self.direction = Direction::Backwards;
        (self.from, self.to) = (Position::MAX, Position::FIRST);
        self
    }

    /// At most so many events.
    #[must_use]
    pub fn limit(mut self, events: usize) -> Self {
        self.limit = events;
        self
    }
}

/// A part of a read: some events, and where it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct Page<P> {
    /// The events, in the order asked for.
    pub events: Vec<RecordedEvent>,
    /// The first place that was not looked at yet. `None` says that all that is visible was; a page with few events, or
    /// none, may still have a next.
    pub next: Option<P>,
}

/// Events one after the other, read as they are asked for.
pub type EventStream<'a> = BoxStream<'a, Result<RecordedEvent, StoreError>>;

/// Lazy reads over any store.
pub trait EventStoreExt: EventStore {
    /// A stream's events.
    ///
    /// ```
    /// # use indelible_core::{*, store::memory::MemoryStore};
    /// # use futures::TryStreamExt;
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// let mut events = store.stream(ReadStream::new("account-1".parse()?).backwards());
    /// while let Some(event) = events.try_next().await? {
    ///     println!("{} {}", event.version, event.event_type);
    /// }
    /// # Ok(()) }
    /// ```
    fn stream(&self, read: ReadStream) -> EventStream<'_> {
        paged(read, move |read| async move {
            let page = self.read_stream(&read).await?;
            let limit = read.limit - page.events.len().min(read.limit);
            let rest = page.next.filter(|_| limit > 0).map(|from| ReadStream { from, limit, ..read });
            Ok((page.events, rest))
        })
    }

    /// The log's events.
    ///
    /// ```
    /// # use indelible_core::{*, store::memory::MemoryStore};
    /// # use serde::{Deserialize, Serialize};
    /// use futures::TryStreamExt;
    ///
    /// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    /// enum CarEvent {
    ///     Parked {
    ///         #[event(tag)]
    ///         plate: String,
    ///     },
    /// }
    /// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
    /// # #[aggregate(category = "garage")]
    /// # struct Garage {}
    /// # impl Apply for Garage {
    /// #     type Event = CarEvent;
    /// #     fn apply(&mut self, _: &CarEvent) {}
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// // All events of a tag; a `Query` names types too, a `Filter` categories and stream names.
    /// let mut events = store.log(ReadLog::matching(Tag::of("plate", "ADA 1")?));
    /// while let Some(recorded) = events.try_next().await? {
    ///     let CarEvent::Parked { plate } = recorded.decode()?;
    ///     println!("{plate} in {}", recorded.stream.id());
    /// }
    /// // And only these types of one aggregate.
    /// let parked = Query::types::<Garage>([CarEvent::PARKED]).tagged(Tag::of("plate", "ADA 1")?);
    /// # let _ = store.log(ReadLog::matching(parked));
    /// # Ok(()) }
    /// ```
    fn log(&self, read: ReadLog) -> EventStream<'_> {
        paged(read, move |read| async move {
            let page = self.read_log(&read).await?;
            let limit = read.limit - page.events.len().min(read.limit);
            let rest = page.next.filter(|_| limit > 0).map(|from| ReadLog { from, limit, ..read });
            Ok((page.events, rest))
        })
    }
}
impl<S: EventStore + ?Sized> EventStoreExt for S {}

/// Reads page after page, each giving its events and what is left to read, until nothing is left or one fails.
fn paged<'a, R, F>(read: R, page: impl Fn(R) -> F + Send + Clone + 'a) -> EventStream<'a>
where
    R: Send + 'a,
    F: Future<Output = Result<(Vec<RecordedEvent>, Option<R>), StoreError>> + Send + 'a,
{
    stream::try_unfold(Some(read), move |read| {
        let page = page.clone();
        async move {
            let Some(read) = read else { return Ok::<_, StoreError>(None) };
            let (events, rest) = page(read).await?;
            Ok(Some((stream::iter(events.into_iter().map(Ok)), rest)))
        }
    })
    .try_flatten()
    .boxed()
}
