//! Given / when / then.

use std::fmt::{Debug, Write};

use indelible_core::{Apply, CorrelationId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Act, Failure, Journal, Outcome, Saga, SagaError, SagaEvent, Standing, Tell, history::line, past::Way};

/// A saga that was started.
///
/// # Panics
/// When it can't be.
#[track_caller]
pub fn given<S: Saga>(about: S) -> Given<S> {
    Given { journal: Journal::default(), events: Vec::new() }.tell(Tell::Start(about))
}

/// Who has a step fail more often is waiting for ever.
const ATTEMPTS_MAX: u32 = 1_000;

/// A saga, and what has happened to it.
pub struct Given<S: Saga> {
    journal: Journal<S>,
    events: Vec<SagaEvent>,
}

impl<S: Saga> Given<S> {
    /// A step is done, with this answer.
    #[track_caller]
    #[must_use]
    pub fn when_done(self, step: &str, answer: impl Serialize) -> Self {
        let answer = serde_json::to_value(answer).unwrap_or_else(|error| panic!("{step}'s answer: {error}"));
        self.outcome(step, Act::Do, Ok(answer))
    }

    /// A step is refused: it did not happen.
    #[track_caller]
    #[must_use]
    pub fn when_refused(self, step: &str, why: &str) -> Self {
        self.outcome(step, Act::Do, Err(Failure::refused(why)))
    }

    /// An attempt at a step fails, and nobody knows whether it happened; also one that was given up before it was made, since
    /// the step is not wanted any more, and nobody knows that.
    #[track_caller]
    #[must_use]
    pub fn when_unsure(self, step: &str, why: &str) -> Self {
        self.outcome(step, Act::Do, Err(Failure::unsure(why)))
    }

    /// All attempts at a step fail, and nobody knows whether it happened.
    ///
    /// # Panics
    /// Where there are more than 1,000: say [`when_timed_out`](Self::when_timed_out).
    #[track_caller]
    #[must_use]
    pub fn when_unsure_for_good(mut self, step: &str, why: &str) -> Self {
        for _ in 0..ATTEMPTS_MAX {
            if !self.journal.past().track(step).is_some_and(|track| track.is_running()) {
                return self;
            }
            self = self.when_unsure(step, why);
        }
        panic!("{step} is still tried after {ATTEMPTS_MAX} attempts");
    }

    /// A step is undone.
    #[track_caller]
    #[must_use]
    pub fn when_undone(self, step: &str) -> Self {
        self.outcome(step, Act::Undo, Ok(Value::Null))
    }

    /// A step can't be undone.
    #[track_caller]
    #[must_use]
    pub fn when_undo_refused(self, step: &str, why: &str) -> Self {
        self.outcome(step, Act::Undo, Err(Failure::refused(why)))
    }

    /// So much time passes that a step has waited long enough.
    #[track_caller]
    #[must_use]
    pub fn when_waited(self, step: &str) -> Self {
        let attempt = self.attempt(step, Act::Do);
        self.tell(Tell::Awake { step: step.into(), attempt })
    }

    /// So much time passes that a step's timeout is reached. The outcome of an attempt under way is still awaited: say it
    /// next, by [`when_unsure`](Self::when_unsure) for instance.
    #[track_caller]
    #[must_use]
    pub fn when_timed_out(self, step: &str) -> Self {
        let since = self.journal.past().track(step).map_or(1, |track| track.since);
        self.tell(Tell::TimeOut { step: step.into(), since })
    }

    /// A signal comes.
    #[track_caller]
    #[must_use]
    pub fn when_signalled(self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or_else(|error| panic!("the signal {name}: {error}"));
        self.tell(Tell::Signal { name: name.into(), value })
    }

    /// It is cancelled.
    #[track_caller]
    #[must_use]
    pub fn when_cancelled(self, reason: &str) -> Self {
        self.tell(Tell::Cancel { reason: reason.into() })
    }

    /// It is told something, as a worker or an operator would.
    ///
    /// # Panics
    /// When it doesn't take it.
    #[track_caller]
    #[must_use]
    pub fn tell(mut self, tell: Tell<S>) -> Self {
        let events = self.decide(&tell).unwrap_or_else(|error| panic!("the saga is told, and says: {error}"));
        for event in events {
            let event = come_back(&event);
            self.journal.apply(&event);
            self.events.push(event);
        }
        self
    }

    /// It does not take what it is told.
    ///
    /// # Panics
    /// When it does, or says something else.
    #[track_caller]
    pub fn then_rejects(self, tell: Tell<S>, expected: SagaError) -> Self {
        match self.decide(&tell) {
            Err(error) => assert_eq!(error, expected),
            Ok(events) => panic!("expected to be rejected with {expected:?}, it wrote {events:#?}"),
        }
        self
    }

