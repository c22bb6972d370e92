//! Snapshots: a cache of aggregates' states, so that long streams load quickly (L9).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{ContentType, EventId, StoreError, StreamId, Timestamp, Version};

/// What a state was computed with: its own shape, its events' schema versions, and the codec.
///
/// A snapshot with another fingerprint than today's is as good as none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(uuid::Uuid);

impl Fingerprint {
    /// The fingerprint of all that is named, in this order.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut text = String::new();
        for part in parts {
            text.push_str(&part.len().to_string());
            text.push(':');
            text.push_str(part);
        }
        Self(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, text.as_bytes()))
    }

    /// A fingerprint that a store has kept.
    pub const fn from_uuid(uuid: uuid::Uuid) -> Self {
        Self(uuid)
    }

    /// The plain UUID, for stores to keep.
    pub const fn as_uuid(self) -> uuid::Uuid {
        self.0
    }
}

/// The state of an aggregate at a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The aggregate's stream.
    pub stream: StreamId,
    /// The version of the last event in the state.
    pub version: Version,
    /// The id of that event. Where the stream holds another at this version, the snapshot is not of this log.
    pub event_id: EventId,
    /// What the state was computed with.
    pub fingerprint: Fingerprint,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// How `data` is encoded.
    pub content_type: ContentType,
    /// The state.
    pub data: Bytes,
}

/// Keeps the snapshot of each stream that was saved last.
///
/// What goes in must come out, or nothing: a store never returns part of a snapshot. Snapshots need not be durable.
/// Whether one is of any use is for the [`Repository`](crate::Repository) to find out.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// The snapshot of a stream.
    ///
    /// # Errors
    /// Those of the engine.
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError>;

    /// Keeps a snapshot in place of the stream's former one.
    ///
    /// # Errors
    /// Those of the engine.
    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError>;

    /// Forgets the snapshot of a stream.
    ///
    /// # Errors
    /// Those of the engine.
    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError>;
}

/// When a repository takes a snapshot by itself, after an append: as soon as any of these is reached since the last.
///
/// ```
/// use indelible_core::SnapshotPolicy;
/// let policy = SnapshotPolicy::every(100).or_bytes(256 * 1024);
/// assert_ne!(policy, SnapshotPolicy::NEVER);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    events: Option<u64>,
    bytes: Option<u64>,
    age: Option<Duration>,
}

impl SnapshotPolicy {
    /// Only by hand.
    pub const NEVER: Self = Self { events: None, bytes: None, age: None };

    /// After so many events.
    pub const fn every(events: u64) -> Self {
        Self { events: Some(events), ..Self::NEVER }
    }

    /// After so many bytes of event data.
    pub const fn bytes(bytes: u64) -> Self {
        Self::NEVER.or_bytes(bytes)
    }

    /// When the last snapshot is so old, or where there is none, the first event that it would spare.
    pub const fn age(age: Duration) -> Self {
        Self::NEVER.or_age(age)
    }

    /// Or after so many bytes of event data.
    #[must_use]
    pub const fn or_bytes(mut self, bytes: u64) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Or when the last snapshot is so old.
    #[must_use]
    pub const fn or_age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// Whether it is time, so many events and bytes after the last snapshot, which is so old.
    pub(crate) fn is_due(&self, events: u64, bytes: u64, age: Duration) -> bool {
        events > 0
            && (self.events.is_some_and(|every| events >= every.max(1))
                || self.bytes.is_some_and(|max| bytes >= max)
                || self.age.is_some_and(|max| age >= max))
    }
}
