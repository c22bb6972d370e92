//! The decision loop: decide, append, and when another command came first, decide again.
//!
//! Every way to execute a command is a [`Plan`] that works in a [unit](Unit): one aggregate, several, a decision model,
//! a transaction. [`run`] is the loop for all of them.

use std::future::IntoFuture;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::{
    AppendOutcome, CommandContext, DecodeError, EncodeError, EventId, FailedCondition, InvalidInput, LoadError,
    RecordedEvent, StoreError, Token,
    executor::{Executor, same_store},
    unit::{Unit, Work},
};

mod plan;

pub use plan::{Both, Decision, One, Plan, Transaction};

/// What a command did.
#[derive(Clone, Debug)]
pub struct Done {
    token: Token,
    events: Vec<RecordedEvent>,
    repeated: bool,
    attempts: u32,
}

impl Done {
    /// Stands for the log as far as the command's last event, or as far as it looked when it decided that nothing
    /// happens. A read model that has come so far shows what the command did.
    pub fn token(&self) -> Token {
        self.token
    }

    /// What was recorded; nothing where the command decided that nothing happens.
    pub fn events(&self) -> &[RecordedEvent] {
        &self.events
    }

    /// Whether a command of the same idempotency key had written these events before.
    pub fn is_repeated(&self) -> bool {
        self.repeated
    }

    /// Whether nothing happened.
    pub fn is_unchanged(&self) -> bool {
        self.events.is_empty()
    }

    /// How often it was decided; 0 where its events were found before it was.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// Why a command did nothing, or is not known to have done anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError<E> {
    /// The domain says no.
    #[error("rejected: {0}")]
    Rejected(E),
    /// Other commands came first, at every attempt; or a stream that it writes is closed.
    #[error("in conflict after {attempts} attempts: {}", failed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Conflict {
        /// What failed at the last attempt.
        failed: Vec<FailedCondition>,
        /// How often it was decided.
        attempts: u32,
    },
    /// Its deadline passed before anything was handed over to the store.
    #[error("the deadline passed after {attempts} attempts, nothing was written")]
    DeadlineExceeded {
        /// How often it was decided.
        attempts: u32,
    },
    /// An event that it decided cannot be encoded. Nothing was written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An event that it rests on cannot be decoded. Nothing was written.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The store failed. Only with [`StoreError::OutcomeUnknown`] may something be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<E> CommandError<E> {
    /// Whether the domain said no.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// The domain's error, where the domain said no.
    pub fn rejection(&self) -> Option<&E> {
        match self {
            Self::Rejected(error) => Some(error),
            _ => None,
        }
    }

    /// Whether other commands came first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether the same command may succeed later. One of unknown outcome may only be sent again under the same
    /// idempotency key, or it may happen twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Conflict { failed, .. } => !closed(failed),
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The domain's error as another type.
    pub fn map_rejected<F>(self, map: impl FnOnce(E) -> F) -> CommandError<F> {
        match self {
            Self::Rejected(error) => CommandError::Rejected(map(error)),
            Self::Conflict { failed, attempts } => CommandError::Conflict { failed, attempts },
            Self::DeadlineExceeded { attempts } => CommandError::DeadlineExceeded { attempts },
            Self::Encode(error) => CommandError::Encode(error),
            Self::Decode(error) => CommandError::Decode(error),
            Self::Store(error) => CommandError::Store(error),
        }
    }
}

impl<E> From<InvalidInput> for CommandError<E> {
    fn from(invalid: InvalidInput) -> Self {
        Self::Store(invalid.into())
    }
}
impl<E> From<LoadError> for CommandError<E> {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => Self::Store(error),
            LoadError::Decode(error) => Self::Decode(error),
        }
    }
}

/// A command that is executed when it is awaited.
#[must_use = "a command is executed when it is awaited"]
pub struct Execution<P> {
    executor: Executor,
    plan: P,
    context: CommandContext,
    mismatch: Option<StoreError>,
}

impl<P: Plan> Execution<P> {
    pub(crate) fn new(executor: Executor, plan: P) -> Self {
        Self { executor, plan, context: CommandContext::default(), mismatch: None }
    }

    /// In this context: who sends it, what it belongs to, at what time it is decided, until when, under which
    /// idempotency key.
    pub fn with(mut self, context: CommandContext) -> Self {
        self.context = context;
        self
    }

