//! Versions of a projection (P5): one that is built beside the current one takes over when it has caught up, one that was
//! reset says so, and how far they have come is told.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use indelible_core::{AnyStore, Position, ReadLog, StoreError, Timestamp};
use tokio::{
    sync::{Mutex, Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};

use crate::{
    PartitionRow, PartitionStatus, ProjectionId, ReadModel, ReadModelError, RunnerOptions, VersionRow, VersionState,
    Wanted, runner::Command,
};

mod gauges;

use gauges::Gauges;

/// How often is looked whether a version has caught up, and whether another took over.
const BUILDING_EVERY: Duration = Duration::from_millis(200);
const STEADY_EVERY: Duration = Duration::from_secs(1);
/// Over how many looks a rate is told.
const RATE_OVER: usize = 25;

/// How far a version of a projection has come, in all processes together.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Which.
    pub projection: ProjectionId,
    /// What it is to queries.
    pub state: VersionState,
    /// The events of the log that every partition has looked at, wanted or not.
    pub done: u64,
    /// Those that are still to be looked at.
    pub to_go: u64,
    /// How many it has looked at in a second, over the last seconds.
    pub events_per_second: f64,
    /// How long it takes at that rate; `None` while it stands still.
    pub left: Option<Duration>,
}

impl Progress {
    pub(crate) fn of(version: &VersionRow) -> Self {
        let (projection, state) = (version.projection.clone(), version.state);
        Self { projection, state, done: 0, to_go: version.replays_to.get(), events_per_second: 0.0, left: None }
    }

    pub(crate) fn is_built(&self) -> bool {
        matches!(self.state, VersionState::Building | VersionState::Rebuilding)
    }
}

/// A version of a projection as its read model knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VersionStatus {
    /// The version, and what it is to queries.
    pub version: VersionRow,
    /// Its partitions: where they are, since when, who owns them.
    pub partitions: Vec<PartitionRow>,
    /// Whether somebody feeds it. One that stands does so at its [position](Self::position), and catches up from there
    /// when a worker has its code again.
    pub fed: bool,
    /// The head of the log.
    pub head: Position,
    /// When the first event was recorded that not all of them have looked at.
    pub behind_since: Option<Timestamp>,
}

impl VersionStatus {
    /// How far all its partitions have looked.
    pub fn position(&self) -> Position {
        position(&self.partitions)
    }

    /// How many events the log has behind that, wanted or not.
    pub fn lag_events(&self) -> u64 {
        self.head.get().saturating_sub(self.position().get())
    }
}

pub(crate) fn position(rows: &[PartitionRow]) -> Position {
    rows.iter().map(|row| row.position.position).min().unwrap_or(Position::START)
}

/// When the first event behind a position was recorded.
pub(crate) async fn behind_since(store: &AnyStore, position: Position) -> Result<Option<Timestamp>, StoreError> {
    let next = store.read_log(&ReadLog::all().from(position.plus(1)).limit(1)).await?;
    Ok(next.events.first().map(|event| event.recorded_at))
}

/// What was counted at the last looks, and when.
#[derive(Debug, Default)]
struct Rate(VecDeque<(Instant, u64)>);

impl Rate {
    /// How many it were in a second, with this look.
    fn at(&mut self, count: u64) -> f64 {
        self.0.push_back((Instant::now(), count));
        if self.0.len() > RATE_OVER {
            self.0.pop_front();
        }
        let (began_at, before) = self.0[0];
        let seconds = began_at.elapsed().as_secs_f64();
        if seconds > 0.0 { count.saturating_sub(before) as f64 / seconds } else { 0.0 }
    }
}

/// What the runner and its overseer tell each other.
#[derive(Debug)]
pub(crate) struct Life {
    /// It is being built: it hurries to write how far it has looked, and may be throttled.
    pub builds: AtomicBool,
    /// The most events a second while it is built; 0 for as many as it can.
    pub events_per_second_max: AtomicU32,
    /// Somebody wants it to take over, though another had done so.
    pub wanted: AtomicBool,
    /// The read model is known to say that it is paused.
    pub paused: AtomicBool,
    /// Of who reads or changes what is wanted, and has the runner do it: no older word comes after a newer one.
    pub turn: Mutex<()>,
    /// How many events were handled here.
    pub handled: AtomicU64,
    /// It was reset, which is to be seen at once.
    pub reset: Notify,
}

impl Life {
    /// As the row of a version says, and where that says nothing, the options.
    pub fn of(version: &VersionRow, options: &RunnerOptions) -> Self {
        let Wanted { paused, building_events_per_second_max } = version.wanted;
        let max = building_events_per_second_max.or(options.building_events_per_second_max);
        Self {
            builds: (version.state != VersionState::Current).into(),
            events_per_second_max: max.unwrap_or(0).into(),
            wanted: false.into(),
            paused: paused.into(),
            turn: Mutex::default(),
            handled: 0.into(),
            reset: Notify::new(),
        }
    }
}

