//! Deciding: what a saga that is told something writes to its journal. Pure, and synchronous.

use std::time::Duration;

use indelible_core::{Apply, Context, CorrelationId, Events, Handle};
use indelible_projections::Retry;
use serde_json::Value;

use super::{About, Journal, Tell};
use crate::{Act, Failure, Outcome, Plan, Saga, SagaEvent, agenda::Item, past::Way};

/// Why a saga does not do what it is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SagaError {
    /// There is none of this id.
    #[error("the saga was not started")]
    NotStarted,
    /// There is one of this id.
    #[error("the saga was started before")]
    AlreadyStarted,
    /// It is over.
    #[error("the saga has ended")]
    Ended,
    /// What it is told of is not what it waits for, or no longer.
    #[error("the saga does not wait for this, or no longer")]
    Stale,
    /// It can't be undone any more.
    #[error("the saga is past its pivot")]
    PastPivot,
    /// It waits for an operator, who may compensate it.
    #[error("the saga needs intervention")]
    Stuck,
    /// It waits for no operator.
    #[error("the saga needs no intervention")]
    NotStuck,
    /// This code can't read what its journal holds. It stays where it is until other code can.
    #[error("the saga can't be read: {0}")]
    Unread(String),
    /// The log could not give back what it is told.
    #[error("what the saga is told can't be kept: {0}")]
    Unwritable(String),
    /// Its plan contradicts itself, or its effects can't be written down. It stays where it is until that is mended.
    #[error("the saga's plan can't be followed: {0}")]
    Plan(String),
}

impl<S: Saga> Handle<Tell<S>> for Journal<S> {
    type Error = SagaError;

    fn handle(&self, tell: &Tell<S>, context: &Context<Self>) -> Result<Events<SagaEvent>, SagaError> {
        Ok(self.decide(tell, context.id(), context.command().correlation_id())?.into())
    }
}

/// What is due, by the journal.
#[derive(Debug)]
pub(crate) enum Due<'a> {
    /// This effect, within this time.
    Perform(&'a Value, Duration),
    /// It is late for another attempt.
    GiveUp,
    /// Its time has come.
    Awake,
    /// Its timeout.
    TimeOut,
    /// Nothing: it was done already, or isn't wanted any more.
    Nothing,
}

impl<S: Saga> Journal<S> {
    /// What follows when the saga is told this: what it is told, and all that comes of it until it waits again.
    ///
    /// # Errors
    /// [`SagaError`].
    pub fn decide(&self, tell: &Tell<S>, id: &str, correlation: CorrelationId) -> Result<Vec<SagaEvent>, SagaError> {
        let mut events = vec![self.told(tell, id, correlation)?];
        let mut state = self.clone();
        state.apply(&events[0]);
        while let Some(next) = state.next()? {
            state.apply(&next);
            events.push(next);
        }
        Ok(events)
    }

