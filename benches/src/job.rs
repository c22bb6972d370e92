//! What a process is asked to do, and what it answers.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{event::STREAMS, subject::Kind};

/// One round of one subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub subject: Kind,
    pub place: Place,
    /// What the data holds before the round.
    pub log: Log,
    pub work: Work,
}

/// Where a subject has its data, and nobody else has any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    Directory(PathBuf),
    /// Of a PostgreSQL server, by a URL such as `postgresql:///name?host=/run/postgresql&user=postgres`
    Database(String),
}

impl Place {
    pub fn directory(&self) -> Result<&Path> {
        match self {
            Self::Directory(path) => Ok(path),
            Self::Database(_) => bail!("it needs a directory"),
        }
    }

    pub fn database(&self) -> Result<&str> {
        match self {
            Self::Directory(_) => bail!("it needs a database"),
            Self::Database(url) => Ok(url),
        }
    }
}

/// A log of events that were appended one by one, in turn to all its streams: the events of a stream lie as far from one
/// another as they can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Log {
    pub events: u64,
    pub ids: Ids,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ids {
    /// They ascend with time
    #[default]
    V7,
    /// They are random
    V4,
}

/// The events that carry [`RARE_TAG`].
pub const TAGGED: u32 = 100;
pub const RARE_TAG: &str = "rare:1";

impl Log {
    /// Of a hundred events each where it is large enough.
    pub fn streams(self) -> u32 {
        u32::try_from(self.events / 100).unwrap_or(u32::MAX).max(STREAMS)
    }

    /// The versions that all its streams have.
    pub fn versions(self) -> u64 {
        self.events / u64::from(self.streams())
    }

    /// Whether it can be made: every stream has as many events as the others.
    pub fn is_even(self) -> bool {
        self.versions() * u64::from(self.streams()) == self.events
    }

    /// Whether an event of it carries the rare tag: [`TAGGED`] do, spread over all of the log.
    pub fn is_tagged(self, stream: u32, version: u64) -> bool {
        let apart = self.streams() / TAGGED;
        version <= self.versions()
            && stream.is_multiple_of(apart)
            && version == 1 + u64::from(stream / apart) * self.versions() / u64::from(TAGGED)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Work {
    /// Makes the log in an empty directory, through the subject's own appends
    Fill,
    Append {
        callers: u32,
        others: Others,
        events_per_append: u32,
        times: Times,
    },
    /// One caller appends at a steady rate, and nothing is measured
    Age {
        time: Duration,
    },
    /// Appends for a time, and is killed in the middle
    Crash {
        after: Duration,
    },
    /// One caller loads streams
    Load {
        cache: Cache,
        times: Times,
    },
    /// The whole log, in order
    Read,
    /// The rare tag: its events, and conditions on it
    Tags {
        times: Times,
    },
    /// Opens what is there
    Open {
        after: Stop,
    },
    /// The whole log into a read model
    Project {
        write: Write,
        partitions: u32,
    },
    /// Events that come at a steady rate, and when they are in the read model
    Lag {
        write: Write,
        events_per_s: u32,
        times: Times,
    },
    /// A read model of the whole log is built anew beside the one in use, while events come in
    Rebuild {
        events_per_s: u32,
    },
    /// Sagas, and the same commands without them
    Sagas {
        count: u32,
        at_once: u32,
    },
    /// Commands while so many sagas wait, for a timer or for a signal
    Timers {
        pending: u32,
        are_timers: bool,
        callers: u32,
        times: Times,
    },
}

/// What an event does to a read model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// A row of its own
    Put,
    /// Its account's row, which is written over
    Upsert,
    /// The same, of all events of a batch at once
    Set,
}

/// Callers in other processes that append to the same log at the same time, counted before these and after them: no two of
/// all callers want the same stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Others {
    pub before: u32,
    pub after: u32,
}

impl Others {
    pub fn all(self, callers: u32) -> u32 {
        self.before + callers + self.after
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cache {
    /// A few streams again and again, all in the subject's own cache
    Warm,
    /// Each stream once, in a process that was just started, with nothing of the files in memory
    Cold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    Clean,
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
pub struct Times {
    /// How long one measurement takes
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, default_value = "3")]
    pub seconds: Duration,
    /// How long the callers are at work before it begins
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    pub warm_up: Duration,
}

/// A time of up to an hour, in seconds.
///
/// # Errors
/// Of what is none.
pub fn seconds(text: &str) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(text.parse()?)?;
    ensure!(!time.is_zero() && time <= Duration::from_secs(3600), "between 0 and 3600 seconds");
    Ok(time)
}

