//! Seeded bugs: a test switches one on, and must catch it. Compiled in by the feature `bugs`, for tests alone, and off
//! until chosen.

use std::{cell::Cell, str::FromStr};

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A publisher goes on when it has handed a message over, and not when the broker has answered.
    CheckpointBeforeAcknowledgement,
    /// An event that could not be published is published behind the next one of its stream.
    RetriesBehindTheNext,
    /// An inbox gives commands no key.
    NoDeduplication,
    /// An inbox writes down that it has taken messages before it has received them.
    TakenBeforeReceived,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::CheckpointBeforeAcknowledgement,
        Self::RetriesBehindTheNext,
        Self::NoDeduplication,
        Self::TakenBeforeReceived,
    ];
}

/// Reads the name that `Debug` writes.
impl FromStr for Bug {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|bug| format!("{bug:?}") == name).ok_or_else(|| format!("there is no bug {name}"))
    }
}

thread_local! {
    static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches a bug on for all that this thread does, or all bugs off.
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

pub(crate) fn is(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}
