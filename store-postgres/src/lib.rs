//! The shared event store of Indelible, on PostgreSQL: one log for many processes and machines.
//!
//! ```no_run
//! use indelible_core::{Append, AppendOutcome, ContentType, EventStore, EventType, ExpectedVersion, NewEvent};
//! use indelible_postgres::PostgresStore;
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = PostgresStore::open("postgresql://shop@localhost/shop").await?;
//! let opened = NewEvent::new(EventType::new("Opened")?, ContentType::JSON, "{}");
//! let append = Append::to("account-1".parse()?, ExpectedVersion::NoStream, [opened]);
//! let AppendOutcome::Appended(done) = store.append(append).await? else { panic!("a new stream") };
//! assert_eq!(store.head().await?, done.token);
//! # Ok(()) }
//! ```
//!
//! In each process one task sends appends: all that wait go in one round trip, which takes the lock that orders appends,
//! judges one after the other, gives them positions without a gap, and answers each by itself. So the lock, and the
//! server's wait for its disk, are paid once for all of them, and a lone caller waits for one round trip, or for a
//! second one, where an append does not find what was to be expected. Readers of any
//! process see positions in order, without ever having to wait for a gap to close or a transaction to end.
//!
//! # What is in the database
//!
//! All that belongs to a store lies in one schema, `indelible` unless another is [chosen](Options::schema). The view
//! `events` is for people: `SELECT * FROM indelible.events WHERE stream = 'account-1' ORDER BY version` shows the data as
//! `jsonb` where it is JSON. Events are inserted by the functions `append` and `append_foreseen` alone; a trigger refuses to
//! change or delete one, whoever asks.
//!
//! Opening a store makes what is missing, so the first to do so owns the schema, or has the right to create it. Any number
//! of processes may do that at once; one that is older than what it finds refuses it. Other roles need no more than the owner gives them:
//!
//! ```sql
//! SELECT indelible.grant_reader('reports');       -- reads
//! SELECT indelible.grant_writer('shop');          -- reads, appends, keeps snapshots
//! SELECT indelible.grant_projection('invoices');  -- reads, keeps checkpoints
//! ```
//!
//! # Read models
//!
//! With the feature `projections`, `PostgresModel` keeps read models of projections in a PostgreSQL database: this one or
//! another.
//!
//! # Poolers and replicas
//!
//! Nothing that the store uses depends on the session, unless statements are [prepared](Options::prepared), so a pooler in
//! transaction mode may stand in between (not for a `PostgresModel`); notifications don't
//! come through one, and events of other processes are then found by [polling](Options::poll). The same holds for a
//! streaming replica, which serves reads and subscriptions and refuses appends; it may be a little behind. A process that
//! comes from one replica to another that is further behind waits for it, and so does one with a token that the replica has
//! not come to.
//!
//! With synchronous standbys an append is acknowledged when they have it, unless `synchronous_commit` is less than `on`. When
//! another server takes over that lacks events
//! which a process has seen, its store [stops](indelible_core::StoreError::Stopped), and tokens of those events are
//! [diverged](indelible_core::StoreError::Diverged) for ever. `RELIABILITY.md` says what was tried.

// In reading order: what is opened and how, then writing and reading, then what is sent.
mod open;
mod options;
mod statistics;
mod store;

mod append;
mod checkpoint;
mod read;
mod snapshot;
mod subscription;
mod verify;

#[cfg(feature = "projections")]
mod read_model;

mod connect;
mod sql;

mod bugs;

pub use open::OpenError;
pub use options::{Durability, Options};
pub use statistics::Statistics;
pub use store::PostgresStore;

#[cfg(feature = "projections")]
pub use read_model::{ModelOptions, Params, PostgresModel, PostgresSnapshot, PostgresTx};
#[cfg(feature = "projections")]
pub use tokio_postgres::{Row, types::ToSql};