    /// Together with another command: both are written in one atomic append, or neither. This one's context and store
    /// are used.
    pub fn and<Q: Plan<Error: Into<P::Error>>>(self, other: Execution<Q>) -> Execution<Both<P, Q>> {
        let mismatch = self.mismatch.or(other.mismatch).or(same_store(&self.executor, &other.executor).err());
        let plan = Both::new(self.plan, other.plan);
        Execution { executor: self.executor, plan, context: self.context, mismatch }
    }
}

impl<P: Plan> IntoFuture for Execution<P> {
    type Output = Result<Done, CommandError<P::Error>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            match self.mismatch {
                Some(error) => Err(error.into()),
                None => run(&self.executor, &self.plan, self.context.at_one_time()).await,
            }
        })
    }
}

/// Decides and appends until it is done.
#[tracing::instrument(level = "debug", name = "command", skip_all, fields(correlation_id = %context.correlation_id()))]
async fn run<P: Plan>(executor: &Executor, plan: &P, context: CommandContext) -> Result<Done, CommandError<P::Error>> {
    let first_id = context.first_event_id(plan.stream()?.as_ref());
    let deadline = context.deadline().map(Instant::from_std);
    if let Some(done) = repeated(executor, first_id).await? {
        return Ok(done);
    }
    let mut failed: Vec<FailedCondition> = Vec::new();
    // Whether the last attempt rested on states that are not the newest.
    let mut stale = false;
    let attempts_max = executor.retry().attempts_max.max(1);
    for attempts in 1..=attempts_max {
        let ready = async {
            if attempts > 2 {
                executor.retry().pause(attempts - 2).await;
            }
            executor.turn(&failed).await
        };
        let Some(_turn) = until(deadline, ready).await else {
            return Err(CommandError::DeadlineExceeded { attempts: attempts - 1 });
        };
        // The last attempt is not given away to what is only remembered.
        let refresh = stale || attempts == attempts_max;
        let unit = Unit::new(Work::new(executor.clone(), context.clone(), first_id, refresh));
        let Some(decided) = until(deadline, plan.decide(&unit)).await else {
            return Err(CommandError::DeadlineExceeded { attempts });
        };
        let mut work = unit.finish().await?;
        let append = match decided {
            Ok(()) => work.append(),
            Err(CommandError::Rejected(_)) if !work.is_current().await? => {
                stale = true;
                continue;
            }
            // Its double may have been quicker, and the reason why this one is rejected.
            Err(error) => return repeated(executor, first_id).await?.ok_or(error),
        };
        let Some(append) = append else {
            if work.is_current().await? {
                if let Some(done) = repeated(executor, first_id).await? {
                    return Ok(done);
                }
                let token = work.token();
                return Ok(Done { token, events: Vec::new(), repeated: false, attempts });
            }
            stale = true;
            continue;
        };
        match executor.append(append, deadline).await {
            Ok(AppendOutcome::Appended(appended)) => {
                if !appended.repeated {
                    work.commit(&appended.events).await;
                }
                return Ok(done(executor, appended.events, appended.repeated, attempts));
            }
            Ok(AppendOutcome::Conflict(conditions)) => {
                metrics::counter!("indelible_command_conflicts_total").increment(1);
                tracing::debug!(attempts, ?conditions, "another command came first");
                if closed(&conditions) {
                    return Err(CommandError::Conflict { failed: conditions, attempts });
                }
                (failed, stale) = (conditions, true);
            }
            Err(StoreError::IdConflict { id, position }) => {
                return match repeated(executor, first_id).await? {
                    Some(done) if Some(id) == first_id => Ok(done),
                    _ => Err(StoreError::IdConflict { id, position }.into()),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CommandError::Conflict { failed, attempts: attempts_max })
}

/// Does what comes before an append, unless the deadline passes first.
async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) if Instant::now() >= deadline => None,
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

/// What a command of the same idempotency key did before.
async fn repeated(executor: &Executor, first_id: Option<EventId>) -> Result<Option<Done>, StoreError> {
    let Some(id) = first_id else { return Ok(None) };
    Ok(executor.recorded(id).await?.map(|events| done(executor, events, true, 0)))
}

fn done(executor: &Executor, events: Vec<RecordedEvent>, repeated: bool, attempts: u32) -> Done {
    let store = executor.store().id();
    let token =
        events.last().map_or(Token::start(store), |last| Token { store, position: last.position, event: last.id });
    Done { token, events, repeated, attempts }
}

/// Whether a stream that was to be written is closed, which no other attempt can change.
fn closed(failed: &[FailedCondition]) -> bool {
    failed.iter().any(|condition| matches!(condition, FailedCondition::Closed { .. }))
}
