//! One partition under work: a batch, its transaction, and what is done when it fails (P1, P3).

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt;
use indelible_core::{Cause, RecordedEvent, StoreError, StreamId, Timestamp, Token};
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::{
    Shared,
    ahead::{Share, Step, Undecodable},
};
use crate::{Advance, Claim, Envelope, PartitionState, PartitionStatus, Project, ReadModel, ReadModelError};

mod letters;
mod meters;
mod trouble;

use meters::Meters;
use trouble::Trouble;
pub(crate) use trouble::{message, told};

/// Idle partitions write where they have looked to no more often than this.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How often a transaction that came to be in another's way is tried at once.
const CONFLICTS_MAX: u64 = 20;

/// A partition that this process owns.
pub(super) struct Lane<P, M> {
    shared: Arc<Shared<P, M>>,
    pub claim: Claim,
    /// In which of the log's openings its checkpoint was known to be of it (L11).
    pub proved_in: Option<u64>,
    parked: Arc<HashSet<StreamId>>,
    pub looked_to: Token,
    pub state: PartitionState,
    /// When it goes on, where it waits.
    pub due: Instant,
    /// It must be taken again first, since nobody knows where it is.
    unsure: bool,
    /// How often the event that comes next was tried.
    attempts: u32,
    /// How often in a row the read model could not be reached.
    outages: u32,
    written_at: Instant,
    events: u64,
    batches: u64,
    recorded_at: Option<Timestamp>,
    retries: u64,
    /// Whether others know that it has stopped.
    told: bool,
    meters: Meters,
}

impl<P: Project<M>, M: ReadModel> Lane<P, M> {
    pub fn new(shared: Arc<Shared<P, M>>, claim: Claim) -> Self {
        let meters = Meters::of(&claim.projection, claim.partition);
        Self {
            parked: Arc::new(claim.parked.iter().cloned().collect()),
            looked_to: claim.position,
            claim,
            proved_in: None,
            state: PartitionState::Running,
            due: Instant::now(),
            unsure: false,
            attempts: 0,
            outages: 0,
            written_at: Instant::now(),
            events: 0,
            batches: 0,
            recorded_at: None,
            retries: 0,
            told: false,
            meters,
            shared,
        }
    }

    pub fn status(&self) -> PartitionStatus {
        PartitionStatus {
            partition: self.claim.partition,
            epoch: self.claim.epoch,
            state: self.state.clone(),
            looked_to: self.looked_to,
            events: self.events,
            batches: self.batches,
            recorded_at: self.recorded_at,
            retries: self.retries,
            parked: self.parked.clone(),
        }
    }

    /// Whether it takes events.
    pub fn is_running(&self) -> bool {
        self.state == PartitionState::Running
    }

    /// Whether it knows where it is.
    pub fn is_sure(&self) -> bool {
        !self.unsure
    }

    /// When it wants to be looked at again, without new events: to try again, or to write how far it has looked.
    pub fn wakes_at(&self) -> Option<Instant> {
        match self.state {
            PartitionState::Retrying { .. } => Some(self.due),
            PartitionState::Running if self.looked_to != self.claim.position => Some(self.written_at + PROGRESS_EVERY),
            _ => None,
        }
    }

    /// Takes events, and goes on to where the reader has looked. What remains after a failure is read again.
    pub async fn take_in(mut self, share: Share<P::Event>, looked_to: Token, hurries: bool) -> Self {
        match self.work(&share, looked_to, hurries).await {
            Ok(()) => (self.looked_to, self.outages) = (looked_to, 0),
            Err(trouble) => self.give_way(trouble),
        }
        self
    }

    async fn work(&mut self, share: &Share<P::Event>, looked_to: Token, hurries: bool) -> Result<(), Trouble> {
        let batch_events_max = self.shared.options.batch_events_max.min(P::BATCH_EVENTS_MAX);
        let mut steps = share.steps(batch_events_max).peekable();
        while let Some(step) = steps.next() {
            let end = step.last().map_or(looked_to, |last| self.token(last));
            let to = if steps.peek().is_some() { end } else { looked_to };
            match step {
                Step::Undecodable(undecodable) => self.undecodable(undecodable).await?,
                Step::Batch(batch) if self.attempts > 0 || self.is_careful() => self.one_by_one(batch).await?,
                Step::Batch(batch) => match self.transact(batch, to).await {
                    Err(Trouble::Events(_)) if batch.len() > 1 => self.one_by_one(batch).await?,
                    Err(Trouble::Events(error)) => self.failed(&batch[0].recorded, error).await?,
                    done => done?,
                },
            }
        }
        let due = hurries || self.written_at.elapsed() >= PROGRESS_EVERY;
        match self.claim.position != looked_to && due {
            true => self.transact(&[], looked_to).await,
            false => Ok(()),
        }
    }

