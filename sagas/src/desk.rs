//! One entry's turn: look into the journal, have it done, write down what came of it. Workers and the crash tests do all
//! their work here.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
#[cfg(feature = "bugs")]
use indelible_core::CorrelationId;
use indelible_core::{CommandContext, CommandError, LoadError, Loaded, RecordedEvent, StoreError};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use crate::{
    Act, Call, Failure, Journal, Outcome, Perform, Saga, SagaError, SagaEvent, Sagas, Tell,
    agenda::{Change, Entry, Item, changes},
    journal::Due,
};

/// Has the entries of a saga's agenda done.
pub(crate) struct Desk<S: Saga, P> {
    pub sagas: Sagas<S>,
    pub performer: P,
}

/// What came of a call.
pub(crate) type Answer = Result<Value, Failure>;

/// What came of an entry.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// It was done, and these are due at once because of it.
    Done(Vec<Entry>),
    /// There was nothing to do.
    Nothing,
    /// It is to be tried so much later.
    Later(Duration),
}

/// Why an entry could not be done; it stays due.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TurnError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Saga(#[from] SagaError),
    #[error(transparent)]
    Told(#[from] CommandError<SagaError>),
}

impl<S: Saga, P: Perform<S>> Desk<S, P> {
    /// Has an entry done, if it is to be done.
    ///
    /// # Errors
    /// [`TurnError`]; the entry stays due.
    #[cfg(feature = "testing")]
    pub async fn turn(&self, entry: &Entry) -> Result<Turn, TurnError> {
        self.turn_again(entry, &mut None).await
    }

