//! What a read model is told, and what it tells: versions, partitions, dead letters, workers.

use std::time::Duration;

use indelible_core::{EventId, EventType, Position, StreamId, Timestamp, Token, Version};

use crate::{Partition, ProjectionId};

/// A version of a projection that is to be known.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Which.
    pub projection: ProjectionId,
    /// How many partitions it has.
    pub partitions: u32,
    /// The head of the log now: where the history of a new version ends.
    pub head: Token,
    /// What makes room for a new version: [`Project::SETUP`](crate::Project::SETUP).
    pub setup: &'static str,
}

impl Registration {
    /// The version that is known then; for read models.
    pub fn version(&self, state: VersionState) -> VersionRow {
        let Self { projection, partitions, head, .. } = self;
        VersionRow {
            projection: projection.clone(),
            partitions: *partitions,
            replays_to: head.position,
            state,
            wanted: Wanted::default(),
        }
    }

    /// Its partitions, which nobody has had yet; for read models.
    pub fn rows(&self) -> Vec<PartitionRow> {
        let row = |partition| PartitionRow {
            partition: Partition(partition),
            epoch: Epoch::default(),
            position: Token::start(self.head.store),
            updated_at: Timestamp::now(),
            owner: None,
            parked: 0,
            stopped: None,
        };
        (0..self.partitions).map(row).collect()
    }
}

/// A version of a projection that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionRow {
    /// Which.
    pub projection: ProjectionId,
    /// How many partitions it has.
    pub partitions: u32,
    /// The last event of its history.
    pub replays_to: Position,
    /// What it is to queries.
    pub state: VersionState,
    /// What operators want of it.
    pub wanted: Wanted,
}

/// What operators want of a version: of all workers that run it, until they want something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// It takes no more events.
    pub paused: bool,
    /// The most events a second that each worker takes into it while it is built, 0 for as many as it can. `None` while
    /// nobody has said: as the [options](crate::RunnerOptions::building_events_per_second_max) of each worker say.
    pub building_events_per_second_max: Option<u32>,
}

impl Wanted {
    /// What is wanted then; for read models.
    pub fn apply(&mut self, want: Want) {
        match want {
            Want::Paused(paused) => self.paused = paused,
            Want::BuildingEventsPerSecondMax(max) => self.building_events_per_second_max = Some(max),
        }
    }
}

/// One thing that an operator wants of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// That it takes no more events, or goes on.
    Paused(bool),
    /// So many events a second at the most while it is built; 0 for as many as it can.
    BuildingEventsPerSecondMax(u32),
}

/// What a version is to queries (P5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// It has never been the current one: it is built beside that, and takes over when it has caught up.
    Building,
    /// Queries see it.
    Current,
    /// It is the current one, was reset, and has not caught up yet: queries answer
    /// [`Rebuilding`](crate::ReadModelError::Rebuilding).
    Rebuilding,
    /// It was the current one, before another took over.
    Former,
}

impl VersionState {
    /// Whether queries see this version, or will when it is rebuilt.
    pub fn is_current(self) -> bool {
        matches!(self, Self::Current | Self::Rebuilding)
    }
}

/// How often a partition has changed hands: who took it with a lower one can commit nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A partition that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The projection.
    pub projection: ProjectionId,
    /// The partition.
    pub partition: Partition,
    /// The epoch it was taken with.
    pub epoch: Epoch,
    /// How far it has come.
    pub position: Token,
    /// Its parked streams.
    pub parked: Vec<StreamId>,
    /// The last event of the version's history, as [`VersionRow::replays_to`].
    pub replays_to: Position,
}

/// A step of a partition's checkpoint, which the row must agree with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The projection.
    pub projection: ProjectionId,
    /// The partition.
    pub partition: Partition,
    /// The epoch it was taken with.
    pub epoch: Epoch,
    /// Where it is.
    pub from: Token,
    /// Where it will be. The same for a dead letter that is redriven.
    pub to: Token,
}

/// Where a partition is, as the database tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionRow {
    /// The partition.
    pub partition: Partition,
    /// Its epoch.
    pub epoch: Epoch,
    /// How far it has looked.
    pub position: Token,
    /// When that was written, by the database's clock.
    pub updated_at: Timestamp,
    /// Who owns it, by a lease that has not run out.
    pub owner: Option<WorkerId>,
    /// How many of its streams are parked.
    pub parked: usize,
    /// Why it has [stopped](crate::ReadModel::stopped), where it has.
    pub stopped: Option<String>,
}

/// An event that could not be handled, or that waits behind one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The partition of its stream.
    pub partition: Partition,
    /// The event's id, by which the log has it.
    pub event: EventId,
    /// Its stream.
    pub stream: StreamId,
    /// Its version there.
    pub version: Version,
    /// Its position in the log.
    pub position: Position,
    /// Its stored type.
    pub event_type: EventType,
    /// Why it was parked; `None` where it only waits behind another of its stream.
    pub error: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was parked.
    pub parked_at: Timestamp,
}

/// What became of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterEnd {
    /// Its event was handled.
    Redriven,
    /// It was given up, for this reason, which is kept.
    Discarded(String),
}

/// What an operator wants of a partition, written down for the worker that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Unlike any other's.
    pub id: u64,
    /// The partition.
    pub partition: Partition,
    /// What is to be done.
    pub errand: Errand,
}

/// What came of a wish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// How many dead letters were handled or given up.
    pub letters: u64,
    /// Why that was not all.
    pub error: Option<String>,
}

/// What the owner of a partition can do for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Start what has stopped.
    Restart,
    /// Handle the dead letters of a stream after all, in order.
    Redrive {
        /// The stream.
        stream: StreamId,
        /// The last of them.
        to: Position,
    },
    /// Give a dead letter up.
    Discard {
        /// Its stream.
        stream: StreamId,
        /// Its position.
        position: Position,
        /// Why.
        reason: String,
    },
}

/// A worker's name, unlike any other's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub String);

/// A worker as the registry shows it, for one version of a projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRow {
    /// Its name.
    pub id: WorkerId,
    /// Where it runs.
    pub host: String,
    /// Since when.
    pub since: Timestamp,
    /// The version that it runs: a rolling deployment has old code and new at once.
    pub runs: ProjectionId,
    /// How many of its partitions have stopped, or wait to try something again.
    pub troubled: u32,
}

/// Who runs a version of a projection, and who owns which of its partitions. Empty where there are no leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// The workers that renewed within the lease time.
    pub workers: Vec<WorkerRow>,
    /// The leases that have not run out.
    pub leases: Vec<Lease>,
}

/// A partition that is leased to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The partition.
    pub partition: Partition,
    /// To whom.
    pub worker: WorkerId,
    /// For how long yet, by the database's clock.
    pub expires_in: Duration,
}
