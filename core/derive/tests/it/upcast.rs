//! Upcasting: events up to four versions old, through steps on JSON, typed steps, and both.

use std::error::Error;

use indelible_core::{Codec, ContentType, DecodeError, Event, codec::Bincode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{CODECS, comes_back, recorded};

/// Today's withdrawal, version 5. Each version before lacked the field behind: cents, reason, at, branch, teller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Withdrawn {
    cents: u64,
    reason: String,
    at: u64,
    branch: String,
    teller: Option<String>,
}

fn withdrawn(reason: &str, at: u64, branch: &str, teller: Option<&str>) -> Withdrawn {
    Withdrawn { cents: 5, reason: reason.into(), at, branch: branch.into(), teller: teller.map(str::to_owned) }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum AccountEvent {
    #[event(
        version = 5,
        upcast(from = 1, with = add_reason),
        upcast(from = 2, with = steps::add_time),
        upcast(from = 3, with = add_branch),
        upcast(from = 4, with = steps::add_nobody)
    )]
    Json(Withdrawn),
    // In whatever order they are written.
    #[event(
        version = 5,
        upcast(from = 4, typed = V4),
        upcast(from = 2, typed = V2),
        upcast(from = 3, typed = V3),
        upcast(from = 1, typed = V1)
    )]
    Typed(Withdrawn),
    #[event(version = 5)]
    #[event(upcast(from = 1, with = add_reason), upcast(from = 2, with = steps::add_time))]
    #[event(upcast(from = 3, typed = V3), upcast(from = 4, typed = V4))]
    Mixed(Withdrawn),
    #[event(version = 3, upcast(from = 1, typed = ClosedV1), upcast(from = 2, typed = ClosedV2))]
    Closed { reason: String, by: String },
}

fn add_reason(mut value: Value) -> Value {
    value["reason"] = "none".into();
    value
}

mod steps {
    use super::Value;

    pub(super) fn add_time(mut value: Value) -> Value {
        value["at"] = 2.into();
        value
    }

    /// With an error of another type.
    pub(super) fn add_nobody(mut value: Value) -> Result<Value, serde_json::Error> {
        value["teller"] = serde_json::from_str("null")?;
        Ok(value)
    }
}

/// A step that can fail.
fn add_branch(mut value: Value) -> Result<Value, String> {
    if value["cents"] == 666 {
        return Err("a withdrawal of 666 has no branch".into());
    }
    value["branch"] = "main".into();
    Ok(value)
}

#[derive(Clone, Serialize, Deserialize)]
struct V1 {
    cents: u64,
}
#[derive(Clone, Serialize, Deserialize)]
struct V2 {
    cents: u64,
    reason: String,
}
#[derive(Clone, Serialize, Deserialize)]
struct V3 {
    cents: u64,
    reason: String,
    at: u64,
}
#[derive(Clone, Serialize, Deserialize)]
struct V4 {
    cents: u64,
    reason: String,
    at: u64,
    branch: String,
}

impl From<V1> for V2 {
    fn from(V1 { cents }: V1) -> Self {
        Self { cents, reason: "none".into() }
    }
}
impl From<V2> for V3 {
    fn from(V2 { cents, reason }: V2) -> Self {
        Self { cents, reason, at: 2 }
    }
}
impl From<V3> for V4 {
    fn from(V3 { cents, reason, at }: V3) -> Self {
        Self { cents, reason, at, branch: "main".into() }
    }
}
impl From<V4> for Withdrawn {
    fn from(V4 { cents, reason, at, branch }: V4) -> Self {
        Self { cents, reason, at, branch, teller: None }
    }
}

/// The five versions as they were written, and what they are today.
fn history(codec: &dyn Codec) -> [(u32, Vec<u8>, Withdrawn); 5] {
    let v1 = V1 { cents: 5 };
    let v2 = V2 { cents: 5, reason: "rent".into() };
    let v3 = V3 { cents: 5, reason: "rent".into(), at: 30 };
    let v4 = V4 { cents: 5, reason: "rent".into(), at: 30, branch: "west".into() };
    let v5 = withdrawn("rent", 30, "west", Some("Ada"));
    [
        (1, codec.encode(&v1).unwrap(), withdrawn("none", 2, "main", None)),
        (2, codec.encode(&v2).unwrap(), withdrawn("rent", 2, "main", None)),
        (3, codec.encode(&v3).unwrap(), withdrawn("rent", 30, "main", None)),
        (4, codec.encode(&v4).unwrap(), withdrawn("rent", 30, "west", None)),
        (5, codec.encode(&v5).unwrap(), v5),
    ]
}

