//! What a journal holds.

use std::fmt;

use indelible_core::{CorrelationId, Event, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What happens to a saga. Its journal is the stream of these, and nothing else is true of it.
///
/// Some are *told* by someone: the caller, a timer, whoever performs an effect, an operator. The others follow from them
/// and the plan, and are written in the same append: [`follows`](Self::follows).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(codec = json, crate = indelible_core)]
pub enum SagaEvent {
    /// It is started, by this version of its plan.
    Started {
        /// [`Saga::VERSION`](crate::Saga::VERSION).
        version: u32,
        /// What it is about.
        about: Value,
        /// What all that comes of it belongs to.
        correlation: CorrelationId,
    },
    /// A step begins. What it does is decided, and will be done.
    StepStarted {
        /// Its name.
        step: String,
        /// What is brought about, or waited for.
        task: Task,
        /// Its timeout.
        timeout_ms: Option<u64>,
    },
    /// An attempt failed, and another follows.
    AttemptFailed {
        /// Whose.
        step: String,
        /// To do it, or to undo it.
        act: Act,
        /// Which.
        attempt: u32,
        /// How.
        error: String,
        /// The pause before the next.
        after_ms: u64,
    },
    /// A step is done.
    StepDone {
        /// Its name.
        step: String,
        /// What it answered.
        result: Value,
    },
    /// A step has failed.
    StepFailed {
        /// Its name.
        step: String,
        /// How.
        error: String,
        /// Whether it may have had its effect all the same.
        maybe: bool,
    },
    /// A step's timeout has passed.
    TimedOut {
        /// Whose.
        step: String,
    },
    /// A step is not tried again: this attempt is its last, if it isn't too late for that.
    Stopping {
        /// Which.
        step: String,
        /// The attempt.
        attempt: u32,
    },
    /// A signal came.
    Signalled {
        /// Its name.
        name: String,
        /// What it says.
        value: Value,
    },
    /// It is to be undone, as it isn't wanted any more.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// From now on it is undone.
    Compensating {
        /// Why.
        reason: String,
    },
    /// The undoing of a step begins.
    UndoStarted {
        /// Which.
        step: String,
        /// What is brought about.
        effect: Value,
    },
    /// A step is undone.
    Undone {
        /// Which.
        step: String,
    },
    /// A step can't be undone.
    UndoFailed {
        /// Which.
        step: String,
        /// How the last attempt failed.
        error: String,
    },
    /// It can't go on or back by itself, and waits for an operator.
    NeedsIntervention {
        /// The step that it stands at.
        step: String,
        /// To do it, or to undo it.
        act: Act,
        /// What is wrong.
        error: String,
    },
    /// An operator has it tried again.
    Retried {
        /// The step that it stands at.
        step: String,
        /// To do it, or to undo it.
        act: Act,
        /// The next attempt.
        attempt: u32,
        /// Its timeout, which runs anew.
        timeout_ms: Option<u64>,
        /// It waits for a signal, so nothing but its timeout is due.
        #[serde(default)]
        signal: bool,
    },
    /// An operator lets it go on without.
    Skipped {
        /// The step that it stands at.
        step: String,
        /// To do it, or to undo it.
        act: Act,
        /// Why.
        reason: String,
    },
    /// It is over. Where it was given up, the failures of what was under way follow.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

impl SagaEvent {
    /// Whether it follows from others and the plan, and nobody told it.
    pub fn follows(&self) -> bool {
        match self {
            Self::StepStarted { .. }
            | Self::Stopping { .. }
            | Self::Compensating { .. }
            | Self::UndoStarted { .. }
            | Self::NeedsIntervention { .. } => true,
            Self::Ended { outcome } => !matches!(outcome, Outcome::GivenUp { .. }),
            _ => false,
        }
    }
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Brings this about.
    Effect(Value),
    /// Waits for a signal of the step's name.
    Signal,
    /// Waits so many milliseconds.
    SleepMs(u64),
    /// Waits until then.
    Until(Timestamp),
}

/// One of the two things that are done about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// The step itself.
    Do,
    /// Its compensation.
    Undo,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Do => "do",
            Self::Undo => "undo",
        })
    }
}

/// How a saga has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All steps are done.
    Completed,
    /// All that may have happened is undone.
    Compensated,
    /// An operator gave it up as it stood.
    GivenUp {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Compensated => f.write_str("compensated"),
            Self::GivenUp { reason } => write!(f, "given up: {reason}"),
        }
    }
}
