//! What is to be seen of a log that goes on: its last event, and where its index and its tail meet. The process that writes
//! has one, and each reader beside it.

use std::sync::{PoisonError, atomic::Ordering};

use indelible_core::Position;

use super::{
    sync::{AtomicU64, RwLock},
    tail::{Segments, Tail},
};
use crate::{anchor::Place, bugs, index::Mark};

pub(crate) struct Seen {
    pub(crate) tail: Tail,
    /// The last event that is durable, and shown.
    last: RwLock<Place>,
    /// No UUIDv7 that begins with more is in the index, by its mark.
    newest: AtomicU64,
}

impl Seen {
    /// The log up to an event, of which the index holds what its mark says and the tail the rest.
    pub(crate) fn new(last: Place, mark: Mark, tail: Tail) -> Self {
        Self { tail, last: RwLock::new(last), newest: AtomicU64::new(mark.newest) }
    }

    pub(crate) fn last(&self) -> Place {
        *self.last.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, last: Place) {
        *self.last.write().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// The index goes further now: the tail need not.
    pub(crate) fn indexed(&self, mark: Mark) {
        if bugs::is_on(bugs::RELEASE_FIRST) {
            self.release(mark.position);
        }
        // First, so that an id which is in the tail no more is looked for in the index.
        self.newest.store(mark.newest, Ordering::Release);
        self.release(mark.position);
    }

    fn release(&self, indexed: Position) {
        while self.tail.segments().is_first_in(indexed) {
            self.tail.release();
        }
    }

    /// As it is now: the last event, the tail, and what the index may hold.
    pub(crate) fn now(&self) -> (Place, Segments, u64) {
        let early = bugs::is_on(bugs::TAIL_BEFORE_HEAD).then(|| self.tail.segments());
        // In this order: whatever is indexed and released after the head was taken is no further than the index goes.
        let last = self.last();
        let segments = early.unwrap_or_else(|| self.tail.segments());
        (last, segments, self.newest.load(Ordering::Acquire))
    }
}
