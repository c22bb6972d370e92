//! The bytes of an event in the log, in a [`frame`](crate::frame). Called by `append` and `read`; all numbers
//! little-endian, `name` is a length byte and text, `long` four length bytes and bytes:
//!
//! ```text
//! position u64 · version u64 · recorded at i64 µs · id 16 · schema version u32 · flags u8
//! causation id 16, where flag 4 · correlation id 16, where flag 8
//! stream name · type name · content type name · tags: count u8, names
//! metadata: count u32, each a name and a long · data long
//! ```
//!
//! Flags: 1 closes its stream, 2 ends its append. The position stands in the record too, so that a record under
//! another's key is found out.

use std::sync::LazyLock;

use bytes::Bytes;
use indelible_core::{
    CausationId, ContentType, CorrelationId, EventId, EventType, Metadata, NewEvent, Position, RecordedEvent, Tag,
    Timestamp, Version,
};

use crate::frame::{Damage, Fields, Frame, text};

const VERSION: u8 = 1;

const CLOSES_STREAM: u8 = 1;
const ENDS_APPEND: u8 = 2;
const HAS_CAUSATION: u8 = 4;
const HAS_CORRELATION: u8 = 8;

pub(crate) fn encode(event: &RecordedEvent) -> Vec<u8> {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(event.closes_stream, CLOSES_STREAM)
        | flag(event.ends_append, ENDS_APPEND)
        | flag(event.causation_id.is_some(), HAS_CAUSATION)
        | flag(event.correlation_id.is_some(), HAS_CORRELATION);
    let mut frame = Frame::new(VERSION, 128 + event.data.len());
    frame
        .u64(event.position.get())
        .u64(event.version.get())
        .i64(event.recorded_at.as_micros())
        .uuid(event.id.as_uuid())
        .u32(event.schema_version)
        .u8(flags);
    if let Some(id) = event.causation_id {
        frame.uuid(id.as_uuid());
    }
    if let Some(id) = event.correlation_id {
        frame.uuid(id.as_uuid());
    }
    frame.name(event.stream.as_str()).name(event.event_type.as_str()).name(event.content_type.as_str());
    frame.u8(u8::try_from(event.tags.len()).expect("an event has at most 64 tags"));
    for tag in &event.tags {
        frame.name(tag.as_str());
    }
    let entries = event.metadata.iter();
    frame.u32(u32::try_from(entries.len()).expect("metadata has at most 64 KiB"));
    for (key, value) in entries {
        frame.name(key).long(value.as_bytes());
    }
    frame.long(&event.data);
    frame.seal()
}

/// The event of a value under a position's key.
pub(crate) fn decode(position: Position, value: &[u8]) -> Result<RecordedEvent, Damage> {
    let mut fields = Fields::open(VERSION, value)?;
    let found = Position::new(fields.u64()?);
    if found != position {
        return Err(Damage::new(format!("it is the record of position {found}")));
    }
    let version = Version::new(fields.u64()?);
    let recorded_at = Timestamp::from_micros(fields.i64()?)?;
    let id = EventId::from_uuid(fields.uuid()?);
    let schema_version = fields.u32()?;
    let flags = fields.u8()?;
    if flags & !(CLOSES_STREAM | ENDS_APPEND | HAS_CAUSATION | HAS_CORRELATION) != 0 {
        return Err(Damage::new(format!("it has unknown flags, {flags:#04x}")));
    }
    let causation = if flags & HAS_CAUSATION != 0 { Some(fields.uuid()?) } else { None };
    let correlation = if flags & HAS_CORRELATION != 0 { Some(fields.uuid()?) } else { None };

    let mut event = BLANK.clone();
    event.id = id;
    event.position = position;
    event.version = version;
    event.recorded_at = recorded_at;
    event.schema_version = schema_version;
    event.causation_id = causation.map(CausationId::from_uuid);
    event.correlation_id = correlation.map(CorrelationId::from_uuid);
    event.stream = fields.name()?.parse()?;
    event.event_type = EventType::new(fields.name()?)?;
    event.content_type = content_type(fields.name()?)?;
    for _ in 0..fields.u8()? {
        event.tags.push(Tag::new(fields.name()?)?);
    }
    let mut last = "";
    for _ in 0..fields.u32()? {
        let key = fields.name()?;
        if key <= last {
            return Err(Damage::new("its metadata is not in order"));
        }
        event.metadata.insert(key, text(fields.long()?)?)?;
        last = key;
    }
    event.data = Bytes::copy_from_slice(fields.long()?);
    event.closes_stream = flags & CLOSES_STREAM != 0;
    event.ends_append = flags & ENDS_APPEND != 0;
    fields.end()?;
    Ok(event)
}

