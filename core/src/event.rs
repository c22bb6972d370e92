//! Events: what an application records, before ([`NewEvent`]) and after ([`RecordedEvent`]) the log has it.
//!
//! [`Event`] is implemented by `#[derive(Event)]`; aggregates and decision models say which events they speak.

use bytes::Bytes;

use crate::{Category, DecodeError, EncodeError, InvalidInput, Position, StreamId, Timestamp, Version, codec::Codec};

mod cloudevents;
mod id;
mod metadata;
mod name;

pub use cloudevents::CloudEvent;
pub use id::{CausationId, CorrelationId, EventId};
pub use metadata::{METADATA_BYTES_MAX, Metadata};
pub use name::{ContentType, EventName, EventType, QualifiedType, Tag};

/// The most tags that one event carries.
pub const TAGS_MAX: usize = 64;

/// An event to be written.
///
/// Applications rarely make one by hand: commands return typed events, and the repository encodes them.
///
/// ```
/// use indelible_core::{ContentType, EventType, NewEvent};
/// let event = NewEvent::new(EventType::new("Deposited")?, ContentType::JSON, r#"{"cents":500}"#);
/// assert_eq!(event.schema_version, 1);
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct NewEvent {
    /// Its id, by default a new UUIDv7.
    pub id: EventId,
    /// Its stored type.
    pub event_type: EventType,
    /// The version of the type's shape, by default 1.
    pub schema_version: u32,
    /// How `data` is encoded.
    pub content_type: ContentType,
    /// The payload, kept byte for byte.
    pub data: Bytes,
    /// What it is found by across streams, at most 64.
    pub tags: Vec<Tag>,
    /// What else is to be known of it.
    pub metadata: Metadata,
    /// What belongs together with it.
    pub correlation_id: Option<CorrelationId>,
    /// What caused it.
    pub causation_id: Option<CausationId>,
}

impl NewEvent {
    /// An event of schema version 1, without tags and metadata.
    pub fn new(event_type: EventType, content_type: ContentType, data: impl Into<Bytes>) -> Self {
        Self::identified(EventId::new(), event_type, content_type, data)
    }

    /// The same of an id that is known. A new one has random bits, which take longer than all else.
    pub fn identified(id: EventId, event_type: EventType, content_type: ContentType, data: impl Into<Bytes>) -> Self {
        Self {
            id,
            event_type,
            schema_version: 1,
            content_type,
            data: data.into(),
            tags: Vec::new(),
            metadata: Metadata::new(),
            correlation_id: None,
            causation_id: None,
        }
    }

    /// With an id of the caller's.
    #[must_use]
    pub fn with_id(mut self, id: EventId) -> Self {
        self.id = id;
        self
    }

    /// With these tags.
    #[must_use]
    pub fn with_tags(mut self, tags: impl IntoIterator<Item = Tag>) -> Self {
        self.tags = tags.into_iter().collect();
        self
    }

    /// With this metadata.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// The bytes that count for the limits, beside its stream's name: data, names, tags and metadata.
    pub fn size(&self) -> usize {
        size(&self.event_type, &self.content_type, &self.data, &self.tags, &self.metadata)
    }
}

