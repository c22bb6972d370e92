//! Opening: finds the store in its schema, or makes it there. Safe when many processes do so at once.

use std::{borrow::Cow, time::Duration};

use indelible_core::{Cause, InvalidInput, StoreId};
use tokio_postgres::{Client, Error, error::SqlState, types::Type};
use uuid::Uuid;

use crate::{
    bugs,
    connect::{ConnectError, Connector, Patience, Session, may_pass},
    options::Options,
    sql::{MIGRATIONS, Statements, quoted},
};

/// Why a store, or a read model, was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The schema holds something else.
    #[error("the schema {schema} holds something else")]
    NotAStore {
        /// The schema.
        schema: String,
        /// What the server said.
        #[source]
        source: Cause,
    },
    /// The store was written by a newer version of this crate.
    #[error("the schema {schema} is of version {found}, this program knows versions up to {supported}")]
    NewerFormat {
        /// The schema.
        schema: String,
        /// Its version.
        found: u32,
        /// The newest version that is known.
        supported: u32,
    },
    /// An option or the URL makes no sense.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The server can't be reached, or lets nobody in.
    #[error("cannot reach the server: {what}")]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        #[source]
        source: Cause,
    },
    /// The server said no.
    #[error("cannot open the schema {schema}: {what}")]
    Refused {
        /// The schema.
        schema: String,
        /// What was tried.
        what: &'static str,
        /// What it said.
        #[source]
        source: Cause,
    },
}

/// What was found.
pub(crate) struct Opened {
    pub(crate) id: StoreId,
    pub(crate) session: Session,
}

pub(crate) async fn open(
    connector: &Connector,
    statements: &Statements,
    options: &Options,
) -> Result<Opened, OpenError> {
    let (id, session) = find_patiently(connector, options.patience, &StoreSchema { statements, options }).await?;
    Ok(Opened { id, session })
}

/// What is to be found in a schema, and made there where it is missing.
pub(crate) trait Findable: Sync {
    type Found: Send;
    fn schema(&self) -> &str;
    fn find(&self, client: &Client) -> impl Future<Output = Result<Self::Found, Failure>> + Send;
}

struct StoreSchema<'a> {
    statements: &'a Statements,
    options: &'a Options,
}

impl Findable for StoreSchema<'_> {
    type Found = StoreId;
    fn schema(&self) -> &str {
        &self.options.schema
    }
    async fn find(&self, client: &Client) -> Result<StoreId, Failure> {
        match identity(client, self.statements, self.options).await? {
            Some((id, version)) if version == MIGRATIONS.len() => Ok(id),
            _ => in_turn(client, &self.options.schema, steps(client, self.statements, self.options)).await,
        }
    }
}

/// Finds something, on a server that may be about to start, and with the connection on which it was found.
pub(crate) async fn find_patiently<T: Findable>(
    connector: &Connector,
    patience: Duration,
    sought: &T,
) -> Result<(T::Found, Session), OpenError> {
    let mut patience = Patience::new(patience);
    loop {
        let error: Cause = match Session::open(connector).await {
            Ok(session) => match look(&session.client, sought).await {
                Err(Failure::Server(_, error)) if may_pass(&error) => error.into(),
                Err(Failure::Server(what, error)) => {
                    return Err(OpenError::Refused { schema: sought.schema().into(), what, source: error.into() });
                }
                Err(Failure::Told(error)) => return Err(error),
                Ok(found) => return Ok((found, session)),
            },
            Err(ConnectError::Refused(error)) if may_pass(&error) && !is_final(&error) => error.into(),
            Err(error) => return Err(OpenError::Unreachable { what: "connecting", source: error.into() }),
        };
        if !patience.wait().await {
            return Err(OpenError::Unreachable { what: "connecting", source: error });
        }
    }
}

/// Whether waiting is no use: nobody is there, or certificates don't fit. A server that starts says so.
fn is_final(error: &Error) -> bool {
    error.code().is_none()
}

pub(crate) enum Failure {
    Server(&'static str, Error),
    Told(OpenError),
}

async fn look<T: Findable>(client: &Client, sought: &T) -> Result<T::Found, Failure> {
    let encoding = client.query_typed_one("SHOW server_encoding", &[]).await;
    let encoding: String = encoding.map_err(|error| Failure::Server("asking for its encoding", error))?.get(0);
    if encoding != "UTF8" {
        let reason = format!("is encoded as {encoding}, UTF8 is needed");
        return Err(Failure::Told(InvalidInput::new("database", reason).into()));
    }
    sought.find(client).await
}

/// The store's id and the version of its schema, where there is a store.
async fn identity(
    client: &Client,
    statements: &Statements,
    options: &Options,
) -> Result<Option<(StoreId, usize)>, Failure> {
    let row = match client.query_typed_opt(&statements.identity, &[]).await {
        Ok(Some(row)) => row,
        Ok(None) => return Ok(None),
        Err(error) => match error.code() {
            Some(code) if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::INVALID_SCHEMA_NAME => {
                return Ok(None);
            }
            Some(code) if *code == SqlState::UNDEFINED_COLUMN => {
                let schema = options.schema.clone();
                return Err(Failure::Told(OpenError::NotAStore { schema, source: error.into() }));
            }
            _ => return Err(Failure::Server("looking for it", error)),
        },
    };
    let found = u32::try_from(row.get::<_, i32>("format")).unwrap_or(u32::MAX);
    let supported = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > supported {
        let schema = options.schema.clone();
        return Err(Failure::Told(OpenError::NewerFormat { schema, found, supported }));
    }
    Ok(Some((StoreId::from_uuid(row.get("id")), found as usize)))
}

/// Does something with a schema in one transaction, as one of many that want to, or as the first.
pub(crate) async fn in_turn<T>(
    client: &Client,
    schema: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let failed = |what| move |error| Failure::Server(what, error);
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
    client.batch_execute(begin).await.map_err(failed("beginning to make it"))?;
    let result = match alone(client, schema).await {
        Ok(()) => work.await,
        Err(error) => Err(Failure::Server("waiting for those who make it", error)),
    };
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    client.batch_execute(end).await.map_err(failed("making it"))?;
    result
}

/// Waits until nobody else makes this schema.
async fn alone(client: &Client, schema: &str) -> Result<(), Error> {
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('indelible migration of ' || $1, 0))";
    client.query_typed(lock, &[(&schema, Type::TEXT)]).await.map(drop)
}