    /// Whether an outage may be the doing of one event, as it can be where handlers do something outside.
    fn is_careful(&self) -> bool {
        self.outages > 0 && P::BATCH_EVENTS_MAX < usize::MAX
    }

    /// Finds the event that a batch fails by, with a transaction for each.
    async fn one_by_one(&mut self, batch: &[Envelope<P::Event>]) -> Result<(), Trouble> {
        for envelope in batch {
            match self.transact(std::slice::from_ref(envelope), self.token(&envelope.recorded)).await {
                Err(Trouble::Events(error)) => self.failed(&envelope.recorded, error).await?,
                done => done?,
            }
        }
        Ok(())
    }

    /// No handler gets it: behind a parked event it waits as any other, else it is a failure.
    async fn undecodable(&mut self, Undecodable { recorded, error }: &Undecodable) -> Result<(), Trouble> {
        match self.parked.contains(&recorded.stream) {
            true => self.park(recorded, None).await,
            false => self.failed(recorded, error.clone()).await,
        }
    }

    /// One transaction: the checkpoint, the events, and those that wait behind a parked one.
    async fn transact(&mut self, events: &[Envelope<P::Event>], to: Token) -> Result<(), Trouble> {
        let began_at = std::time::Instant::now();
        let span = match events.is_empty() {
            true => tracing::Span::none(),
            false => meters::span(&self.claim, events),
        };
        for run in self.runs(events).filter(|run| !self.waits(&run[0])) {
            self.before(run).instrument(span.clone()).await?;
        }
        let mut met = Met::default();
        loop {
            let done = self.try_transact(events, to, began_at).instrument(span.clone()).await;
            if !met.others(&done).await {
                return done;
            }
        }
    }

    /// As [`transact`](Self::transact), once.
    async fn try_transact(
        &mut self,
        events: &[Envelope<P::Event>],
        to: Token,
        began_at: std::time::Instant,
    ) -> Result<(), Trouble> {
        let mut handled = 0;
        let mut tx = self.begin(to).await?;
        for run in self.runs(events) {
            if !self.waits(&run[0]) {
                self.handle(run, &mut tx).await?;
                handled += run.len();
                continue;
            }
            for waiting in run {
                self.shared.model.park(&mut tx, &self.letter(&waiting.recorded, None)).await?;
            }
        }
        self.shared.model.commit(tx).await?;
        self.meters.committed(events, handled, began_at);
        self.batches += u64::from(handled > 0);
        self.recorded_at = events.last().map(|last| last.recorded.recorded_at).or(self.recorded_at);
        self.committed(to, handled);
        Ok(())
    }

    async fn begin(&self, to: Token) -> Result<M::Tx, ReadModelError> {
        let Claim { projection, partition, epoch, position, .. } = self.claim.clone();
        self.shared.model.begin(&Advance { projection, partition, epoch, from: position, to }).await
    }

    /// Whether an event waits behind a parked one.
    fn waits(&self, envelope: &Envelope<P::Event>) -> bool {
        self.parked.contains(&envelope.recorded.stream)
    }