    /// Has an entry done, if it is to be done. An answer that can't be written stays in `answer`, and is written at the
    /// next turn instead of another call.
    ///
    /// # Errors
    /// [`TurnError`]; the entry stays due.
    pub async fn turn_again(&self, entry: &Entry, answer: &mut Option<Answer>) -> Result<Turn, TurnError> {
        let journal = self.sagas.load(&entry.saga).await?;
        let step = entry.item.step().to_owned();
        let attempt = entry.attempt;
        let act = if matches!(entry.item, Item::Undo(_)) { Act::Undo } else { Act::Do };
        let due = journal.due(&entry.item, attempt)?;
        #[cfg(feature = "bugs")]
        let due = believed(due, entry);
        let tell = match (due, answer.clone()) {
            (Due::Nothing, _) => return Ok(Turn::Nothing),
            (Due::TimeOut, _) => Tell::TimeOut { step, since: attempt },
            (Due::Awake, _) => Tell::Awake { step, attempt },
            (Due::GiveUp | Due::Perform(..), Some(result)) => Tell::Outcome { step, act, attempt, result },
            (Due::GiveUp, None) => {
                let timed_out = journal.past().track(&step).is_some_and(|track| track.timed_out);
                let why = if timed_out { "its time is up" } else { "it is not tried again" };
                Tell::Outcome { step, act, attempt, result: Err(Failure::unsure(why)) }
            }
            (Due::Perform(effect, deadline), None) => {
                match self.perform(&journal, entry, act, effect, deadline).await? {
                    Err(Failure::NotNow(later)) => return Ok(Turn::Later(later)),
                    result => {
                        let result = result.map_err(cut);
                        *answer = Some(result.clone());
                        Tell::Outcome { step, act, attempt, result }
                    }
                }
            }
        };
        #[cfg(feature = "bugs")]
        self.effects_before_journal(&journal, &tell, entry).await?;
        // All that a saga writes is correlated with what started it.
        let context = CommandContext::new();
        let context = match journal.correlation_id() {
            Some(id) => context.with_correlation_id(id),
            None => context,
        };
        let told = self.sagas.tell(context.clone(), &entry.saga, tell).await;
        let told = match (told, &answer) {
            // An answer that the store takes in no case is as good as none.
            (Err(error), Some(Ok(_))) if is_unwritable(&error) => {
                let result = Err(cut(Failure::unsure(format!("its answer can't be written: {error}"))));
                *answer = Some(result.clone());
                let step = entry.item.step().to_owned();
                self.sagas.tell(context, &entry.saga, Tell::Outcome { step, act, attempt, result }).await
            }
            (told, _) => told,
        };
        match told {
            Ok(done) => Ok(Turn::Done(due_and_counted(S::NAME, &entry.saga, done.events()))),
            // It came too late, and counts for nothing.
            Err(CommandError::Rejected(SagaError::Stale | SagaError::Ended)) => Ok(Turn::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls the performer, no longer than it may take.
    async fn perform(
        &self,
        journal: &Loaded<Journal<S>>,
        entry: &Entry,
        act: Act,
        effect: &Value,
        deadline: Duration,
    ) -> Result<Answer, TurnError> {
        let effect = S::Effect::deserialize(effect).map_err(|error| SagaError::Unread(error.to_string()))?;
        let step = entry.item.step();
        let call = Call {
            saga: entry.saga.clone(),
            step: step.into(),
            act,
            attempt: entry.attempt,
            key: Sagas::<S>::key(&entry.saga, step, act),
            correlation: journal.correlation_id(),
            cause: journal.last_event(),
        };
        let (saga, began) = (S::NAME, Instant::now());
        let performed = AssertUnwindSafe(self.performer.perform(effect, &call)).catch_unwind();
        let result = match timeout(deadline, performed).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::unsure(format!("the call panicked: {}", message(&*panic)))),
            Err(_) => Err(Failure::unsure(format!("no answer within {deadline:?}"))),
        };
        let came = match &result {
            Ok(_) => "done",
            Err(Failure::Refused(_)) => "refused",
            Err(Failure::Unsure(_) | Failure::OutcomeUnknown(_)) => "unsure",
            Err(Failure::NotNow(_)) => "not_now",
        };
        let labels =
            [("saga", saga.into()), ("step", step.to_owned()), ("act", act.to_string()), ("result", came.into())];
        metrics::counter!("indelible_saga_calls_total", &labels).increment(1);
        let seconds = metrics::histogram!("indelible_saga_call_seconds", "saga" => saga, "step" => step.to_owned());
        seconds.record(began.elapsed());
        Ok(result)
    }
}

/// The longest that an error is told: an event must hold it.
const ERROR_BYTES_MAX: usize = 4_096;

fn cut(failure: Failure) -> Failure {
    let short = |mut text: String| {
        let mut end = text.len().min(ERROR_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text
    };
    match failure {
        Failure::Refused(why) => Failure::Refused(short(why)),
        Failure::Unsure(why) => Failure::Unsure(short(why)),
        Failure::OutcomeUnknown(why) => Failure::OutcomeUnknown(short(why)),
        Failure::NotNow(time) => Failure::NotNow(time),
    }
}

fn is_unwritable(error: &CommandError<SagaError>) -> bool {
    matches!(error, CommandError::Encode(_) | CommandError::Store(StoreError::Invalid(_)))
}

/// What is due because of events; and counts those that end a saga.
fn due_and_counted(name: &'static str, saga: &str, events: &[RecordedEvent]) -> Vec<Entry> {
    let last = events.last().and_then(|event| event.decode::<SagaEvent>().ok());
    if let Some(SagaEvent::Ended { outcome }) = last {
        let outcome = match outcome {
            Outcome::Completed => "completed",
            Outcome::Compensated => "compensated",
            Outcome::GivenUp { .. } => "given_up",
        };
        metrics::counter!("indelible_saga_ended_total", "saga" => name, "outcome" => outcome).increment(1);
    }
    due_by(saga, events)
}

/// What is due at once because of events, by the log's time: what is due later is the agenda's, and its clock's.
fn due_by(saga: &str, events: &[RecordedEvent]) -> Vec<Entry> {
    let told = events.iter().filter_map(|event| Some((event.decode::<SagaEvent>().ok()?, event.recorded_at)));
    let at_once = |change, at| match change {
        Change::Put(entry) if entry.is_due_at_once(at) => Some(entry),
        _ => None,
    };
    told.flat_map(|(event, at)| changes(saga, &event, at).into_iter().filter_map(move |change| at_once(change, at)))
        .collect()
}

pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

// ---- seeded bugs -------------------------------------------------------------------------------------------------------

#[cfg(feature = "bugs")]
fn believed<'a>(due: Due<'a>, entry: &Entry) -> Due<'a> {
    let believes = crate::bugs::is(crate::bugs::Bug::FiresWithoutExpectedVersion);
    match (&due, &entry.item) {
        (Due::Nothing, Item::Timeout(_)) if believes => Due::TimeOut,
        _ => due,
    }
}

#[cfg(feature = "bugs")]
impl<S: Saga, P: Perform<S>> Desk<S, P> {
    async fn effects_before_journal(
        &self,
        journal: &Loaded<Journal<S>>,
        tell: &Tell<S>,
        entry: &Entry,
    ) -> Result<(), TurnError> {
        if crate::bugs::is(crate::bugs::Bug::EffectBeforeJournal) {
            for event in journal.decide(tell, &entry.saga, CorrelationId::new())? {
                if let SagaEvent::StepStarted { step, task: crate::Task::Effect(effect), .. } = event {
                    let early = Entry { item: Item::Do(step), attempt: 1, ..entry.clone() };
                    let _ = self.perform(journal, &early, Act::Do, &effect, Duration::from_secs(30)).await?;
                }
            }
        }
        Ok(())
    }
}
