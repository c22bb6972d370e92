//! Seeded bugs: a test switches one on, and must catch it. Compiled in by the feature `bugs`, for tests alone, and off
//! until chosen.

use std::cell::Cell;

use crate::{Epoch, PartitionRow, WorkerId};

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A batch is committed whoever owns the partition by now, and wherever its checkpoint is.
    LeaseWithoutFencing,
    /// Who held a partition once gets it back by renewing, under whoever has taken it.
    RenewAfterExpiry,
    /// A partition takes the events of a chunk that it has seen already.
    DoubledAtSeam,
    /// An event that cannot be handled is left out, and nobody learns of it.
    SkipsPoison,
    /// A version takes over that has not come as far as the current one.
    TakesOverBehind,
}

thread_local! {
    static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Switches a bug on for all that this thread does, or all bugs off.
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

pub(crate) fn is(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

/// Gives a partition back to who is said to have owned it, which is anybody who asks.
pub(crate) fn renew_after_expiry(row: &mut PartitionRow, worker: &WorkerId) -> bool {
    let stolen = is(Bug::RenewAfterExpiry) && row.owner.is_some() && row.epoch > Epoch(1);
    if stolen {
        row.owner = Some(worker.clone());
    }
    stolen
}
