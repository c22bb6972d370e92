//! Seeded bugs: a test switches one on, and must catch it. Compiled in by the feature `bugs`, for tests alone, and off
//! until chosen.

use std::cell::Cell;

use crate::{Apply, RecordedEvent, load::Loaded};

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An event is applied again to the state that goes into a snapshot.
    ApplyTwice,
}

thread_local! {
    static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches a bug on for all that this thread does, or all bugs off.
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

pub(crate) fn apply_twice<A: Apply>(loaded: &mut Loaded<A>, event: &RecordedEvent) {
    if let (Some(Bug::ApplyTwice), Ok(event)) = (CHOSEN.get(), event.decode()) {
        loaded.state_mut().apply(&event);
    }
}