/// What a round has measured, and a line of the JSON output. What does not apply is null.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub subject: Kind,
    pub workload: String,
    pub callers: u32,
    /// Events of an append, or of whatever else one operation is.
    pub events_per_append: u64,
    /// What an acknowledgement stands for.
    pub durability: String,
    /// Of operations that were over while the clock ran.
    pub events_per_s: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub p999_us: Option<f64>,
    /// The most that the process had in memory, with its callers and their events.
    pub rss_mib: f64,
    /// What it had in memory at the end, before closing.
    pub rss_end_mib: f64,
    /// The lengths of all files over all events that are in them: of a log that was filled, when the engine had come to
    /// rest; of appends to an empty log, right after closing. Of a database: all its tables with their indexes.
    pub bytes_per_event: Option<f64>,
    /// Of a log that was filled, right after closing.
    pub bytes_per_event_closed: Option<f64>,
    /// The part of a database's indexes.
    pub bytes_per_event_of_indexes: Option<f64>,
    /// What the process had written to the disk for each event of a log that it filled, when the engine had come to rest.
    pub written_per_event: Option<f64>,
    /// The events that were there before the round; of a log that was filled, after it.
    pub preload: u64,
    pub ids: Ids,
    /// Operations that were acknowledged, also before the clock ran and after.
    pub operations: u64,
}

impl Measured {
    /// How quick it was, to be compared: events a second, or else operations.
    pub fn rate(&self) -> Option<f64> {
        self.events_per_s.or(self.p50_us.map(|time| 1e6 / time))
    }
}

impl Work {
    /// The name of what it measures.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fill => "fill",
            Self::Append { .. } | Self::Age { .. } | Self::Crash { .. } => "append",
            Self::Load { cache: Cache::Warm, .. } => "load-warm",
            Self::Load { cache: Cache::Cold, .. } => "load-cold",
            Self::Read => "read",
            Self::Tags { .. } => "tags",
            Self::Open { after: Stop::Clean } => "open-clean",
            Self::Open { after: Stop::Kill } => "open-killed",
            Self::Project { write, partitions } => match (write, partitions) {
                (Write::Put, 1) => "project-put",
                (Write::Put, _) => "project-put-by-4",
                (Write::Upsert, 1) => "project-upsert",
                (Write::Upsert, _) => "project-upsert-by-4",
                (Write::Set, 1) => "project-set",
                (Write::Set, _) => "project-set-by-4",
            },
            Self::Lag { .. } => "lag",
            Self::Rebuild { .. } => "rebuild",
            Self::Sagas { .. } => "sagas",
            Self::Timers { are_timers: true, .. } => "timers-pending",
            Self::Timers { are_timers: false, .. } => "timers-none",
        }
    }

    /// Whether it takes a read model, and not the log alone.
    pub fn is_of_read_model(&self) -> bool {
        matches!(
            self,
            Self::Project { .. } | Self::Lag { .. } | Self::Rebuild { .. } | Self::Sagas { .. } | Self::Timers { .. }
        )
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.work.name())?;
        if let Work::Append { callers, events_per_append, .. } = self.work {
            write!(f, ", callers {callers}, events an append {events_per_append}")?;
        }
        write!(f, ", log of {} events, {}", self.log.events, self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_events_of_a_log_carry_the_rare_tag_and_they_are_spread() {
        for events in [100_000, 1_000_000, 20_000_000] {
            let log = Log { events, ids: Ids::V7 };
            assert!(log.is_even());
            let mut tagged = Vec::new();
            for stream in 0..log.streams() {
                tagged.extend((1..=log.versions()).filter(|version| log.is_tagged(stream, *version)));
            }
            assert_eq!(tagged.len(), TAGGED as usize);
            let in_first_half = tagged.iter().filter(|version| **version * 2 <= log.versions()).count();
            assert_eq!(in_first_half, tagged.len() / 2);
        }
    }

    #[test]
    fn a_large_log_has_streams_of_a_hundred_events() {
        let log = |events| Log { events, ids: Ids::V7 };
        assert_eq!([log(0), log(1_000_000), log(20_000_000)].map(Log::streams), [10_000, 10_000, 200_000]);
        assert_eq!([log(0), log(1_000_000), log(20_000_000)].map(Log::versions), [0, 100, 100]);
        assert!(!log(1_000_001).is_even());
    }
}
