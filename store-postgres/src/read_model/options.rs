//! How a read model is opened.

use std::{fmt, path::PathBuf, time::Duration};

use indelible_core::InvalidInput;

use super::PostgresModel;
use crate::{OpenError, options::check_schema};

/// The longest name of a read model's schema: those of versions begin with it.
const SCHEMA_BYTES_MAX: usize = 32;

/// Options of a [`PostgresModel`].
///
/// ```no_run
/// use std::time::Duration;
/// use indelible_postgres::PostgresModel;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let url = std::env::var("DATABASE_URL")?;
/// let model = PostgresModel::options().schema("shop").lease(Duration::from_secs(5)).open(&url).await?;
/// # drop(model);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ModelOptions {
    pub(super) schema: String,
    pub(super) connections: usize,
    pub(super) patience: Duration,
    pub(super) certificates: Option<PathBuf>,
    pub(super) lease: Duration,
    pub(super) read_committed: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            schema: "read_models".into(),
            connections: 8,
            patience: Duration::from_secs(60),
            certificates: None,
            lease: Duration::from_secs(10),
            read_committed: false,
        }
    }
}

impl ModelOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The schema that queries read, by default `read_models`; up to 32 bytes. Those of the versions are called
    /// `{schema}_{projection}_{version}`.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// How many connections batches and queries have at most, by default 8; each that is under way has one, and others wait.
    /// Leases have two more.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most;
        self
    }

    /// How long a call waits for a server that is away or doesn't answer, by default 60 seconds. Then it is answered
    /// [`Unavailable`](indelible_projections::ReadModelError::Unavailable).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Trusts the certificates in this PEM file for TLS, as [`Options::certificates`](crate::Options::certificates).
    #[must_use]
    pub fn certificates(mut self, pem: impl Into<PathBuf>) -> Self {
        self.certificates = Some(pem.into());
        self
    }

    /// For how long a partition is a worker's when nothing is heard of it, by default 10 seconds, at least 300 ms. A
    /// handler that leaves its transaction alone for as long loses it, so that a process that stands still keeps nobody
    /// from its rows.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Runs the batches of projections with several partitions at the isolation level `READ COMMITTED`, and not at
    /// `SERIALIZABLE`. For handlers that write to rows that partitions share, and don't read them first:
    /// `UPDATE totals SET cents = cents + $1` then waits for its turn, where a serializable one is done over.
    #[must_use]
    pub fn read_committed(mut self) -> Self {
        self.read_committed = true;
        self
    }

    /// Opens the read model at a `postgresql://` URL, or makes one there. To be called inside a tokio runtime, which it
    /// then lives in.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(self, url: &str) -> Result<PostgresModel, OpenError> {
        check_schema(&self.schema, SCHEMA_BYTES_MAX)?;
        let refuse = |reason: &str| Err(InvalidInput::new("options", reason).into());
        if self.connections == 0 {
            return refuse("ask for no connections");
        }
        if !(Duration::from_millis(300)..=Duration::from_secs(24 * 3_600)).contains(&self.lease) {
            return refuse("ask for a lease of less than 300 ms, or of more than a day");
        }
        PostgresModel::start(url, self).await
    }
}

impl fmt::Debug for ModelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOptions")
            .field("schema", &self.schema)
            .field("connections", &self.connections)
            .field("patience", &self.patience)
            .field("lease", &self.lease)
            .field("read_committed", &self.read_committed)
            .finish_non_exhaustive()
    }
}
