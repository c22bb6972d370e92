//! Runs one projection over one store on one read model, in rounds: one reader reads a chunk and decodes it, each partition
//! takes its events of it in a transaction of its own, side by side, and the next chunk is read in the meantime.
//!
//! A partition that fails waits, and others go on; so they do when one is much slower than they are. When it goes on, the
//! reader goes back to where it stands, and those that have seen those events leave them out. So there are no queues, and
//! memory holds the events that a partition is at work on, and a chunk.
//!
//! A store that stopped itself and goes on may have lost what partitions have seen: then each goes back to its checkpoint, and
//! stops where the log does not hold that (L11).

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use indelible_core::{AnyStore, Cause, Position, Query, RecordedEvent, StoreError, Token};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Claim, DeadLetter, LetterEnd, Partition, PartitionState, PartitionStatus, Project, Projection, ProjectionId,
    ReadModel, Retry, WorkerId, version::Life,
};

mod ahead;
mod lane;
mod options;

use ahead::{Ahead, Chunk, Share, recorded};
use lane::Lane;
pub(crate) use lane::told;
pub use options::RunnerOptions;

/// What is the same for all partitions of a projection.
pub(crate) struct Shared<P, M> {
    pub projection: P,
    pub model: M,
    pub id: ProjectionId,
    pub partitions: u32,
    pub worker: WorkerId,
    pub options: RunnerOptions,
    /// What it tells those who look after its version, and is told by them.
    pub life: Arc<Life>,
}

/// What a runner is told between two rounds.
pub(crate) enum Command {
    /// A partition was taken, and is this process's from now on.
    Own(Claim),
    /// A partition is to be given back, when what is under way is committed.
    Disown(Partition),
    /// Take no more events, or go on; and say so when what was under way is committed.
    Pause(bool, Option<oneshot::Sender<()>>),
    /// Start partitions that have stopped or wait.
    Restart,
    /// Take all partitions again, since they were reset; and say so when they are seen to be at the start.
    Retake(oneshot::Sender<()>),
    /// Handle a dead letter after all, or give it up. Unanswered where its partition is another's.
    End(Box<DeadLetter>, LetterEnd, oneshot::Sender<Result<(), Cause>>),
    /// Commit what is under way, give all back, and end.
    Drain,
}

pub(crate) struct Runner<P: Projection, M> {
    shared: Arc<Shared<P, M>>,
    store: AnyStore,
    query: Query,
    /// Those that are not at work.
    lanes: Vec<Lane<P, M>>,
    /// How those that are at work were doing when they began.
    at_work: Vec<PartitionStatus>,
    /// Those of them that are to be given back then.
    leaving: HashSet<Partition>,
    /// Those of them that go on then, should they have stopped.
    restarting: HashSet<Partition>,
    ahead: Option<Ahead<P::Event>>,
    /// It ends when the store stops; and how often that went on then.
    published: watch::Receiver<Position>,
    opening: u64,
    paused: bool,
    /// Until when the log is left alone, after it could not be read; and how often in a row it could not.
    outage: Option<Instant>,
    outages: u32,
    /// Until when a throttled rebuild rests.
    rests_until: Instant,
    statuses: watch::Sender<Vec<PartitionStatus>>,
}

/// Partitions that are at work.
type Workers<P, M> = JoinSet<Lane<P, M>>;

/// How long a partition keeps the others waiting until the log says whether it holds its checkpoint.
const PROVED_WITHIN: Duration = Duration::from_secs(1);

/// How long a round waits for those that are slower than the first at least; and else as long as that took.
const PATIENCE: Duration = Duration::from_millis(50);

impl<P: Project<M>, M: ReadModel> Runner<P, M> {
    pub fn new(
        shared: Shared<P, M>,
        store: AnyStore,
        query: Query,
        statuses: watch::Sender<Vec<PartitionStatus>>,
    ) -> Self {
        let paused = shared.life.paused.load(Ordering::Acquire);
        let shared = Arc::new(shared);
        let published = store.published();
        Self {
            shared,
            store,
            query,
            lanes: Vec::new(),
            at_work: Vec::new(),
            leaving: HashSet::new(),
            restarting: HashSet::new(),
            ahead: None,
            published,
            opening: 0,
            paused,
            outage: None,
            outages: 0,
            rests_until: Instant::now(),
            statuses,
        }
    }

