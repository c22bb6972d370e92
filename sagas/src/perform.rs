//! What brings effects about: a [`Perform`] for each saga, outside of all that decides.

use std::{fmt, time::Duration};

use indelible_core::{CommandContext, CommandError, CorrelationId, EventId, InvalidInput, StoreError};
use serde_json::Value;

use crate::{Act, Saga};

/// Brings a saga's effects about: calls a service, executes a command.
///
/// Each effect is brought about *at least once*: after a crash, or when two workers believe that it is theirs, the same
/// attempt is made again. Hand [`Call::key`] to whoever is called, so that it counts there once.
///
/// ```
/// # use indelible_core::*;
/// # use indelible_sagas::{Call, Failure, Past, Perform, Plan, Saga, Step};
/// # use serde::{Deserialize, Serialize};
/// # use serde_json::{Value, json};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Withdrawn { cents: u64 } }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "account")]
/// # struct Account {}
/// # impl Apply for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
/// # struct Withdraw { cents: u64 }
/// # impl Handle<Withdraw> for Account {
/// #     type Error = std::convert::Infallible;
/// #     fn handle(&self, withdraw: &Withdraw, _: &Context<Self>) -> Result<Events<AccountEvent>, Self::Error> {
/// #         Ok(AccountEvent::Withdrawn { cents: withdraw.cents }.into())
/// #     }
/// # }
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Order { account: String, cents: u64 }
/// # #[derive(Serialize, Deserialize)]
/// # enum Effect { Pay { account: String, cents: u64 } }
/// # impl Saga for Order {
/// #     const NAME: &'static str = "order";
/// #     type Effect = Effect;
/// #     fn plan(&self, _: &Past) -> Plan<Effect> {
/// #         Plan::new().step(Step::new("pay", Effect::Pay { account: self.account.clone(), cents: self.cents }))
/// #     }
/// # }
/// struct Bank {
///     accounts: Repository<Account>,
/// }
///
/// impl Perform<Order> for Bank {
///     async fn perform(&self, effect: Effect, call: &Call) -> Result<Value, Failure> {
///         match effect {
///             // A command: once for ever under the call's key, and correlated with the saga.
///             Effect::Pay { account, cents } => {
///                 let paid = self.accounts.execute(account, Withdraw { cents }).with(call.command()?).await?;
///                 Ok(json!({ "position": paid.token().position.get() }))
///             }
///         }
///     }
/// }
/// ```
///
/// By the `?` behind a command its [rejection](CommandError::Rejected) [refuses](Failure::Refused) the step, which fails
/// then: where the domain says so that nothing is left to be done, answer with that instead.
///
/// A command's key holds back its repetitions, and not what undoes it: a call that was thought lost may come behind its own
/// undoing, to an aggregate as to anyone outside. One that minds is told the step's [key](Call::step_key) by both commands,
/// keeps it when it is undone, by an event also where nothing was there to undo, and then rejects the other.
pub trait Perform<S: Saga>: Send + Sync + 'static {
    /// Brings an effect about, and says what came of it: the step's [result](crate::Past::result).
    ///
    /// # Errors
    /// A [`Failure`], which says whether it may have happened. A panic, and a call beyond its deadline, are
    /// [unsure](Failure::Unsure).
    fn perform(&self, effect: S::Effect, call: &Call) -> impl Future<Output = Result<Value, Failure>> + Send;
}

/// What a call is about.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) saga: String,
    pub(crate) step: String,
    pub(crate) act: Act,
    pub(crate) attempt: u32,
    pub(crate) key: String,
    pub(crate) correlation: Option<CorrelationId>,
    pub(crate) cause: Option<EventId>,
}

impl Call {
    /// The saga's id.
    pub fn saga(&self) -> &str {
        &self.saga
    }

    /// The step.
    pub fn step(&self) -> &str {
        &self.step
    }

    /// To do it, or to undo it.
    pub fn act(&self) -> Act {
        self.act
    }

    /// Which attempt, 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The idempotency key, the same for all attempts: `trip-4711/flight`, and `trip-4711/flight/undo` for its
    /// compensation. A `/` in the id or the step's name is written `%2F`, a `%` `%25`.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The key of the step itself, also in its compensation: by it whoever was called finds what is to be undone, even where
    /// the answer was lost.
    pub fn step_key(&self) -> &str {
        match self.act {
            Act::Do => &self.key,
            Act::Undo => self.key.strip_suffix("/undo").unwrap_or(&self.key),
        }
    }

    /// The context for a command: keyed, correlated with the saga, and caused by what decided it. A call has one command for
    /// a stream under it: of a second one to the same stream it would be said that it was done. That one needs a key of its
    /// own, `call.command()?.with_idempotency_key(format!("{}/fee", call.key()))`, or a step.
    ///
    /// # Errors
    /// [`InvalidInput`] where the saga's id is so long that the key has more than 255 bytes.
    pub fn command(&self) -> Result<CommandContext, InvalidInput> {
        let mut context = CommandContext::new().with_idempotency_key(&self.key)?;
        if let Some(correlation) = self.correlation {
            context = context.with_correlation_id(correlation);
        }
        if let Some(cause) = self.cause {
            context = context.with_causation_id(cause);
        }
        Ok(context)
    }
}

/// How much later a command comes to a store that had no room for it, or was away.
const STORE_AGAIN: Duration = Duration::from_secs(1);

/// Why an effect was not brought about, or is not known to have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It did not happen, and won't: the step has failed, and there is nothing to undo about it, unless an attempt before
    /// was unsure. That it was done already is no refusal: it is done.
    Refused(String),
    /// It may have happened: it is tried again, and undone if that doesn't help.
    Unsure(String),
    /// It was a command, and the store can't tell now whether it was written. To a saga or a reactor that is as
    /// [`Unsure`](Self::Unsure); an inbox sends it again under its key for as long as it takes, and no attempt is counted.
    OutcomeUnknown(String),
    /// It was not tried, as now is not the time: it is, so much later, within an hour, and no attempt is counted.
    NotNow(Duration),
}

impl Failure {
    /// It did not happen, and won't.
    pub fn refused(why: impl fmt::Display) -> Self {
        Self::Refused(why.to_string())
    }

    /// It may have happened.
    pub fn unsure(why: impl fmt::Display) -> Self {
        Self::Unsure(why.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Unsure(why) | Self::OutcomeUnknown(why) => write!(f, "unsure: {why}"),
            Self::NotNow(time) => write!(f, "not now, in {time:?}"),
        }
    }
}

/// A command that the domain rejects is refused, and one that the store had no room for, or that could not reach it, comes
/// again; of any other failure it is not known what came of it, which the store may have said itself.
impl<E: fmt::Display> From<CommandError<E>> for Failure {
    fn from(error: CommandError<E>) -> Self {
        match error {
            CommandError::Rejected(rejection) => Self::refused(rejection),
            // Both have written nothing.
            CommandError::Store(StoreError::Overloaded { .. } | StoreError::Unavailable { .. }) => {
                Self::NotNow(STORE_AGAIN)
            }
            error @ CommandError::Store(StoreError::OutcomeUnknown { .. }) => Self::OutcomeUnknown(error.to_string()),
            error => Self::unsure(error),
        }
    }
}
impl From<InvalidInput> for Failure {
    fn from(error: InvalidInput) -> Self {
        Self::refused(error)
    }
}
