//! What is measured: each subject takes appends with an expected version, acknowledges them when they are on the disk, and
//! reads them again.

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::job::{Cache, Log, Place, Work, Write};

mod group;

pub mod file;
#[cfg(feature = "stores")]
pub mod indelible;
#[cfg(feature = "stores")]
pub mod postgres;
#[cfg(feature = "stores")]
pub mod rocksdb;

pub use group::{GroupWriter, Sink};

/// Events for one stream that has so many events now.
pub struct Append {
    pub stream: u32,
    pub expected: u64,
    pub events: Vec<Vec<u8>>,
    /// Whether they carry the rare tag, where the subject knows tags.
    pub is_rare: bool,
}

/// What a read has given: it is counted, so that it has to be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub events: u64,
    /// Of their data.
    pub bytes: u64,
}

impl Found {
    pub fn add(&mut self, data: &[u8]) {
        self.events += 1;
        self.bytes += std::hint::black_box(data).len() as u64;
    }

    /// Data that was handed out parsed counts as the JSON that it was.
    pub fn add_json(&mut self, data: &impl Serialize) -> Result<()> {
        self.add(&serde_json::to_vec(data)?);
        Ok(())
    }
}

/// How an append is judged, to tell what a condition costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Refused for its expected version: the way there and back, and no sync
    Stale,
    /// Refused by "no event carries the rare tag", from the first position on
    Matched,
    /// Written
    Plain,
    /// Written under "no event of some other type carries the rare tag", from the first position on
    Unmatched,
}

pub trait Subject: Sized + Send + Sync + 'static {
    /// What an acknowledgement stands for.
    const DURABILITY: &str = "fdatasync";

    /// Opens a log that holds this, or makes an empty one.
    fn open(place: &Place, log: Log) -> impl Future<Output = Result<Self>> + Send;

    /// The same, where it can be set up for a number of callers.
    fn open_for(place: &Place, log: Log, _callers: u32) -> impl Future<Output = Result<Self>> + Send {
        Self::open(place, log)
    }

    /// Returns when the events are on the disk. What was not expected is an error.
    fn append(&self, append: Append) -> impl Future<Output = Result<()>> + Send;

    /// Reads a stream.
    fn load(&self, _stream: u32) -> impl Future<Output = Result<Found>> + Send {
        async { bail!("it has no streams to read") }
    }

    /// Reads all events in order.
    fn read(&self) -> impl Future<Output = Result<Found>> + Send {
        async { bail!("its whole log is not read here") }
    }

    /// Reads the events that carry the rare tag.
    fn rare(&self) -> impl Future<Output = Result<Found>> + Send {
        async { bail!("its tags are not read here") }
    }

    /// Runs a projection, an upsert of its account's row an event, until all of so many events are in the read model.
    fn project(&self, _events: u64) -> impl Future<Output = Result<()>> + Send {
        async { bail!("its read models are not measured here") }
    }

    /// One append of one event to the first stream, which has so many, judged in one way or another.
    fn probe(&self, _probe: Probe, _version: u64) -> impl Future<Output = Result<()>> + Send {
        async { bail!("its conditions are not measured here") }
    }

    fn close(self) -> impl Future<Output = Result<()>> + Send;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file that grows, one writer, group `fdatasync`: the limit
    File,
    /// The same, written over zeros: a sync has no length to write
    FilePreallocated,
    /// Bare RocksDB, one writer, two puts an event: the log and the stream's index
    Rocksdb,
    /// The same with a column family for each of the two
    RocksdbFamilies,
    /// The embedded store
    IndelibleRocksdb,
    /// UmaDB's engine, by its group append
    Umadb,
    /// SierraDB's engine
    Sierradb,
    /// Bare fjall, one writer, two puts an event
    Fjall,
    /// evento on fjall
    Evento,
    /// The shared store
    IndeliblePostgres,
    /// A plain insert a transaction, into the same columns and indexes
    PgAutocommit,
    /// One writer that inserts all that waits without any check, into the same columns and indexes; plain reads: the limit
    PgBatched,
    /// The same writes to a read model in plain SQL, pipelined, from events in memory: the limit
    PgByHand,
    /// cqrs-es on PostgreSQL
    CqrsEs,
    /// esrs on PostgreSQL
    Esrs,
    /// evento on PostgreSQL
    EventoPostgres,
    /// disintegrate on PostgreSQL
    Disintegrate,
    /// mire on PostgreSQL
    Mire,
}

