//! What must hold of any bytes that are decoded: an error or a value, never a panic, and a value that is encoded again
//! comes back the same.

use std::{fmt::Display, str::FromStr};

use indelible_core::{
    Category, CloudEvent, Codec, ContentType, Event, EventId, EventType, NewEvent, Payload, Position, RecordedEvent,
    StoreId, StreamId, Tag, Timestamp, Token, Version,
    codec::{Bincode, Json},
};
use serde::{Deserialize, Serialize};

/// Names, ids, tokens and times from text.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    fn comes_back<T: FromStr + Display + PartialEq>(text: &str) {
        if let Ok(value) = text.parse::<T>() {
            assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text:?} as {value}");
        }
    }
    comes_back::<StreamId>(text);
    comes_back::<Category>(text);
    comes_back::<EventType>(text);
    comes_back::<Tag>(text);
    comes_back::<EventId>(text);
    comes_back::<Timestamp>(text);
    comes_back::<Token>(text);
    if let Ok(stream) = text.parse::<StreamId>() {
        let category = stream.category();
        assert_eq!(stream.category_str(), category.as_str());
        assert!(text.starts_with(category.as_str()), "{text:?} is not of {category}");
        assert!(category.as_str().parse::<Category>().is_ok(), "{category:?} of {text:?} is none");
    }
}

/// An event in the form of CloudEvents, and any data in that form.
pub fn cloud_event(data: &[u8]) {
    let back = |json: &[u8]| serde_json::from_slice::<CloudEvent>(json).ok()?.into_recorded().ok();
    let store = StoreId::new();
    let written =
        |event: &RecordedEvent| serde_json::to_vec(&CloudEvent::new(event, store)).expect("it can be written");
    if let Some(event) = back(data) {
        assert_eq!(back(&written(&event)), Some(event));
    }
    let (first, rest) = data.split_first().unwrap_or((&0, &[]));
    let content_type = if first % 2 == 0 { ContentType::JSON } else { ContentType::BINCODE };
    let stream = "account-1".parse().expect("a stream");
    let event = NewEvent::new(EventType::from_static("Happened"), content_type, rest.to_vec());
    let time = Timestamp::from_micros(0).expect("a time");
    let event = RecordedEvent::new(event, stream, Version::FIRST, Position::FIRST, time);
    assert_eq!(back(&written(&event)), Some(event), "data of any kind comes back");
}

/// What events are made of, with an older shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum Stored {
    /// Nothing in it.
    Opened,
    /// All that bincode and JSON differ in.
    Written {
        /// A text.
        text: String,
        /// Numbers.
        numbers: Vec<i64>,
        /// Maybe bytes.
        bytes: Option<Vec<u8>>,
    },
    /// Of the second version.
    #[event(version = 2, upcast(from = 1, with = with_reason))]
    Withdrawn {
        /// How much.
        cents: u64,
        /// What for.
        reason: String,
    },
}

fn with_reason(mut value: serde_json::Value) -> serde_json::Value {
    if let Some(fields) = value.as_object_mut() {
        fields.entry("reason").or_insert_with(|| "none".into());
    }
    value
}

/// The data of events in each codec, type and version.
pub fn event_data(data: &[u8]) {
    let Some(([kind, version], data)) = data.split_first_chunk() else { return };
    let codec: &dyn Codec = if kind & 1 == 0 { &Json } else { &Bincode };
    let stream = "account-1".parse().expect("a stream");
    let decoded = |data: &[u8], schema_version| {
        let payload = Payload {
            stream: &stream,
            version: Version::FIRST,
            event_type: &EventType::from_static(
                ["Opened", "Written", "Withdrawn", "Strange"][usize::from(kind >> 1) % 4],
            ),
            schema_version,
            content_type: &codec.content_type(),
            data: &data.to_vec().into(),
        };
        Stored::decode(&payload).ok()
    };
    if let Some(event) = decoded(data, u32::from(version % 4)) {
        let again = event.encode(codec).expect("what was decoded can be encoded");
        assert_eq!(decoded(&again, event.schema_version()), Some(event));
    }
}
