//! What the compiler says where types don't fit, on the user's line.

use indelible_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Event)]
#[event(codec = Old)]
enum NotACodec {
    A,
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum NotDisplayed {
    A {
        #[event(tag)]
        old: Vec<Old>,
    },
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum NotInto {
    #[event(version = 2, upcast(from = 1, typed = Old))]
    A(Payload),
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum NotOnJson {
    #[event(version = 2, upcast(from = 1, with = number))]
    A(u8),
}

#[derive(Clone, Event)]
enum NotAnEvent {
    #[event(category = "old")]
    Old(Old),
}

#[derive(Clone, Serialize, Deserialize)]
struct Old;

#[derive(Clone, Serialize, Deserialize)]
struct Payload;

fn number(_: serde_json::Value) -> u8 {
    0
}

fn main() {}
