//! What can be set about running a projection.

use std::time::Duration;

/// How a projection is run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RunnerOptions {
    /// The most events in one transaction: 1,000.
    pub batch_events_max: usize,
    /// About the most bytes of events that are read ahead: 16 MiB. Each partition that is at work keeps what it took of
    /// such a chunk; on RocksDB, with the blocks of the log that this stands in.
    pub chunk_bytes_max: usize,
    /// The longest time that a handler may take for a batch: 60 s. One that never awaits anything cannot be interrupted.
    pub batch_time_max: Duration,
    /// The most events a second that a version takes while it is built beside the current one, or rebuilt; `None`, the
    /// default, for as many as it can. See [`Running::throttle`](crate::Running::throttle).
    pub building_events_per_second_max: Option<u32>,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self {
            batch_events_max: 1_000,
            chunk_bytes_max: 16 * 1024 * 1024,
            batch_time_max: Duration::from_secs(60),
            building_events_per_second_max: None,
        }
    }
}