    /// What is to be done about an entry of the agenda.
    ///
    /// # Errors
    /// [`SagaError`] where the plan can't be told.
    pub(crate) fn due(&self, item: &Item, attempt: u32) -> Result<Due<'_>, SagaError> {
        let Some(track) = self.past.track(item.step()).filter(|_| self.outcome.is_none()) else {
            return Ok(Due::Nothing);
        };
        let act = match item {
            Item::Timeout(_) if self.may_time_out(item.step(), attempt) => return Ok(Due::TimeOut),
            Item::Timeout(_) => return Ok(Due::Nothing),
            Item::Do(_) => Act::Do,
            Item::Undo(_) => Act::Undo,
        };
        if !self.waits_for(act, item.step(), attempt) {
            return Ok(Due::Nothing);
        }
        let effect = match act {
            Act::Do if track.stopping => return Ok(Due::GiveUp),
            Act::Do => track.effect.as_ref(),
            Act::Undo => track.undo.as_ref().map(|(effect, _)| effect),
        };
        let Some(effect) = effect else {
            return Ok(if track.signal { Due::Nothing } else { Due::Awake });
        };
        let deadline = self.plan()?.find(item.step()).map(|step| step.deadline);
        Ok(Due::Perform(effect, deadline.unwrap_or(Duration::from_secs(30))))
    }

    /// Whether this attempt's outcome is what it waits for.
    fn waits_for(&self, act: Act, step: &str, attempt: u32) -> bool {
        let way = self.past.track(step).and_then(|track| track.on_its(act));
        #[cfg(feature = "bugs")]
        if crate::bugs::is(crate::bugs::Bug::JournalWithoutFencing) {
            return way.is_some();
        }
        matches!(way, Some(Way::Running { attempt: running }) if *running == attempt)
    }

    /// The one event that says what it was told.
    fn told(&self, tell: &Tell<S>, id: &str, correlation: CorrelationId) -> Result<SagaEvent, SagaError> {
        match (&self.about, tell) {
            (About::Nothing, Tell::Start(about)) => {
                let about = serde_json::to_value(about).map_err(|error| SagaError::Unwritable(error.to_string()))?;
                kept(&about).map_err(SagaError::Unwritable)?;
                return Ok(SagaEvent::Started { version: S::VERSION, about, correlation });
            }
            (About::Nothing, _) => return Err(SagaError::NotStarted),
            (_, Tell::Start(_)) => return Err(SagaError::AlreadyStarted),
            _ if self.outcome.is_some() => return Err(SagaError::Ended),
            // The way out of anything.
            (_, Tell::GiveUp { reason }) => {
                return Ok(SagaEvent::Ended { outcome: Outcome::GivenUp { reason: reason.clone() } });
            }
            (About::Unread(error), _) => return Err(SagaError::Unread(error.clone())),
            (About::This(_), _) => {}
        }
        match tell {
            Tell::Outcome { step, act, attempt, .. } if !self.waits_for(*act, step, *attempt) => Err(SagaError::Stale),
            Tell::Outcome { step, act, attempt, result } => self.outcome_of(step, *act, *attempt, result, id),
            Tell::Awake { step, attempt } if self.waits_for(Act::Do, step, *attempt) && self.sleeps(step) => {
                Ok(SagaEvent::StepDone { step: step.clone(), result: Value::Null })
            }
            Tell::TimeOut { step, since } if self.may_time_out(step, *since) => {
                Ok(SagaEvent::TimedOut { step: step.clone() })
            }
            Tell::Awake { .. } | Tell::TimeOut { .. } => Err(SagaError::Stale),
            Tell::Signal { name, value } => {
                kept(value).map_err(SagaError::Unwritable)?;
                Ok(SagaEvent::Signalled { name: name.clone(), value: value.clone() })
            }
            Tell::Cancel { .. } if self.compensating || self.cancelled.is_some() => Err(SagaError::Stale),
            Tell::Cancel { .. } if self.stuck.is_some() => Err(SagaError::Stuck),
            Tell::Cancel { .. } if self.is_past_pivot(&self.plan()?) => Err(SagaError::PastPivot),
            Tell::Cancel { reason } => Ok(SagaEvent::Cancelled { reason: reason.clone() }),
            Tell::Start(_) | Tell::Retry | Tell::Skip { .. } | Tell::Compensate { .. } | Tell::GiveUp { .. } => {
                self.operated(tell)
            }
        }
    }

    fn sleeps(&self, step: &str) -> bool {
        self.past.track(step).is_some_and(|track| track.effect.is_none() && !track.signal)
    }

    fn may_time_out(&self, step: &str, since: u32) -> bool {
        #[cfg(feature = "bugs")]
        if crate::bugs::is(crate::bugs::Bug::FiresWithoutExpectedVersion) {
            return true;
        }
        self.past.track(step).is_some_and(|track| track.is_running() && !track.timed_out && track.since == since)
    }

    /// What becomes of a step by an attempt.
    fn outcome_of(
        &self,
        step: &str,
        act: Act,
        attempt: u32,
        result: &Result<Value, Failure>,
        id: &str,
    ) -> Result<SagaEvent, SagaError> {
        let name = step.to_owned();
        let (error, again, maybe) = match (act, result) {
            #[cfg(feature = "bugs")]
            (Act::Undo, Ok(_)) if attempt == 1 && crate::bugs::is(crate::bugs::Bug::CompensatesTwice) => {
                return Ok(SagaEvent::AttemptFailed { step: name, act, attempt, error: String::new(), after_ms: 0 });
            }
            (Act::Do, Ok(result)) => match kept(result) {
                Ok(()) => return Ok(SagaEvent::StepDone { step: name, result: result.clone() }),
                // It has happened, and what it answered is as good as lost.
                Err(error) => (format!("its answer can't be kept: {error}"), true, true),
            },
            (Act::Undo, Ok(_)) => return Ok(SagaEvent::Undone { step: name }),
            // An attempt before it may have happened, or a call that was given up may yet.
            (_, Err(Failure::Refused(error))) => (error.clone(), false, self.is_unsure_of(step)),
            (_, Err(Failure::Unsure(error) | Failure::OutcomeUnknown(error))) => (error.clone(), true, true),
            // It was not tried, so nothing can have come of it; whoever performs it waits, and doesn't tell.
            (_, Err(Failure::NotNow(_))) => return Err(SagaError::Stale),
        };
        let retry = self.plan()?.find(step).map_or(Retry::DEFAULT, |step| step.retry);
        let stopping = act == Act::Do && self.past.track(step).is_some_and(|track| track.stopping);
        Ok(match act {
            _ if again && !stopping && attempt < retry.attempts_max => {
                let after_ms = pause(&retry, attempt, &format!("{id}/{step}/{act}"));
                SagaEvent::AttemptFailed { step: name, act, attempt, error, after_ms }
            }
            Act::Do => SagaEvent::StepFailed { step: name, error, maybe },
            Act::Undo => SagaEvent::UndoFailed { step: name, error },
        })
    }

    /// Whether an attempt at a step may have had its effect.
    fn is_unsure_of(&self, step: &str) -> bool {
        #[cfg(feature = "bugs")]
        if crate::bugs::is(crate::bugs::Bug::ForgetsLostAttempts) {
            return false;
        }
        self.past.track(step).is_some_and(|track| track.unsure)
    }

    /// What an operator says, where the saga is stuck.
    fn operated(&self, tell: &Tell<S>) -> Result<SagaEvent, SagaError> {
        let (step, act) = self.stuck.clone().ok_or(SagaError::NotStuck)?;
        Ok(match tell {
            Tell::Skip { reason } => SagaEvent::Skipped { step, act, reason: reason.clone() },
            Tell::Compensate { .. } if self.compensating => return Err(SagaError::Stale),
            Tell::Compensate { reason } => SagaEvent::Compensating { reason: reason.clone() },
            _ => {
                let way = self.past.track(&step).and_then(|track| track.on_its(act));
                let attempt = match way {
                    Some(Way::Failed { attempts, .. }) => attempts + 1,
                    // What the plan didn't tell how to undo.
                    _ => 0,
                };
                let timeout_ms = self.past.track(&step).and_then(|track| track.timeout_ms).filter(|_| act == Act::Do);
                let signal = act == Act::Do && self.past.track(&step).is_some_and(|track| track.signal);
                SagaEvent::Retried { step, act, attempt, timeout_ms, signal }
            }
        })
    }

    /// The plan, as far as it can be told now.
    pub(super) fn plan(&self) -> Result<Plan<S::Effect>, SagaError> {
        let about = match &self.about {
            About::This(about) => about,
            About::Nothing => return Err(SagaError::NotStarted),
            About::Unread(error) => return Err(SagaError::Unread(error.clone())),
        };
        let plan = about.plan(&self.past);
        // Nobody would wait for it any more, and it could end beside.
        let lost = || self.past.tracks.iter().find(|track| track.is_running() && plan.find(&track.step).is_none());
        let fault =
            || plan.fault().or_else(|| Some(format!("it has no step {} any more, which has begun", lost()?.step)));
        match (self.past.misread(), fault()) {
            (Some(misread), _) => Err(SagaError::Unread(misread.to_owned())),
            (_, Some(fault)) => Err(SagaError::Plan(fault)),
            (None, None) => Ok(plan),
        }
    }
}

/// How deep a value may be nested. JSON is read 127 levels deep, and events and snapshots have some of their own.
const LEVELS_MAX: usize = 100;

/// Whether the log gives a value back.
pub(super) fn kept(value: &Value) -> Result<(), String> {
    fn fits(value: &Value, levels: usize) -> bool {
        match value {
            Value::Array(values) => levels > 0 && values.iter().all(|value| fits(value, levels - 1)),
            Value::Object(fields) => levels > 0 && fields.values().all(|value| fits(value, levels - 1)),
            _ => true,
        }
    }
    fits(value, LEVELS_MAX).then_some(()).ok_or_else(|| format!("it is nested more than {LEVELS_MAX} levels deep"))
}

/// The pause before the next attempt, in milliseconds. Its jitter is the saga's own, and always the same: deciding is pure.
fn pause(retry: &Retry, attempt: u32, salt: &str) -> u64 {
    let doubled = retry.pause_first.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(retry.pause_max);
    let bytes = salt.bytes().chain(attempt.to_le_bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let part = 0.5 + (hash >> 32) as f64 / f64::from(u32::MAX) / 2.0;
    doubled.mul_f64(part).as_millis() as u64
}
