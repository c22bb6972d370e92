//! The PostgreSQL server that shared subjects are measured on: every round has a database of its own, a copy of a filled
//! one where it needs a log.

use anyhow::{Context as _, Result};
use indelible_bench::job::Place;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

/// What is worth knowing of a server beside its version.
const SETTINGS: [&str; 12] = [
    "fsync",
    "synchronous_commit",
    "wal_sync_method",
    "full_page_writes",
    "wal_compression",
    "shared_buffers",
    "wal_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "max_connections",
    "jit",
];

/// All that belongs to the subject of a round, wherever it has put it.
const BYTES: &str =
    "SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint, coalesce(sum(pg_indexes_size(oid)), 0)::bigint
    FROM pg_class WHERE relkind IN ('r', 'm') AND relnamespace NOT IN ('pg_catalog'::regnamespace,
        'information_schema'::regnamespace)";

pub struct Server {
    /// What stands in a URL before a database's name, and what behind it.
    url: (String, String),
    runtime: Runtime,
    client: Client,
}

/// A snapshot that is held, and a transaction that goes on, as long as this lives.
pub struct Snapshot(#[expect(dead_code, reason = "for its connection")] Client);

impl Server {
    /// By the URL of any database of it.
    pub fn connect(url: &str) -> Result<Self> {
        let (base, parameters) = url.split_once('?').unwrap_or((url, ""));
        let (base, _) = base.rsplit_once('/').context("no URL of a database")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = connect(&runtime, url)?;
        Ok(Self { url: (format!("{base}/"), format!("?{parameters}")), runtime, client })
    }

    fn url(&self, database: &str) -> String {
        format!("{}{database}{}", self.url.0, self.url.1)
    }

    fn execute(&self, statement: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(statement)).with_context(|| statement.to_owned())
    }

    pub fn describe(&self) -> Result<String> {
        let settings = "SELECT string_agg(name || ' ' || current_setting(name), ', ' ORDER BY n)
            FROM unnest('{server_version}' || $1::text[]) WITH ORDINALITY s (name, n)";
        let row = self.runtime.block_on(self.client.query_one(settings, &[&SETTINGS.as_slice()]))?;
        Ok(row.get::<_, String>(0).replacen("server_version", "PostgreSQL", 1))
    }

    pub fn has(&self, database: &str) -> Result<bool> {
        let found = "SELECT FROM pg_database WHERE datname = $1";
        Ok(self.runtime.block_on(self.client.query_opt(found, &[&database]))?.is_some())
    }

    /// Makes a database anew, empty or as a copy of another. All of it is on the disk then, and nothing waits to be
    /// written, so that nobody pays for what others did.
    pub fn create(&self, database: &str, template: Option<&str>) -> Result<Place> {
        self.drop(database)?;
        // A copy that is written through the log would take a large one many times as long.
        let copy = template.map_or(String::new(), |template| format!("TEMPLATE {template} STRATEGY FILE_COPY"));
        self.execute(&format!("CREATE DATABASE {database} {copy}"))?;
        self.execute("CHECKPOINT")?;
        Ok(self.place(database))
    }

    pub fn place(&self, database: &str) -> Place {
        Place::Database(self.url(database))
    }

    pub fn drop(&self, database: &str) -> Result<()> {
        self.execute(&format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"))
    }

    /// Gives a database that was filled its name.
    pub fn settle(&self, database: &str, name: &str) -> Result<()> {
        self.vacuum(database)?;
        self.drop(name)?;
        self.execute(&format!("ALTER DATABASE {database} RENAME TO {name}"))
    }

    /// Does what a server does behind its callers' backs.
    pub fn vacuum(&self, database: &str) -> Result<()> {
        let client = connect(&self.runtime, &self.url(database))?;
        self.runtime.block_on(client.batch_execute("VACUUM (ANALYZE)"))?;
        drop(client);
        self.execute("CHECKPOINT")
    }

    /// The bytes of the tables in a database, and those of their indexes.
    pub fn bytes(&self, database: &str) -> Result<(u64, u64)> {
        let client = connect(&self.runtime, &self.url(database))?;
        let row = self.runtime.block_on(client.query_one(BYTES, &[]))?;
        Ok((u64::try_from(row.get::<_, i64>(0))?, u64::try_from(row.get::<_, i64>(1))?))
    }

    pub fn snapshot(&self, database: &str) -> Result<Snapshot> {
        let client = connect(&self.runtime, &self.url(database))?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(), count(*) FROM pg_class";
        self.runtime.block_on(client.batch_execute(begin))?;
        Ok(Snapshot(client))
    }
}

fn connect(runtime: &Runtime, url: &str) -> Result<Client> {
    let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).context("no PostgreSQL server")?;
    // What ends it is told to those who ask.
    runtime.spawn(async move { drop(connection.await) });
    Ok(client)
}
