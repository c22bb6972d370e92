//! The work of an inbox: batches of what the feed has, subjects side by side, each in order; and behind that the journal.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use indelible_core::{AnyStore, Cause, CommandContext, CommandError, LoadError, ReadStream, Repository, StoreError};
use indelible_projections::{OnFailure, Retry};
use indelible_sagas::Failure;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    Command, InboxState, InboxStatus, LETTERS_MAX, Parked, Receive,
    journal::{End, InboxEvent, Journal, JournalError, Letter, Park, Rewind, Take, portions},
};
use crate::{Delivery, Feed, FeedError, Message, Place, broker::told};

/// How often it is written down how far the feed was taken.
const WRITTEN_EVERY: Duration = Duration::from_secs(1);
/// The most messages of a batch, and about the most bytes.
const BATCH_MESSAGES_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

pub(super) struct Work<R, F> {
    receive: R,
    feed: F,
    store: AnyStore,
    journals: Repository<Journal>,
    status: watch::Sender<InboxStatus>,
    place: Option<Place>,
    parked: Parked,
    letters: usize,
    rewinds: u64,
    written_to: Option<Place>,
    written_at: Instant,
    outages: u32,
}

/// Why the feed is not read on.
enum Trouble {
    /// Again later.
    Outage(Arc<str>),
    /// Not until somebody says so.
    Stop(Arc<str>),
    /// From where the journal is now.
    Again,
}

/// What became of a message.
enum Received {
    Done,
    /// It is of a type that is not known.
    Passed,
}

/// Why a message was not received.
enum NotReceived {
    Failed(String),
    /// It is not to blame.
    NotNow(Arc<str>),
}

/// What became of those of a subject in a batch.
#[derive(Default)]
struct Run {
    received: u64,
    passed: u64,
    parked: Vec<Park>,
    left: Option<(u64, Trouble)>,
}

impl<R: Receive, F: Feed> Work<R, F> {
    pub fn new(
        receive: R,
        feed: F,
        store: AnyStore,
        journals: Repository<Journal>,
        status: watch::Sender<InboxStatus>,
    ) -> Self {
        let (place, parked, written_at) = (None, Parked::new(), Instant::now());
        Self {
            receive,
            feed,
            store,
            journals,
            status,
            place,
            parked,
            letters: 0,
            rewinds: 0,
            written_to: None,
            written_at,
            outages: 0,
        }
    }

