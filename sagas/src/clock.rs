//! What time it is, for agendas whose database has no clock of its own.

use indelible_core::{Timestamp, store::memory::MemoryStore};

/// Tells the time in UTC.
pub trait Clock: Send + Sync + 'static {
    /// What time it is.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The log's clock, for tests that [skip](MemoryStore::skip) time: all that waits goes by it, and what begins behind a skip
/// waits as long as what began before.
impl Clock for MemoryStore {
    fn now(&self) -> Timestamp {
        MemoryStore::now(self)
    }
}
