//! What is measured: each subject takes appends with an expected version, and acknowledges them when they are on the disk.

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

mod group;

pub mod file;
pub mod indelible;
pub mod rocksdb;

/// Events for one stream that has so many events now.
pub struct Append {
    pub stream: u32,
    pub expected: u64,
    pub events: Vec<Vec<u8>>,
}

pub trait Subject: Send + Sync + 'static {
    /// Returns when the events are on the disk. What was not expected is an error.
    fn append(&self, append: Append) -> impl Future<Output = Result<()>> + Send;

    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Kind {
    /// A file that grows, one writer, group `fdatasync`: the limit
    #[value(name = "file")]
    #[serde(rename = "file")]
    File,
    /// Bare RocksDB, one writer, two puts an event: the log and the stream's index
    #[value(name = "rocksdb")]
    #[serde(rename = "rocksdb")]
    Rocks,
    /// The embedded store
    #[value(name = "indelible-rocksdb")]
    #[serde(rename = "indelible-rocksdb")]
    Indelible,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::File, Self::Rocks, Self::Indelible];
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Rocks => "rocksdb",
            Self::Indelible => "indelible-rocksdb",
        })
    }
}
