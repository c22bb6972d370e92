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
//! hundreds share one. After a failed write or sync it writes nothing more until the store is opened again, and never
//! tries over: what a failed sync has left behind, nobody knows.

// In reading order: what is opened and how, then writing and reading, then the bytes.
mod open;
mod options;
mod statistics;
mod store;

mod append;
mod checkpoint;
mod index;
mod read;
mod snapshot;

mod frame;
mod keys;
mod record;

mod bugs;

pub use open::OpenError;
pub use options::{Durability, Options};
pub use statistics::Statistics;
pub use store::RocksStore;