    /// These steps are to be done now, by these effects, in any order; and no others.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn then_does<'a>(self, effects: impl IntoIterator<Item = (&'a str, S::Effect)>) -> Self
    where
        S::Effect: Debug + PartialEq,
    {
        self.then_acts(Act::Do, effects)
    }

    /// This step is to be undone now, by this effect: one after the other is.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn then_undoes<'a>(self, effects: impl IntoIterator<Item = (&'a str, S::Effect)>) -> Self
    where
        S::Effect: Debug + PartialEq,
    {
        self.then_acts(Act::Undo, effects)
    }

    /// These steps wait for time or a signal, in any order; and no others.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn then_waits<'a>(self, steps: impl IntoIterator<Item = &'a str>) -> Self {
        let tracks = self.journal.past().tracks.iter().filter(|track| track.is_running() && track.effect.is_none());
        let mut waiting: Vec<&str> = tracks.map(|track| track.step.as_str()).collect();
        let mut expected: Vec<&str> = steps.into_iter().collect();
        waiting.sort_unstable();
        expected.sort_unstable();
        assert_eq!(waiting, expected, "steps that wait; {}", self.so_far());
        self
    }

    /// It waits for an operator at this step.
    ///
    /// # Panics
    /// When it is otherwise.
    #[track_caller]
    pub fn then_needs_intervention(self, step: &str, act: Act) -> Self {
        let expected = Standing::NeedsIntervention { step: step.into(), act };
        assert_eq!(self.journal.standing(), expected, "{}", self.so_far());
        self
    }

    /// It is over.
    ///
    /// # Panics
    /// When it isn't, or otherwise.
    #[track_caller]
    pub fn then_ends(self, outcome: Outcome) -> Self {
        assert_eq!(self.journal.standing(), Standing::Ended(outcome), "{}", self.so_far());
        self
    }

    /// What has happened to it, in order: a journal to [record](super::check_recorded).
    pub fn events(&self) -> &[SagaEvent] {
        &self.events
    }

    fn decide(&self, tell: &Tell<S>) -> Result<Vec<SagaEvent>, SagaError> {
        self.journal.decide(tell, "given", CorrelationId::from_uuid(indelible_core::EventId::NIL.as_uuid()))
    }

    /// What is under way, and what has happened.
    fn so_far(&self) -> String {
        let mut text = "under way:".to_owned();
        for track in &self.journal.past().tracks {
            for act in [Act::Do, Act::Undo] {
                if matches!(track.on_its(act), Some(Way::Running { .. })) {
                    let _ = write!(text, " {act} {}", track.step);
                }
            }
        }
        text.push_str("; what happened:");
        for event in &self.events {
            let _ = write!(text, "\n  {}", line(event));
        }
        text
    }

    #[track_caller]
    fn outcome(self, step: &str, act: Act, result: Result<Value, Failure>) -> Self {
        let attempt = self.attempt(step, act);
        self.tell(Tell::Outcome { step: step.into(), act, attempt, result })
    }

    #[track_caller]
    fn attempt(&self, step: &str, act: Act) -> u32 {
        match self.journal.past().track(step).and_then(|track| track.on_its(act)) {
            Some(Way::Running { attempt }) => *attempt,
            _ => panic!("nothing is under way to {act} {step}; {}", self.so_far()),
        }
    }

    #[track_caller]
    fn then_acts<'a>(self, act: Act, effects: impl IntoIterator<Item = (&'a str, S::Effect)>) -> Self
    where
        S::Effect: Debug + PartialEq,
    {
        let running = self.journal.past().tracks.iter().filter_map(|track| match act {
            Act::Do => Some((track.step.as_str(), track.effect.as_ref().filter(|_| track.is_running())?)),
            Act::Undo => {
                let (effect, way) = track.undo.as_ref()?;
                matches!(way, Way::Running { .. }).then_some((track.step.as_str(), effect))
            }
        });
        let read = |effect| {
            S::Effect::deserialize(effect).unwrap_or_else(|error| panic!("{effect} does not come back: {error}"))
        };
        let mut found: Vec<_> = running.map(|(step, effect)| (step, read(effect))).collect();
        let mut expected: Vec<_> = effects.into_iter().collect();
        found.sort_by_key(|(step, _)| *step);
        expected.sort_by_key(|(step, _)| *step);
        let now = match act {
            Act::Do => "done",
            Act::Undo => "undone",
        };
        assert_eq!(found, expected, "what is to be {now} now; {}", self.so_far());
        self
    }
}

/// An event as it comes back from the log.
#[track_caller]
fn come_back(event: &SagaEvent) -> SagaEvent {
    let back = serde_json::to_vec(event).and_then(|bytes| serde_json::from_slice(&bytes));
    back.unwrap_or_else(|error| panic!("{event:?} does not come back: {error}"))
}
