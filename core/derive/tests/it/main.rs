//! What the derive macros write (here), and what they refuse (`../fail`, each with its message).

use std::fmt::Debug;

use indelible_core::{
    Codec, ContentType, Event, EventType, NewEvent, Position, RecordedEvent, Timestamp, Version,
    codec::{Bincode, Json},
};

mod aggregate;
mod category;
mod codec;
mod compile;
mod event;
mod generic;
mod id;
mod projection;
mod tag;
mod upcast;

const CODECS: [&dyn Codec; 2] = [&Json, &Bincode];

/// A record of the stream `account-1`, its 7th.
fn recorded(name: &str, schema_version: u32, content_type: ContentType, data: impl Into<Vec<u8>>) -> RecordedEvent {
    let mut event = NewEvent::new(EventType::new(name).unwrap(), content_type, data.into());
    event.schema_version = schema_version;
    RecordedEvent::new(event, "account-1".parse().unwrap(), Version::NONE.plus(7), Position::FIRST, Timestamp::now())
}

/// An event as it is recorded today.
fn record<E: Event>(event: &E, codec: &dyn Codec) -> RecordedEvent {
    let data = event.encode(codec).unwrap();
    recorded(event.event_type().as_str(), event.schema_version(), codec.content_type(), data)
}

fn json(event: &impl Event) -> String {
    String::from_utf8(event.encode(&Json).unwrap().to_vec()).unwrap()
}

/// Demands that an event comes back from both codecs.
#[track_caller]
fn comes_back<E: Event + Debug + PartialEq>(event: &E) {
    for codec in CODECS {
        assert_eq!(&record(event, codec).decode::<E>().unwrap(), event, "{codec:?}");
    }
}
