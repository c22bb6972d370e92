//! How a store is opened.

use std::{fmt, path::PathBuf, time::Duration};

use indelible_core::{
    Codec, InvalidInput, Limits, QueueRoom,
    codec::{Bincode, Json},
};

use crate::{OpenError, PostgresStore};

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When the server has it on its disk and, where it has synchronous standbys, what its `synchronous_commit` asks of them:
    /// by default that they have it on theirs; with `remote_write` or `local` a fail-over may lose it. One that is `off` is
    /// refused, as is a server with `fsync = off`.
    #[default]
    Synced,
    /// When the server knows it (`synchronous_commit = off`), also one that syncs nothing (`fsync = off`). A crash of the
    /// server loses what was acknowledged in about the last second: the log then ends earlier, and those positions are given
    /// again to other events.
    Asynchronous,
}

/// Options of a [`PostgresStore`].
///
/// ```no_run
/// use std::time::Duration;
/// use indelible_postgres::PostgresStore;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = std::env::var("DATABASE_URL")?;
/// let store = PostgresStore::options().schema("shop").connections(4).patience(Duration::from_secs(5)).open(&url).await?;
/// store.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Options {
    pub(crate) limits: Limits,
    pub(crate) default_codec: &'static dyn Codec,
    pub(crate) durability: Durability,
    pub(crate) schema: String,
    pub(crate) connections: usize,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_wait: Duration,
    pub(crate) patience: Duration,
    pub(crate) poll: Duration,
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) prepared: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            default_codec: &Json,
            durability: Durability::Synced,
            schema: "indelible".into(),
            connections: 8,
            queue_bytes: 64 * 1024 * 1024,
            queue_wait: Duration::from_secs(10),
            patience: Duration::from_secs(30),
            poll: Duration::from_millis(200),
            certificates: None,
            prepared: false,
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

    /// The schema that holds the store, by default `indelible`. Several in one database are several stores.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// How many connections reads share at most, by default 8. Appends have one of their own, and the published head
    /// another.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most;
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

    /// How long a call waits for a server that is away or doesn't answer, by default 30 seconds. Then a read is answered
    /// [`Unavailable`](indelible_core::StoreError::Unavailable), and so is an append that was not sent yet; one that was
    /// sent, [`OutcomeUnknown`](indelible_core::StoreError::OutcomeUnknown). An append waits so long for its turn, and as
    /// long again for its answer.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// How often to look for events of other processes where no notification comes, by default every 200 milliseconds.
    /// Behind a pooler in transaction mode, and on a replica, none ever comes.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// Trusts the certificates in this PEM file for TLS, instead of those of the operating system. Whether to use TLS is
    /// said in the URL: `sslmode=require` (or `verify-full`), `prefer` (the default) or `disable`. Certificates and names
    /// are always verified.
    #[must_use]
    pub fn certificates(mut self, pem: impl Into<PathBuf>) -> Self {
        self.certificates = Some(pem.into());
        self
    }

    /// Prepares statements, once a connection, which spares the server reading and planning them at each call. Not
    /// behind a pooler in transaction mode: there a statement may meet a connection that has never heard of it, or
    /// another of the same name. Connections that read are also told to plan for a log of any size, whatever the URL says
    /// of `enable_seqscan`, `enable_bitmapscan`, `jit` and `plan_cache_mode`.
    #[must_use]
    pub fn prepared(mut self) -> Self {
        self.prepared = true;
        self
    }

    /// Opens the store at a `postgresql://` URL, or makes one there. To be called inside a tokio runtime, which the store
    /// then lives in.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(self, url: &str) -> Result<PostgresStore, OpenError> {
        QueueRoom::check(self.queue_bytes)?;
        check_schema(&self.schema, 63)?;
        if self.connections == 0 || self.poll.is_zero() {
            let reason = "ask for no connections, or for polling without a pause";
            return Err(InvalidInput::new("options", reason).into());
        }
        PostgresStore::start(url, self).await
    }
}

/// Refuses what can't be a schema's name.
pub(crate) fn check_schema(name: &str, bytes_max: usize) -> Result<(), InvalidInput> {
    if name.is_empty() || name.len() > bytes_max || name.chars().any(char::is_control) {
        let rule = format!("has a name of 1 to {bytes_max} bytes without control characters");
        return Err(InvalidInput::new("schema", rule));
    }
    match name.starts_with("pg_") {
        true => Err(InvalidInput::new("schema", "has a name that does not begin with pg_")),
        false => Ok(()),
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("limits", &self.limits)
            .field("default_codec", &self.default_codec)
            .field("durability", &self.durability)
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("queue_bytes", &self.queue_bytes)
            .field("queue_wait", &self.queue_wait)
            .field("patience", &self.patience)
            .field("poll", &self.poll)
            .field("prepared", &self.prepared)
            .finish_non_exhaustive()
    }
}
