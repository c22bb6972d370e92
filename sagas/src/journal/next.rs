//! What follows by itself from where a saga stands: one event at a time, until it waits.

use serde_json::Value;

use super::{Journal, SagaError, decide::kept};
use crate::{
    Act, Outcome, Plan, Saga, SagaEvent, Task,
    past::{Track, Way},
    saga::{Step, What},
};

impl<S: Saga> Journal<S> {
    /// The next event that follows; `None` where it waits for something, or is over.
    ///
    /// # Errors
    /// [`SagaError`] where the plan can't be told.
    pub(crate) fn next(&self) -> Result<Option<SagaEvent>, SagaError> {
        if self.outcome.is_some() {
            return Ok(self.let_go());
        }
        if self.stuck.is_some() {
            return Ok(None);
        }
        let plan = self.plan()?;
        if self.compensating {
            return self.next_back(&plan);
        }
        let given_up = self.cancelled.as_ref().filter(|_| !self.is_past_pivot(&plan));
        if let Some(settled) = self.settled(&plan, given_up.map(String::as_str)) {
            return Ok(Some(settled));
        }
        if self.past.tracks.iter().any(|track| given_up.is_some() && track.is_running()) {
            return Ok(None);
        }
        if let Some(reason) = given_up {
            if let Some(unsure) = self.pivot_unsure(&plan) {
                return Ok(Some(unsure));
            }
            return Ok(Some(SagaEvent::Compensating { reason: format!("cancelled: {reason}") }));
        }
        for stage in &plan.stages {
            if let Some(standing) = self.stage(&plan, stage)? {
                return Ok(standing);
            }
        }
        Ok(Some(SagaEvent::Ended { outcome: Outcome::Completed }))
    }

    /// Whether there is no way back.
    pub(super) fn is_past_pivot(&self, plan: &Plan<S::Effect>) -> bool {
        let pivot = plan.pivot_name().and_then(|pivot| self.past.track(pivot));
        pivot.is_some_and(|track| matches!(track.way, Way::Done { .. } | Way::Skipped))
    }

    /// What was under way when it was given up is not waited for, and not due any more.
    fn let_go(&self) -> Option<SagaEvent> {
        self.past.tracks.iter().find_map(|track| {
            let (step, error) = (track.step.clone(), "given up".into());
            match &track.undo {
                _ if track.is_running() => Some(SagaEvent::StepFailed { step, error, maybe: track.effect.is_some() }),
                Some((_, Way::Running { .. })) => Some(SagaEvent::UndoFailed { step, error }),
                _ => None,
            }
        })
    }

    /// Whether a pivot that nobody can undo has happened must not be guessed: an operator is asked.
    fn pivot_unsure(&self, plan: &Plan<S::Effect>) -> Option<SagaEvent> {
        let pivot = plan.pivot_name().and_then(|pivot| plan.find(pivot)).filter(|pivot| pivot.undo.is_none())?;
        let track = self.past.track(&pivot.name)?;
        let Way::Failed { error, maybe: true, .. } = &track.way else { return None };
        Some(SagaEvent::NeedsIntervention { step: track.step.clone(), act: Act::Do, error: error.clone() })
    }

    /// A step that waits for a signal which is there; or one that goes on though it isn't wanted any more.
    fn settled(&self, plan: &Plan<S::Effect>, given_up: Option<&str>) -> Option<SagaEvent> {
        self.past.tracks.iter().filter(|track| track.is_running()).find_map(|track| {
            if let (true, Some(value)) = (track.signal, self.past.signals.get(&track.step)) {
                return Some(SagaEvent::StepDone { step: track.step.clone(), result: value.clone() });
            }
            let beside = || plan.stages.iter().find(|stage| stage.iter().any(|step| step.name == track.step));
            let failed_beside =
                || !self.is_past_pivot(plan) && beside().is_some_and(|stage| self.failed(stage).is_some());
            let why = match () {
                () if track.timed_out => "its time is up",
                () if given_up.is_some() => "cancelled",
                () if failed_beside() => "a step beside it failed",
                () => return None,
            };
            let step = track.step.clone();
            match (&track.effect, track.way.clone()) {
                (None, _) => Some(SagaEvent::StepFailed { step, error: why.into(), maybe: false }),
                (Some(_), Way::Running { attempt }) if !track.stopping => Some(SagaEvent::Stopping { step, attempt }),
                _ => None,
            }
        })
    }

