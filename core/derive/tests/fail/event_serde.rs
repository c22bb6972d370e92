//! serde attributes that would keep an event from coming back.

use indelible_core::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, Event)]
#[serde(tag = "type")]
enum Tagged {
    A,
}

#[derive(Clone, Serialize, Deserialize, Event)]
#[serde(untagged)]
enum Untagged {
    A,
}

#[derive(Clone, Serialize, Deserialize, Event)]
#[serde(from = "u8", into = "u8")]
enum ThroughAnother {
    A,
}

impl From<u8> for ThroughAnother {
    fn from(_: u8) -> Self {
        Self::A
    }
}

impl From<ThroughAnother> for u8 {
    fn from(_: ThroughAnother) -> Self {
        0
    }
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum SkippedVariant {
    #[serde(skip)]
    A,
    B,
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum OtherVariant {
    A,
    #[serde(other)]
    B,
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum SkippedField {
    A {
        #[serde(default, skip_serializing)]
        a: u8,
    },
}

#[derive(Clone, Serialize, Deserialize, Event)]
enum SkippedIfInBincode {
    #[event(codec = bincode)]
    A {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        a: Option<u8>,
    },
}

fn main() {}
