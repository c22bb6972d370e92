//! How far the partitions have come that this process owns.

use std::{collections::HashSet, sync::Arc};

use indelible_core::{Position, StreamId, Timestamp, Token};

use crate::{Epoch, Partition};

/// Where a partition that this process owns is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// The partition.
    pub partition: Partition,
    /// With which epoch it was taken.
    pub epoch: Epoch,
    /// How it is doing.
    pub state: PartitionState,
    /// All its events up to here are in the read model, or parked. Its checkpoint may be a second behind, where none of
    /// the events since was wanted.
    pub looked_to: Token,
    /// How many events it has handled since it was taken.
    pub events: u64,
    /// In how many batches.
    pub batches: u64,
    /// How often events were tried again since then.
    pub retries: u64,
    /// When the event was recorded that was handled or parked last.
    pub recorded_at: Option<Timestamp>,
    /// Its parked streams.
    pub parked: Arc<HashSet<StreamId>>,
}

impl PartitionStatus {
    /// How many events the log has behind those that it has looked at, wanted or not.
    pub fn lag_events(&self, head: Position) -> u64 {
        head.get().saturating_sub(self.looked_to.position.get())
    }
}

/// How a partition is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// It takes events as they come.
    Running,
    /// It would, but its projection was [paused](crate::Running::pause).
    Paused,
    /// It waits, to try something again.
    Retrying {
        /// What went wrong.
        error: Arc<str>,
        /// How often it was tried.
        attempts: u32,
    },
    /// It has stopped, and goes on when it is [told to](crate::Running::restart).
    Stopped {
        /// What went wrong.
        error: Arc<str>,
    },
    /// Another worker took it, and this one gives it up.
    Lost,
}
