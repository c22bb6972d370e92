//! What a store promises. The documentation of [`EventStore`] is the contract, and the conformance suite (`conformance`, with
//! the feature of that name) proves it clause by clause.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Append, AppendOutcome, Category, CheckpointStore, EventId, Limits, Page, Position, ReadLog, ReadStream,
    RecordedEvent, SnapshotStore, StoreError, StoreId, StreamHead, StreamId, Token, Version,
    codec::{Codec, Json},
};

pub mod memory;

/// An append-only log of events in streams.
///
/// A store is a cheap handle; clones share the log. All methods may be called from any number of tasks at once.
///
/// # The contract
///
/// - **L1 Atomic.** One append writes events to one or several streams, all or nothing.
/// - **L2 Conditional.** Each stream named in an append carries an [expected version](crate::ExpectedVersion), also
///   streams that it only checks, and an append may carry [consistency conditions](crate::Condition): no event matches
///   this query after position P. The append's own events don't count, those of appends decided before it do. A failed
///   condition is an outcome that names *every* condition that failed, with the version or the position found.
/// - **L3 Gapless and in order.** Positions and versions have no holes. A reader that has seen position P never later
///   finds a new event at or before P. Commit order is position order, with any number of writers and processes. Only
///   appends that succeed are given positions.
/// - **L4 Durable, then visible.** An append is acknowledged after the operating system was asked to make it durable
///   and said yes, and no reader in any process sees an event before that. Weaker modes are chosen by name and say what
///   can be lost. A failed write or sync is never retried over.
/// - **L5 Idempotent.** Event ids are unique for ever. Before any condition is judged, the first id is looked up: where
///   the same append (ids, order, streams, types, data, tags, metadata) is recorded, the answer is the first one's,
///   marked *repeated*, whatever was expected and however far the stream has moved on. Where an id is recorded and the
///   append differs: [`StoreError::IdConflict`].
/// - **L6 Readable.** A stream and the log forwards and backwards, the log by [filter](crate::Filter); an event by id;
///   the head, a stream's head; streams and categories by pages. Reads are lazy: memory doesn't grow with the log.
///   Stream, category, type and tag reads cost what they return; a prefix may scan.
/// - **L7 Subscribable.** [Subscriptions](crate::Subscription) go from the past into the present without a missed,
///   doubled or reordered event at the seam. They rest on [`published`](Self::published): a slow subscriber never slows a
///   writer and never loses an event.
/// - **L8 Self-describing.** What a [`RecordedEvent`] carries comes back as it was given, byte for byte. `recorded_at`
///   is set where order is decided and is never before its predecessor's.
/// - **L9 Snapshots** are a cache: see [`SnapshotStore`].
/// - **L10 Bounded.** [Limits](crate::Limits) are checked before anything is written. Queues are bounded in bytes: a
///   full one makes callers wait, and [`StoreError::Overloaded`] is answered before hand-over only. Afterwards comes the
///   answer, or [`StoreError::OutcomeUnknown`]. Dropping the future of an append that was handed over does not cancel it.
/// - **L11 Not what it was.** A [`Token`] of which the store holds another event, or none, is answered with
///   [`StoreError::Diverged`]; a replica that is not there yet waits.
/// - **L12 Errors** say what happened, to which stream, and whether to try again. No engine type appears in them; the
///   cause hangs on `source()`.
/// - **L13 For ever.** Nothing is deleted or truncated. A stream can be [closed](Append::close): a last event, after
///   which appends to it conflict.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// The identity that was given to this log when it was created.
    fn id(&self) -> StoreId;

    /// The limits that it was opened with.
    fn limits(&self) -> &Limits;

    /// The codec for events whose type is pinned to none: [`Json`] unless the store was opened with another of those
    /// that are [always there](crate::codec).
    fn default_codec(&self) -> &'static dyn Codec {
        &Json
    }

    /// Writes an append, or says which of its conditions failed.
    ///
    /// # Errors
    /// [`Invalid`](StoreError::Invalid), [`IdConflict`](StoreError::IdConflict) and
    /// [`Overloaded`](StoreError::Overloaded) wrote nothing. [`OutcomeUnknown`](StoreError::OutcomeUnknown) carries the
    /// append; send that one again.
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError>;

    /// A page of a stream. [`EventStoreExt::stream`](crate::EventStoreExt::stream) reads on page by page.
    ///
    /// # Errors
    /// Those of the engine.
    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError>;

    /// A page of the log. [`EventStoreExt::log`](crate::EventStoreExt::log) reads on page by page.
    ///
    /// # Errors
    /// Those of the engine, and [`Invalid`](StoreError::Invalid) for a filter with an item that names nothing.
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError>;

    /// The event of an id.
    ///
    /// # Errors
    /// Those of the engine.
    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError>;

    /// The last event that readers see: [`Token::start`] for an empty log.
    ///
    /// # Errors
    /// Those of the engine.
    async fn head(&self) -> Result<Token, StoreError>;

    /// The place at a position up to the head.
    ///
    /// # Errors
    /// [`Invalid`](StoreError::Invalid) beyond the head.
    async fn token(&self, position: Position) -> Result<Token, StoreError>;

    /// What a stream is like; version 0 where it does not exist.
    ///
    /// # Errors
    /// Those of the engine.
    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError>;

    /// Up to `limit` streams of one category or all, by name, those after `after`.
    ///
    /// # Errors
    /// Those of the engine.
    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError>;

    /// Up to `limit` categories by name, those after `after`.
    ///
    /// # Errors
    /// Those of the engine.
    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError>;

    /// Follows the position up to which events are durable and visible. It wakes subscriptions; nothing polls. It ends when
    /// the store stops. Where a store goes on after that, this gives another one: who sees that must ask whether what they
    /// have seen is still [there](Self::check).
    fn published(&self) -> watch::Receiver<Position>;

    /// Proves that a token was taken from this log.
    ///
    /// # Errors
    /// [`Diverged`](StoreError::Diverged) where this store holds another event at its position, or none.
    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        let found = match self.token(token.position).await {
            Err(StoreError::Invalid(_)) => self.head().await?,
            found => found?,
        };
        match found == *token {
            true => Ok(()),
            false => Err(StoreError::Diverged { token: *token, found }),
        }
    }
}

/// All that an application wants of a store, behind one pointer.
pub trait Store: EventStore + SnapshotStore + CheckpointStore {}
impl<S: EventStore + SnapshotStore + CheckpointStore> Store for S {}

/// A shared store of any kind.
pub type AnyStore = Arc<dyn Store>;

/// What can be taken as a store: a reference to any, or to a shared one.
pub trait AsStore {
    /// A shared handle of it.
    fn as_store(&self) -> AnyStore;
}
impl<S: Store + Clone> AsStore for S {
    fn as_store(&self) -> AnyStore {
        Arc::new(self.clone())
    }
}
impl AsStore for AnyStore {
    fn as_store(&self) -> AnyStore {
        self.clone()
    }
}
