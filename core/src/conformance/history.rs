//! Histories: what concurrent callers asked a store, what they were answered, and when; and a checker that says whether
//! the answers were right.
//!
//! The suite records them under random load ([`run_histories`]), and so can any test of a store, through whatever
//! faults: with a [`Recorder`] around the store, and [`check_history`] over what it recorded and the log that there is
//! in the end. The checker takes the log's order for the order in which appends were decided, and demands that each
//! call stands at one place in it, between its beginning and its end, such that its answer is what the contract says
//! there (linearizability). It is complete, both ways, and takes O(n log n): see `check.rs`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    AnyStore, Append, AppendOutcome, Appended, Category, Delivery, EventId, FailedCondition, Filter, Page, Position,
    ReadLog, ReadStream, RecordedEvent, StartFrom, StoreError, StreamHead, StreamId, Token, Version,
};

mod answers;
mod check;
mod index;
mod workload;

pub use check::{Anomaly, Checked, check_history};
pub use workload::{Workload, record_history, run_histories};

/// One call, and the moments of one clock at which it began and ended. No two moments are equal.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the store was asked.
    pub invoked: u64,
    /// When it had answered; [`Call::NEVER`] where it has not.
    pub returned: u64,
    /// What was said.
    pub exchange: Exchange,
}

impl Call {
    /// When a call ends that is not answered.
    pub const NEVER: u64 = u64::MAX;
}

/// What a store was asked, and what it answered.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the question's parameters and the answer, named as the methods name them")]
pub enum Exchange {
    Append { append: Append, answer: Answer },
    ReadStream { read: ReadStream, page: Page<Version> },
    ReadLog { read: ReadLog, page: Page<Position> },
    Event { id: EventId, event: Option<RecordedEvent> },
    Head { token: Token },
    Token { position: Position, token: Option<Token> },
    StreamHead { stream: StreamId, head: StreamHead },
    Streams { category: Option<Category>, after: Option<StreamId>, limit: usize, streams: Vec<StreamId> },
    Categories { after: Option<Category>, limit: usize, categories: Vec<Category> },
    Published { position: Position },
    Subscribe { subscriber: usize, filter: Filter, from: StartFrom },
    Delivery { subscriber: usize, delivery: Delivery },
}

/// How an append was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is written, or was before.
    Appended(Appended),
    /// It demands what does not hold.
    Conflict(Vec<FailedCondition>),
    /// One of its ids is taken.
    IdConflict(EventId, Position),
    /// A condition looks beyond the head.
    Invalid,
    /// It was not written, for reasons that no log tells: overloaded, unavailable.
    Refused,
    /// Nobody can say: no answer came, or one that says just that.
    Unknown,
}

impl Answer {
    fn of(outcome: &Result<AppendOutcome, StoreError>) -> Self {
        match outcome {
            Ok(AppendOutcome::Appended(appended)) => Self::Appended(appended.clone()),
            Ok(AppendOutcome::Conflict(failed)) => Self::Conflict(failed.clone()),
            Err(StoreError::IdConflict { id, position }) => Self::IdConflict(*id, *position),
            Err(StoreError::Invalid(_)) => Self::Invalid,
            Err(StoreError::Overloaded { .. } | StoreError::Unavailable { .. }) => Self::Refused,
            Err(_) => Self::Unknown,
        }
    }
}

/// Writes down what is asked of a store and answered. Tasks share it.
#[derive(Debug, Default)]
pub struct Recorder {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    now: u64,
    /// The time from which answers count; those to questions from before no longer do.
    since: u64,
    calls: Vec<Call>,
    /// Errors in answer to reads.
    failures: Vec<String>,
}

impl Book {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

impl Recorder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends, and is answered as the store answers. It may be dropped at any time: the outcome is then unknown.
    ///
    /// # Errors
    /// The store's.
    pub async fn append(&self, store: &AnyStore, append: Append) -> Result<AppendOutcome, StoreError> {
        let (index, invoked) = {
            let mut book = self.book();
            let invoked = book.tick();
            let exchange = Exchange::Append { append: append.clone(), answer: Answer::Unknown };
            book.calls.push(Call { invoked, returned: Call::NEVER, exchange });
            (book.calls.len() - 1, invoked)
        };
        let outcome = store.append(append).await;
        let told = Answer::of(&outcome);
        let mut book = self.book();
        if invoked > book.since && told != Answer::Unknown {
            let returned = book.tick();
            let call = &mut book.calls[index];
            call.returned = returned;
            if let Exchange::Append { answer, .. } = &mut call.exchange {
                *answer = told;
            }
        }
        outcome
    }

    /// Asks what a caller names, and writes the answer down as it is told to. An error is written down as a failure.
    pub async fn ask<T>(
        &self,
        asked: impl Future<Output = Result<T, StoreError>>,
        exchange: impl FnOnce(&T) -> Exchange,
    ) -> Option<T> {
        let invoked = self.book().tick();
        let answer = asked.await;
        let mut book = self.book();
        if invoked <= book.since {
            return None;
        }
        match answer {
            Ok(answer) => {
                let returned = book.tick();
                book.calls.push(Call { invoked, returned, exchange: exchange(&answer) });
                Some(answer)
            }
            Err(error) => {
                book.failures.push(error.to_string());
                None
            }
        }
    }

    /// Believes no answer until [`resume`](Self::resume). Called before a crash: an append that is under way may be in
    /// the log afterwards, or not, and nobody was told.
    pub fn cut(&self) {
        self.book().since = u64::MAX;
    }

    /// Believes answers again, to what is asked from now on. Called when the callers from before are gone.
    pub fn resume(&self) {
        let mut book = self.book();
        book.since = book.tick();
    }

    /// How many calls were answered, and how many appends were begun.
    pub fn calls(&self) -> usize {
        self.book().calls.len()
    }

    /// All that was written down, and the errors that reads were answered with.
    pub fn finish(&self) -> (Vec<Call>, Vec<String>) {
        let mut book = self.book();
        (std::mem::take(&mut book.calls), std::mem::take(&mut book.failures))
    }
}
