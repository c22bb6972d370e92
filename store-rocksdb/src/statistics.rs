//! What a store has done and how it is, as a struct and through the `metrics` facade. Its counters are fed by `append`,
//! `read` and `keeper`; gauges are set by the keeper, about once a second while events come in.
//!
//! | name, behind `indelible_rocksdb_` | kind | what |
//! |---|---|---|
//! | `appends_total`, `events_total` | counters | written |
//! | `reads_total` | counter | calls that read |
//! | `group_events` | histogram | events a group |
//! | `sync_seconds` | histogram | writes that waited for the disk |
//! | `stall_seconds` | histogram | waits of the sequencer for the index |
//! | `index_seconds` | histogram | moves of a part of the log into the index |
//! | `snapshots_damaged_total` | counter | snapshots that were ignored |
//! | `appends_under_way`, `queue_bytes` | gauges | callers that wait, and what they sent |
//! | `head`, `streams` | gauges | the last position, and how many streams there are |
//! | `index_lag_events`, `anchor_lag_events` | gauges | how far the index and the anchor are behind it |
//! | `log_bytes`, `index_bytes`, `buffered_bytes` | gauges | tables, and what is in the write-ahead logs alone |
//! | `compaction_pending_bytes`, `write_stopped` | gauges | what RocksDB is behind with, and whether it takes nothing (1) |
//! | `stopped` | gauge | whether the store has stopped itself (1); set when that changes |

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use indelible_core::Position;
use rocksdb::{
    ColumnFamily, DB,
    properties::{
        CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_PENDING_COMPACTION_BYTES, IS_WRITE_STOPPED, PropName, TOTAL_SST_FILES_SIZE,
    },
};

use crate::store::{Run, Shared};

/// What a store has done since it was opened, and how it is now. Cheap to ask for: nothing is read from the disk.
///
/// The same goes to the [`metrics`] facade, under names that begin with `indelible_rocksdb_`: counters `appends_total`,
/// `events_total`, `reads_total`, `snapshots_damaged_total`; histograms `group_events`, `sync_seconds`, `stall_seconds`,
/// `index_seconds`; and the gauges, set about once a second while events come in: `appends_under_way`, `queue_bytes`, `head`,
/// `streams`, `index_lag_events`, `anchor_lag_events`, `log_bytes`, `index_bytes`, `buffered_bytes`, `compaction_pending_bytes`, and
/// `write_stopped`, which is 1 or 0. A gauge `stopped` is set to 1 at once when a store stops itself; the others stay what
/// they were then. Stores in one process share the names; this struct tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// How long ago it was opened: what is counted since, divided by it, are rates.
    pub open_for: Duration,
    /// Appends that were written.
    pub appends: u64,
    /// Events that were written.
    pub events: u64,
    /// Writes to the disk, each of a group of appends and checkpoints.
    pub groups: u64,
    /// The most events that a group had.
    pub largest_group: u64,
    /// Those writes that waited for the disk.
    pub syncs: u64,
    /// How long they took together.
    pub sync_time: Duration,
    /// How often the sequencer waited for the index to catch up, and everyone with it. Where RocksDB itself makes writes
    /// wait, that is in the [time of syncs](Self::sync_time).
    pub stalls: u64,
    /// How long it waited.
    pub stall_time: Duration,
    /// Calls that read: pages, heads, events, tokens, snapshots and checkpoints.
    pub reads: u64,

    /// Appends that were called and not answered yet.
    pub appends_under_way: u64,
    /// What they hold of the [queue](crate::Options::queue_bytes).
    pub queue_bytes: u64,
    /// The last position: how many events the log has.
    pub head: u64,
    /// How many streams the log has.
    pub streams: u64,
    /// How many events are in no index on the disk yet.
    pub index_lag: u64,
    /// How many events the anchor doesn't know of.
    pub anchor_lag: u64,
    /// The tables of the log.
    pub log_bytes: u64,
    /// The tables of the index and of snapshots.
    pub index_bytes: u64,
    /// What is in memory and in the write-ahead logs, and not in tables yet.
    pub buffered_bytes: u64,
    /// What RocksDB has still to rewrite, about.
    pub compaction_pending_bytes: u64,
    /// Whether RocksDB takes no writes until it has caught up.
    pub is_write_stopped: bool,
    /// Whether the store takes no appends: it was closed, or has stopped itself until it is
    /// [resumed](crate::RocksStore::resume).
    pub is_stopped: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    appends: AtomicU64,
    events: AtomicU64,
    groups: AtomicU64,
    largest_group: AtomicU64,
    syncs: AtomicU64,
    sync_nanos: AtomicU64,
    stalls: AtomicU64,
    stall_nanos: AtomicU64,
    reads: AtomicU64,
    under_way: AtomicU64,
    anchored: AtomicU64,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Counters {
    fn snapshot(&self) -> Statistics {
        Statistics {
            appends: self.appends.load(Relaxed),
            events: self.events.load(Relaxed),
            groups: self.groups.load(Relaxed),
            largest_group: self.largest_group.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            sync_time: Duration::from_nanos(self.sync_nanos.load(Relaxed)),
            stalls: self.stalls.load(Relaxed),
            stall_time: Duration::from_nanos(self.stall_nanos.load(Relaxed)),
            reads: self.reads.load(Relaxed),
            appends_under_way: self.under_way.load(Relaxed),
            ..Statistics::default()
        }
    }

    pub(crate) fn read(&self) {
        self.reads.fetch_add(1, Relaxed);
        metrics::counter!("indelible_rocksdb_reads_total").increment(1);
    }

    /// An append was called; it is under way until what this returns is dropped.
    pub(crate) fn enter(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Relaxed);
        UnderWay(&self.under_way)
    }

    /// A group was written, in so much time.
    pub(crate) fn group(&self, appends: u64, events: u64, synced: bool, took: Duration) {
        self.appends.fetch_add(appends, Relaxed);
        self.events.fetch_add(events, Relaxed);
        self.groups.fetch_add(1, Relaxed);
        self.largest_group.fetch_max(events, Relaxed);
        metrics::counter!("indelible_rocksdb_appends_total").increment(appends);
        metrics::counter!("indelible_rocksdb_events_total").increment(events);
        metrics::histogram!("indelible_rocksdb_group_events").record(events as f64);
        if synced {
            self.syncs.fetch_add(1, Relaxed);
            self.sync_nanos.fetch_add(nanos(took), Relaxed);
            metrics::histogram!("indelible_rocksdb_sync_seconds").record(took);
        }
    }

    /// The sequencer waited for the index.
    pub(crate) fn stall(&self, took: Duration) {
        self.stalls.fetch_add(1, Relaxed);
        self.stall_nanos.fetch_add(nanos(took), Relaxed);
        metrics::histogram!("indelible_rocksdb_stall_seconds").record(took);
    }

    pub(crate) fn anchored(&self, position: Position) {
        self.anchored.store(position.get(), Relaxed);
    }
}