fn decode(name: &str, version: u32, codec: &dyn Codec, data: &[u8]) -> Result<AccountEvent, DecodeError> {
    recorded(name, version, codec.content_type(), data).decode()
}

#[test]
fn four_versions_through_json() {
    for (version, data, today) in history(CODECS[0]) {
        assert_eq!(decode("Json", version, CODECS[0], &data).unwrap(), AccountEvent::Json(today), "{version}");
    }
}

#[test]
fn four_versions_through_types_with_every_codec() {
    for codec in CODECS {
        for (version, data, today) in history(codec) {
            let event = decode("Typed", version, codec, &data).unwrap();
            assert_eq!(event, AccountEvent::Typed(today), "{version} {codec:?}");
        }
    }
}

#[test]
fn four_versions_through_json_then_types() {
    for (version, data, today) in history(CODECS[0]) {
        assert_eq!(decode("Mixed", version, CODECS[0], &data).unwrap(), AccountEvent::Mixed(today), "{version}");
    }
}

#[test]
fn events_of_today_come_back() {
    let today = withdrawn("rent", 30, "west", None);
    for event in [AccountEvent::Json(today.clone()), AccountEvent::Typed(today.clone()), AccountEvent::Mixed(today)] {
        comes_back(&event);
        assert_eq!(event.schema_version(), 5);
    }
}

#[derive(Serialize, Deserialize)]
struct ClosedV1 {}
#[derive(Serialize, Deserialize)]
struct ClosedV2 {
    reason: String,
}
impl From<ClosedV1> for ClosedV2 {
    fn from(_: ClosedV1) -> Self {
        Self { reason: "none".into() }
    }
}
impl From<ClosedV2> for AccountEvent {
    fn from(ClosedV2 { reason }: ClosedV2) -> Self {
        Self::Closed { reason, by: "unknown".into() }
    }
}

#[test]
fn a_variant_with_fields_is_made_by_the_last_type() {
    for codec in CODECS {
        let v2 = codec.encode(&ClosedV2 { reason: "moved".into() }).unwrap();
        let event = decode("Closed", 2, codec, &v2).unwrap();
        assert_eq!(event, AccountEvent::Closed { reason: "moved".into(), by: "unknown".into() });
        let event = decode("Closed", 1, codec, &codec.encode(&ClosedV1 {}).unwrap()).unwrap();
        assert_eq!(event, AccountEvent::Closed { reason: "none".into(), by: "unknown".into() });
    }
}

#[test]
fn a_failing_step_names_the_event_and_its_cause() {
    let error = decode("Json", 1, CODECS[0], br#"{"cents":666}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode Json (schema version 1) at version 7 of account-1: the upcaster from version 3 failed"
    );
    assert_eq!(error.source().unwrap().to_string(), "a withdrawal of 666 has no branch");
}

#[test]
fn old_data_that_does_not_decode_is_an_error() {
    for (name, data) in [("Typed", "{}"), ("Json", "{"), ("Mixed", r#"{"cents":"many"}"#)] {
        let error = decode(name, 1, CODECS[0], data.as_bytes()).unwrap_err();
        let known =
            format!("cannot decode {name} (schema version 1) at version 7 of account-1: the data does not decode");
        assert_eq!(error.to_string(), known);
        assert!(error.source().is_some());
    }
}

#[test]
fn a_step_on_json_cannot_take_bincode() {
    for (version, data, today) in history(&Bincode) {
        let result = decode("Mixed", version, &Bincode, &data);
        if version > 2 {
            // Behind the steps on JSON there are types, which take any codec.
            assert_eq!(result.unwrap(), AccountEvent::Mixed(today));
            continue;
        }
        let error = result.unwrap_err().to_string();
        let reason = "its upcaster works on JSON, and the data is application/x-bincode: give it a typed one";
        assert!(error.ends_with(reason), "{error}");
    }
}

#[test]
fn unknown_schema_versions_are_errors() {
    for version in [0, 6, u32::MAX] {
        let event = recorded("Typed", version, ContentType::JSON, json!({ "cents": 5 }).to_string());
        let error = event.decode::<AccountEvent>().unwrap_err().to_string();
        let known = format!("cannot decode Typed (schema version {version}) at version 7 of account-1: ");
        assert_eq!(error, known + "known are the schema versions 1 to 5");
    }
}
