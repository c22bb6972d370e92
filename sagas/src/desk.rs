//! One entry's turn: look into the journal, have it done, write down what came of it. Workers and the crash tests do all
//! their work here.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt;
#[cfg(feature = "bugs")]
use indelible_core::CorrelationId;
use indelible_core::{CommandContext, CommandError, LoadError, Loaded, RecordedEvent};
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

/// What came of an entry.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// It was done, and these are due because of it.
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
    pub async fn turn(&self, entry: &Entry) -> Result<Turn, TurnError> {
        let journal = self.sagas.load(&entry.saga).await?;
        let step = entry.item.step().to_owned();
        let attempt = entry.attempt;
        let act = if matches!(entry.item, Item::Undo(_)) { Act::Undo } else { Act::Do };
        let due = journal.due(&entry.item, attempt)?;
        #[cfg(feature = "bugs")]
        let due = believed(due, entry);
        let tell = match due {
            Due::Nothing => return Ok(Turn::Nothing),
            Due::TimeOut => Tell::TimeOut { step, since: attempt },
            Due::Awake => Tell::Awake { step, attempt },
            Due::GiveUp => {
                let result = Err(Failure::unsure("it is not tried again"));
                Tell::Outcome { step, act, attempt, result }
            }
            Due::Perform(effect, deadline) => match self.perform(&journal, entry, act, effect, deadline).await? {
                Err(Failure::NotNow(later)) => return Ok(Turn::Later(later)),
                result => Tell::Outcome { step, act, attempt, result },
            },
        };
        #[cfg(feature = "bugs")]
        self.effects_before_journal(&journal, &tell, entry).await?;
        // All that a saga writes is correlated with what started it.
        let context = CommandContext::new();
        let context = match journal.correlation_id() {
            Some(id) => context.with_correlation_id(id),
            None => context,
        };
        match self.sagas.tell(context, &entry.saga, tell).await {
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
    ) -> Result<Result<Value, Failure>, TurnError> {
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
            Err(Failure::Unsure(_)) => "unsure",
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

/// What is due because of events.
fn due_by(saga: &str, events: &[RecordedEvent]) -> Vec<Entry> {
    let told = events.iter().filter_map(|event| Some((event.decode::<SagaEvent>().ok()?, event.recorded_at)));
    let put = |change| match change {
        Change::Put(entry) => Some(entry),
        Change::Remove(..) => None,
    };
    told.flat_map(|(event, at)| changes(saga, &event, at)).filter_map(put).collect()
}

fn message(panic: &(dyn Any + Send)) -> &str {
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
