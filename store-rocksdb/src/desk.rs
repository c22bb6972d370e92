//! Where the sequencer leaves the next group for the writer's thread, one at a time. The queue learns whether it is free.

use std::sync::{Arc, PoisonError};

use super::{
    queue::Queue,
    sync::{Condvar, Mutex, MutexGuard},
};

pub(crate) struct Desk<J, G> {
    state: Mutex<State<G>>,
    /// Wakes the writer.
    came: Condvar,
    queue: Arc<Queue<J>>,
}

struct State<G> {
    group: Option<G>,
    is_closed: bool,
}

impl<J, G> Desk<J, G> {
    pub(crate) fn new(queue: Arc<Queue<J>>) -> Self {
        Self { state: Mutex::new(State { group: None, is_closed: false }), came: Condvar::new(), queue }
    }

    fn state(&self) -> MutexGuard<'_, State<G>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the writer a group; the one before is answered.
    pub(crate) fn put(&self, group: G) {
        self.queue.set_busy(true);
        let before = self.state().group.replace(group);
        debug_assert!(before.is_none(), "the writer has another");
        self.came.notify_one();
    }

    /// Takes one group after the other, until there will be no more.
    pub(crate) fn serve(&self, mut write: impl FnMut(G)) {
        while let Some(group) = self.take() {
            write(group);
            self.queue.set_busy(false);
        }
    }

    fn take(&self) -> Option<G> {
        let mut state = self.state();
        loop {
            match state.group.take() {
                Some(group) => return Some(group),
                None if state.is_closed => return None,
                None => state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    pub(crate) fn close(&self) {
        self.state().is_closed = true;
        self.came.notify_one();
    }
}
