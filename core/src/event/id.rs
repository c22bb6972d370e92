//! Ids: of an event, of what belongs together, of what caused it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::InvalidInput;

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A given UUID as a typed one.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The plain UUID.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self.0.as_hyphenated(), f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self.0.as_hyphenated(), f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidInput;
            fn from_str(text: &str) -> Result<Self, InvalidInput> {
                text.parse().map(Self).map_err(|error: uuid::Error| InvalidInput::new("id", error.to_string()))
            }
        }
    };
}
uuid_type! {
    /// An event's id, unique in a store for ever.
    EventId
}
uuid_type! {
    /// What belongs together: all that one request from outside set off.
    CorrelationId
}
uuid_type! {
    /// What caused an event: the id of the event or message that was being handled.
    CausationId
}

impl EventId {
    /// The id of no event; a [`Token`](crate::Token) at position 0 carries it.
    pub const NIL: Self = Self(Uuid::nil());

    /// A new id, UUIDv7.
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}
impl CorrelationId {
    /// A new id, UUIDv7.
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}
impl From<EventId> for CausationId {
    fn from(id: EventId) -> Self {
        Self(id.0)
    }
}
