//! Where the handles leave what the sequencer is to do. It takes all that waits at once, and is not woken for each: while a
//! group is being written the next one is begun when enough waits to be worth it.

use std::{
    collections::VecDeque,
    mem,
    sync::{PoisonError, atomic::Ordering::SeqCst},
};

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard};
use crate::bugs;

pub(crate) struct Queue<J> {
    /// With so many jobs a group is begun while the one before is being written.
    worth_beginning: usize,
    state: Mutex<State<J>>,
    /// Whether a group is being written. Changed under the lock.
    is_busy: AtomicBool,
    /// Wakes the sequencer.
    came: Condvar,
}

struct State<J> {
    jobs: VecDeque<J>,
    /// What the sequencer waits for, until it is woken.
    wanted: Option<Wanted>,
    /// Whether one of the jobs can't wait.
    is_urgent: bool,
    is_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Jobs, for a group.
    First,
    /// More of them for a group that can be written, or the end of the write before it.
    More,
    /// The end of the write.
    Turn,
}

impl<J> Queue<J> {
    pub(crate) fn new(worth_beginning: usize) -> Self {
        let state = State { jobs: VecDeque::new(), wanted: None, is_urgent: false, is_closed: false };
        Self { worth_beginning, state: Mutex::new(state), is_busy: AtomicBool::new(false), came: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job; gives it back where nobody takes any more.
    pub(crate) fn put(&self, job: J) -> Result<(), J> {
        self.leave(job, false)
    }

    /// The same of one that does not wait for others.
    pub(crate) fn put_urgent(&self, job: J) -> Result<(), J> {
        self.leave(job, true)
    }

    fn leave(&self, job: J, is_urgent: bool) -> Result<(), J> {
        let mut state = self.state();
        if state.is_closed {
            return Err(job);
        }
        state.jobs.push_back(job);
        state.is_urgent |= is_urgent;
        self.wake(state);
        Ok(())
    }

    /// Wakes the sequencer if there is what it waits for.
    fn wake(&self, mut state: MutexGuard<'_, State<J>>) {
        if state.wanted.is_some_and(|wanted| self.is_due(&state, wanted)) {
            state.wanted = None;
            drop(state);
            self.came.notify_one();
        }
    }

    fn is_due(&self, state: &State<J>, wanted: Wanted) -> bool {
        let is_worth = state.jobs.len() >= self.worth_beginning || state.is_urgent;
        match wanted {
            Wanted::First => is_worth || (self.is_free() && !state.jobs.is_empty()),
            Wanted::More => is_worth || self.is_free(),
            Wanted::Turn => self.is_free(),
        }
    }

    fn wait(&self, wanted: Wanted) -> MutexGuard<'_, State<J>> {
        let mut state = self.state();
        while !self.is_due(&state, wanted) {
            state.wanted = Some(wanted);
            state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.wanted = None;
        state
    }

    /// Waits for jobs, and takes all into `jobs`, which is empty.
    pub(crate) fn first(&self, jobs: &mut VecDeque<J>) {
        self.take(Wanted::First, jobs);
    }

    /// The same for a group that has some already: there are no more where that can be written.
    pub(crate) fn more(&self, jobs: &mut VecDeque<J>) {
        self.take(Wanted::More, jobs);
    }

    fn take(&self, wanted: Wanted, jobs: &mut VecDeque<J>) {
        let mut state = self.wait(wanted);
        mem::swap(&mut state.jobs, jobs);
        state.is_urgent = false;
    }

    /// Whether no group is being written.
    pub(crate) fn is_free(&self) -> bool {
        !self.is_busy.load(SeqCst)
    }

    /// Waits until no group is being written.
    pub(crate) fn wait_for_turn(&self) {
        drop(self.wait(Wanted::Turn));
    }

    /// A group is being written, or is no more.
    pub(crate) fn set_busy(&self, is_busy: bool) {
        if bugs::is_on(bugs::FREE_UNLOCKED) {
            self.is_busy.store(is_busy, SeqCst);
            return self.came.notify_one();
        }
        let state = self.state();
        self.is_busy.store(is_busy, SeqCst);
        self.wake(state);
    }

    /// Takes no more, and gives back what is left.
    pub(crate) fn close(&self) -> VecDeque<J> {
        let mut state = self.state();
        state.is_closed = true;
        mem::take(&mut state.jobs)
    }
}