fn size(event_type: &EventType, content_type: &ContentType, data: &Bytes, tags: &[Tag], metadata: &Metadata) -> usize {
    let tags: usize = tags.iter().map(|tag| tag.as_str().len()).sum();
    data.len() + event_type.as_str().len() + content_type.as_str().len() + tags + metadata.size()
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct RecordedEvent {
    /// Its id.
    pub id: EventId,
    /// Its stored type.
    pub event_type: EventType,
    /// The version of the type's shape that it was written with.
    pub schema_version: u32,
    /// The stream that holds it.
    pub stream: StreamId,
    /// Its number in the stream.
    pub version: Version,
    /// Its number in the log.
    pub position: Position,
    /// When the log took it: set where order is decided, never before its predecessor's, so ahead of a clock that was set
    /// back.
    pub recorded_at: Timestamp,
    /// What caused it.
    pub causation_id: Option<CausationId>,
    /// What belongs together with it.
    pub correlation_id: Option<CorrelationId>,
    /// What it is found by across streams.
    pub tags: Vec<Tag>,
    /// How `data` is encoded.
    pub content_type: ContentType,
    /// What else is to be known of it.
    pub metadata: Metadata,
    /// The payload, byte for byte as given.
    pub data: Bytes,
    /// Whether it closes its stream: no event follows it there.
    pub closes_stream: bool,
    /// Whether it is the last event of its append.
    pub ends_append: bool,
}

impl RecordedEvent {
    /// An event as a store records it: by default one that is its append's last, and doesn't close its stream.
    pub fn new(
        event: NewEvent,
        stream: StreamId,
        version: Version,
        position: Position,
        recorded_at: Timestamp,
    ) -> Self {
        Self {
            id: event.id,
            event_type: event.event_type,
            schema_version: event.schema_version,
            stream,
            version,
            position,
            recorded_at,
            causation_id: event.causation_id,
            correlation_id: event.correlation_id,
            tags: event.tags,
            content_type: event.content_type,
            metadata: event.metadata,
            data: event.data,
            closes_stream: false,
            ends_append: true,
        }
    }

    /// About the bytes that it takes: data, names, tags and metadata.
    pub fn size(&self) -> usize {
        let stream = self.stream.as_str().len();
        stream + size(&self.event_type, &self.content_type, &self.data, &self.tags, &self.metadata)
    }

    /// Its type in its category.
    pub fn qualified_type(&self) -> QualifiedType {
        QualifiedType { category: self.stream.category(), event_type: self.event_type.clone() }
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`DecodeError`] when `E` doesn't know the type or the schema version, or the data doesn't decode.
    pub fn decode<E: Event>(&self) -> Result<E, DecodeError> {
        E::decode(&self.payload())
    }

    /// Its encoded part, as [`Event::decode`] takes it.
    pub fn payload(&self) -> Payload<'_> {
        Payload {
            stream: &self.stream,
            version: self.version,
            event_type: &self.event_type,
            schema_version: self.schema_version,
            content_type: &self.content_type,
            data: &self.data,
        }
    }

    /// Whether this is what `event`, written to `stream`, was recorded as (L5).
    pub fn records(&self, stream: &StreamId, event: &NewEvent) -> bool {
        self.id == event.id
            && self.stream == *stream
            && self.event_type == event.event_type
            && self.schema_version == event.schema_version
            && self.content_type == event.content_type
            && self.data == event.data
            && self.tags == event.tags
            && self.metadata == event.metadata
    }
}

/// What decoding needs of an event, recorded or about to be.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// The stream that holds it.
    pub stream: &'a StreamId,
    /// Its version there, 0 before it is recorded.
    pub version: Version,
    /// Its stored type.
    pub event_type: &'a EventType,
    /// The schema version of the data.
    pub schema_version: u32,
    /// How the data is encoded.
    pub content_type: &'a ContentType,
    /// The data.
    pub data: &'a Bytes,
}

impl Payload<'_> {
    /// A decode error of this event.
    pub fn error(&self, reason: impl Into<String>, source: Option<crate::Cause>) -> DecodeError {
        DecodeError {
            stream: self.stream.clone(),
            version: self.version,
            event_type: self.event_type.clone(),
            schema_version: self.schema_version,
            reason: reason.into(),
            source,
        }
    }
}

/// One kind of event as it is written today.
#[derive(Clone, Debug)]
pub struct EventShape {
    /// Its stored name.
    pub name: &'static str,
    /// Its category where the type fixes one: an event of a decision model over several categories.
    pub category: Option<Category>,
    /// The schema version that is written.
    pub schema_version: u32,
    /// The codec that this type is pinned to.
    pub codec: Option<&'static dyn Codec>,
}

/// The events of an aggregate, usually an enum: `#[derive(Serialize, Deserialize, Event)]`.
///
/// Each variant is one stored type, its fields are the data. What stays for ever is the stored name (by default the
/// variant's, pinned by `#[event(name = "…")]`) and the shape of the data; a changed shape gets a new
/// `#[event(version = n)]` and an upcaster from the old one. Stored data is never rewritten.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "derive it: `#[derive(Serialize, Deserialize, Event)]`"
)]
pub trait Event: Sized + Clone + Send + Sync + 'static {
    /// The types as they are written today.
    fn shapes() -> Vec<EventShape>;

    /// The stored type of this event.
    fn event_type(&self) -> EventType;

    /// The schema version that this event is written with.
    fn schema_version(&self) -> u32;

    /// The codec that this event's type is pinned to; where there is none the store's default is used.
    fn codec(&self) -> Option<&'static dyn Codec>;

    /// What the event is found by across streams.
    ///
    /// # Errors
    /// [`InvalidInput`] where a field makes no valid tag.
    fn tags(&self) -> Result<Vec<Tag>, InvalidInput>;

    /// Encodes the data.
    ///
    /// # Errors
    /// [`EncodeError`] where the codec cannot represent it.
    fn encode(&self, codec: &dyn Codec) -> Result<Bytes, EncodeError>;

    /// Decodes the data, through the upcasters where it was written with an older schema version.
    ///
    /// # Errors
    /// [`DecodeError`] for an unknown type, an unknown schema version, or data that doesn't decode.
    fn decode(payload: &Payload<'_>) -> Result<Self, DecodeError>;
}
