//! The bytes of an event in a [`block`](crate::block), but for its position, its version and its time, which the block and
//! the sequencer add. Called by `append::prepare` and `log`; `FORMAT.md` has the fields, of which most are there only where
//! a flag says so.

use bytes::Bytes;
use indelible_core::{
    CausationId, ContentType, CorrelationId, EventId, EventType, Metadata, NewEvent, Position, RecordedEvent, StreamId,
    Tag, Timestamp, Version,
};

use crate::frame::{Damage, Fields, Put as _, text};

const CLOSES_STREAM: u8 = 1;
const ENDS_APPEND: u8 = 2;
const HAS_CAUSATION: u8 = 4;
const HAS_CORRELATION: u8 = 8;
const HAS_SCHEMA_VERSION: u8 = 16;
const HAS_CONTENT_TYPE: u8 = 32;
const HAS_TAGS: u8 = 64;
const HAS_METADATA: u8 = 128;

/// Adds the record of an event to a buffer.
pub(crate) fn encode(record: &mut Vec<u8>, stream: &StreamId, event: &NewEvent, closes: bool, ends: bool) {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let is_json = event.content_type == ContentType::JSON;
    record.u8(flag(closes, CLOSES_STREAM)
        | flag(ends, ENDS_APPEND)
        | flag(event.causation_id.is_some(), HAS_CAUSATION)
        | flag(event.correlation_id.is_some(), HAS_CORRELATION)
        | flag(event.schema_version != 1, HAS_SCHEMA_VERSION)
        | flag(!is_json, HAS_CONTENT_TYPE)
        | flag(!event.tags.is_empty(), HAS_TAGS)
        | flag(event.metadata.iter().len() > 0, HAS_METADATA));
    record.uuid(event.id.as_uuid());
    if let Some(id) = event.causation_id {
        record.uuid(id.as_uuid());
    }
    if let Some(id) = event.correlation_id {
        record.uuid(id.as_uuid());
    }
    if event.schema_version != 1 {
        record.varint(event.schema_version.into());
    }
    record.name(stream.as_str()).name(event.event_type.as_str());
    if !is_json {
        record.name(event.content_type.as_str());
    }
    if !event.tags.is_empty() {
        record.u8(u8::try_from(event.tags.len()).expect("an event has at most 64 tags"));
        for tag in &event.tags {
            record.name(tag.as_str());
        }
    }
    let entries = event.metadata.iter();
    if entries.len() > 0 {
        record.varint(entries.len() as u64);
        for (key, value) in entries {
            record.name(key).long(value.as_bytes());
        }
    }
    record.put(&event.data);
}

/// Where an event stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) version: Version,
    pub(crate) recorded_at: Timestamp,
}

/// Decodes records. Events that are read together often have names in common, which it then shares.
#[derive(Default)]
pub(crate) struct Decoder {
    stream: Option<StreamId>,
    event_type: Option<EventType>,
    content_type: Option<ContentType>,
}

impl Decoder {
    /// The event of a record, with its data as `keep` keeps it.
    pub(crate) fn decode(
        &mut self,
        place: Place,
        record: &[u8],
        keep: impl FnOnce(&[u8]) -> Bytes,
    ) -> Result<RecordedEvent, Damage> {
        let mut fields = Fields::new(record);
        let flags = fields.u8()?;
        let has = |flag| flags & flag != 0;
        let id = EventId::from_uuid(fields.uuid()?);
        let causation_id = if has(HAS_CAUSATION) { Some(CausationId::from_uuid(fields.uuid()?)) } else { None };
        let correlation_id = if has(HAS_CORRELATION) { Some(CorrelationId::from_uuid(fields.uuid()?)) } else { None };
        let mut schema_version = 1;
        if has(HAS_SCHEMA_VERSION) {
            schema_version = u32::try_from(fields.varint()?).unwrap_or(1);
            if schema_version == 1 {
                return Err(Damage::new("its schema version is none"));
            }
        }
        let stream = shared(&mut self.stream, fields.name()?)?;
        let event_type = shared(&mut self.event_type, fields.name()?)?;
        let mut content_type = ContentType::JSON;
        if has(HAS_CONTENT_TYPE) {
            content_type = shared(&mut self.content_type, fields.name()?)?;
            if content_type == ContentType::JSON {
                return Err(Damage::new("it names the content type that needs no name"));
            }
        }
        let mut tags = Vec::new();
        if has(HAS_TAGS) {
            let count = fields.u8()?.into();
            tags.reserve_exact(count);
            for _ in 0..count {
                tags.push(Tag::new(fields.name()?)?);
            }
            if count == 0 {
                return Err(Damage::new("it has no tags"));
            }
        }
        let metadata = if has(HAS_METADATA) { metadata(&mut fields)? } else { Metadata::new() };
        let mut event = NewEvent::identified(id, event_type, content_type, keep(fields.rest()));
        (event.causation_id, event.correlation_id) = (causation_id, correlation_id);
        (event.schema_version, event.tags, event.metadata) = (schema_version, tags, metadata);
        let mut event = RecordedEvent::new(event, stream, place.version, place.position, place.recorded_at);
        (event.closes_stream, event.ends_append) = (has(CLOSES_STREAM), has(ENDS_APPEND));
        Ok(event)
    }
}