    /// Runs until it is drained, or nobody is left to tell it anything.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let due = match self.read(&mut commands).await {
                Ok(()) => return,
                Err(Trouble::Again) => continue,
                Err(Trouble::Outage(error)) => {
                    self.outages += 1;
                    tracing::warn!(inbox = R::NAME, %error, "waits, and tries again");
                    self.tell(|status| status.state = InboxState::Waiting { error });
                    Some(Instant::now() + Retry::DEFAULT.pause(self.outages))
                }
                Err(Trouble::Stop(error)) => {
                    tracing::error!(inbox = R::NAME, %error, "stopped");
                    self.tell(|status| status.state = InboxState::Stopped { error });
                    None
                }
            };
            loop {
                tokio::select! {
                    command = commands.recv() => match self.obey(command.unwrap_or(Command::Drain)).await {
                        Ok(false) => {}
                        Ok(true) => return,
                        Err(_) => break,
                    },
                    () = wake(due) => break,
                }
            }
        }
    }

    /// Reads the feed from where the journal is, until it is told to drain.
    async fn read(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<(), Trouble> {
        self.write().await?;
        self.load().await?;
        let mut feed = self.feed.read(self.place.as_ref()).await?;
        self.tell(|status| status.state = InboxState::Running);
        loop {
            let due = (self.place != self.written_to).then_some(self.written_at + WRITTEN_EVERY);
            tokio::select! {
                biased;
                command = commands.recv() => {
                    if self.obey(command.unwrap_or(Command::Drain)).await? {
                        return Ok(());
                    }
                }
                () = wake(due) => self.write().await?,
                first = feed.next() => {
                    let first = first.unwrap_or_else(|| Err(FeedError::unavailable("it has ended", "no reason given")))?;
                    let (batch, error) = gather(first, &mut feed);
                    self.take(batch).await?;
                    if let Some(error) = error {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// Where it stands by the journal.
    async fn load(&mut self) -> Result<(), Trouble> {
        let journal = self.journals.load(R::NAME).await?;
        (self.place, self.written_to, self.rewinds) = (journal.place(), journal.place(), journal.rewinds());
        (self.parked, self.letters) = (journal.parked_subjects(), journal.parked_count());
        metrics::gauge!("indelible_inbox_parked", "inbox" => R::NAME).set(self.letters as f64);
        self.tell(|_| {});
        Ok(())
    }

    /// As [`load`](Self::load), while the feed is read: not on, where another process has begun anew.
    async fn reload(&mut self) -> Result<(), Trouble> {
        let rewinds = self.rewinds;
        self.load().await?;
        if self.rewinds == rewinds { Ok(()) } else { Err(Trouble::Again) }
    }

    /// Writes down how far the feed was taken.
    async fn write(&mut self) -> Result<(), Trouble> {
        match self.place.clone().filter(|_| self.place != self.written_to) {
            Some(to) => self.advance(to, Vec::new()).await,
            None => Ok(()),
        }
    }

    /// Has it written down that the feed was taken so far, but for what is parked, and goes there only then: what could not
    /// be parked must come again.
    async fn advance(&mut self, to: Place, parked: Vec<Park>) -> Result<(), Trouble> {
        let take = Take { to: to.clone(), rewinds: self.rewinds, parked: parked.clone() };
        if let Err(error) = self.journals.execute(R::NAME, take).await {
            if error.is_rejected() {
                // Another process has begun anew: the journal knows from where.
                (self.place, self.written_to) = (None, None);
            }
            return Err(error.into());
        }
        (self.place, self.written_to, self.written_at) = (Some(to.clone()), Some(to), Instant::now());
        for park in &parked {
            tracing::warn!(
                inbox = R::NAME,
                subject = park.subject,
                sequence = park.sequence,
                reason = park.reason,
                "a message was parked"
            );
        }
        if !parked.is_empty() {
            self.count("parked", parked.len() as u64);
            self.reload().await?;
        }
        Ok(())
    }

    /// Whether a place is behind what was taken.
    fn is_further(&self, to: &Place) -> bool {
        self.place.as_ref().is_none_or(|place| place.feed != to.feed || place.sequence < to.sequence)
    }

    async fn take(&mut self, batch: Vec<Delivery>) -> Result<(), Trouble> {
        let Some(last) = batch.last().map(|delivery| delivery.place.clone()) else { return Ok(()) };
        #[cfg(feature = "bugs")]
        if crate::bugs::is(crate::bugs::Bug::TakenBeforeReceived) {
            self.place = Some(last.clone());
            self.write().await?;
        }
        let (mut runs, mut known): (Vec<Vec<Delivery>>, HashMap<String, usize>) = Default::default();
        for delivery in batch {
            match known.get(&delivery.subject) {
                Some(run) => runs[*run].push(delivery),
                None => {
                    known.insert(delivery.subject.clone(), runs.len());
                    runs.push(vec![delivery]);
                }
            }
        }
        let this = &*self;
        let runs = runs.into_iter().map(|run| this.take_run(run));
        let done: Vec<Run> = stream::iter(runs).buffer_unordered(R::CALLS_MAX.max(1)).collect().await;
        let (mut parks, mut left) = (Vec::new(), None);
        for run in done {
            self.count("received", run.received);
            self.count("passed", run.passed);
            self.status.send_modify(|status| {
                status.received += run.received;
                status.passed += run.passed;
            });
            parks.extend(run.parked);
            left = earlier(left, run.left);
        }
        parks.sort_by_key(|park| park.sequence);
        left = earlier(left, self.no_room(&parks));
        let to = match &left {
            Some((sequence, _)) => Place { sequence: sequence - 1, ..last },
            None => last,
        };
        parks.retain(|park| park.sequence <= to.sequence);
        for parks in portions(parks, self.store.limits()) {
            // What comes before the first of the batch was taken before.
            match parks.last().map(|park| Place { sequence: park.sequence, ..to.clone() }) {
                Some(reached) if self.is_further(&reached) => self.advance(reached, parks).await?,
                _ => {}
            }
        }
        if self.is_further(&to) {
            self.place = Some(to);
        }
        if left.is_some() || self.written_at.elapsed() >= WRITTEN_EVERY {
            self.write().await?;
        }
        self.tell(|_| {});
        match left {
            Some((_, trouble)) => Err(trouble),
            None => {
                self.outages = 0;
                Ok(())
            }
        }
    }

    /// The messages of a subject, one after the other.
    async fn take_run(&self, deliveries: Vec<Delivery>) -> Run {
        let mut run = Run::default();
        let mut waits = deliveries.first().is_some_and(|first| self.parked.contains(&first.subject));
        for delivery in deliveries {
            let sequence = delivery.place.sequence;
            let reason = match waits {
                true => None,
                false => match self.receive(&delivery.payload).await {
                    Ok(Received::Done) => {
                        run.received += 1;
                        continue;
                    }
                    Ok(Received::Passed) => {
                        run.passed += 1;
                        continue;
                    }
                    Err(NotReceived::Failed(reason)) if R::ON_FAILURE == OnFailure::Stop => {
                        let reason = format!("message {sequence} of {}: {reason}", delivery.subject);
                        run.left = Some((sequence, Trouble::Stop(reason.into())));
                        return run;
                    }
                    Err(NotReceived::Failed(reason)) => Some(reason),
                    Err(NotReceived::NotNow(error)) => {
                        run.left = Some((sequence, Trouble::Outage(error)));
                        return run;
                    }
                },
            };
            waits = true;
            // What is no text was no CloudEvent either.
            let payload = String::from_utf8_lossy(&delivery.payload).into_owned();
            run.parked.push(Park { sequence, subject: delivery.subject, reason, payload });
        }
        run
    }

    /// Where there is no room for a letter.
    fn no_room(&self, parks: &[Park]) -> Option<(u64, Trouble)> {
        let OnFailure::Park { streams_max } = R::ON_FAILURE else { return None };
        let mut subjects = self.parked.clone();
        for (letters, park) in (self.letters..).zip(parks) {
            subjects.insert(park.subject.clone());
            if subjects.len() > streams_max || letters >= LETTERS_MAX {
                let (subjects, reason) = (subjects.len() - 1, park.reason.as_deref().unwrap_or("it waits"));
                let full = format!(
                    "no room for message {} of {}: {letters} letters of {subjects} subjects are parked; {reason}",
                    park.sequence, park.subject
                );
                return Some((park.sequence, Trouble::Stop(full.into())));
            }
        }
        None
    }

    /// Receives a message, with retries.
    async fn receive(&self, payload: &[u8]) -> Result<Received, NotReceived> {
        let message = Message::read(payload).map_err(|error| NotReceived::Failed(error.to_string()))?;
        let event_type = message.event_type();
        let Some((_, newest)) = R::KNOWS.iter().find(|(known, _)| *known == event_type) else {
            return Ok(Received::Passed);
        };
        let version = message.version().map_err(|error| NotReceived::Failed(error.to_string()))?;
        if version > *newest {
            let newer = format!("{event_type} has version {version}, and {newest} is the newest that is known");
            return Err(NotReceived::Failed(newer));
        }
        let (mut attempts, until) = (0, Instant::now() + R::DEADLINE);
        loop {
            let context = context::<R>(&message).map_err(|error| NotReceived::Failed(error.to_string()))?;
            let call = AssertUnwindSafe(self.receive.receive(&message, context)).catch_unwind();
            let (reason, later) = match timeout(R::DEADLINE, call).await {
                Ok(Ok(Ok(()))) => return Ok(Received::Done),
                Ok(Ok(Err(Failure::NotNow(time)))) => ("now is not the time".into(), Some(time)),
                // Under its key it is written once.
                Ok(Ok(Err(Failure::OutcomeUnknown(why)))) => (why, Some(R::RETRY.pause(1))),
                Ok(Ok(Err(failure))) => (failure.to_string(), None),
                Ok(Err(_)) => ("receiving it panicked".into(), None),
                Err(_) => (format!("no answer within {:?}", R::DEADLINE), None),
            };
            match later {
                Some(time) if Instant::now() + time < until => {
                    sleep(time).await;
                    continue;
                }
                Some(_) => return Err(NotReceived::NotNow(reason.into())),
                None => {}
            }
            attempts += 1;
            if attempts >= R::RETRY.attempts_max {
                return Err(NotReceived::Failed(reason));
            }
            sleep(R::RETRY.pause(attempts)).await;
        }
    }

    /// `true` where it is to end. `Again` where the feed is to be read anew.
    async fn obey(&mut self, command: Command) -> Result<bool, Trouble> {
        match command {
            Command::Drain => {
                // What can't be written comes again.
                let _ = self.write().await;
                return Ok(true);
            }
            Command::Restart => return Err(Trouble::Again),
            Command::Rewind(answer) => {
                let rewound = self.journals.execute(R::NAME, Rewind).await;
                // Not what was taken of the old one is to be written behind that.
                (self.place, self.written_to) = (None, None);
                let _ = answer.send(rewound.map(|_| ()).map_err(Into::into));
                return Err(Trouble::Again);
            }
            Command::Redrive(subject, answer) => {
                let redriven = self.redrive(&subject).await;
                let _ = answer.send(redriven);
                self.write().await?;
                self.reload().await?;
            }
            Command::Discard(letter, reason, answer) => {
                let discarded = self.journals.execute(R::NAME, End { letter, discarded: Some(reason) }).await;
                let _ = answer.send(discarded.map(|_| ()).map_err(Into::into));
                self.write().await?;
                self.reload().await?;
            }
        }
        Ok(false)
    }

    async fn redrive(&self, subject: &str) -> Result<u64, Cause> {
        let journal = self.journals.load(R::NAME).await?;
        let mut done = 0;
        for letter in journal.letters().filter(|letter| letter.subject == subject) {
            let payload = self.payload(letter).await?;
            match self.receive(payload.as_bytes()).await {
                Ok(_) => {}
                Err(NotReceived::Failed(reason)) => return Err(format!("letter {}: {reason}", letter.number).into()),
                Err(NotReceived::NotNow(error)) => return Err(error.to_string().into()),
            }
            self.journals.execute(R::NAME, End { letter: letter.number, discarded: None }).await?;
            done += 1;
        }
        Ok(done)
    }

    async fn payload(&self, letter: &Letter) -> Result<String, Cause> {
        let stream = format!("inbox-{}", R::NAME).parse()?;
        let page = self.store.read_stream(&ReadStream::new(stream).from(letter.version()).limit(1)).await?;
        match page.events.first().map(|event| event.decode()).transpose()? {
            Some(InboxEvent::Parked { payload, .. }) => Ok(payload),
            _ => Err(format!("the journal does not hold letter {}", letter.number).into()),
        }
    }

    fn count(&self, result: &'static str, messages: u64) {
        if messages > 0 {
            metrics::counter!("indelible_inbox_messages_total", "inbox" => R::NAME, "result" => result)
                .increment(messages);
        }
    }

    fn tell(&self, change: impl FnOnce(&mut InboxStatus)) {
        self.status.send_modify(|status| {
            change(status);
            (status.taken_to, status.parked) = (self.place.clone(), self.letters);
        });
        let stopped = matches!(self.status.borrow().state, InboxState::Stopped { .. });
        metrics::gauge!("indelible_inbox_stopped", "inbox" => R::NAME).set(u8::from(stopped));
    }
}

/// The context of the command that a message becomes.
fn context<R: Receive>(message: &Message) -> Result<CommandContext, indelible_core::InvalidInput> {
    let mut context = CommandContext::new().with_causation_id(message.causation());
    if let Some(correlation) = message.correlation() {
        context = context.with_correlation_id(correlation);
    }
    #[cfg(feature = "bugs")]
    if crate::bugs::is(crate::bugs::Bug::NoDeduplication) {
        return Ok(context);
    }
    context.with_idempotency_key(format!("{}/{}", R::NAME, message.unique()))
}

/// What is there at once, up to a batch; and the error that ends it.
fn gather(
    first: Delivery,
    feed: &mut BoxStream<'static, Result<Delivery, FeedError>>,
) -> (Vec<Delivery>, Option<FeedError>) {
    let mut bytes = first.payload.len();
    let mut batch = vec![first];
    while batch.len() < BATCH_MESSAGES_MAX && bytes < BATCH_BYTES_MAX {
        match feed.next().now_or_never().flatten() {
            Some(Ok(delivery)) => {
                bytes += delivery.payload.len();
                batch.push(delivery);
            }
            Some(Err(error)) => return (batch, Some(error)),
            None => break,
        }
    }
    (batch, None)
}

fn earlier(one: Option<(u64, Trouble)>, other: Option<(u64, Trouble)>) -> Option<(u64, Trouble)> {
    [one, other].into_iter().flatten().min_by_key(|(sequence, _)| *sequence)
}

/// Sleeps until then, or for ever.
async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl From<FeedError> for Trouble {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Unavailable { .. } => Self::Outage(told(&error).into()),
            FeedError::Lost { .. } => Self::Stop(told(&error).into()),
        }
    }
}
impl From<LoadError> for Trouble {
    fn from(error: LoadError) -> Self {
        match &error {
            LoadError::Store(store) if is_outage(store) => Self::Outage(told(&error).into()),
            _ => Self::Stop(told(&error).into()),
        }
    }
}
impl From<CommandError<JournalError>> for Trouble {
    fn from(error: CommandError<JournalError>) -> Self {
        match &error {
            CommandError::Store(store) if !is_outage(store) => Self::Stop(told(&error).into()),
            CommandError::Encode(_) | CommandError::Decode(_) => Self::Stop(told(&error).into()),
            _ => Self::Outage(told(&error).into()),
        }
    }
}

fn is_outage(error: &StoreError) -> bool {
    error.is_retryable() || matches!(error, StoreError::Stopped { .. })
}
