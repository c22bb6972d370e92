//! A saga that is to crash, and all that it meets on its way.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::Script;
use crate::{Act, Saga, Tell};

/// What a saga is about, what the world outside answers, and what it is told beside: signals, that it is cancelled, what
/// an operator says. It all hangs on where the saga stands, so it comes in the same order wherever its processes die.
///
/// ```
/// # use indelible_sagas::{Act, Past, Plan, Saga, Step, Tell, testing::{Answer, Scenario, Script, crash_everywhere}};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Serialize, Deserialize)] struct Loan;
/// # impl Saga for Loan {
/// #     const NAME: &'static str = "loan";
/// #     type Effect = String;
/// #     fn plan(&self, _: &Past) -> Plan<String> {
/// #         Plan::new().step(Step::signal("signed")).step(Step::new("pay", "pay".into()).undo("claw back".into()))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let loan = Scenario::new(Loan)
///     .with_script(Script::new().undo_answers("pay", [Answer::Refused, Answer::Done("back".into())]))
///     .with_signal("signed", true)
///     .cancelled_at("pay")
///     .operated("pay", Act::Undo, [Tell::Retry]);
/// let crashes = crash_everywhere(&loan, 100).await;
/// assert!(crashes.faults.is_empty(), "{crashes}: {:#?}", crashes.faults);
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Scenario<S: Saga> {
    pub(super) about: S,
    pub(super) script: Script,
    pub(super) signals: BTreeMap<String, Value>,
    pub(super) cancelled_at: Option<String>,
    pub(super) operator: BTreeMap<(String, Act), Vec<Tell<S>>>,
    pub(super) children: BTreeMap<String, S>,
}

impl<S: Saga> Scenario<S> {
    /// All is done at once, and nothing else happens.
    pub fn new(about: S) -> Self {
        Self {
            about,
            script: Script::new(),
            signals: BTreeMap::new(),
            cancelled_at: None,
            operator: BTreeMap::new(),
            children: BTreeMap::new(),
        }
    }

    /// The world outside answers so, to children too.
    #[must_use]
    pub fn with_script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// This signal comes when a step waits for it.
    ///
    /// # Panics
    /// Where the value can't be written down.
    #[must_use]
    pub fn with_signal(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or_else(|error| panic!("the signal {name}: {error}"));
        self.signals.insert(name.into(), value);
        self
    }

    /// It is cancelled as soon as this step has begun, its own or a child's.
    #[must_use]
    pub fn cancelled_at(mut self, step: &str) -> Self {
        self.cancelled_at = Some(step.into());
        self
    }

    /// An operator says this where it stands at a step, the next after each time that it was tried again. A child that
    /// stands where nothing is said is given up; the saga itself is left there.
    #[must_use]
    pub fn operated(mut self, step: &str, act: Act, tells: impl IntoIterator<Item = Tell<S>>) -> Self {
        self.operator.insert((step.into(), act), tells.into_iter().collect());
        self
    }

    /// A step runs this saga, of the same type, as its [child](crate::Sagas::child), and is undone by
    /// [cancelling](crate::Sagas::cancel_child) it. No two of them have a step of the same name.
    ///
    /// When its parent sees that it has ended hangs on when that looks. So leave the step alone in its stage, and without
    /// a timeout: which of them comes first would be chance.
    #[must_use]
    pub fn with_child(mut self, step: &str, about: S) -> Self {
        self.children.insert(step.into(), about);
        self
    }
}