/// The flags and the names that `index` needs of a record, without all else.
pub(crate) struct Head<'a> {
    pub(crate) id: EventId,
    pub(crate) stream: &'a str,
    pub(crate) closes: bool,
    pub(crate) event_type: &'a str,
    rest: Fields<'a>,
    flags: u8,
}

impl<'a> Head<'a> {
    pub(crate) fn parse(record: &'a [u8]) -> Result<Self, Damage> {
        let mut fields = Fields::new(record);
        let flags = fields.u8()?;
        let has = |flag| flags & flag != 0;
        let id = EventId::from_uuid(fields.uuid()?);
        for _ in 0..u8::from(has(HAS_CAUSATION)) + u8::from(has(HAS_CORRELATION)) {
            fields.uuid()?;
        }
        if has(HAS_SCHEMA_VERSION) {
            fields.varint()?;
        }
        let (stream, event_type) = (fields.name()?, fields.name()?);
        if has(HAS_CONTENT_TYPE) {
            fields.name()?;
        }
        Ok(Self { id, stream, closes: has(CLOSES_STREAM), event_type, rest: fields, flags })
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = Result<&'a str, Damage>> {
        let mut fields = self.rest;
        let count = if self.flags & HAS_TAGS != 0 { fields.u8().unwrap_or(0) } else { 0 };
        (0..count).map(move |_| fields.name())
    }
}

/// A name that is likely the one before.
fn shared<N: Clone + AsRef<str> + std::str::FromStr<Err = indelible_core::InvalidInput>>(
    last: &mut Option<N>,
    name: &str,
) -> Result<N, Damage> {
    match last {
        Some(last) if last.as_ref() == name => Ok(last.clone()),
        last => Ok(last.insert(name.parse()?).clone()),
    }
}

fn metadata(fields: &mut Fields<'_>) -> Result<Metadata, Damage> {
    let mut metadata = Metadata::new();
    let mut last = "";
    let count = fields.varint()?;
    for _ in 0..count {
        let key = fields.name()?;
        if key <= last {
            return Err(Damage::new("its metadata is not in order"));
        }
        metadata.insert(key, text(fields.long()?)?)?;
        last = key;
    }
    if count == 0 { Err(Damage::new("its metadata is empty")) } else { Ok(metadata) }
}

#[cfg(any(test, feature = "fuzzing"))]
fn encoded(event: &RecordedEvent) -> Vec<u8> {
    let (event_type, content_type) = (event.event_type.clone(), event.content_type.clone());
    let mut new = NewEvent::identified(event.id, event_type, content_type, event.data.clone());
    new.schema_version = event.schema_version;
    new.tags = event.tags.clone();
    new.metadata = event.metadata.clone();
    (new.causation_id, new.correlation_id) = (event.causation_id, event.correlation_id);
    let mut record = Vec::new();
    encode(&mut record, &event.stream, &new, event.closes_stream, event.ends_append);
    record
}