/// Most events are JSON: no allocation for a name that is always the same.
fn content_type(name: &str) -> Result<ContentType, Damage> {
    match name {
        name if name == ContentType::JSON.as_str() => Ok(ContentType::JSON),
        name => Ok(ContentType::new(name)?),
    }
}

/// An event to fill in. A new one would draw a random id first, which costs more than all the rest.
static BLANK: LazyLock<RecordedEvent> = LazyLock::new(|| {
    let event = NewEvent::new(EventType::from_static("-"), ContentType::JSON, Bytes::new());
    let stream = "blank-event".parse().expect("a valid stream name");
    let mut blank = RecordedEvent::new(event, stream, Version::NONE, Position::START, Timestamp::now());
    blank.metadata = Metadata::new();
    blank
});

#[cfg(test)]
mod tests {
    use indelible_core::StreamId;
    use proptest::{collection, option, prelude::*, string::string_regex};
    use uuid::Uuid;

    use super::*;

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
            let mut event = BLANK.clone();
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

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(event in event()) {
            prop_assert_eq!(decode(event.position, &encode(&event)).unwrap(), event);
        }

        #[test]
        fn any_changed_byte_is_found_out(event in event(), at in any::<prop::sample::Index>(), with in 1_u8..) {
            let mut value = encode(&event);
            let at = at.index(value.len());
            value[at] ^= with;
            prop_assert!(decode(event.position, &value).is_err());
        }

        #[test]
        fn a_cut_record_is_found_out(event in event(), at in any::<prop::sample::Index>()) {
            let value = encode(&event);
            prop_assert!(decode(event.position, &value[..at.index(value.len())]).is_err());
        }

        /// Bytes that the checksum is right for reach the fields: whatever they say, there is no panic, and what is
        /// taken for an event has just these bytes again.
        #[test]
        fn hostile_bytes_are_an_error_or_an_event(
            event in event(),
            changes in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut body = encode(&event).split_off(5);
            for (at, with) in changes {
                let at = at.index(body.len());
                body[at] = with;
            }
            body.truncate(cut.index(body.len()) + 1);
            let mut frame = Frame::new(VERSION, body.len());
            frame.put(&body);
            let value = frame.seal();
            if let Ok(decoded) = decode(event.position, &value) {
                prop_assert_eq!(encode(&decoded), value);
            }
        }

        #[test]
        fn random_bytes_are_an_error(bytes in collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(decode(Position::FIRST, &bytes).is_err());
        }
    }

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        let mut event = BLANK.clone();
        event.id = EventId::from_uuid(Uuid::from_u128(7));
        event.position = Position::new(3);
        event.version = Version::new(2);
        event.recorded_at = Timestamp::from_micros(1).unwrap();
        event.stream = "a-1".parse().unwrap();
        event.event_type = EventType::from_static("T");
        event.tags = vec![Tag::new("g").unwrap()];
        event.metadata.insert("k", "v").unwrap();
        event.data = Bytes::from_static(b"{}");
        let mut body = Vec::new();
        for part in [
            &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0, 0, 2],
            b"\x03a-1\x01T\x10application/json\x01\x01g",
            &[1, 0, 0, 0, 1, b'k', 1, 0, 0, 0, b'v', 2, 0, 0, 0, b'{', b'}'],
        ] {
            body.extend_from_slice(part);
        }
        let encoded = encode(&event);
        assert_eq!(encoded[0], 1);
        assert_eq!(encoded[1..5], crc32fast::hash(&body).to_le_bytes());
        assert_eq!(encoded[5..], body);
    }
}
