//! The sagas of one type in a store: to start them, to tell them something, to look at them.

use std::{borrow::Cow, time::Duration};

use futures::TryStreamExt;
use indelible_core::{
    AnyStore, AsStore, CommandContext, CommandError, Done, InvalidInput, LoadError, Loaded, RecordedEvent, Repository,
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    Act, Call, Failure, Journal, Outcome, Saga, SagaError, SagaEvent, Tell,
    history::{LOOKED_AT_MAX, history},
    saga::STEP_BYTES_MAX,
};

/// The sagas of one type. A cheap handle, for any process: what it writes is found by the [workers](crate::SagaWorker).
///
/// ```
/// # use indelible_core::store::memory::MemoryStore;
/// # use indelible_sagas::{Past, Plan, Saga, Sagas, Standing, Step};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Hiring {
///     name: String,
/// }
///
/// impl Saga for Hiring {
///     const NAME: &'static str = "hiring";
///     type Effect = String;
///     fn plan(&self, _: &Past) -> Plan<String> {
///         Plan::new().step(Step::signal("signed")).step(Step::new("badge", format!("print {}", self.name)))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hirings = Sagas::<Hiring>::new(&MemoryStore::new());
/// hirings.start("ada", Hiring { name: "Ada".into() }).await?;
/// hirings.signal("ada", "signed", &true).await?;
/// assert_eq!(hirings.load("ada").await?.standing(), Standing::Running);
/// assert!(hirings.history("ada").await?.contains("StepStarted badge"));
/// # Ok(()) }
/// ```
pub struct Sagas<S: Saga> {
    journals: Repository<Journal<S>>,
}

impl<S: Saga> Clone for Sagas<S> {
    fn clone(&self) -> Self {
        Self { journals: self.journals.clone() }
    }
}

/// The longest id of a saga that starts, so that each key of a step fits into 255 bytes, and that by which a child is cancelled.
const ID_BYTES_MAX: usize = 255 - 64 - STEP_BYTES_MAX - "-//undo/cancel".len();

/// For how long who waits for the end of a saga leaves it alone, at first and at most.
const BETWEEN_LOOKS_MIN: Duration = Duration::from_millis(1);
const BETWEEN_LOOKS_MAX: Duration = Duration::from_millis(16);
/// How often a step that waits for a child looks whether that has ended.
const CHILD_EVERY: Duration = Duration::from_millis(500);

type Told = Result<Done, CommandError<SagaError>>;

impl<S: Saga> Sagas<S> {
    /// The sagas in a store.
    pub fn new(store: &impl AsStore) -> Self {
        Self { journals: Repository::new(store) }
    }

    /// Starts a saga. What it is about is nested at most 100 levels deep.
    ///
    /// # Errors
    /// [`SagaError::AlreadyStarted`] where there is one of this id; in a context with an idempotency key that one is the
    /// answer. [`SagaError::Plan`]; those of the store.
    pub async fn start(&self, id: &str, about: S) -> Told {
        self.start_in(CommandContext::new(), id, about).await
    }

