//! Seeded bugs: a test switches one on, and must catch it. Compiled in by the feature `bugs`, for tests alone, and off
//! until chosen.

use std::cell::Cell;

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The next effects are brought about before the journal says that they will be.
    EffectBeforeJournal,
    /// An outcome counts, whichever attempt's it is, and however the step stands by now.
    JournalWithoutFencing,
    /// Timers are kept by the process that set them, and by nobody else.
    TimerInMemoryOnly,
    /// A timer that comes is believed without a look at what it was for.
    FiresWithoutExpectedVersion,
    /// An undoing that was answered is brought about once more.
    CompensatesTwice,
    /// A refusal is taken for an answer to the attempts before it, too.
    ForgetsLostAttempts,
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