/// An append that is under way.
pub(crate) struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What a store has done, and how it is where it is open.
pub(crate) fn of(shared: &Shared) -> Statistics {
    let closed = |_| Statistics { is_stopped: true, ..shared.counters.snapshot() };
    let now = shared.with_run(|run| of_run(shared, run)).unwrap_or_else(closed);
    Statistics { open_for: shared.opened_at.elapsed(), ..now }
}

fn of_run(shared: &Shared, run: &Run) -> Statistics {
    let head = run.seen.last().position.get();
    let segments = run.seen.tail.segments();
    let families: [(&DB, Option<&ColumnFamily>); 4] = [
        (&run.engine.log, None),
        (&run.engine.log, Some(run.engine.state())),
        (&run.engine.index, None),
        (&run.engine.index, Some(run.engine.snapshots())),
    ];
    let sum = |families: &[(&DB, Option<&ColumnFamily>)], name: &PropName| {
        let value = |(db, family): &(&DB, Option<&ColumnFamily>)| match family {
            None => db.property_int_value(name),
            Some(family) => db.property_int_value_cf(*family, name),
        };
        families.iter().filter_map(|family| value(family).ok().flatten()).sum::<u64>()
    };
    Statistics {
        queue_bytes: run.room.taken() as u64,
        head,
        streams: segments.active().streams_to_its_end(),
        index_lag: head.saturating_sub(segments.indexed().get()),
        anchor_lag: head.saturating_sub(shared.counters.anchored.load(Relaxed)),
        log_bytes: sum(&families[..2], TOTAL_SST_FILES_SIZE),
        index_bytes: sum(&families[2..], TOTAL_SST_FILES_SIZE),
        buffered_bytes: sum(&families, CUR_SIZE_ALL_MEM_TABLES),
        compaction_pending_bytes: sum(&families, ESTIMATE_PENDING_COMPACTION_BYTES),
        is_write_stopped: sum(&families, IS_WRITE_STOPPED) > 0,
        is_stopped: shared.has_failed(),
        ..shared.counters.snapshot()
    }
}

/// A store stops itself, or goes on.
pub(crate) fn set_stopped(is_stopped: bool) {
    metrics::gauge!("indelible_rocksdb_stopped").set(f64::from(u8::from(is_stopped)));
}

/// Sets the gauges. Called by the keeper.
pub(crate) fn set_gauges(shared: &Shared, run: &Run) {
    let now = of_run(shared, run);
    let stopped = u64::from(now.is_write_stopped);
    metrics::gauge!("indelible_rocksdb_appends_under_way").set(now.appends_under_way as f64);
    metrics::gauge!("indelible_rocksdb_queue_bytes").set(now.queue_bytes as f64);
    metrics::gauge!("indelible_rocksdb_head").set(now.head as f64);
    metrics::gauge!("indelible_rocksdb_streams").set(now.streams as f64);
    metrics::gauge!("indelible_rocksdb_index_lag_events").set(now.index_lag as f64);
    metrics::gauge!("indelible_rocksdb_anchor_lag_events").set(now.anchor_lag as f64);
    metrics::gauge!("indelible_rocksdb_log_bytes").set(now.log_bytes as f64);
    metrics::gauge!("indelible_rocksdb_index_bytes").set(now.index_bytes as f64);
    metrics::gauge!("indelible_rocksdb_buffered_bytes").set(now.buffered_bytes as f64);
    metrics::gauge!("indelible_rocksdb_compaction_pending_bytes").set(now.compaction_pending_bytes as f64);
    metrics::gauge!("indelible_rocksdb_write_stopped").set(stopped as f64);
}
