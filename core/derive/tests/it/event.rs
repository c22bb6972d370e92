//! Kinds of variants, their names, their constants and their shapes.

use indelible_core::{ContentType, Event, EventName};
use serde::{Deserialize, Serialize};

use crate::{comes_back, json, recorded};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Address {
    street: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum Every {
    Unit,
    #[event(name = "moved")]
    Newtype(Address),
    TwoValues(u8, Option<String>),
    NoValues(),
    Fields {
        #[serde(rename = "CENTS")]
        cents: u64,
        paid_by: Option<String>,
    },
    #[event(version = 2, upcast(from = 1, typed = Address))]
    r#None {},
    HTTPFailed(u16),
}

impl From<Address> for Every {
    fn from(_: Address) -> Self {
        Every::None {}
    }
}

#[test]
fn every_kind_of_variant_comes_back() {
    for event in [
        Every::Unit,
        Every::Newtype(Address { street: "Überweg 1".into() }),
        Every::TwoValues(7, None),
        Every::TwoValues(7, Some(String::new())),
        Every::NoValues(),
        Every::Fields { cents: u64::MAX, paid_by: Some("ada".into()) },
        Every::None {},
        Every::HTTPFailed(503),
    ] {
        comes_back(&event);
    }
}

#[test]
fn data_is_the_fields_alone() {
    assert_eq!(json(&Every::Unit), "{}");
    assert_eq!(json(&Every::Newtype(Address { street: "a".into() })), r#"{"street":"a"}"#);
    assert_eq!(json(&Every::TwoValues(7, None)), "[7,null]");
    assert_eq!(json(&Every::Fields { cents: 1, paid_by: None }), r#"{"CENTS":1,"paidBy":null}"#);
}

#[test]
fn stored_names_are_those_of_rust_unless_pinned() {
    let names: Vec<_> = Every::shapes().iter().map(|shape| shape.name).collect();
    assert_eq!(names, ["Unit", "moved", "TwoValues", "NoValues", "Fields", "None", "HTTPFailed"]);
    assert_eq!(Every::Newtype(Address { street: "a".into() }).event_type().as_str(), "moved");
    assert_eq!(Every::Unit.event_type().as_str(), "Unit");
}

#[test]
fn each_variant_has_a_constant() {
    let constants: [EventName<Every>; 7] = [
        Every::UNIT,
        Every::NEWTYPE,
        Every::TWO_VALUES,
        Every::NO_VALUES,
        Every::FIELDS,
        Every::NONE,
        Every::HTTP_FAILED,
    ];
    let names: Vec<_> = constants.iter().map(|name| name.as_str()).collect();
    assert_eq!(names, Every::shapes().iter().map(|shape| shape.name).collect::<Vec<_>>());
}

#[test]
fn shapes_carry_schema_versions() {
    let versions: Vec<_> = Every::shapes().iter().map(|shape| shape.schema_version).collect();
    assert_eq!(versions, [1, 1, 1, 1, 1, 2, 1]);
    assert_eq!((Every::Unit.schema_version(), Every::None {}.schema_version()), (1, 2));
    assert!(Every::shapes().iter().all(|shape| shape.category.is_none() && shape.codec.is_none()));
}

#[test]
fn an_unknown_type_is_an_error_that_names_the_known_ones() {
    let error = recorded("Newtype", 1, ContentType::JSON, "{}").decode::<Every>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode Newtype (schema version 1) at version 7 of account-1: the type is unknown here; \
         known are Unit, moved, TwoValues, NoValues, Fields, None, HTTPFailed"
    );
}

#[test]
fn damaged_data_is_an_error_with_its_cause() {
    let error = recorded("Fields", 1, ContentType::JSON, r#"{"CENTS":"x"}"#).decode::<Every>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot decode Fields (schema version 1) at version 7 of account-1: the data does not decode"
    );
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("invalid type: string \"x\", expected u64"), "{cause}");
    assert!(recorded("Unit", 1, ContentType::JSON, "{} {}").decode::<Every>().is_err());
}

/// A variant in capitals is there instead of its constant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum Letters {
    A,
    Bc,
}

