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

/// Answers a group first and writes it then, on a disk that takes its time.
pub(crate) const ACKNOWLEDGE_BEFORE_WRITE: &str = "acknowledge-before-write";
