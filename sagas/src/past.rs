//! What has become of a saga's steps: what its plan is told from, beside what it is about.

use std::{collections::BTreeMap, sync::OnceLock};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What has become of a saga's steps so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Past {
    pub(crate) version: u32,
    /// In the order in which they began.
    pub(crate) tracks: Vec<Track>,
    pub(crate) signals: BTreeMap<String, Value>,
    /// A value that was asked for as something that it isn't.
    #[serde(skip)]
    misread: OnceLock<String>,
}

/// A step that has begun.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Track {
    pub(crate) step: String,
    /// What is brought about outside; a step that waits has nothing.
    pub(crate) effect: Option<Value>,
    /// It waits for a signal.
    pub(crate) signal: bool,
    pub(crate) way: Way,
    /// An attempt at it may have had its effect.
    pub(crate) unsure: bool,
    /// It is not tried again, since its time is up or it isn't wanted any more.
    pub(crate) stopping: bool,
    pub(crate) timeout_ms: Option<u64>,
    /// The attempt that its timeout runs from.
    pub(crate) since: u32,
    pub(crate) timed_out: bool,
    pub(crate) undo: Option<(Value, Way)>,
}

/// How far something is, to be done or to be undone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// This attempt is due, under way, or waits for its time.
    Running {
        attempt: u32,
    },
    Done {
        result: Value,
    },
    /// `maybe`: it may have happened all the same.
    Failed {
        attempts: u32,
        error: String,
        maybe: bool,
    },
    Skipped,
}

impl Past {
    /// The [version](crate::Saga::VERSION) that the saga was started with.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether a step is done.
    pub fn is_done(&self, step: &str) -> bool {
        self.track(step).is_some_and(|track| matches!(track.way, Way::Done { .. }))
    }

    /// Whether a step has begun, and is neither done nor given up: it waits for its signal or its time, or is tried.
    pub fn waits_for(&self, step: &str) -> bool {
        self.track(step).is_some_and(|track| track.is_running() && !track.stopping)
    }

    /// What a step answered; `None` where it isn't done. If the answer is there and is no `T`, nothing is decided, and the
    /// saga stays where it is until its code can read it.
    pub fn result<T: DeserializeOwned>(&self, step: &str) -> Option<T> {
        match &self.track(step)?.way {
            Way::Done { result } => self.read(step, result),
            _ => None,
        }
    }

    /// The signal of this name that came last, as [`result`](Self::result).
    pub fn signalled<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.read(name, self.signals.get(name)?)
    }

    pub(crate) fn track(&self, step: &str) -> Option<&Track> {
        self.tracks.iter().find(|track| track.step == step)
    }

    pub(crate) fn misread(&self) -> Option<&str> {
        self.misread.get().map(String::as_str)
    }

    fn read<T: DeserializeOwned>(&self, what: &str, value: &Value) -> Option<T> {
        let misread = |error| self.misread.get_or_init(|| format!("what {what} answered can't be read: {error}"));
        T::deserialize(value).map_err(misread).ok()
    }
}

impl Track {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.way, Way::Running { .. })
    }

    /// Whether it may have had its effect.
    pub(crate) fn may_have_happened(&self) -> bool {
        matches!(self.way, Way::Done { .. } | Way::Failed { maybe: true, .. })
    }
}