impl Kind {
    pub const EMBEDDED: [Self; 5] =
        [Self::File, Self::FilePreallocated, Self::Rocksdb, Self::RocksdbFamilies, Self::IndelibleRocksdb];
    pub const EMBEDDED_PEERS: [Self; 4] = [Self::Umadb, Self::Sierradb, Self::Fjall, Self::Evento];
    pub const SHARED: [Self; 4] = [Self::PgAutocommit, Self::PgBatched, Self::PgByHand, Self::IndeliblePostgres];
    pub const SHARED_PEERS: [Self; 5] =
        [Self::CqrsEs, Self::Esrs, Self::EventoPostgres, Self::Disintegrate, Self::Mire];

    pub fn is_peer(self) -> bool {
        Self::EMBEDDED_PEERS.contains(&self) || Self::SHARED_PEERS.contains(&self)
    }

    /// Whether it is on PostgreSQL.
    pub fn is_shared(self) -> bool {
        Self::SHARED.contains(&self) || Self::SHARED_PEERS.contains(&self)
    }

    /// Whether it stands beside a limit, to show what that would be if it were made otherwise: on an empty log.
    pub fn is_variant(self) -> bool {
        matches!(self, Self::FilePreallocated | Self::RocksdbFamilies)
    }

    pub fn is_file(self) -> bool {
        matches!(self, Self::File | Self::FilePreallocated)
    }

    /// Who fills its logs: those who use the store's own tables find there what the store has written.
    pub fn filler(self) -> Self {
        match self {
            Self::PgAutocommit | Self::PgBatched | Self::PgByHand => Self::IndeliblePostgres,
            other => other,
        }
    }

    /// Whether it is one of our own stores, with its read model.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::IndelibleRocksdb | Self::IndeliblePostgres)
    }

    /// Whether it writes a read model's rows by hand, and has no log for that.
    pub fn is_by_hand(self) -> bool {
        matches!(self, Self::Rocksdb | Self::PgByHand)
    }

    /// Whether it has what a workload needs.
    pub fn does(self, work: &Work) -> bool {
        use Kind::{File, Fjall, IndelibleRocksdb, Mire, PgAutocommit, PgByHand, Rocksdb};
        match work {
            Work::Project { write: Write::Put, .. } if self.is_shared() => false,
            Work::Project { write: Write::Set, .. } if !self.is_shared() => false,
            Work::Project { write: Write::Upsert, partitions: 1 } if self == Mire => true,
            Work::Project { partitions, .. } => self.is_ours() || self.is_by_hand() && *partitions == 1,
            Work::Lag { .. } => self.is_ours() || self.is_by_hand(),
            Work::Rebuild { .. } | Work::Sagas { .. } | Work::Timers { .. } => self.is_ours(),
            _ if self == PgByHand => false,
            Work::Fill => self.filler() == self,
            Work::Append { .. } | Work::Age { .. } => true,
            Work::Read => {
                matches!(self, File | Rocksdb | IndelibleRocksdb | Fjall) || self.is_shared() && self != PgAutocommit
            }
            // What a server has in its memory can't be dropped from there.
            Work::Load { cache: Cache::Warm, .. } if self.is_shared() => self != PgAutocommit,
            Work::Load { .. } => matches!(self, Rocksdb | IndelibleRocksdb | Fjall),
            Work::Tags { .. } => self.is_ours(),
            Work::Crash { .. } | Work::Open { .. } => matches!(self, Rocksdb | IndelibleRocksdb),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("?", |value| value.get_name()))
    }
}