#[test]
fn a_variant_in_capitals_has_no_constant() {
    let event: Letters = Letters::A;
    comes_back(&event);
    comes_back(&Letters::Bc);
    assert_eq!(Letters::BC.as_str(), "Bc");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
struct Parked {
    plate: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(name = "left", version = 2, upcast(from = 1, with = plate_and_minutes))]
struct Left(String, u32);

fn plate_and_minutes(plate: serde_json::Value) -> serde_json::Value {
    serde_json::json!([plate, 0])
}

#[test]
fn a_struct_is_one_event_type() {
    comes_back(&Parked { plate: "HH-1".into() });
    assert_eq!(json(&Parked { plate: "HH-1".into() }), r#"{"plate":"HH-1"}"#);
    assert_eq!(Parked::shapes().len(), 1);
    assert_eq!(Parked::PARKED.as_str(), "Parked");
    assert_eq!(Left::LEFT.as_str(), "left");
    let old = recorded("left", 1, ContentType::JSON, r#""HH-1""#);
    assert_eq!(old.decode::<Left>().unwrap(), Left("HH-1".into(), 0));
    assert!(recorded("Left", 2, ContentType::JSON, r#"["HH-1",1]"#).decode::<Left>().is_err());
}

/// Names of the prelude mean nothing to the generated code.
mod shadowed {
    #![allow(dead_code)]
    pub(crate) struct Result;
    pub(crate) struct Option;
    pub(crate) struct Vec;
    pub(crate) struct String;

    #[derive(Clone, serde::Serialize, serde::Deserialize, indelible_core::Event)]
    pub(crate) enum Event {
        Some,
        Ok(u8),
        Err { data: u8, payload: u8, codec: u8 },
    }

    #[derive(Clone, Default, serde::Serialize, serde::Deserialize, indelible_core::Aggregate)]
    #[aggregate(category = "shadow")]
    pub(crate) struct Aggregate;

    impl indelible_core::Apply for Aggregate {
        type Event = Event;
        fn apply(&mut self, _: &Event) {}
    }
}

/// What a macro of the user's writes, of its own tokens and of those given to it.
mod by_macro {
    macro_rules! events {
        ($name:ident, $payload:ty, $old:ty, $tag:ty, $with:path, $codec:path, $stored:literal) => {
            #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, indelible_core::Event)]
            pub(super) enum $name {
                #[event(version = 3, upcast(from = 1, with = $with), upcast(from = 2, typed = $old))]
                One($payload),
                #[event(name = $stored, codec = $codec)]
                Two {
                    #[event(tag)]
                    who: $tag,
                },
            }
        };
    }
    fn same(value: serde_json::Value) -> serde_json::Value {
        value
    }
    events!(Made, u32, u16, Option<Vec<u8>>, same, indelible_core::codec::Bincode, "two");
}

#[test]
fn a_macro_can_write_events() {
    use by_macro::Made;
    assert_eq!(recorded("One", 1, ContentType::JSON, "7").decode::<Made>().unwrap(), Made::One(7));
    let two = Made::Two { who: Some(vec![1, 2]) };
    comes_back(&two);
    assert_eq!((two.event_type().as_str(), two.tags().unwrap().len()), ("two", 2));
    assert_eq!(two.codec().unwrap().content_type(), ContentType::BINCODE);
}

/// `crate = …` is where the generated code looks.
mod elsewhere {
    pub(crate) mod renamed {
        pub(crate) use indelible_core::__private;
    }
    #[derive(Clone, serde::Serialize, serde::Deserialize, indelible_core::Event)]
    #[event(crate = crate::event::elsewhere::renamed)]
    pub(crate) struct Happened;
}

#[test]
fn a_crate_can_be_renamed() {
    assert_eq!(elsewhere::Happened.event_type().as_str(), "Happened");
    assert_eq!(shadowed::Event::Some.event_type().as_str(), "Some");
}