    /// What a stage leads to; the outer `None` where it is done, the inner where it is waited for.
    fn stage(&self, plan: &Plan<S::Effect>, stage: &[Step<S::Effect>]) -> Result<Option<Option<SagaEvent>>, SagaError> {
        let failed = self.failed(stage);
        if failed.is_none()
            && let Some(step) = stage.iter().find(|step| self.past.track(&step.name).is_none())
        {
            return Ok(Some(Some(started(step)?)));
        }
        if stage.iter().filter_map(|step| self.past.track(&step.name)).any(Track::is_running) {
            return Ok(Some(None));
        }
        let Some((step, error)) = failed else { return Ok(None) };
        if self.is_past_pivot(plan) {
            let (step, act) = (step.to_owned(), Act::Do);
            return Ok(Some(Some(SagaEvent::NeedsIntervention { step, act, error: error.to_owned() })));
        }
        let compensating = || SagaEvent::Compensating { reason: format!("{step} failed: {error}") };
        Ok(Some(Some(self.pivot_unsure(plan).unwrap_or_else(compensating))))
    }

    /// The first step of a stage that has failed.
    fn failed<'a>(&'a self, stage: &'a [Step<S::Effect>]) -> Option<(&'a str, &'a str)> {
        stage.iter().find_map(|step| match &self.past.track(&step.name)?.way {
            Way::Failed { error, .. } => Some((step.name.as_ref(), error.as_str())),
            _ => None,
        })
    }

    /// The next step back: the one that began last of those that may have happened and are not undone.
    fn next_back(&self, plan: &Plan<S::Effect>) -> Result<Option<SagaEvent>, SagaError> {
        for track in self.past.tracks.iter().rev().filter(|track| track.may_have_happened()) {
            let step = track.step.clone();
            let stuck =
                |error: &str| SagaEvent::NeedsIntervention { step: step.clone(), act: Act::Undo, error: error.into() };
            match track.undo.as_ref().map(|(_, way)| way) {
                Some(Way::Done { .. } | Way::Skipped) => {}
                Some(Way::Running { .. }) => return Ok(None),
                Some(Way::Failed { error, .. }) => return Ok(Some(stuck(error))),
                None => match plan.find(&step) {
                    None => return Ok(Some(stuck("the plan does not know the step any more"))),
                    Some(Step { undo: None, .. }) => {}
                    Some(Step { undo: Some(effect), .. }) => {
                        return Ok(Some(SagaEvent::UndoStarted { step, effect: written(effect)? }));
                    }
                },
            }
        }
        Ok(Some(SagaEvent::Ended { outcome: Outcome::Compensated }))
    }
}

fn started<E: serde::Serialize>(step: &Step<E>) -> Result<SagaEvent, SagaError> {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let task = match &step.what {
        What::Effect(effect) => Task::Effect(written(effect)?),
        What::Signal => Task::Signal,
        What::Sleep(time) => Task::SleepMs(millis(*time)),
        What::Until(time) => Task::Until(*time),
    };
    Ok(SagaEvent::StepStarted { step: step.name.clone().into_owned(), task, timeout_ms: step.timeout.map(millis) })
}

fn written<E: serde::Serialize>(effect: &E) -> Result<Value, SagaError> {
    let effect = serde_json::to_value(effect).map_err(|error| SagaError::Plan(error.to_string()))?;
    kept(&effect).map_err(|error| SagaError::Plan(format!("an effect can't be kept: {error}")))?;
    Ok(effect)
}
