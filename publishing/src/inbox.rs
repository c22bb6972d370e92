//! Inboxes: messages become commands, whose events are there once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use indelible_core::{AnyStore, AsStore, Category, Cause, CommandContext, InvalidInput, Repository, StreamId};
use indelible_projections::{OnFailure, Retry};
use indelible_sagas::Failure;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{Feed, Message, Place};

mod journal;
mod work;

use journal::Journal;
pub use journal::Letter;
use work::Work;

/// Turns messages into commands.
///
/// Each message comes *at least once*, those of a subject in order. The command that it becomes is sent in the context that
/// comes with the message, which has the key for it: its events are written once for ever, whatever the broker deduplicates
/// and for how long.
///
/// **A command that was rejected, or wrote nothing, leaves no event that has the key. It is decided anew when the message
/// comes again, and may succeed then.** A refusal that is to count must be an event.
pub trait Receive: Send + Sync + 'static {
    /// What it is called: 1 to 200 bytes, in the keys of its commands and the name of its journal. Another name is another
    /// inbox, which begins at the first message.
    const NAME: &'static str;
    /// The types of messages that it knows, each with the newest schema version that it understands. Others come from
    /// whoever has something to say that is not meant for it: they are counted and passed over. One of a newer version is
    /// a failure, by [`ON_FAILURE`](Self::ON_FAILURE): it *is* meant for it, and waits for newer code.
    const KNOWS: &'static [(&'static str, u32)];
    /// What becomes of a message that can't be read, is too new, or can't be received, when no retry helped: it is parked,
    /// and so is what comes after it under its subject, until it is [redriven](RunningInbox::redrive) or
    /// [discarded](RunningInbox::discard).
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    /// How it is tried again. What comes with it, and after it, waits.
    const RETRY: Retry = Retry::DEFAULT;
    /// The longest time that one call may take.
    const DEADLINE: Duration = Duration::from_secs(30);
    /// The most calls at once, each for another subject.
    const CALLS_MAX: usize = 64;

    /// Receives a message of a type and version that it knows: executes a command in the context given, which has the
    /// message's key, correlation and cause. Under the key goes one command for a stream; a second one to the same stream
    /// needs a key of its own, made of this one.
    ///
    /// # Errors
    /// A [`Failure`]. After [`NotNow`](Failure::NotNow) and [`OutcomeUnknown`](Failure::OutcomeUnknown) it is tried again
    /// for as long as it takes, and that is not held against the message. That a command was rejected, where that doesn't
    /// matter, is no failure; see above for what comes of it later.
    fn receive(&self, message: &Message, context: CommandContext) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The most letters in an inbox; with one more it stops.
const LETTERS_MAX: usize = 10_000;

/// A [`Receive`] with the feed that it receives from. How far it has taken that, and what is parked, is in a stream of the
/// store, `inbox-NAME`.
///
/// Several processes may run the same inbox, so that another takes over when one dies: all of them read the whole feed,
/// and for each message the first command that writes events counts. What one of them had rejected another decides anew, as
/// [`Receive`] says.
pub struct Inbox<R, F> {
    store: AnyStore,
    feed: F,
    receive: R,
}

impl<R: Receive, F: Feed> Inbox<R, F> {
    /// An inbox whose journal is in this store: that of the commands, best.
    pub fn new(store: &impl AsStore, feed: F, receive: R) -> Self {
        Self { store: store.as_store(), feed, receive }
    }

    /// Starts it in a task of its own.
    ///
    /// # Errors
    /// [`InvalidInput`] for a name that is none.
    pub fn start(self) -> Result<RunningInbox, InvalidInput> {
        if R::NAME.len() > 200 {
            return Err(InvalidInput::new("inbox", "has a name of more than 200 bytes"));
        }
        StreamId::new(&Category::from_static("inbox"), R::NAME)?;
        let (tell, commands) = mpsc::channel(16);
        let (status, seen) = watch::channel(InboxStatus::default());
        let journals = Repository::new(&self.store);
        let work = Work::new(self.receive, self.feed, self.store, journals.clone(), status);
        let task = tokio::spawn(work.run(commands));
        Ok(RunningInbox { name: R::NAME, journals, tell, seen, task })
    }
}

