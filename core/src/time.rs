//! Points in time as the log keeps them.

use std::{
    fmt,
    ops::Add,
    str::FromStr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::InvalidInput;

/// A moment in UTC, to the microsecond. Reads and prints as RFC 3339.
///
/// ```
/// use indelible_core::Timestamp;
/// let time: Timestamp = "2026-01-31T09:30:00.000250Z".parse()?;
/// assert_eq!(time.as_micros() % 1_000, 250);
/// assert_eq!(time.to_string(), "2026-01-31T09:30:00.00025Z");
/// assert_eq!((time + std::time::Duration::from_micros(999_750)).to_string(), "2026-01-31T09:30:01Z");
/// assert_eq!(Timestamp::from(std::time::SystemTime::from(time)), time);
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The system clock's time. Nothing in the log is ordered by it.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// From microseconds since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// [`InvalidInput`] for a moment outside the years −9999 to 9999.
    pub fn from_micros(micros: i64) -> Result<Self, InvalidInput> {
        match jiff::Timestamp::from_microsecond(micros) {
            Ok(_) => Ok(Self(micros)),
            Err(error) => Err(InvalidInput::new("time", error.to_string())),
        }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero where it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// The time of a log: the clock's, which can be set back, and then what has passed since by one that can't.
///
/// So it never goes back, and nothing that waits for it waits for the clock to catch up. The clock does that all the same,
/// since it goes a twentieth faster than what is counted here: by 3 minutes an hour.
#[derive(Clone, Copy, Debug)]
pub struct LogTime {
    at: Timestamp,
    since: Instant,
}

impl LogTime {
    /// Goes on from this time.
    pub fn from(at: Timestamp) -> Self {
        Self { at, since: Instant::now() }
    }

    /// What time it is where a clock tells this one.
    pub fn now(&mut self, clock: Timestamp) -> Timestamp {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.since);
        // A monotonic clock may be a little faster than the one of the system, which must not fall behind for that; and one
        // that was ahead by a day must be forgotten in weeks, not years. What is waited for takes so much longer till then.
        let at_least = self.at + (passed - passed / 20);
        if clock > at_least {
            *self = Self { at: clock, since: now };
        }
        clock.max(at_least)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    /// So much later; at most the end of the year 9999.
    fn add(self, later: Duration) -> Self {
        let micros = i64::try_from(later.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros).min(jiff::Timestamp::MAX.as_microsecond()))
    }
}

impl From<SystemTime> for Timestamp {
    /// A clock outside the years −9999 to 9999 is taken as the nearest of them.
    fn from(time: SystemTime) -> Self {
        let micros = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        };
        Self(micros.clamp(jiff::Timestamp::MIN.as_microsecond(), jiff::Timestamp::MAX.as_microsecond()))
    }
}

impl From<Timestamp> for SystemTime {
    /// The epoch where this machine's clock can't tell it.
    fn from(time: Timestamp) -> Self {
        let distance = Duration::from_micros(time.0.unsigned_abs());
        let there = if time.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        there.unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}
impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Timestamp {
    type Err = InvalidInput;
    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        let time: jiff::Timestamp =
            text.parse().map_err(|error: jiff::Error| InvalidInput::new("time", error.to_string()))?;
        Self::from_micros(time.as_microsecond())
    }
}
impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_s_time_goes_on_when_its_clock_is_set_back() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).unwrap();
        let mut time = LogTime::from(at(10_000));
        assert_eq!(time.now(at(20_000)), at(20_000), "the clock's");
        let mut last = at(20_000);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(5));
            let now = time.now(at(16_400));
            assert!(now.since(last) >= Duration::from_micros(4_750), "{last} {now}");
            last = now;
        }
        assert_eq!(time.now(at(30_000)), at(30_000), "it has caught up");
        // However often it is asked for, nothing is lost.
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(5) {
            time.now(at(0));
        }
        last = time.now(at(0));
        assert!(last.since(at(30_000)) >= Duration::from_micros(4_750), "{last}");
    }

    /// A clock that was an hour ahead is forgotten in twenty.
    #[test]
    fn a_clock_catches_up_with_its_log() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000).unwrap();
        let after = |hours: i64| {
            let since = Instant::now() - Duration::from_secs(3_600 * hours.unsigned_abs());
            LogTime { at: at(3_600), since }.now(at(3_600 * hours))
        };
        assert_eq!(after(10).since(at(36_000)).as_secs(), 1_800);
        assert_eq!(after(21), at(21 * 3_600));
    }
}
