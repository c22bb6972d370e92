//! The query side: questions and what answers them, read models that have seen an append, and answers put together from
//! several of them.

use std::{fmt, future::Future, sync::Mutex, sync::PoisonError, time::Duration};

use indelible_core::{AnyStore, AsStore, Cause, StreamId, Token};
use tokio::time::timeout;

use crate::{
    Projection, ProjectionId, ReadModel, WaitError, Waited,
    wait::{Goal, Watched, within},
};

/// A question, as a type: `struct BalanceOf(AccountId);`.
pub trait Question: Send + Sync + 'static {
    /// What it is answered with.
    type Answer: Send + 'static;
}

/// Answers a question, from one read model or several.
///
/// ```
/// use indelible_projections::{Answer, Cause, Projection, Question, ReadTables, Table, memory::MemoryModel};
/// # use indelible_core::{Aggregate, Apply, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Deposited { cents: i64 } }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "account")]
/// # struct Account {}
/// # impl Apply for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
/// # struct Balances;
/// # impl Projection for Balances {
/// #     const NAME: &'static str = "balances";
/// #     type Event = AccountEvent;
/// #     fn wants() -> indelible_projections::Wants<AccountEvent> { indelible_projections::Wants::of::<Account>() }
/// # }
/// const BALANCES: Table<String, i64> = Table::new("balances");
///
/// struct BalanceOf(String);
/// impl Question for BalanceOf {
///     type Answer = Option<i64>;
/// }
///
/// struct Bank {
///     views: MemoryModel,
/// }
/// impl Answer<BalanceOf> for Bank {
///     async fn answer(&self, BalanceOf(account): &BalanceOf) -> Result<Option<i64>, Cause> {
///         Ok(self.views.query::<Balances>()?.get(&BALANCES, account)?)
///     }
/// }
/// ```
pub trait Answer<Q: Question>: Send + Sync {
    /// The answer.
    ///
    /// # Errors
    /// Those of the read models; [`Rebuilding`](crate::ReadModelError::Rebuilding) while one is reset.
    fn answer(&self, question: &Q) -> impl Future<Output = Result<Q::Answer, Cause>> + Send;
}

/// A read model as those see it who ask it, in a process that need not run a worker.
#[derive(Clone)]
pub struct Views<M> {
    store: AnyStore,
    model: M,
}

impl<M: ReadModel> Views<M> {
    /// The views of a log in a read model.
    pub fn new(store: &impl AsStore, model: &M) -> Self {
        Self { store: store.as_store(), model: model.clone() }
    }

    /// The read model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Waits until the version of a projection that queries see has looked as far as an append, in all its partitions; or
    /// in that of a stream alone, which is sooner: the others may say only once a second how far they have looked.
    ///
    /// The token goes over HTTP as text: it prints and parses, and is safe in headers and URLs. Costs a read of the
    /// versions before and after, and one of the partitions each 5 to 100 ms in between.
    ///
    /// # Errors
    /// [`Diverged`](indelible_core::StoreError::Diverged) for a token of another log; those of the store and the read
    /// model.
    pub async fn wait_for<P: Projection>(
        &self,
        token: &Token,
        stream: Option<&StreamId>,
        time: Duration,
    ) -> Result<Waited, WaitError> {
        within(time, async {
            let goal = Goal::of(&self.store, token, stream).await?;
            let (id, partitions) = (ProjectionId::of::<P>(), P::ORDER.partitions());
            Ok(Watched { model: self.model.clone(), id, partitions, owned: None }.reach(&goal).await?)
        })
        .await
    }
}

/// One answer out of several, which are asked side by side, each for as long as it may take.
///
/// ```
/// # use indelible_projections::{Cause, Composed};
/// # use std::time::Duration;
/// # async fn balance() -> Result<i64, Cause> { Ok(3) }
/// # async fn offers() -> Result<Vec<String>, Cause> { Err("the shop is closed".into()) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Cause> {
/// let soon = Duration::from_millis(200);
/// let page = Composed::new();
/// let (balance, offers) = futures::join!(
///     page.needed("balance", soon, balance()),
///     page.or_else("offers", soon, offers(), Vec::new),
/// );
/// assert_eq!((balance?, offers.len()), (3, 0));
/// assert_eq!(page.missing()[0].to_string(), "offers: the shop is closed");
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct Composed {
    missing: Mutex<Vec<Missing>>,
}

/// A part that an answer was given without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub part: &'static str,
    /// What went wrong.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.why)
    }
}

impl Composed {
    /// An answer that lacks nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part that there is no answer without.
    ///
    /// # Errors
    /// Why it could not be had in time; it names the part.
    pub async fn needed<T>(
        &self,
        part: &'static str,
        time: Duration,
        answer: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Cause> {
        self.part(part, time, answer).await.map_err(|why| Missing { part, why }.to_string().into())
    }

    /// A part that something else may stand in for: then it is among the [missing](Self::missing).
    pub async fn or_else<T>(
        &self,
        part: &'static str,
        time: Duration,
        answer: impl Future<Output = Result<T, Cause>>,
        fallback: impl FnOnce() -> T,
    ) -> T {
        self.part(part, time, answer).await.unwrap_or_else(|why| {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).push(Missing { part, why });
            fallback()
        })
    }

    /// What the answer was given without, in the order in which it failed.
    pub fn missing(&self) -> Vec<Missing> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn part<T>(
        &self,
        part: &'static str,
        time: Duration,
        answer: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, String> {
        let why = match timeout(time, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(cause)) => crate::runner::told(&*cause).to_string(),
            Err(_) => format!("no answer within {time:?}"),
        };
        metrics::counter!("indelible_query_parts_missing_total", "part" => part).increment(1);
        Err(why)
    }
}
