//! What a saga can be told.

use serde_json::Value;

use crate::{Act, Failure};

/// What a saga is told, and decides about.
#[derive(Clone, Debug, PartialEq)]
pub enum Tell<S> {
    /// To begin.
    Start(S),
    /// What became of an attempt.
    Outcome {
        /// Whose.
        step: String,
        /// To do it, or to undo it.
        act: Act,
        /// Which.
        attempt: u32,
        /// The answer.
        result: Result<Value, Failure>,
    },
    /// That a step has waited long enough.
    Awake {
        /// Which.
        step: String,
        /// Its attempt: more than the first where an operator had it tried again.
        attempt: u32,
    },
    /// That a step's timeout has passed.
    TimeOut {
        /// Whose.
        step: String,
        /// The attempt that it runs from: more than the first where an operator had the step tried again.
        since: u32,
    },
    /// A signal.
    Signal {
        /// Its name.
        name: String,
        /// What it says.
        value: Value,
    },
    /// That it isn't wanted any more.
    Cancel {
        /// Why.
        reason: String,
    },
    /// By an operator: to try again where it stands.
    Retry,
    /// By an operator: to go on without.
    Skip {
        /// Why.
        reason: String,
    },
    /// By an operator: to be undone.
    Compensate {
        /// Why.
        reason: String,
    },
    /// By an operator: to end as it stands, wherever that is.
    GiveUp {
        /// Why.
        reason: String,
    },
}
