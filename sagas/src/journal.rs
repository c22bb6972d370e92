//! A saga's state: an aggregate, whose stream is its journal.

use indelible_core::{Aggregate, Apply, Category, Codec, CorrelationId, codec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Act, Outcome, Past, Saga, SagaEvent, Task,
    past::{Track, Way},
};

mod decide;
mod next;
mod tell;

pub(crate) use decide::Due;
pub use decide::SagaError;
pub use tell::Tell;

/// Where a saga stands: what its journal comes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Journal<S: Saga> {
    about: About<S>,
    correlation: Option<CorrelationId>,
    past: Past,
    cancelled: Option<String>,
    compensating: bool,
    stuck: Option<(String, Act)>,
    outcome: Option<Outcome>,
}

/// What a saga is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
enum About<S: Saga> {
    /// It was not started.
    Nothing,
    This(S),
    /// It was written by other code, and this can't read it.
    Unread(String),
}

impl<S: Saga> Default for Journal<S> {
    fn default() -> Self {
        let (cancelled, compensating, stuck, outcome) = (None, false, None, None);
        Self {
            about: About::Nothing,
            correlation: None,
            past: Past::default(),
            cancelled,
            compensating,
            stuck,
            outcome,
        }
    }
}

impl<S: Saga> Aggregate for Journal<S> {
    const CATEGORY: Category = Category::from_static(S::NAME);
    type Id = String;
    const STATE: &'static str = "indelible saga 1";

    fn snapshot_codec() -> &'static dyn Codec {
        &codec::Json
    }
}

impl<S: Saga> Journal<S> {
    /// What it is about; `None` where it was not started, or this code can't read it.
    pub fn about(&self) -> Option<&S> {
        match &self.about {
            About::This(about) => Some(about),
            About::Nothing | About::Unread(_) => None,
        }
    }

    /// What has become of its steps.
    pub fn past(&self) -> &Past {
        &self.past
    }

    /// How it is doing.
    pub fn standing(&self) -> Standing {
        match (&self.about, &self.outcome, &self.stuck) {
            (About::Nothing, ..) => Standing::NotStarted,
            (_, Some(outcome), _) => Standing::Ended(outcome.clone()),
            (_, _, Some((step, act))) => Standing::NeedsIntervention { step: step.clone(), act: *act },
            _ if self.compensating => Standing::Compensating,
            _ => Standing::Running,
        }
    }

    /// What all that comes of it belongs to, from its start on.
    pub fn correlation_id(&self) -> Option<CorrelationId> {
        self.correlation
    }

    /// How it ended; `None` until it has, also while it is undone.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
}

/// How a saga is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is none of this id.
    NotStarted,
    /// It goes forward, or is cancelled and waits for what is under way.
    Running,
    /// It is undone.
    Compensating,
    /// It waits for an operator: see [`Sagas::retry`](crate::Sagas::retry).
    NeedsIntervention {
        /// The step that it stands at.
        step: String,
        /// To do it, or to undo it.
        act: Act,
    },
    /// It is over.
    Ended(Outcome),
}

impl<S: Saga> Apply for Journal<S> {
    type Event = SagaEvent;

    fn apply(&mut self, event: &SagaEvent) {
        match event {
            SagaEvent::Started { version, about, correlation } => {
                (self.past.version, self.correlation) = (*version, Some(*correlation));
                self.about = S::deserialize(about).map_or_else(|error| About::Unread(error.to_string()), About::This);
            }
            SagaEvent::StepStarted { step, task, timeout_ms } => {
                self.past.tracks.push(Track::new(step, task, *timeout_ms));
            }
            SagaEvent::AttemptFailed { step, act, attempt, .. } => {
                self.with(step, |track| track.unsure |= *act == Act::Do);
                self.set(step, *act, Way::Running { attempt: attempt + 1 });
            }
            SagaEvent::StepDone { step, result } => self.set(step, Act::Do, Way::Done { result: result.clone() }),
            SagaEvent::StepFailed { step, error, maybe } => {
                self.with(step, |track| track.unsure |= *maybe);
                self.fail(step, Act::Do, error, *maybe);
            }
            SagaEvent::TimedOut { step } => self.with(step, |track| track.timed_out = true),
            SagaEvent::Stopping { step, .. } => self.with(step, |track| track.stopping = true),
            SagaEvent::Signalled { name, value } => drop(self.past.signals.insert(name.clone(), value.clone())),
            SagaEvent::Cancelled { reason } => self.cancelled = Some(reason.clone()),
            SagaEvent::Compensating { .. } => (self.compensating, self.stuck) = (true, None),
            SagaEvent::UndoStarted { step, effect } => {
                self.with(step, |track| track.undo = Some((effect.clone(), Way::Running { attempt: 1 })));
            }
            SagaEvent::Undone { step } => self.set(step, Act::Undo, Way::Done { result: Value::Null }),
            SagaEvent::UndoFailed { step, error } => self.fail(step, Act::Undo, error, true),
            SagaEvent::NeedsIntervention { step, act, .. } => self.stuck = Some((step.clone(), *act)),
            SagaEvent::Retried { step, act, attempt, .. } => {
                self.stuck = None;
                if *attempt == 0 {
                    return; // there was nothing to try: the plan is asked again
                }
                if *act == Act::Do {
                    // It is wanted again, or the attempt would be stopped at once.
                    self.cancelled = None;
                    self.with(step, |track| {
                        (track.stopping, track.timed_out, track.since) = (false, false, *attempt);
                    });
                }
                self.set(step, *act, Way::Running { attempt: *attempt });
            }
            SagaEvent::Skipped { step, act, .. } => {
                self.stuck = None;
                self.set(step, *act, Way::Skipped);
            }
            SagaEvent::Ended { outcome } => (self.outcome, self.stuck) = (Some(outcome.clone()), None),
        }
    }
}

impl<S: Saga> Journal<S> {
    fn with(&mut self, step: &str, change: impl FnOnce(&mut Track)) {
        if let Some(track) = self.past.tracks.iter_mut().find(|track| track.step == step) {
            change(track);
        }
    }

    fn set(&mut self, step: &str, act: Act, way: Way) {
        self.with(step, |track| match act {
            Act::Do => track.way = way,
            // One that the plan no longer tells how to undo can be skipped all the same.
            Act::Undo => track.undo = Some((track.undo.take().map_or(Value::Null, |(effect, _)| effect), way)),
        });
    }

    fn fail(&mut self, step: &str, act: Act, error: &str, maybe: bool) {
        let attempts = match self.past.track(step).and_then(|track| track.on_its(act)) {
            Some(Way::Running { attempt }) => *attempt,
            _ => 0,
        };
        self.set(step, act, Way::Failed { attempts, error: error.into(), maybe });
    }
}

impl Track {
    fn new(step: &str, task: &Task, timeout_ms: Option<u64>) -> Self {
        let effect = match task {
            Task::Effect(effect) => Some(effect.clone()),
            Task::Signal | Task::SleepMs(_) | Task::Until(_) => None,
        };
        let (way, signal) = (Way::Running { attempt: 1 }, *task == Task::Signal);
        let (stopping, timed_out, unsure) = (false, false, false);
        Self { step: step.into(), effect, signal, way, unsure, stopping, timeout_ms, since: 1, timed_out, undo: None }
    }

    /// How far an act about it is; `None` for an undoing that has not begun.
    pub(crate) fn on_its(&self, act: Act) -> Option<&Way> {
        match act {
            Act::Do => Some(&self.way),
            Act::Undo => self.undo.as_ref().map(|(_, way)| way),
        }
    }
}
