//! Event sourcing for Rust: the types, the traits, the decision loop and the memory store.
//!
//! Applications use the facade crate `indelible`; stores are written against this one.

extern crate self as indelible_core;

#[doc(hidden)]
pub mod __private;

// In reading order: names, what an application writes, what executes it, then writing to a store and reading from it.
mod text;

mod aggregate;
mod decision;
#[cfg(feature = "derive")]
mod derive;
mod event;
mod stream;
mod time;

pub mod codec;
mod command;
mod context;
mod encode;
mod executor;
mod load;
mod repository;
mod snapshot;
mod unit;

mod append;
mod error;
mod queue;
pub mod store;

mod checkpoint;
mod query;
mod read;
mod subscription;
mod token;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "bugs")]
pub mod bugs;

pub use aggregate::{Aggregate, AggregateId, Apply, Context, Events, Handle, IntoId};
pub use append::{
    APPEND_EVENTS_MAX, APPEND_STREAMS_MAX, Append, AppendOutcome, Appended, Condition, ExpectedVersion, Facts,
    FailedCondition, Judgement, Limits, judge,
};
pub use checkpoint::{CheckpointStore, check_reader};
pub use codec::Codec;
pub use command::{Both, CommandError, Decision, Done, Execution, One, Plan, Transaction};
pub use context::{ACTOR, CommandContext};
pub use decision::{Decide, DecisionModel, Writes};
#[cfg(feature = "derive")]
pub use derive::{Aggregate, AggregateId, Event};
pub use error::{Cause, DecodeError, EncodeError, InvalidInput, StoreError};
pub use event::{
    CausationId, CloudEvent, ContentType, CorrelationId, Event, EventId, EventName, EventShape, EventType,
    METADATA_BYTES_MAX, Metadata, NewEvent, Payload, QualifiedType, RecordedEvent, TAGS_MAX, Tag,
};
pub use executor::{Executor, ExecutorOptions, RetryPolicy};
pub use load::{LoadError, Loaded};
pub use query::{Filter, QUERY_ITEMS_MAX, QUERY_NAMES_MAX, Query, QueryItem};
pub use queue::QueueRoom;
pub use read::{Direction, EventStoreExt, EventStream, PAGE_BYTES_MAX, PAGE_EVENTS_MAX, Page, ReadLog, ReadStream};
pub use repository::{AsOf, HistoryStream, Repository};
pub use snapshot::{Fingerprint, Snapshot, SnapshotPolicy, SnapshotStore};
pub use store::{AnyStore, AsStore, EventStore, Store};
pub use stream::{Category, Position, StreamHead, StreamId, Version};
pub use subscription::{Delivery, StartFrom, Subscription};
pub use text::NAME_BYTES_MAX;
pub use time::{LogTime, Timestamp};
pub use token::{StoreId, Token};
pub use unit::Unit;
