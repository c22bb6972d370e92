//! Codecs: which one an event is pinned to, and which ones it can be read from.

use std::error::Error;

use indelible_core::{Cause, Codec, ContentType, Event, codec::Json};
use serde::{Deserialize, Serialize};

use crate::{comes_back, record, recorded};

/// JSON with every byte turned round.
#[derive(Debug)]
struct Reversed;

impl Codec for Reversed {
    fn content_type(&self) -> ContentType {
        ContentType::from_static("text/reversed")
    }
    fn encode(&self, value: &dyn erased_serde::Serialize) -> Result<Vec<u8>, Cause> {
        Ok(Json.encode(value)?.into_iter().rev().collect())
    }
    fn decode(
        &self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>) -> Result<(), erased_serde::Error>,
    ) -> Result<(), Cause> {
        Json.decode(&data.iter().rev().copied().collect::<Vec<_>>(), visit)
    }
}

mod codecs {
    pub(super) static REVERSED: super::Reversed = super::Reversed;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(codec = bincode)]
enum Pinned {
    Compact(u64),
    #[event(codec = json)]
    Readable(u64),
    #[event(codec = Reversed)]
    Own(u64),
    #[event(codec = codecs::REVERSED)]
    OwnByPath(u64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum Free {
    Plain,
    #[event(version = 2, upcast(from = 1, with = same))]
    Upcast,
    #[event(version = 2, upcast(from = 1, typed = Old))]
    Typed,
}

fn same(value: serde_json::Value) -> serde_json::Value {
    value
}

#[derive(Deserialize)]
struct Old {}

impl From<Old> for Free {
    fn from(_: Old) -> Self {
        Self::Typed
    }
}

fn content_types<E: Event>() -> Vec<Option<String>> {
    E::shapes().iter().map(|shape| shape.codec.map(|codec| codec.content_type().to_string())).collect()
}

#[test]
fn a_variants_codec_comes_before_its_enums() {
    let (bincode, json, own) = (ContentType::BINCODE, ContentType::JSON, Reversed.content_type());
    let pinned = [bincode, json, own.clone(), own].map(|name| Some(name.to_string()));
    assert_eq!(content_types::<Pinned>(), pinned);
    let events = [Pinned::Compact(1), Pinned::Readable(1), Pinned::Own(1), Pinned::OwnByPath(1)];
    for (event, pinned) in events.iter().zip(pinned) {
        assert_eq!(event.codec().map(|codec| codec.content_type().to_string()), pinned);
    }
}

#[test]
fn upcasters_on_json_pin_to_json() {
    assert_eq!(content_types::<Free>(), [None, Some(ContentType::JSON.to_string()), None]);
    assert!(Free::Plain.codec().is_none() && Free::Upcast.codec().is_some() && Free::Typed.codec().is_none());
}

#[test]
fn records_are_read_by_the_codec_they_name() {
    for event in [Pinned::Compact(300), Pinned::Readable(300), Pinned::Own(300)] {
        comes_back(&event);
    }
    for event in [Pinned::Own(300), Pinned::OwnByPath(300)] {
        assert_eq!(event.encode(&Reversed).unwrap(), "003");
        assert_eq!(record(&event, &Reversed).decode::<Pinned>().unwrap(), event);
    }
}

#[test]
fn an_unknown_content_type_is_an_error() {
    let error = record(&Pinned::Compact(1), &Reversed).decode::<Pinned>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode Compact (schema version 1) at version 7 of account-1: its content type text/reversed is unknown"
    );
    assert!(recorded("Own", 1, ContentType::new("text/xml").unwrap(), "1").decode::<Pinned>().is_err());
}

#[test]
fn what_a_codec_cannot_represent_is_an_error_with_its_cause() {
    #[derive(Clone, Serialize, Deserialize, Event)]
    struct Priced(std::collections::BTreeMap<Vec<u8>, u8>);

    let error = Priced([(vec![], 1)].into()).encode(&Json).unwrap_err();
    assert_eq!(error.to_string(), "cannot encode Priced as application/json: the codec cannot represent it");
    assert!(error.source().unwrap().to_string().contains("key must be a string"), "{:?}", error.source());
}
