//! Tokens: places in one log that can be told from places in any other (L11).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{EventId, InvalidInput, Position};

/// The identity of a store, given when it is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(Uuid);

impl StoreId {
    /// A new identity.
    #[expect(clippy::new_without_default, reason = "every call gives another id")]
    pub fn new() -> Self {
        Self(Uuid::new_v4())
    }

    /// A given UUID as a store's.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The plain UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}
impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0.as_hyphenated(), f)
    }
}
impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A place in a log: the position, and which event of which store stands there.
///
/// Checkpoints are tokens, and so is what an append returns. A store that holds another event there answers
/// [`Diverged`](crate::StoreError::Diverged) instead of going on from a place that means something else.
///
/// Prints and parses as `store:position:event`, safe in URLs and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The store.
    pub store: StoreId,
    /// The position; [`Position::START`] before the first event.
    pub position: Position,
    /// The event there, [`EventId::NIL`] at the start.
    pub event: EventId,
}

impl Token {
    /// The start of a store's log.
    pub const fn start(store: StoreId) -> Self {
        Self { store, position: Position::START, event: EventId::NIL }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.store.0.simple(), self.position, self.event.as_uuid().simple())
    }
}
impl FromStr for Token {
    type Err = InvalidInput;
    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let invalid = || InvalidInput::new("token", format!("{text:?} is not of the form store:position:event"));
        let mut parts = text.split(':');
        let (Some(store), Some(position), Some(event), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid());
        };
        Ok(Self {
            store: StoreId(store.parse().map_err(|_| invalid())?),
            position: Position::new(position.parse().map_err(|_| invalid())?),
            event: event.parse().map_err(|_| invalid())?,
        })
    }
}
impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