/// Whether a schema, whose name is quoted, has a table. A question that fails would end the transaction.
pub(crate) async fn has(client: &Client, schema: &str, table: &str) -> Result<bool, Failure> {
    let name = format!("{schema}.{table}");
    let row = client.query_typed_one("SELECT to_regclass($1) IS NOT NULL", &[(&name, Type::TEXT)]).await;
    Ok(row.map_err(|error| Failure::Server("looking for it", error))?.get(0))
}

/// Runs migrations in a schema, which is made where it is missing.
pub(crate) async fn migrate(
    client: &Client,
    name: &str,
    migrations: impl Iterator<Item = Cow<'static, str>>,
) -> Result<(), Failure> {
    let failed = |error| Failure::Server("making its schema", error);
    let schema = quoted(name);
    let there = "SELECT to_regnamespace($1) IS NOT NULL";
    let row = client.query_typed_one(there, &[(&schema, Type::TEXT)]).await;
    // Who owns a schema need not be allowed to make one, and is asked for that right even where there is one.
    if !row.map_err(failed)?.get::<_, bool>(0) {
        client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.map_err(failed)?;
    }
    client.batch_execute(&format!("SET LOCAL search_path = {schema}, pg_temp")).await.map_err(failed)?;
    for migration in migrations {
        client.batch_execute(&migration).await.map_err(|error| match error.code() {
            Some(code) if *code == SqlState::DUPLICATE_TABLE || *code == SqlState::DUPLICATE_FUNCTION => {
                Failure::Told(OpenError::NotAStore { schema: name.into(), source: error.into() })
            }
            _ => Failure::Server("making its tables and functions", error),
        })?;
    }
    Ok(())
}

/// Brings a store to the version of this program.
async fn steps(client: &Client, statements: &Statements, options: &Options) -> Result<StoreId, Failure> {
    let schema = &statements.schema;
    let found = match has(client, schema, "store").await? {
        true => identity(client, statements, options).await?,
        false => None,
    };
    if let Some((id, version)) = found
        && version == MIGRATIONS.len()
    {
        return Ok(id);
    }
    let version = found.map_or(0, |(_, version)| version);
    migrate(client, &options.schema, MIGRATIONS[version..].concat().into_iter().map(seeded)).await?;
    let id = found.map_or_else(StoreId::new, |(id, _)| id);
    let lock = Uuid::new_v4().as_u64_pair().0.cast_signed();
    client
        .batch_execute(&format!(
            "INSERT INTO {schema}.store (id, lock, format) VALUES ('{}', {lock}, {format}) \
             ON CONFLICT (one) DO UPDATE SET format = excluded.format",
            id.as_uuid(),
            format = MIGRATIONS.len(),
        ))
        .await
        .map_err(|error| Failure::Server("giving it its identity", error))?;
    tracing::info!(store = %id, schema = %options.schema, from = version, to = MIGRATIONS.len(), "migrated");
    Ok(id)
}

/// A migration's text, with the bug that is wanted.
fn seeded(statement: &'static str) -> Cow<'static, str> {
    const LOCK: &str = "    PERFORM pg_advisory_xact_lock(s.lock) FROM store s;\n";
    const FACTS: &str = "    -- The facts.\n";
    const ONE: &str = "        FROM (VALUES (true)) one\n";
    const JUDGEMENT: &str = "    -- The judgement.\n";
    if !statement.contains(LOCK) {
        return statement.into();
    }
    if bugs::is_on(bugs::SNAPSHOT_BEFORE_LOCK) {
        statement.replace(LOCK, "").replace(JUDGEMENT, LOCK).into()
    } else if bugs::is_on(bugs::LOCK_IN_STATEMENT) {
        let one = "        FROM (SELECT pg_advisory_xact_lock(s.lock) FROM store s) one\n";
        statement.replace(LOCK, "").replace(ONE, one).into()
    } else if bugs::is_on(bugs::COUNTER_IN_STATEMENT) {
        let counter = "    WITH counter AS (UPDATE store SET format = format RETURNING true)\n";
        statement.replace(LOCK, "").replace(FACTS, counter).replace(ONE, "        FROM counter one\n").into()
    } else {
        statement.into()
    }
}
