//! Projections: read models exactly in step with the log, and the workers that run them.
//!
//! An author writes a [`Projection`] and how it is [projected](Project) into a [`ReadModel`]; a [`Worker`] runs any number
//! of them over a store, and [`Answer`]s are given from what they keep.
//!
//! # What is promised
//!
//! - **P1 Once.** What a handler writes and how far it has come are committed together, so that each event counts once,
//!   whenever the worker is killed.
//! - **P2 In order.** Events come in the [order](Order) of their streams, or of the whole log.
//! - **P3 Nothing is skipped in silence.** An event that can't be handled is tried again; when no retry helps, its partition
//!   stops, or it is parked with all that follows it in its stream, as the projection [says](OnFailure).
//! - **P4 One owner.** Of workers that believe a partition theirs, the one that took it last can commit, and no other.
//! - **P5 Rebuilt beside.** A new [version](Projection::VERSION) is built beside the current one, which queries see until
//!   the new one has caught up.
//! - **P6 Your own writes.** [`Running::wait_for`] waits until the read model has seen an append, and [`Views::wait_for`]
//!   in a process that runs no worker; both say at once when that will not come about.
//! - **P7 Seen.** Where each partition is, who owns it, and what keeps it, is told as [status](Running::status), as
//!   [versions](Running::versions), and as metrics.
//!
//! # Operating
//!
//! An operator speaks to any one of the workers that run a projection. [`Running::pause`], [`resume`](Running::resume) and
//! [`throttle`](Running::throttle) are kept in the read model, and go for all of them, those too that come later.
//! [`Running::redrive`], [`discard`](Running::discard) and [`restart`](Running::restart) reach the worker that owns the
//! partition, and say what came of it there.
//!
//! # Metrics
//!
//! Through the [`metrics`] facade, under names that begin with `indelible_projection_` and with the labels `projection` and
//! `partition`: counters `events_total`, `batches_total`, `retries_total`, `dead_letters_total`; histograms `batch_events`,
//! `batch_seconds`, `lag_seconds` (from an event recorded to its batch committed); gauges `position` and `lag_events` of the
//! partitions that this process owns, once a second. By `projection` alone: gauges `partitions_owned`,
//! `partitions_stopped`, `streams_parked`, and `behind_seconds`, the age of the oldest event that one of these partitions has
//! not looked at: 0 where none is behind, and it grows while one has stopped, is paused or stalls, when no batch is there to
//! tell of a lag. Install the recorder before the worker starts.
//!
//! The same is asked of the API:
//!
//! | what | of this process | of all of them |
//! |---|---|---|
//! | position | [`PartitionStatus::looked_to`] | [`PartitionRow::position`], [`VersionStatus::position`] |
//! | lag, in events | [`PartitionStatus::lag_events`] | [`VersionStatus::lag_events`] |
//! | lag, in time | | [`VersionStatus::behind_since`] |
//! | rate | [`Running::rates`] | [`Progress::events_per_second`], while a version is built |
//! | batch sizes | [`PartitionStatus::events`] by [`PartitionStatus::batches`] | |
//! | retries | [`PartitionStatus::retries`], [`PartitionState::Retrying`] | |
//! | dead letters | [`PartitionStatus::parked`] | [`PartitionRow::parked`], [`ReadModel::letters`] |
//! | owners | | [`PartitionRow::owner`], [`ReadModel::workers`] |
//!
//! Each batch is a [`tracing`] span `projection batch`, whose field `correlations` names the correlation ids inside.

// In reading order: what an author writes, what it is kept in, what runs it, what asks it.
mod partition;
mod projection;

mod at_least_once;
pub mod memory;
mod read_model;
mod table;

mod errand;
mod lease;
mod runner;
mod running;
mod status;
mod version;
mod wait;
mod worker;

mod query;

#[cfg(feature = "bars")]
pub mod bars;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "bugs")]
pub mod bugs;

/// ```
/// use indelible_projections::{OnFailure, Order, Projection};
/// # use indelible_core::{Aggregate, Apply, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Deposited { cents: i64 }, Withdrawn { cents: i64 } }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "account")]
/// # struct Account {}
/// # impl Apply for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
///
/// #[derive(Projection)]
/// #[projection(name = "balances", version = 2, of = Account, partitions = 4, park)]
/// struct Balances;
///
/// assert_eq!(Balances::ORDER, Order::PerStream { partitions: 4 });
/// assert_eq!(Balances::ON_FAILURE, OnFailure::PARK);
/// ```
#[cfg(feature = "derive")]
pub use indelible_derive::Projection;

pub use at_least_once::{AtLeastOnce, DirectTx};
pub use indelible_core::Cause;
pub use partition::{PARTITIONS_MAX, Partition, ProjectionId};
pub use projection::{Envelope, OnFailure, Order, Project, Projection, Retry, Wants};
pub use query::{Answer, Composed, Missing, Question, Views};
pub use read_model::{
    Advance, Claim, DeadLetter, Done, Epoch, Errand, Lease, LetterEnd, PartitionRow, ReadModel, ReadModelError,
    Registration, Roster, VersionRow, VersionState, Want, Wanted, Wish, WorkerId, WorkerRow,
};
pub use runner::RunnerOptions;
pub use running::Running;
pub use status::{PartitionState, PartitionStatus};
pub use table::{Index, Indexes, Key, Prefix, ReadTables, Rows, Table, Tables, Value, WritableTables, WriteTables};
pub use version::{Progress, VersionStatus};
pub use wait::{WaitError, Waited};
pub use worker::{StartError, Worker};

/// What derived code calls.
#[doc(hidden)]
pub mod __private {
    pub use indelible_core::Apply;
}
