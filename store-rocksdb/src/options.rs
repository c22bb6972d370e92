//! How a store is opened.

use std::{fmt, path::Path, time::Duration};

use indelible_core::{
    Codec, Limits, QueueRoom, Timestamp,
    codec::{Bincode, Json},
};

use crate::{OpenError, RocksReader, RocksStore, append::SEGMENT_BYTES};

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When its events are on the disk (`fdatasync`). A crash of the process, of the machine or a power cut loses none
    /// of what was acknowledged.
    #[default]
    Synced,
    /// When the operating system has its events. A crash of the process loses nothing. A crash of the machine or a power
    /// cut loses what was acknowledged since the last anchor, about a second: the log then ends earlier, and those positions
    /// are given again to other events. Closing the store syncs.
    Buffered,
}

/// Options of a [`RocksStore`].
///
/// ```
/// use std::time::Duration;
/// use indelible_rocksdb::RocksStore;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let store = RocksStore::options().queue_wait(Duration::from_secs(1)).open(path)?;
/// store.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) limits: Limits,
    pub(crate) default_codec: &'static dyn Codec,
    pub(crate) durability: Durability,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_wait: Duration,
    pub(crate) segment_bytes: usize,
    /// What the log takes for now; tests turn it back.
    pub(crate) clock: fn() -> Timestamp,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            default_codec: &Json,
            durability: Durability::Synced,
            queue_bytes: 64 * 1024 * 1024,
            queue_wait: Duration::from_secs(10),
            segment_bytes: SEGMENT_BYTES,
            clock: Timestamp::now,
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How large events and appends may be: by default 1 MiB and 32 MiB.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Encodes events of types that are pinned to no codec as [bincode](Bincode); the default is [JSON](Json). What is
    /// in the log already reads back as before.
    #[must_use]
    pub fn bincode(mut self) -> Self {
        self.default_codec = &Bincode;
        self
    }

    /// When an append is acknowledged: by default when it is [synced](Durability::Synced).
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How many bytes of appends wait or are being written at most: by default 64 MiB. Where they are reached, callers
    /// wait. An append that is larger by itself is let in when it is alone.
    #[must_use]
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// How long a caller waits for room in the queue before it is answered
    /// [`Overloaded`](indelible_core::StoreError::Overloaded): by default 10 seconds.
    #[must_use]
    pub fn queue_wait(mut self, wait: Duration) -> Self {
        self.queue_wait = wait;
        self
    }

    /// For tests: how large a part of the log's end is that moves into the index at a time.
    #[doc(hidden)]
    #[must_use]
    pub fn segment_bytes(mut self, bytes: usize) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// Opens the store in a directory for reading, beside the process that writes to it, or without one. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`]; a directory without a store is [`OpenError::NotAStore`].
    pub fn open_read_only(self, path: impl AsRef<Path>) -> Result<RocksReader, OpenError> {
        RocksReader::start(path.as_ref(), self)
    }

    /// Opens the store in a directory, or makes one there. Blocks: it reads the disk, and writes again what the last
    /// process left in the write-ahead log.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(self, path: impl AsRef<Path>) -> Result<RocksStore, OpenError> {
        QueueRoom::check(self.queue_bytes)?;
        RocksStore::start(path.as_ref(), self)
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("limits", &self.limits)
            .field("default_codec", &self.default_codec)
            .field("durability", &self.durability)
            .field("queue_bytes", &self.queue_bytes)
            .field("queue_wait", &self.queue_wait)
            .finish_non_exhaustive()
    }
}
