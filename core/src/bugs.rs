//! Seeded bugs: a test switches one on, and must catch it. Compiled in by the feature `bugs`, for tests alone, and off
//! until chosen.

use std::cell::Cell;

use tokio::sync::watch;

use crate::{Apply, Position, RecordedEvent, load::Loaded};

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An event is applied again to the state that goes into a snapshot.
    ApplyTwice,
    /// A subscription takes the head of after its page for the head that the page was read up to.
    HeadAfterPage,
    /// A subscription that has seen all sleeps until something new comes, and not unless something came already.
    SleepsWithoutLooking,
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

pub(crate) fn head_after_page(head: Position, published: &watch::Receiver<Position>) -> Position {
    if CHOSEN.get() == Some(Bug::HeadAfterPage) { *published.borrow() } else { head }
}

pub(crate) async fn sleep_without_looking(published: &mut watch::Receiver<Position>) {
    if CHOSEN.get() == Some(Bug::SleepsWithoutLooking) {
        published.mark_unchanged();
        let _ = published.changed().await; // that it is closed, the right way of waiting finds too
    }
}