    /// Starts a saga in a context: [caused by an event](Self::because), say. An idempotency key in it stands for this start
    /// alone: signals may be sent under the same.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_in(&self, context: CommandContext, id: &str, about: S) -> Told {
        if escaped(id).len() > ID_BYTES_MAX {
            return Err(InvalidInput::new("saga", format!("its id has at most {ID_BYTES_MAX} bytes")).into());
        }
        self.tell(keyed(context, "start")?, id, Tell::Start(about)).await
    }

    /// Sends a saga a signal, which a step of that name waits for, or will. One that is undone takes it, and nothing comes of
    /// it; one that is over, or was never started, takes none, and none is nested more than 100 levels deep.
    ///
    /// # Errors
    /// [`SagaError`]; those of the store.
    pub async fn signal(&self, id: &str, name: &str, value: &(impl Serialize + Sync)) -> Told {
        self.signal_in(CommandContext::new(), id, name, value).await
    }

    /// Sends a signal in a context. An idempotency key in it stands for the signals of this name alone.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn signal_in(
        &self,
        context: CommandContext,
        id: &str,
        name: &str,
        value: &(impl Serialize + Sync),
    ) -> Told {
        let value = serde_json::to_value(value).map_err(|error| InvalidInput::new("signal", error.to_string()))?;
        self.tell(keyed(context, &format!("signal:{name}"))?, id, Tell::Signal { name: name.into(), value }).await
    }

    /// The context for what a saga is told because of an event: correlated with it, caused by it, and once for ever,
    /// however often the event comes: one start, and one signal of a name.
    ///
    /// # Errors
    /// None that an event's id leads to.
    pub fn because(event: &RecordedEvent) -> Result<CommandContext, InvalidInput> {
        CommandContext::caused_by(event).with_idempotency_key(event.id.to_string())
    }

    /// Cancels a saga: what is under way is awaited, and all that may have happened undone. Where that was the pivot, and it is
    /// done, the saga goes on all the same.
    ///
    /// # Errors
    /// [`SagaError::PastPivot`] where there is no way back, [`Stuck`](SagaError::Stuck) where an operator is waited for,
    /// [`Stale`](SagaError::Stale) where it is cancelled or undone already, [`Ended`](SagaError::Ended), however that was;
    /// those of the store.
    pub async fn cancel(&self, id: &str, reason: &str) -> Told {
        self.cancel_in(CommandContext::new(), id, reason).await
    }

    /// Cancels a saga in a context, as a step of another: that it has ended is no failure there, or the step would be
    /// undone.
    ///
    /// ```
    /// # use indelible_core::CommandError;
    /// # use indelible_sagas::{Call, Failure, Past, Plan, Saga, SagaError, Sagas};
    /// # use serde_json::Value;
    /// # async fn perform<Nudge: Saga>(nudges: &Sagas<Nudge>, call: &Call) -> Result<Value, Failure> {
    /// match nudges.cancel_in(call.command()?, call.saga(), "accepted").await {
    ///     Ok(_) | Err(CommandError::Rejected(SagaError::Ended | SagaError::Stale)) => Ok(Value::Null),
    ///     Err(error) => Err(error.into()),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`cancel`](Self::cancel).
    pub async fn cancel_in(&self, context: CommandContext, id: &str, reason: &str) -> Told {
        self.tell(keyed(context, "cancel")?, id, Tell::Cancel { reason: reason.into() }).await
    }

    /// As an operator: tries again where a saga [stands](crate::Standing::NeedsIntervention).
    ///
    /// # Errors
    /// [`SagaError::NotStuck`]; those of the store.
    pub async fn retry(&self, id: &str) -> Told {
        self.tell(CommandContext::new(), id, Tell::Retry).await
    }

    /// As an operator: goes on without what a saga stands at, as if it had been done.
    ///
    /// # Errors
    /// [`SagaError::NotStuck`]; those of the store.
    pub async fn skip(&self, id: &str, reason: &str) -> Told {
        self.tell(CommandContext::new(), id, Tell::Skip { reason: reason.into() }).await
    }

    /// As an operator: undoes a saga that can't go forward, pivot or not.
    ///
    /// # Errors
    /// [`SagaError::NotStuck`]; those of the store.
    pub async fn compensate(&self, id: &str, reason: &str) -> Told {
        self.tell(CommandContext::new(), id, Tell::Compensate { reason: reason.into() }).await
    }

    /// As an operator: ends a saga as it stands, wherever that is, also one that this code can't read. What is under way may
    /// still happen.
    ///
    /// # Errors
    /// [`SagaError::Ended`]; those of the store.
    pub async fn give_up(&self, id: &str, reason: &str) -> Told {
        self.tell(CommandContext::new(), id, Tell::GiveUp { reason: reason.into() }).await
    }

    /// Tells a saga anything.
    ///
    /// # Errors
    /// [`SagaError`]; those of the store.
    pub async fn tell(&self, context: CommandContext, id: &str, tell: Tell<S>) -> Told {
        self.journals.execute(id, tell).with(context).await
    }

    /// Runs a saga as a step of another, in whose performer this is called: starts it once, and lets the step wait until it
    /// has ended. The step is done when it completed, and refused when it was compensated.
    ///
    /// ```
    /// # use indelible_sagas::{Call, Failure, Past, Perform, Plan, Saga, Sagas, Step};
    /// # use serde::{Deserialize, Serialize};
    /// # use serde_json::Value;
    /// # #[derive(Clone, Serialize, Deserialize)] struct Trip;
    /// # #[derive(Serialize, Deserialize)] enum Effect { GetVisa, CancelVisa }
    /// # impl Saga for Trip {
    /// #     const NAME: &'static str = "trip";
    /// #     type Effect = Effect;
    /// #     fn plan(&self, _: &Past) -> Plan<Effect> {
    /// #         Plan::new().step(Step::new("visa", Effect::GetVisa).undo(Effect::CancelVisa))
    /// #     }
    /// # }
    /// # #[derive(Clone, Serialize, Deserialize)] struct Visa;
    /// # impl Saga for Visa {
    /// #     const NAME: &'static str = "visa";
    /// #     type Effect = ();
    /// #     fn plan(&self, _: &Past) -> Plan<()> { Plan::new() }
    /// # }
    /// struct Agency {
    ///     visas: Sagas<Visa>,
    /// }
    ///
    /// impl Perform<Trip> for Agency {
    ///     async fn perform(&self, effect: Effect, call: &Call) -> Result<Value, Failure> {
    ///         let id = format!("of-{}", call.saga());
    ///         match effect {
    ///             Effect::GetVisa => self.visas.child(call, &id, Visa).await,
    ///             Effect::CancelVisa => self.visas.cancel_child(call, &id).await,
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// A child goes on when its parent is cancelled or has no time left, unless the step is undone by
    /// [`cancel_child`](Self::cancel_child).
    ///
    /// # Errors
    /// The step's [`Failure`]: [`NotNow`](Failure::NotNow) until it has ended.
    pub async fn child(&self, call: &Call, id: &str, about: S) -> Result<Value, Failure> {
        match self.start_in(call.command()?, id, about).await {
            Ok(_) | Err(CommandError::Rejected(SagaError::AlreadyStarted | SagaError::Ended)) => {}
            Err(error) => return Err(error.into()),
        }
        match self.load(id).await.map_err(Failure::unsure)?.outcome() {
            None => Err(Failure::NotNow(CHILD_EVERY)),
            Some(Outcome::Completed) => Ok(Value::Null),
            Some(Outcome::Compensated) => Err(Failure::refused(format!("{}-{id} was compensated", S::NAME))),
            Some(given_up @ Outcome::GivenUp { .. }) => {
                Err(Failure::unsure(format!("{}-{id} was {given_up}", S::NAME)))
            }
        }
    }

    /// Undoes a [child](Self::child), in the performer of the step's undo: cancels it, and lets the undo wait until it has
    /// ended. Refused where it can't be cancelled, or has completed: then an operator is asked.
    ///
    /// # Errors
    /// The undo's [`Failure`]: [`NotNow`](Failure::NotNow) until it has ended.
    pub async fn cancel_child(&self, call: &Call, id: &str) -> Result<Value, Failure> {
        let reason = format!("{} is undone", call.key());
        match self.cancel_in(call.command()?, id, &reason).await {
            Ok(_) | Err(CommandError::Rejected(SagaError::Stale | SagaError::Ended)) => {}
            Err(CommandError::Rejected(SagaError::NotStarted)) => return Ok(Value::Null),
            Err(error) => return Err(error.into()),
        }
        match self.load(id).await.map_err(Failure::unsure)?.outcome() {
            None => Err(Failure::NotNow(CHILD_EVERY)),
            Some(Outcome::Compensated) => Ok(Value::Null),
            Some(outcome) => Err(Failure::refused(format!("{}-{id} was {outcome}", S::NAME))),
        }
    }

    /// Where a saga stands.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub async fn load(&self, id: &str) -> Result<Loaded<Journal<S>>, LoadError> {
        self.journals.load(id).await
    }

    /// Waits until a saga has ended, and says how; `None` where it has not in time.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub async fn ended(&self, id: &str, time: Duration) -> Result<Option<Outcome>, LoadError> {
        self.found(id, time, |journal| journal.outcome().cloned()).await
    }

    /// Waits until this is true of a saga, and says whether it came to it in time.
    ///
    /// # Errors
    /// As [`Repository::load`].
    pub async fn until(
        &self,
        id: &str,
        time: Duration,
        is_so: impl Fn(&Journal<S>) -> bool + Send,
    ) -> Result<bool, LoadError> {
        Ok(self.found(id, time, move |journal| is_so(journal).then_some(())).await?.is_some())
    }

    async fn found<T>(
        &self,
        id: &str,
        time: Duration,
        wanted: impl Fn(&Journal<S>) -> Option<T> + Send,
    ) -> Result<Option<T>, LoadError> {
        let until = Instant::now() + time;
        let mut published = self.journals.executor().store().published();
        let mut pause = BETWEEN_LOOKS_MIN;
        loop {
            published.mark_unchanged();
            let is_last = Instant::now() >= until;
            let saga = self.load(id).await?;
            let found = wanted(&saga);
            if found.is_some() || is_last {
                return Ok(found);
            }
            if timeout_at(until, published.changed()).await.is_ok_and(|changed| changed.is_err()) {
                return Ok(None);
            }
            // Most of what is appended is about others.
            sleep(pause.min(until - Instant::now())).await;
            pause = (2 * pause).min(BETWEEN_LOOKS_MAX);
        }
    }

    /// What happened to a saga, with the log's envelopes.
    ///
    /// # Errors
    /// As [`Repository::history`].
    pub async fn journal(&self, id: &str) -> Result<Vec<(RecordedEvent, SagaEvent)>, LoadError> {
        self.journals.history(id)?.try_collect().await
    }

    /// What happened to a saga, for people: its journal, and in between what led to it and what came of it in other streams,
    /// child sagas and what others did because of its events included. A line each, in the order of the log, with position
    /// and time; events of others with stream, version, type, and what they are by: a step of the saga (`do pay`,
    /// `undo pay`), or the event that caused them. What they hold is shown of sagas alone.
    ///
    /// ```text
    ///       11    -2.210ms       order-7 1 Placed
    ///       12     0.000ns     1 Started about={"item":"pot"} correlation="0199…" version=1, by order-7 1
    ///       13     0.000ns     2   StepStarted stock task={"effect":{"Reserve":{"item":"pot"}}}
    ///       15     3.105ms       stock-pot 4 Reserved, by do stock
    ///       16     3.911ms     3 StepDone stock result=15
    ///       19     4.307ms       picking-pot 9 Asked, by stock-pot 4
    /// ```
    ///
    /// Stores don't find events by what they are correlated with, so the log is looked through from the saga's start on: up
    /// to 100,000 events beside the journal, of longer stretches the beginning and the end, behind the end of the saga the
    /// beginning; it is said what was left out. At most 1,000 are shown that came of it, 200 that are only correlated with
    /// it, and 16 that led to it.
    ///
    /// # Errors
    /// As [`Repository::history`]; those of the store.
    pub async fn history(&self, id: &str) -> Result<String, LoadError> {
        history(self, id, LOOKED_AT_MAX).await
    }

    pub(crate) fn store(&self) -> &AnyStore {
        self.journals.executor().store()
    }

    pub(crate) fn key(id: &str, step: &str, act: Act) -> String {
        match act {
            Act::Do => format!("{}-{}/{}", S::NAME, escaped(id), escaped(step)),
            Act::Undo => format!("{}-{}/{}/undo", S::NAME, escaped(id), escaped(step)),
        }
    }
}

/// A part of a key, in which a `/` would be taken for the next.
pub(crate) fn escaped(part: &str) -> Cow<'_, str> {
    match part.contains(['/', '%']) {
        true => part.replace('%', "%25").replace('/', "%2F").into(),
        false => part.into(),
    }
}

/// A context whose key, where it has one, stands for one of the things that a saga may be told under it.
fn keyed(context: CommandContext, tell: &str) -> Result<CommandContext, InvalidInput> {
    match context.idempotency_key().map(|key| format!("{key}/{tell}")) {
        Some(key) => context.with_idempotency_key(key),
        None => Ok(context),
    }
}