    /// Events that wait on end, and those that don't.
    fn runs<'a>(&self, events: &'a [Envelope<P::Event>]) -> impl Iterator<Item = &'a [Envelope<P::Event>]> {
        events.chunk_by(|one, next| self.waits(one) == self.waits(next))
    }

    async fn before(&self, envelopes: &[Envelope<P::Event>]) -> Result<(), Trouble> {
        self.guarded(async { self.shared.projection.before_batch(envelopes).await }).await
    }

    async fn handle(&self, envelopes: &[Envelope<P::Event>], tx: &mut M::Tx) -> Result<(), Trouble> {
        let handled = self.guarded(async { self.shared.projection.apply_batch(envelopes, tx).await }).await;
        handled.map_err(|trouble| self.shared.model.trouble(tx).map_or(trouble, Trouble::from))
    }

    /// Runs a handler, which is called in here: a panic, also one before there is anything to await, and a time without
    /// end are failures.
    async fn guarded(&self, handler: impl Future<Output = Result<(), Cause>>) -> Result<(), Trouble> {
        match timeout(self.shared.options.batch_time_max, AssertUnwindSafe(handler).catch_unwind()).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(cause))) => Err(cause.into()),
            Ok(Err(panic)) => Err(Trouble::Events(format!("the handler panicked: {}", message(&*panic)).into())),
            Err(_) => Err(Trouble::Events("the handler took longer than it may".into())),
        }
    }

    fn committed(&mut self, to: Token, events: usize) {
        (self.claim.position, self.attempts, self.written_at) = (to, 0, Instant::now());
        self.looked_to = to;
        self.events += events as u64;
        self.shared.life.handled.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Goes back to the checkpoint, to wait there, or to stay.
    fn give_way(&mut self, trouble: Trouble) {
        self.go_back();
        let (error, attempts, pause) = match trouble {
            Trouble::Events(error) if self.attempts < P::RETRY.attempts_max => {
                (error, self.attempts, P::RETRY.pause(self.attempts))
            }
            Trouble::Outage(error) => {
                (self.outages, self.unsure) = (self.outages + 1, true);
                (told(&error), self.outages, crate::Retry::DEFAULT.pause(self.outages))
            }
            Trouble::Events(error) => return self.stop(error),
            Trouble::Broken(error) => return self.stop(told(&error)),
            Trouble::Fenced if self.shared.model.lease().is_some() => {
                tracing::info!(projection = %self.claim.projection, partition = %self.claim.partition,
                    "another worker took the partition");
                self.state = PartitionState::Lost;
                return;
            }
            Trouble::Fenced => return self.stop("fenced off: something else has moved its checkpoint".into()),
        };
        self.retry(error, attempts, pause);
    }

    fn retry(&mut self, error: Arc<str>, attempts: u32, pause: Duration) {
        tracing::warn!(projection = %self.claim.projection, partition = %self.claim.partition, %error, attempts,
            "it is tried again");
        self.retries += 1;
        self.meters.retries.increment(1);
        self.due = Instant::now() + pause;
        self.state = PartitionState::Retrying { error, attempts };
    }

    /// Waits at the checkpoint until the log can say whether it holds that.
    pub fn wait_for_log(&mut self, error: &StoreError) {
        self.go_back();
        self.outages += 1;
        self.retry(told(error), self.outages, crate::Retry::DEFAULT.pause(self.outages));
    }

    /// Goes back to the checkpoint.
    pub fn go_back(&mut self) {
        self.looked_to = self.claim.position;
    }

    pub fn stop(&mut self, error: Arc<str>) {
        tracing::error!(projection = %self.claim.projection, partition = %self.claim.partition, %error, "stopped");
        (self.state, self.told) = (PartitionState::Stopped { error }, false);
    }

    /// Lets other processes know that it has stopped. Where that can't be said, they see that it doesn't come on.
    pub async fn tell_why_stopped(&mut self) {
        if let (PartitionState::Stopped { error }, false) = (&self.state, self.told) {
            if let Err(unsaid) = self.shared.model.stopped(&self.claim, error).await {
                tracing::warn!(projection = %self.claim.projection, partition = %self.claim.partition, error = %unsaid,
                    "other processes could not be told that a partition has stopped");
            }
            self.told = true;
        }
    }

    /// Goes on from the checkpoint, which is read again where nobody knows it.
    pub async fn go_on(&mut self) {
        if self.unsure {
            let Claim { projection, partition, .. } = &self.claim;
            match self.shared.model.take(projection, *partition, &self.shared.worker).await {
                Ok(Some(claim)) => {
                    (self.parked, self.unsure) = (Arc::new(claim.parked.iter().cloned().collect()), false);
                    if self.claim.position != claim.position {
                        self.attempts = 0;
                    }
                    (self.claim, self.proved_in) = (claim, None);
                }
                Ok(None) => return self.state = PartitionState::Lost,
                Err(error) => return self.give_way(error.into()),
            }
        }
        self.go_back();
        self.state = PartitionState::Running;
    }

    /// Goes on after it was told to, with as many attempts as at first.
    pub async fn restart(&mut self) {
        if matches!(self.state, PartitionState::Stopped { .. } | PartitionState::Retrying { .. }) {
            self.retake().await;
        }
    }

    /// Takes it again, and goes on from where it is then.
    pub async fn retake(&mut self) {
        (self.attempts, self.outages, self.unsure) = (0, 0, true);
        self.go_on().await;
    }

    /// Writes how far it has looked, if that is not written yet.
    pub async fn write_progress(&mut self) {
        if self.is_running() && self.looked_to != self.claim.position {
            let to = self.looked_to;
            if let Err(trouble) = self.transact(&[], to).await {
                self.give_way(trouble);
            }
        }
    }

    fn token(&self, event: &RecordedEvent) -> Token {
        Token { store: self.claim.position.store, position: event.position, event: event.id }
    }
}

/// How often a transaction came to be in another's way.
#[derive(Default)]
struct Met(u64);

impl Met {
    /// Whether it did again, and is to be tried once more: a little later each time, so that those which met don't meet again.
    async fn others(&mut self, done: &Result<(), Trouble>) -> bool {
        let again = done.as_ref().is_err_and(Trouble::is_conflict) && self.0 < CONFLICTS_MAX;
        if again {
            self.0 += 1;
            sleep(Duration::from_millis(rand::random_range(0..=self.0))).await;
        }
        again
    }
}
