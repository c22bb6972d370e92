//! What a store has done since it was opened; the same goes to the `metrics` facade.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Appends that were written.
    pub appends: u64,
    /// Events that were written.
    pub events: u64,
    /// Writes to the disk, each of a group of appends, snapshots and checkpoints.
    pub groups: u64,
    /// Those of them that waited for the disk.
    pub syncs: u64,
    /// Calls that read: pages, heads, events, tokens, snapshots and checkpoints.
    pub reads: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    appends: AtomicU64,
    events: AtomicU64,
    groups: AtomicU64,
    syncs: AtomicU64,
    reads: AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Statistics {
        Statistics {
            appends: self.appends.load(Relaxed),
            events: self.events.load(Relaxed),
            groups: self.groups.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            reads: self.reads.load(Relaxed),
        }
    }

    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Relaxed);
        metrics::counter!("indelible_rocksdb_reads_total").increment(1);
    }

    /// A group was written, in so much time.
    pub(crate) fn group(&self, appends: u64, events: u64, synced: bool, took: Duration) {
        self.appends.fetch_add(appends, Relaxed);
        self.events.fetch_add(events, Relaxed);
        self.groups.fetch_add(1, Relaxed);
        self.syncs.fetch_add(synced.into(), Relaxed);
        metrics::counter!("indelible_rocksdb_appends_total").increment(appends);
        metrics::counter!("indelible_rocksdb_events_total").increment(events);
        metrics::histogram!("indelible_rocksdb_group_events").record(events as f64);
        if synced {
            metrics::histogram!("indelible_rocksdb_sync_seconds").record(took);
        }
    }
}
