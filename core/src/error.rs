//! What can go wrong with a store, told as outcomes: what happened, to what, and whether to try again (L12).

use std::{error::Error, fmt};

use crate::{Append, EventId, Position, StreamId, Token, Version};

/// An error underneath, of whatever library; found through [`Error::source`].
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// Input that breaks a rule of the log; refused before anything is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what}: {reason}")]
pub struct InvalidInput {
    what: &'static str,
    reason: String,
}

impl InvalidInput {
    /// Says what is wrong with what.
    pub fn new(what: &'static str, reason: impl Into<String>) -> Self {
        Self { what, reason: reason.into() }
    }

    /// Which input it is: `"stream name"`, `"tag"` and so on.
    pub fn what(&self) -> &'static str {
        self.what
    }
}

/// Why a store could not do what it was asked. Conflicts are not among them: they are an
/// [outcome](crate::AppendOutcome).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The input breaks a rule or a limit. Nothing was written; sending it again is no use.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// An event of this id is recorded already, in another append than this one. Nothing was written.
    #[error("event id {id} is recorded at position {position}, in another append")]
    IdConflict {
        /// The id that is taken.
        id: EventId,
        /// Where it is recorded.
        position: Position,
    },
    /// There was no room before the append was handed over. Nothing was written; try again later.
    #[error("overloaded: {what}")]
    Overloaded {
        /// What was full, for how long.
        what: String,
    },
    /// The store cannot be reached at the moment, or cannot write: a full disk, a broken connection. Nothing was
    /// written by this call; try again later.
    #[error("unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What the engine said.
        #[source]
        source: Option<Cause>,
    },
    /// The append was handed over, and whether it was written cannot be told now. Only this same append, with its ids,
    /// may be sent again: it then answers for the first one.
    #[error("the outcome of an append of {} events to {} is unknown", append.events().len(), Streams(append))]
    OutcomeUnknown {
        /// The append, to be sent again unchanged.
        append: Box<Append>,
        /// What the engine said.
        #[source]
        source: Option<Cause>,
    },
    /// What is stored is not what was written. Nothing is repaired by itself.
    #[error("corrupted: {what}")]
    Corrupted {
        /// What is damaged, with its positions.
        what: String,
        /// How it was noticed.
        #[source]
        source: Option<Cause>,
    },
    /// This store is not the one that a token was taken from, or no longer: it was restored, failed over with losses,
    /// or is another one.
    #[error("diverged: {token} is not what this store holds there, which is {found}")]
    Diverged {
        /// What was remembered.
        token: Token,
        /// What the store holds at that position, or at its head where that is before it.
        found: Token,
    },
    /// The store stopped itself after a failed write or sync, or was closed. Open it again.
    #[error("stopped: {reason}; open the store again")]
    Stopped {
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// [`StoreError::Unavailable`] with its cause.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }

    /// [`StoreError::Corrupted`] without a cause underneath.
    pub fn corrupted(what: impl Into<String>) -> Self {
        Self::Corrupted { what: what.into(), source: None }
    }

    /// [`StoreError::Stopped`] with its reason.
    pub fn stopped(reason: impl Into<String>) -> Self {
        Self::Stopped { reason: reason.into() }
    }

    /// Whether the same call may succeed later: the store was overloaded or unavailable, or the outcome is unknown
    /// and the same append is sent again.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Overloaded { .. } | Self::Unavailable { .. } | Self::OutcomeUnknown { .. })
    }
}

/// The names of the streams that an append writes, for messages; the first few of many.
struct Streams<'a>(&'a Append);

impl fmt::Display for Streams<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen: Vec<&StreamId> = Vec::new();
        for (stream, _) in self.0.events() {
            if seen.contains(&stream) {
                continue;
            }
            if seen.len() == 3 {
                return f.write_str(" and others");
            }
            f.write_str(if seen.is_empty() { "" } else { ", " })?;
            f.write_str(stream.as_str())?;
            seen.push(stream);
        }
        Ok(())
    }
}

/// An event that could not be turned into bytes that decode again. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode {event_type} as {content_type}: {reason}")]
pub struct EncodeError {
    /// The stored type of the event, or the Rust type of a snapshot's state.
    pub event_type: String,
    /// The codec's name.
    pub content_type: String,
    /// What is wrong.
    pub reason: String,
    /// What the codec said.
    #[source]
    pub source: Option<Cause>,
}

/// A recorded event that the program cannot read: an unknown type or schema version, or data that doesn't decode.
#[derive(Debug, thiserror::Error)]
#[error("cannot decode {event_type} (schema version {schema_version}) at version {version} of {stream}: {reason}")]
pub struct DecodeError {
    /// The stream that holds the event.
    pub stream: StreamId,
    /// Its version there; 0 for an event that is not recorded yet.
    pub version: Version,
    /// Its stored type.
    pub event_type: crate::EventType,
    /// The schema version it was written with.
    pub schema_version: u32,
    /// What is wrong.
    pub reason: String,
    /// What the codec or the upcaster said.
    #[source]
    pub source: Option<Cause>,
}
