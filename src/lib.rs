#![doc = include_str!("../README.md")]

#[doc(hidden)]
pub use indelible_core::__private;

// All of it: the limits too, and what commands are made of.
pub use indelible_core as core;
// What an application writes.
pub use indelible_core::{
    ACTOR, Aggregate, AggregateId, Apply, CommandContext, Context, Decide, DecisionModel, Event, Events, Handle,
    IntoId, Writes,
};
// What executes it.
pub use indelible_core::{
    AsOf, AsStore, CommandError, Done, Execution, Executor, ExecutorOptions, HistoryStream, LoadError, Loaded,
    Repository, RetryPolicy, SnapshotPolicy, Unit,
};
// What is in the log.
pub use indelible_core::{
    Category, CausationId, CloudEvent, ContentType, CorrelationId, EventId, EventName, EventShape, EventType, Metadata,
    NewEvent, Payload, Position, QualifiedType, RecordedEvent, StreamId, Tag, Timestamp, Version, codec,
};
// Reading and following the log.
pub use indelible_core::{
    Delivery, Direction, EventStoreExt, EventStream, Filter, Page, Query, QueryItem, ReadLog, ReadStream, StartFrom,
    Subscription, Token,
};
// Stores.
pub use indelible_core::{
    AnyStore, Append, AppendOutcome, Appended, CheckpointStore, Codec, Condition, EventStore, ExpectedVersion,
    FailedCondition, Fingerprint, Limits, Snapshot, SnapshotStore, Store, StoreId, StreamHead,
    store::memory::MemoryStore,
};
// What can go wrong.
pub use indelible_core::{Cause, DecodeError, EncodeError, InvalidInput, StoreError};

#[cfg(feature = "testing")]
pub use indelible_core::testing;

#[cfg(feature = "postgres")]
pub use indelible_postgres::{self as postgres, PostgresStore};
#[cfg(all(feature = "projections", feature = "postgres"))]
pub use indelible_postgres::{PostgresModel, PostgresSnapshot, PostgresTx};
#[cfg(feature = "rocksdb")]
pub use indelible_rocksdb::{self as rocksdb, RocksStore};
#[cfg(all(feature = "projections", feature = "rocksdb"))]
pub use indelible_rocksdb::{RocksModel, RocksSnapshot, RocksTx};

// Read models.
#[cfg(feature = "projections")]
pub use indelible_projections::{
    self as projections, Answer, Composed, Envelope, Index, OnFailure, Order, Partition, Project, Projection,
    ProjectionId, Question, ReadModel, ReadModelError, ReadTables, Retry, Running, Table, Views, Waited, Wants, Worker,
    WriteTables, memory::MemoryModel,
};

// Sagas.
#[cfg(feature = "sagas")]
pub use indelible_sagas::{
    self as sagas, Call, Dependency, Failure, Outcome, Past, Perform, Plan, React, Reactor, Saga, SagaWorker, Sagas,
    Standing, Step,
};

// Publishing.
#[cfg(feature = "publishing")]
pub use indelible_publishing::{
    self as publishing, Broker, Feed, Inbox, IntegrationEvent, Message, Publish, Publisher, Receive, RunningInbox,
};
