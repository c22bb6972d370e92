//! The embedded event store of Indelible, on RocksDB: the log of one process, durable in a directory.
//!
//! ```
//! use indelible_core::{Append, AppendOutcome, ContentType, EventStore, EventType, ExpectedVersion, NewEvent};
//! use indelible_rocksdb::RocksStore;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let store = RocksStore::open(path)?;
//! let opened = NewEvent::new(EventType::new("Opened")?, ContentType::JSON, "{}");
//! let append = Append::to("account-1".parse()?, ExpectedVersion::NoStream, [opened]);
//! let AppendOutcome::Appended(done) = store.append(append).await? else { panic!("a new stream") };
//! store.close().await?;
//!
//! let again = RocksStore::open(path)?;
//! assert_eq!(again.head().await?, done.token);
//! # Ok(()) }
//! ```
//!
//! One thread owns the order of events. It takes all appends that wait, judges them one after the other, writes them as
//! one group with one sync, publishes the new head, and answers. A lone caller waits for its own sync and nothing else;
//! hundreds share one. After a failed write or sync it writes nothing more until the store is opened again, or
//! [resumed](RocksStore::resume), and never tries over: what a failed sync has left behind, nobody knows. It reads on.
//!
//! In the directory, `log` is the truth, `index` is derived from it, and the file `anchor` says how far the log certainly
//! goes. The last commit group of a machine that lost its power is cut off where it is torn, and kept in `torn`; any other
//! damage to the truth is refused, with the positions, and nothing of it is repaired or deleted. (Where appends don't wait for
//! the disk, all beyond the anchor is cut off from the first damage on.) An index that is found damaged when the store is
//! opened is made anew. [`FORMAT.md`](https://github.com/indelible-rs/indelible/blob/main/store-rocksdb/FORMAT.md)
//! has every byte.
//!
//! # Operations
//!
//! All of it while everybody goes on reading and writing:
//!
//! ```
//! # use indelible_core::{Append, ContentType, EventStore, EventType, ExpectedVersion, NewEvent};
//! use indelible_rocksdb::{Backups, RocksStore};
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let [path, backups, elsewhere] = ["store", "backups", "restored"].map(|name| directory.path().join(name));
//! let store = RocksStore::open(path)?;
//! # let opened = NewEvent::new(EventType::new("Opened")?, ContentType::JSON, "{}");
//! # store.append(Append::to("account-1".parse()?, ExpectedVersion::NoStream, [opened])).await?;
//! let found = store.verify(|progress| eprintln!("{progress:?}")).await?;
//! for problem in &found.problems {
//!     eprintln!("{problem}");
//! }
//! if !found.is_clean() && found.is_log_clean() {
//!     store.rebuild_indexes().await?; // what is derived from the log can be made of it again
//! }
//!
//! store.backup(&backups).await?; // whole and verified when it returns, or none
//! let backups = Backups::at(&backups);
//! backups.keep(24)?;
//! for backup in backups.list()? {
//!     println!("{}: up to position {}, {} bytes of its own", backup.id, backup.head.position, backup.added_bytes);
//! }
//! backups.restore(1, &elsewhere)?; // into an empty directory, and opened there to prove it
//!
//! let now = store.statistics(); // and through the `metrics` facade
//! println!("{} events, {} not in the index yet, {} syncs in {:?}", now.head, now.index_lag, now.syncs, now.sync_time);
//! # Ok(()) }
//! ```
//!
//! Don't copy the files of a store that is open by other means: they change meanwhile, and the copy may be none.
//! A restored store is the store that it was, and ends earlier: readers who saw more are told
//! [`Diverged`](indelible_core::StoreError::Diverged).
//!
//! Spans of [`tracing`]: `append` (debug), `read` (trace), `verify`, `rebuild_indexes`, `backup` and `restore` (info).

// In reading order: what is opened and how, then writing and reading, then the bytes.
mod open;
mod options;
mod reader;
mod statistics;
mod store;

#[cfg(feature = "projections")]
mod read_model;

mod backup;
mod rebuild;
mod verify;

mod ahead;
mod append;
mod bell;
mod checkpoint;
mod export;
mod keeper;
mod postings;
mod queue;
mod read;
mod seen;
mod snapshot;

mod desk;
mod engine;
mod frozen;
mod index;
mod log;
mod sync;
mod tail;

mod anchor;
mod block;
mod frame;
mod keys;
mod record;
mod wal;

mod bugs;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(all(test, feature = "bugs"))]
mod schedules;

pub use backup::{Backup, BackupError, Backups};
pub use open::OpenError;
pub use options::{Durability, Options};
#[cfg(feature = "projections")]
pub use read_model::{RocksModel, RocksSnapshot, RocksTx};
pub use reader::RocksReader;
pub use statistics::Statistics;
pub use store::RocksStore;
pub use verify::{Part, Problem, Progress, Step, Verification};