/// Looks after the version of a projection that this process runs.
pub(crate) struct Overseer<M> {
    pub model: M,
    pub store: AnyStore,
    pub id: ProjectionId,
    pub life: Arc<Life>,
    pub tell: mpsc::Sender<Command>,
    pub progress: watch::Sender<Progress>,
    /// How many events are handled here in a second.
    pub rate: watch::Sender<f64>,
    pub owned: watch::Receiver<Vec<PartitionStatus>>,
}

impl<M: ReadModel> Overseer<M> {
    /// Until its runner has ended.
    pub async fn run(self) {
        let mut runner = self.owned.clone();
        let mut target = None;
        let (mut handled, mut looked_at) = (Rate::default(), Rate::default());
        let mut gauges = Gauges::default();
        loop {
            let builds = match self.look(&mut target, &mut looked_at).await {
                Ok(builds) => builds,
                Err(ReadModelError::Unsupported { .. }) => false,
                Err(error) => {
                    tracing::warn!(projection = %self.id, %error, "its versions could not be looked at");
                    false
                }
            };
            self.rate.send_replace(handled.at(self.life.handled.load(Ordering::Relaxed)));
            let head = *self.store.published().borrow();
            let furthest = gauges.set(&self.id, &self.owned.borrow(), head);
            let behind = gauges.set_behind(&self.id, furthest.filter(|position| *position < head), &self.store);
            let _ = timeout(STEADY_EVERY, behind).await; // a log that is away keeps nobody
            tokio::select! {
                _ = runner.wait_for(|_| false) => return,
                () = self.life.reset.notified() => {}
                () = sleep(if builds { BUILDING_EVERY } else { STEADY_EVERY }) => {}
            }
        }
    }

    /// `target` is the head as it was a look ago: who has come so far has caught up.
    async fn look(&self, target: &mut Option<Position>, looked_at: &mut Rate) -> Result<bool, ReadModelError> {
        let turn = self.life.turn.lock().await;
        let versions = self.model.versions(&self.id.name).await?;
        let Some(own) = versions.iter().find(|row| row.projection == self.id) else {
            return Err(ReadModelError::Unknown { projection: self.id.to_string() });
        };
        self.obey(own.wanted);
        drop(turn);
        let newer = versions.iter().any(|row| row.state.is_current() && row.projection.version > self.id.version);
        let builds = match own.state {
            VersionState::Rebuilding => true,
            VersionState::Building if !newer => true,
            VersionState::Current => false,
            _ => self.life.wanted.load(Ordering::Acquire),
        };
        self.life.builds.store(builds, Ordering::Release);
        if !builds {
            self.progress.send_modify(|progress| progress.state = own.state);
            (*target, *looked_at) = (None, Rate::default());
            return Ok(false);
        }
        let head = *self.store.published().borrow();
        let done = position(&self.model.partitions(&self.id).await?);
        self.tell(own.state, done, head, looked_at.at(done.get()));
        let caught_up = target.replace(head).is_some_and(|target| done >= target);
        if caught_up {
            self.arrive(own.state).await?;
        }
        Ok(true)
    }

    /// Does what was said elsewhere. Once, so that who is told here, by an operator, is not contradicted by what is kept
    /// nowhere.
    fn obey(&self, wanted: Wanted) {
        let is_news = self.life.paused.load(Ordering::Acquire) != wanted.paused;
        if is_news && self.tell.try_send(Command::Pause(wanted.paused, None)).is_ok() {
            self.life.paused.store(wanted.paused, Ordering::Release);
        }
        if let Some(max) = wanted.building_events_per_second_max {
            self.life.events_per_second_max.store(max, Ordering::Relaxed);
        }
    }

    async fn arrive(&self, state: VersionState) -> Result<(), ReadModelError> {
        match state {
            VersionState::Rebuilding => self.model.caught_up(&self.id).await?,
            _ => match self.model.take_over(&self.id).await {
                Err(ReadModelError::Behind { .. }) => return Ok(()), // by a few events; at the next look
                done => done?,
            },
        }
        tracing::info!(projection = %self.id, "has caught up, and is what queries see");
        Ok(())
    }

    fn tell(&self, state: VersionState, done: Position, head: Position, rate: f64) {
        let to_go = head.get().saturating_sub(done.get());
        self.progress.send_replace(Progress {
            projection: self.id.clone(),
            state,
            done: done.get(),
            to_go,
            events_per_second: rate,
            left: (rate > 0.0).then(|| Duration::from_secs_f64(to_go as f64 / rate)),
        });
    }
}