/// What an inbox is told between two batches.
enum Command {
    Restart,
    Rewind(Answer<()>),
    Redrive(String, Answer<u64>),
    Discard(u64, String, Answer<()>),
    Drain,
}

type Answer<T> = oneshot::Sender<Result<T, Cause>>;

/// How an inbox is doing, and what it has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxStatus {
    /// Whether it goes on.
    pub state: InboxState,
    /// How far it has taken its feed.
    pub taken_to: Option<Place>,
    /// Messages that were received.
    pub received: u64,
    /// Messages of types that it doesn't know.
    pub passed: u64,
    /// Letters that wait, now.
    pub parked: usize,
}

/// Whether an inbox goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InboxState {
    /// It has not reached its feed yet.
    #[default]
    Starting,
    /// It takes what comes.
    Running,
    /// It waits, and tries again.
    Waiting {
        /// What for.
        error: Arc<str>,
    },
    /// It takes nothing more, until it is [restarted](RunningInbox::restart) or [rewound](RunningInbox::rewind).
    Stopped {
        /// Why.
        error: Arc<str>,
    },
}

/// An inbox that runs. It ends when this is dropped.
pub struct RunningInbox {
    name: &'static str,
    journals: Repository<Journal>,
    tell: mpsc::Sender<Command>,
    seen: watch::Receiver<InboxStatus>,
    task: JoinHandle<()>,
}

impl RunningInbox {
    /// How it is doing.
    pub fn status(&self) -> InboxStatus {
        self.seen.borrow().clone()
    }

    /// Waits until its status is such, and returns it; `None` where it is not in time.
    pub async fn until(&mut self, is: impl FnMut(&InboxStatus) -> bool, time: Duration) -> Option<InboxStatus> {
        timeout(time, self.seen.wait_for(is)).await.ok()?.ok().map(|status| status.clone())
    }

    /// The letters that wait, in order.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn letters(&self) -> Result<Vec<Letter>, Cause> {
        Ok(self.journals.load(self.name).await?.letters().cloned().collect())
    }

    /// Receives the letters of a subject after all, in order, and says how many.
    ///
    /// # Errors
    /// Why the first that is left could not be received; those before it are.
    pub async fn redrive(&self, subject: impl Into<String>) -> Result<u64, Cause> {
        self.ask(|answer| Command::Redrive(subject.into(), answer)).await
    }

    /// Gives a letter up. Those behind it stay until they are redriven.
    ///
    /// # Errors
    /// Where there is none of this number, and those of the store.
    pub async fn discard(&self, letter: u64, reason: impl Into<String>) -> Result<(), Cause> {
        self.ask(|answer| Command::Discard(letter, reason.into(), answer)).await
    }

    /// Goes on where it has stopped.
    pub async fn restart(&self) {
        let _ = self.tell.send(Command::Restart).await;
    }

    /// Begins anew at the first message that its feed has: for a feed that has lost messages, or was made anew. What wrote
    /// events before is told by its key, and changes nothing; what was rejected, or wrote nothing, is [decided
    /// anew](Receive).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rewind(&self) -> Result<(), Cause> {
        self.ask(Command::Rewind).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, Cause> {
        let (answer, answered) = oneshot::channel();
        let _ = self.tell.send(command(answer)).await;
        answered.await.map_err(|_| format!("the inbox {} does not run", self.name))?
    }

    /// Finishes what is under way, writes down how far it has come, and ends. `false` where that takes longer; then the
    /// messages since come again.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        let drained = tokio::time::timeout_at(deadline, async {
            let _ = self.tell.send(Command::Drain).await;
            (&mut self.task).await.is_ok()
        });
        drained.await.unwrap_or(false)
    }
}

impl Drop for RunningInbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The subjects that are parked.
type Parked = HashSet<String>;