    /// Runs until it is drained, or nobody is left to tell it anything.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut workers = JoinSet::new();
        loop {
            for lane in &mut self.lanes {
                lane.tell_why_stopped().await;
            }
            self.publish();
            let wakes_at = self.wakes_at();
            let command = tokio::select! {
                biased;
                command = commands.recv() => Some(command.unwrap_or(Command::Drain)),
                () = wake(wakes_at) => None,
                Some(lane) = workers.join_next() => {
                    self.is_back(lane).await;
                    continue;
                }
                read = self.read() => {
                    match read {
                        Ok(chunk) => self.round(chunk, &mut workers).await,
                        Err(error) => self.unreadable(error),
                    }
                    continue;
                }
            };
            match command {
                Some(Command::Drain) => {
                    self.gather(&mut workers, |_| true).await;
                    return self.drain().await;
                }
                Some(command) => self.obey(command, &mut workers).await,
                None => self.see_to_lanes().await,
            }
        }
    }

    fn running(&self) -> impl Iterator<Item = &Lane<P, M>> {
        self.lanes.iter().filter(|lane| lane.is_running())
    }

    /// When a partition is to be seen to, or the log is to be read again.
    fn wakes_at(&self) -> Option<Instant> {
        let lanes = self.lanes.iter().filter_map(Lane::wakes_at);
        lanes.chain(self.outage).min()
    }

    /// The next chunk for the partition that is furthest behind; or an empty one, where a partition had to stop.
    async fn read(&mut self) -> Result<Chunk<P::Event>, StoreError> {
        if self.paused || self.outage.is_some() {
            return std::future::pending().await;
        }
        self.went_on();
        for lane in self.lanes.iter_mut().filter(|lane| lane.is_running() && lane.proved_in != Some(self.opening)) {
            let proved = timeout(PROVED_WITHIN, self.store.check(&lane.claim.position)).await;
            match proved
                .unwrap_or_else(|elapsed| Err(StoreError::unavailable("asking the log for a checkpoint", elapsed)))
            {
                Ok(()) => lane.proved_in = Some(self.opening),
                Err(error @ StoreError::Stopped { .. }) => return Err(error),
                Err(error) => {
                    match is_passing(&error) {
                        true => lane.wait_for_log(&error),
                        false => lane.stop(told(&error)),
                    }
                    return Ok(Chunk::default());
                }
            }
        }
        let from = self.running().map(|lane| lane.looked_to).min_by_key(|token| token.position);
        let Some(from) = from else { return std::future::pending().await };
        sleep_until(self.rests_until).await;
        let stands = self.ahead.as_ref().is_some_and(|ahead| ahead.taken_to == from);
        if !stands {
            self.ahead = Some(Ahead::from(&self.store, &self.query, from).await?);
        }
        let chunk_events_max = self.chunk_events_max();
        let Some(ahead) = &mut self.ahead else { return std::future::pending().await };
        ahead.fill(chunk_events_max, self.shared.options.chunk_bytes_max).await?;
        // What is read then is for those that are proved anew.
        if self.went_on() {
            return Ok(Chunk::default());
        }
        self.outages = 0;
        Ok(self.ahead.as_mut().map(Ahead::take).unwrap_or_default())
    }

    /// Whether the store had stopped, and goes on: then each partition goes back to its checkpoint.
    fn went_on(&mut self) -> bool {
        if self.published.has_changed().is_ok() {
            return false;
        }
        let now = self.store.published();
        let went_on = !now.same_channel(&self.published);
        if went_on {
            (self.published, self.ahead) = (now, None);
            self.opening += 1;
            self.lanes.iter_mut().for_each(Lane::go_back);
        }
        went_on
    }

    /// A batch for each of a few partitions; or what a throttled rebuild may take in a quarter of a second.
    fn chunk_events_max(&self) -> usize {
        let batches = self.shared.options.batch_events_max.saturating_mul(self.shared.partitions.clamp(1, 16) as usize);
        self.throttle().map_or(batches, |events_per_second| batches.min(events_per_second.div_ceil(4) as usize))
    }

    /// The most events a second, while a version is built.
    fn throttle(&self) -> Option<u32> {
        let life = &self.shared.life;
        let max = life.events_per_second_max.load(Ordering::Relaxed);
        (max > 0 && life.builds.load(Ordering::Acquire)).then_some(max)
    }

    /// Each partition that is not at work takes its events, while the next chunk is read. Who takes much longer than another
    /// is not waited for.
    async fn round(&mut self, chunk: Chunk<P::Event>, workers: &mut Workers<P, M>) {
        let Some(looked_to) = chunk.looked_to else { return };
        if let Some(events_per_second) = self.throttle() {
            let takes = Duration::from_secs_f64(chunk.events.len() as f64 / f64::from(events_per_second));
            self.rests_until = Instant::now() + takes;
        }
        // Who is about to take over must not be thought to be behind.
        let hurries = chunk.caught_up && self.shared.life.builds.load(Ordering::Acquire);
        let mut shares: Vec<_> = self.lanes.iter().map(|lane| Share::new(lane.claim.replays_to)).collect();
        let mut lane_of = vec![None; self.shared.partitions as usize];
        for (n, lane) in self.lanes.iter().enumerate() {
            lane_of[lane.claim.partition.0 as usize] = Some(n);
        }
        for read in chunk.events {
            let event = recorded(&read);
            let partition = Partition::of(&event.stream, self.shared.partitions);
            if let Some(lane) = lane_of[partition.0 as usize]
                && unseen(&self.lanes[lane].looked_to, event)
            {
                shares[lane].push(read);
            }
        }
        let (began, mut ours) = (Instant::now(), Vec::new());
        for (lane, share) in std::mem::take(&mut self.lanes).into_iter().zip(shares) {
            // One that has looked further must not go back to the end of this chunk.
            if lane.is_running() && lane.looked_to.position < looked_to.position {
                ours.push(lane.claim.partition);
                self.at_work.push(lane.status());
                workers.spawn(lane.take_in(share, looked_to, hurries));
            } else {
                self.lanes.push(lane);
            }
        }
        // Who has nothing to do in this round has in the next, or must be seen to.
        let others_wait = self.lanes.iter().any(|lane| lane.is_running() || lane.wakes_at().is_some());
        let mut until = others_wait.then(|| began + PATIENCE);
        while self.at_work.iter().any(|status| ours.contains(&status.partition)) {
            tokio::select! {
                lane = workers.join_next() => match lane {
                    Some(lane) => self.is_back(lane).await,
                    None => return,
                },
                () = wake(until) => return,
                () = self.read_ahead() => {}
            }
            until.get_or_insert(Instant::now() + began.elapsed().max(PATIENCE));
        }
    }

    /// A partition has done its work.
    async fn is_back(&mut self, lane: Result<Lane<P, M>, JoinError>) {
        let mut lane = match lane {
            Ok(lane) => lane,
            // Handlers' panics are caught before; what is left is a fault of the runner, and must not go unseen.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let partition = lane.claim.partition;
        self.at_work.retain(|status| status.partition != partition);
        if self.restarting.remove(&partition) {
            lane.restart().await;
        }
        if lane.proved_in != Some(self.opening) {
            lane.go_back();
        }
        self.lanes.push(lane);
        self.lanes.sort_by_key(|lane| lane.claim.partition);
        if self.leaving.remove(&partition) {
            self.disown(partition).await;
        }
    }

    /// Waits for the partitions that are at work, as far as they are wanted.
    async fn gather(&mut self, workers: &mut Workers<P, M>, wanted: impl Fn(Partition) -> bool) {
        while self.at_work.iter().any(|status| wanted(status.partition)) {
            match workers.join_next().await {
                Some(lane) => self.is_back(lane).await,
                None => return,
            }
        }
    }

    /// Fills the next chunk, and never returns. An error is found again when the chunk is asked for.
    async fn read_ahead(&mut self) {
        let chunk_events_max = self.chunk_events_max();
        if let Some(ahead) = &mut self.ahead {
            let _ = ahead.fill(chunk_events_max, self.shared.options.chunk_bytes_max).await;
        }
        std::future::pending().await
    }

    /// The log could not be read: later again, or never.
    fn unreadable(&mut self, error: StoreError) {
        self.ahead = None;
        if is_passing(&error) {
            self.outages += 1;
            tracing::warn!(projection = %self.shared.id, %error, "the log could not be read");
            self.outage = Some(Instant::now() + Retry::DEFAULT.pause(self.outages));
            return;
        }
        if self.went_on() {
            return;
        }
        let error = told(&error);
        self.lanes.iter_mut().filter(|lane| lane.is_running()).for_each(|lane| lane.stop(error.clone()));
    }

    /// Partitions that waited go on, and idle ones write how far they have looked.
    async fn see_to_lanes(&mut self) {
        self.went_on();
        let now = Instant::now();
        self.outage = self.outage.filter(|until| *until > now);
        for lane in &mut self.lanes {
            if lane.wakes_at().is_none_or(|at| at > now) {
                continue;
            }
            match lane.state {
                PartitionState::Retrying { .. } => lane.go_on().await,
                _ => lane.write_progress().await,
            }
        }
    }

    async fn obey(&mut self, command: Command, workers: &mut Workers<P, M>) {
        match command {
            Command::Own(claim) => {
                self.gather(workers, |partition| partition == claim.partition).await;
                self.lanes.retain(|known| known.claim.partition != claim.partition);
                self.lanes.push(Lane::new(self.shared.clone(), claim));
            }
            Command::Disown(partition) if self.at_work.iter().any(|status| status.partition == partition) => {
                self.leaving.insert(partition);
            }
            Command::Disown(partition) => self.disown(partition).await,
            Command::Pause(paused, seen) => {
                self.paused = paused;
                if let Some(seen) = seen {
                    self.gather(workers, |_| paused).await;
                    self.publish();
                    let _ = seen.send(());
                }
            }
            Command::Restart => {
                self.restarting.extend(self.at_work.iter().map(|status| status.partition));
                for lane in &mut self.lanes {
                    lane.restart().await;
                }
            }
            Command::Retake(seen) => {
                self.gather(workers, |_| true).await;
                for lane in &mut self.lanes {
                    lane.retake().await;
                }
                self.publish();
                let _ = seen.send(());
            }
            Command::End(letter, end, answer) => {
                self.gather(workers, |partition| partition == letter.partition).await;
                if let Some(ended) = self.end(&letter, &end).await {
                    let _ = answer.send(ended);
                }
            }
            Command::Drain => {}
        }
    }

    /// Handles a dead letter after all, or gives it up, where its partition is: one that has stopped too.
    async fn end(&mut self, letter: &DeadLetter, end: &LetterEnd) -> Option<Result<(), Cause>> {
        let mut lanes = self.lanes.iter_mut().filter(|lane| lane.state != PartitionState::Lost);
        let lane = lanes.find(|lane| lane.claim.partition == letter.partition)?;
        if !lane.is_sure() {
            return Some(Err(format!("partition {} waits for its read model; try again", letter.partition).into()));
        }
        let ended = match self.store.event(letter.event).await {
            Ok(Some(event)) => lane.end_letter(letter, &event, end).await,
            Ok(None) => Err("the log does not hold its event".into()),
            Err(error) => Err(error.into()),
        };
        (lane.state != PartitionState::Lost).then_some(ended)
    }

    /// Gives a partition back.
    async fn disown(&mut self, partition: Partition) {
        self.went_on();
        let Some(at) = self.lanes.iter().position(|lane| lane.claim.partition == partition) else { return };
        let mut lane = self.lanes.remove(at);
        lane.write_progress().await;
        release(&self.shared.model, &lane.claim).await;
    }

    async fn drain(mut self) {
        self.went_on();
        for lane in &mut self.lanes {
            lane.write_progress().await;
        }
        self.publish();
        for lane in &self.lanes {
            release(&self.shared.model, &lane.claim).await;
        }
    }

    fn publish(&self) {
        let mut now: Vec<PartitionStatus> = self.lanes.iter().map(Lane::status).collect();
        let takes_none = now.iter_mut().filter(|status| self.paused && status.state == PartitionState::Running);
        takes_none.for_each(|status| status.state = PartitionState::Paused);
        now.extend(self.at_work.iter().cloned());
        now.sort_by_key(|status| status.partition);
        self.statuses.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

async fn release<M: ReadModel>(model: &M, claim: &Claim) {
    if let Err(error) = model.release(claim).await {
        tracing::warn!(projection = %claim.projection, partition = %claim.partition, %error,
            "could not be given back; its lease will run out");
    }
}

/// Whether a partition that has looked so far has not seen an event.
fn unseen(looked_to: &Token, event: &RecordedEvent) -> bool {
    #[cfg(feature = "bugs")]
    if crate::bugs::is(crate::bugs::Bug::DoubledAtSeam) {
        return true;
    }
    looked_to.position < event.position
}

/// Whether the log may be read later.
fn is_passing(error: &StoreError) -> bool {
    error.is_retryable() || matches!(error, StoreError::Stopped { .. })
}

/// Sleeps until then, or for ever.
async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
