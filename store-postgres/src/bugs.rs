//! Seeded bugs, for tests that prove the fault tests: compiled in by the feature `bugs` only, and then chosen by the
//! environment variable `INDELIBLE_BUG`.

/// Whether a bug is wanted.
#[cfg(feature = "bugs")]
pub(crate) fn is_on(name: &str) -> bool {
    std::env::var("INDELIBLE_BUG").is_ok_and(|bug| bug == name)
}

/// Never.
#[cfg(not(feature = "bugs"))]
pub(crate) const fn is_on(_name: &str) -> bool {
    false
}

/// Reads the facts first and takes the lock that orders appends then: made into stores that are made while it is on.
pub(crate) const SNAPSHOT_BEFORE_LOCK: &str = "snapshot-before-lock";
/// Takes the lock in the statement that reads the facts, whose snapshot is older: made into stores as well.
pub(crate) const LOCK_IN_STATEMENT: &str = "lock-in-statement";
/// Orders appends by a row that the statement updates which reads the facts: made into stores as well.
pub(crate) const COUNTER_IN_STATEMENT: &str = "counter-in-statement";
/// Answers that nothing was written when a connection dies in the middle of a call.
pub(crate) const LOST_MEANS_NO: &str = "lost-means-no";
/// Sends a call again without a fence before the one whose answer was lost.
pub(crate) const NO_FENCE: &str = "no-fence";
/// Answers an append before it is committed.
pub(crate) const ANSWER_BEFORE_COMMIT: &str = "answer-before-commit";
/// Moves a batch's checkpoint in a transaction of its own, before the batch.
#[cfg(feature = "projections")]
pub(crate) const CHECKPOINT_APART: &str = "checkpoint-apart";
/// Moves checkpoints whoever has the partition, and wherever they are: made into read models that are made while it is on.
#[cfg(feature = "projections")]
pub(crate) const LEASE_WITHOUT_FENCE: &str = "lease-without-fence";
/// Parks nothing of what it is told to park.
#[cfg(feature = "projections")]
pub(crate) const POISON_SKIPPED: &str = "poison-skipped";
/// Lets a version take over that has not come as far as the current one: made into read models that are made while it is on.
#[cfg(feature = "projections")]
pub(crate) const TAKE_OVER_BEHIND: &str = "take-over-behind";