/// For [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn comes_back(record: &[u8]) -> bool {
    let place = Place { position: Position::FIRST, version: Version::FIRST, recorded_at: Timestamp::now() };
    let decoded = Decoder::default().decode(place, record, Bytes::copy_from_slice);
    let head = Head::parse(record).map(|head| head.tags().for_each(drop));
    decoded.is_ok_and(|event| {
        assert!(head.is_ok(), "readers take what the index can't");
        assert_eq!(encoded(&event), record);
        true
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection, option, prelude::*, string::string_regex};
    use uuid::Uuid;

    use super::*;

    fn blank() -> RecordedEvent {
        let event = NewEvent::new(EventType::from_static("-"), ContentType::JSON, Bytes::new());
        let stream = "blank-event".parse().unwrap();
        RecordedEvent::new(event, stream, Version::NONE, Position::START, Timestamp::now())
    }

    fn name() -> impl Strategy<Value = String> {
        string_regex("[a-zä ☃:._]{1,40}").unwrap_or_else(|error| panic!("{error}"))
    }

    fn id() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    prop_compose! {
        fn event()(
            (stream, event_type, content_type) in (name(), name(), name()),
            tags in collection::vec(name(), 0..64),
            metadata in collection::btree_map(name(), "[^\\p{Cc}]{0,40}", 0..5),
            data in collection::vec(any::<u8>(), 0..300),
            (id, causation, correlation) in (id(), option::of(id()), option::of(id())),
            (position, version, schema_version) in (any::<u64>(), any::<u64>(), any::<u32>()),
            recorded_at in -300_000_000_000_000_000_i64..250_000_000_000_000_000,
            (closes_stream, ends_append) in (any::<bool>(), any::<bool>()),
        ) -> RecordedEvent {
            let mut event = blank();
            event.id = EventId::from_uuid(id);
            event.event_type = EventType::new(event_type).unwrap();
            event.schema_version = schema_version;
            event.stream = format!("c-{stream}").parse::<StreamId>().unwrap();
            event.version = Version::new(version);
            event.position = Position::new(position);
            event.recorded_at = Timestamp::from_micros(recorded_at).unwrap();
            event.causation_id = causation.map(CausationId::from_uuid);
            event.correlation_id = correlation.map(CorrelationId::from_uuid);
            event.tags = tags.into_iter().map(|tag| Tag::new(tag).unwrap()).collect();
            event.content_type = ContentType::new(content_type).unwrap();
            for (key, value) in metadata {
                event.metadata.insert(key, value).unwrap();
            }
            event.data = data.into();
            event.closes_stream = closes_stream;
            event.ends_append = ends_append;
            event
        }
    }

    fn decoded(event: &RecordedEvent, record: &[u8]) -> Result<RecordedEvent, Damage> {
        let RecordedEvent { position, version, recorded_at, .. } = *event;
        Decoder::default().decode(Place { position, version, recorded_at }, record, Bytes::copy_from_slice)
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(event in event()) {
            let record = encoded(&event);
            prop_assert_eq!(&decoded(&event, &record).unwrap(), &event);
            let head = Head::parse(&record).unwrap();
            prop_assert_eq!((head.id, head.stream, head.event_type), (event.id, event.stream.as_str(), event.event_type.as_str()));
            prop_assert_eq!(head.closes, event.closes_stream);
            let tags: Vec<_> = head.tags().map(|tag| Tag::new(tag.unwrap()).unwrap()).collect();
            prop_assert_eq!(tags, event.tags);
        }

        /// The block's checksum is not enough to believe what it holds: whatever the bytes say, there is no panic, and what
        /// is taken for an event has just these bytes again.
        #[test]
        fn hostile_bytes_are_an_error_or_an_event(
            event in event(),
            changes in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut record = encoded(&event);
            for (at, with) in changes {
                let at = at.index(record.len());
                record[at] = with;
            }
            record.truncate(cut.index(record.len()) + 1);
            if let Ok(decoded) = decoded(&event, &record) {
                prop_assert_eq!(encoded(&decoded), record);
            }
        }

        #[test]
        fn random_bytes_are_no_panic(event in event(), bytes in collection::vec(any::<u8>(), 0..600)) {
            if let Ok(decoded) = decoded(&event, &bytes) {
                prop_assert_eq!(encoded(&decoded), bytes);
            }
        }
    }

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        let mut event = blank();
        event.id = EventId::from_uuid(Uuid::from_u128(7));
        event.stream = "a-1".parse().unwrap();
        event.event_type = EventType::from_static("T");
        event.data = Bytes::from_static(b"{}");
        event.ends_append = true;
        let id = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(encoded(&event), [&[2][..], &id, b"\x03a-1\x01T{}"].concat());
        event.tags = vec![Tag::new("g").unwrap()];
        event.metadata.insert("k", "v").unwrap();
        event.schema_version = 300;
        event.content_type = ContentType::from_static("x/y");
        event.correlation_id = Some(CorrelationId::from_uuid(Uuid::from_u128(7)));
        event.causation_id = Some(CausationId::from_uuid(Uuid::from_u128(7)));
        event.closes_stream = true;
        let rest = b"\x03a-1\x01T\x03x/y\x01\x01g\x01\x01k\x01v{}";
        assert_eq!(encoded(&event), [&[255][..], &id, &id, &id, &[0xac, 2], rest].concat());
    }
}
