//! What executes commands on a store: repositories are typed views of it, transactions and decisions run on it directly.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    Aggregate, AnyStore, Append, AppendOutcome, Appended, AsStore, CommandError, Decide, EventId, FailedCondition,
    InvalidInput, LoadError, ReadLog, RecordedEvent, StoreError, StreamId, Version,
    command::{Decision, Execution, Transaction},
    encode::Encoder,
    load::{Cache, Loaded, from_snapshot},
    unit::Unit,
};

/// How often a command is decided again when another came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The most attempts, the first among them: 16.
    pub attempts_max: u32,
    /// The most that the random pause before an attempt may be: 200 ms. It is drawn from a range that starts at 2 ms and
    /// doubles with each attempt.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 16, pause_max: Duration::from_millis(200) }
    }
}

impl RetryPolicy {
    /// No second attempt: the first conflict is the answer.
    pub const ONCE: Self = Self { attempts_max: 1, pause_max: Duration::ZERO };

    /// At most so many attempts.
    #[must_use]
    pub const fn with_attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// At most so long a pause.
    #[must_use]
    pub const fn with_pause_max(mut self, pause: Duration) -> Self {
        self.pause_max = pause;
        self
    }

    /// A random pause after so many failures, from a range that doubles with each: some waiters go early, and the
    /// crowd disperses.
    pub(crate) async fn pause(&self, failures: u32) {
        let range = Duration::from_millis(1 << failures.min(16)).min(self.pause_max);
        let part: f64 = rand::random();
        sleep(range.mul_f64(part)).await;
    }
}

/// How an [`Executor`] works.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ExecutorOptions {
    /// How often a command is decided again.
    pub retry: RetryPolicy,
    /// The most bytes of states that are remembered, counted by the events in them: 64 MiB. 0 remembers none.
    pub cache_bytes_max: u64,
}

impl Default for ExecutorOptions {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), cache_bytes_max: 64 * 1024 * 1024 }
    }
}

impl ExecutorOptions {
    /// With this retry policy.
    #[must_use]
    pub const fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// With room for so many bytes of states.
    #[must_use]
    pub const fn with_cache_bytes_max(mut self, bytes: u64) -> Self {
        self.cache_bytes_max = bytes;
        self
    }
}

/// Executes commands on a store. A cheap handle; clones share what they remember.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    store: AnyStore,
    options: ExecutorOptions,
    cache: Cache,
    encoder: Encoder,
    turns: [Mutex<()>; TURNS],
}

/// Commands that conflicted take turns by the hash of what they conflicted over.
const TURNS: usize = 64;
/// The longest wait for a turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(1);
/// How often an append of unknown outcome is sent again.
const SETTLE_MAX: u32 = 8;

impl Executor {
    /// An executor with the default options.
    pub fn new(store: &impl AsStore) -> Self {
        Self::with_options(store, ExecutorOptions::default())
    }

    /// An executor with options.
    pub fn with_options(store: &impl AsStore, options: ExecutorOptions) -> Self {
        let store = store.as_store();
        let encoder = Encoder::new(store.default_codec());
        let cache = Cache::new(options.cache_bytes_max);
        let turns = std::array::from_fn(|_| Mutex::new(()));
        Self { shared: Arc::new(Shared { store, options, cache, encoder, turns }) }
    }

    /// Decides about a command by a [decision model](crate::DecisionModel).
    pub fn decide<M, C>(&self, model: M, command: C) -> Execution<Decision<M, C>>
    where
        M: Decide<C>,
        C: Send + Sync + 'static,
    {
        Execution::new(self.clone(), Decision::new(model, command))
    }

