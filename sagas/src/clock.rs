//! What time it is, for agendas whose database has no clock of its own.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indelible_core::Timestamp;

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

/// A clock that can be put forward: the system's, and so much more. Clones are one clock.
///
/// It is the worker's. What begins after a skip begins when the log says, which has a clock of its own: put that forward
/// [as well](indelible_core::store::memory::MemoryStore::skip), or its time is up at once.
///
/// ```
/// use indelible_core::store::memory::MemoryStore;
/// use indelible_sagas::{Clock, SkippingClock};
/// use std::time::Duration;
/// let (clock, store) = (SkippingClock::default(), MemoryStore::new());
/// let skip = |time| {
///     clock.skip(time);
///     store.skip(time);
/// };
/// let (before, three_days) = (clock.now(), Duration::from_secs(3 * 24 * 3600));
/// skip(three_days);
/// assert!(clock.now() >= before + three_days);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SkippingClock(Arc<Mutex<Duration>>);

impl SkippingClock {
    /// Puts it forward.
    pub fn skip(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }
}

impl Clock for SkippingClock {
    fn now(&self) -> Timestamp {
        Timestamp::now() + *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