    /// Runs commands over any number of aggregates, all of whose events are written in one atomic append.
    ///
    /// The closure is called again when another command came first, so it must have no effects but on its unit.
    ///
    /// ```
    /// # use indelible_core::{*, store::memory::MemoryStore};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    /// # enum AccountEvent { Deposited { cents: u64 } }
    /// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
    /// # #[aggregate(category = "account")]
    /// # struct Account { balance: u64 }
    /// # impl Apply for Account {
    /// #     type Event = AccountEvent;
    /// #     fn apply(&mut self, AccountEvent::Deposited { cents }: &AccountEvent) { self.balance += cents }
    /// # }
    /// # struct Deposit { cents: u64 }
    /// # impl Handle<Deposit> for Account {
    /// #     type Error = std::convert::Infallible;
    /// #     fn handle(&self, deposit: &Deposit, _: &Context<Self>) -> Result<Events<AccountEvent>, Self::Error> {
    /// #         Ok(AccountEvent::Deposited { cents: deposit.cents }.into())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = MemoryStore::new();
    /// let bank = Executor::new(&store);
    /// let everybody = ["ada".to_owned(), "bob".to_owned()];
    /// let done = bank.transact(move |unit| {
    ///     let everybody = everybody.clone();
    ///     async move {
    ///         for id in everybody {
    ///             unit.execute::<Account, _>(id, Deposit { cents: 100 }).await?;
    ///         }
    ///         Ok(())
    ///     }
    /// });
    /// assert_eq!(done.await?.events().len(), 2);
    /// # Ok(()) }
    /// ```
    pub fn transact<F, Fut, E>(&self, work: F) -> Execution<Transaction<F>>
    where
        F: Fn(Unit) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), CommandError<E>>> + Send,
        E: Send + 'static,
    {
        Execution::new(self.clone(), Transaction::new(work))
    }

    /// The store.
    pub fn store(&self) -> &AnyStore {
        &self.shared.store
    }

    pub(crate) fn encoder(&self) -> &Encoder {
        &self.shared.encoder
    }

    pub(crate) fn retry(&self) -> &RetryPolicy {
        &self.shared.options.retry
    }

    /// The state of a stream, and whether it was read from the log just now. One that is remembered is taken as it is,
    /// unless it is to be refreshed.
    pub(crate) async fn load<A: Aggregate>(
        &self,
        stream: &StreamId,
        refresh: bool,
    ) -> Result<(Arc<Loaded<A>>, bool), LoadError> {
        let remembered = self.shared.cache.get::<A>(stream);
        if let (false, Some(loaded)) = (refresh, &remembered) {
            return Ok((loaded.clone(), false));
        }
        let head = self.store().stream_head(stream).await?;
        let mut loaded = match remembered {
            Some(loaded) if loaded.may_lead_to(&head) => loaded,
            Some(_) => {
                self.shared.cache.forget(stream);
                Arc::new(self.restore(stream, Version::MAX).await?)
            }
            None if head.version == Version::NONE => Arc::new(Loaded::new(A::default())),
            None => Arc::new(self.restore(stream, Version::MAX).await?),
        };
        if loaded.version() < head.version {
            Arc::make_mut(&mut loaded).catch_up(self.store(), stream, |_| true).await?;
        }
        self.remember(stream, loaded.clone());
        Ok((loaded, true))
    }

    /// The state in a snapshot no newer than `max`, or the one before the first event.
    pub(crate) async fn restore<A: Aggregate>(&self, stream: &StreamId, max: Version) -> Result<Loaded<A>, LoadError> {
        let loaded = from_snapshot(self.store(), stream, max).await?;
        Ok(loaded.unwrap_or_else(|| Loaded::new(A::default())))
    }

    pub(crate) fn remember<A: Aggregate>(&self, stream: &StreamId, loaded: Arc<Loaded<A>>) {
        self.shared.cache.put(stream, loaded);
    }

    /// The events of the append that a keyed command wrote before.
    pub(crate) async fn recorded(&self, first: EventId) -> Result<Option<Vec<RecordedEvent>>, StoreError> {
        let Some(event) = self.store().event(first).await? else { return Ok(None) };
        let mut events = vec![event];
        while let Some(last) = events.last().filter(|last| !last.ends_append) {
            let read = ReadLog::all().from(last.position.plus(1)).limit(64);
            let page = self.store().read_log(&read).await?;
            if page.events.is_empty() {
                return Err(StoreError::corrupted(format!("the log ends inside an append at {}", last.position)));
            }
            let end = page.events.iter().position(|event| event.ends_append).map_or(page.events.len(), |end| end + 1);
            events.extend(page.events.into_iter().take(end));
        }
        Ok(Some(events))
    }

    /// Appends. An unknown outcome is settled by sending the same append again, whose ids tell whether it was written;
    /// until that is known nothing else is answered.
    pub(crate) async fn append(&self, append: Append, deadline: Option<Instant>) -> Result<AppendOutcome, StoreError> {
        let mut append = append;
        let mut failures = 0;
        let mut unknown = false;
        loop {
            let sent = (unknown || deadline.is_some()).then(|| Box::new(append.clone()));
            let answer = match deadline {
                None => self.store().append(append).await,
                Some(deadline) => timeout_at(deadline, self.store().append(append)).await.unwrap_or_else(|_| {
                    unknown = true;
                    let what = "the deadline passed before the answer came".into();
                    Err(StoreError::Unavailable { what, source: None })
                }),
            };
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            append = match (answer, sent) {
                // Unknown, or still unknown: what cannot be reached can't tell.
                (Err(StoreError::OutcomeUnknown { append, .. }), _) if failures < SETTLE_MAX && !late => *append,
                (Err(error), Some(sent)) if unknown && error.is_retryable() && failures < SETTLE_MAX && !late => *sent,
                (Err(error), Some(append)) if unknown && !tells_outcome(&error) => {
                    return Err(StoreError::OutcomeUnknown { append, source: Some(Box::new(error)) });
                }
                // Repeated by this very call: it is the first answer all the same.
                (Ok(AppendOutcome::Appended(appended)), _) if unknown => {
                    return Ok(AppendOutcome::Appended(Appended { repeated: false, ..appended }));
                }
                (answer, _) => return answer,
            };
            unknown = true;
            failures += 1;
            self.retry().pause(failures).await;
        }
    }

    /// Waits for the turn of a command that conflicted: those of one process over the same streams are tried one after
    /// the other, since all but one of them would conflict again. One that waits too long tries all the same.
    pub(crate) async fn turn(&self, failed: &[FailedCondition]) -> Vec<MutexGuard<'_, ()>> {
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        let turn = |condition: &FailedCondition| match condition {
            FailedCondition::Version { stream, .. } | FailedCondition::Closed { stream, .. } => {
                hasher.hash_one(stream) as usize % TURNS
            }
            FailedCondition::Query { .. } => 0,
        };
        let mut turns: Vec<usize> = failed.iter().map(turn).collect();
        turns.sort_unstable();
        turns.dedup();
        let mut guards = Vec::with_capacity(turns.len());
        for turn in turns {
            guards.extend(timeout(TURN_WAIT_MAX, self.shared.turns[turn].lock()).await.ok());
        }
        guards
    }
}

/// Whether an error proves that the append was not written before either.
fn tells_outcome(error: &StoreError) -> bool {
    matches!(error, StoreError::IdConflict { .. } | StoreError::Invalid(_))
}

/// Two executions can be one append only on one store.
pub(crate) fn same_store(left: &Executor, right: &Executor) -> Result<(), StoreError> {
    match left.store().id() == right.store().id() {
        true => Ok(()),
        false => Err(InvalidInput::new("command", "its parts are on two different stores").into()),
    }
}
