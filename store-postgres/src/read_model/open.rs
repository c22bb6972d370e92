//! Opening: finds the read model in its schema, or makes it there. Safe when many processes do so at once.

use std::borrow::Cow;

use indelible_projections::ProjectionId;
use tokio_postgres::{Client, Error, error::SqlState};
use uuid::Uuid;

use super::ModelOptions;
use crate::{
    OpenError, bugs,
    open::{Failure, Findable, has, in_turn, migrate},
    sql::{MODEL_MIGRATIONS, ModelStatements},
};

pub(super) struct ModelSchema<'a> {
    pub(super) statements: &'a ModelStatements,
    pub(super) options: &'a ModelOptions,
}

impl Findable for ModelSchema<'_> {
    type Found = ();
    fn schema(&self) -> &str {
        &self.options.schema
    }
    async fn find(&self, client: &Client) -> Result<(), Failure> {
        match self.version(client).await? == MODEL_MIGRATIONS.len() {
            true => Ok(()),
            false => in_turn(client, &self.options.schema, self.migrate(client)).await,
        }
    }
}

impl ModelSchema<'_> {
    /// How many steps it has gone through; 0 where it isn't there.
    async fn version(&self, client: &Client) -> Result<usize, Failure> {
        let asked = client.query_typed_opt(&self.statements.format, &[]).await;
        let is_missing = |error: &Error| {
            let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
            error.code().is_some_and(|code| missing.contains(code))
        };
        let found = match asked {
            Ok(row) => row.map_or(0, |row| u32::try_from(row.get::<_, i32>(0)).unwrap_or(u32::MAX)),
            Err(error) if is_missing(&error) => 0,
            Err(error) => return Err(Failure::Server("looking for it", error)),
        };
        let supported = u32::try_from(MODEL_MIGRATIONS.len()).unwrap_or(u32::MAX);
        match found > supported {
            true => {
                let schema = self.options.schema.clone();
                Err(Failure::Told(OpenError::NewerFormat { schema, found, supported }))
            }
            false => Ok(found as usize),
        }
    }

    async fn migrate(&self, client: &Client) -> Result<(), Failure> {
        let schema = &self.statements.schema;
        let version = if has(client, schema, "indelible_format").await? { self.version(client).await? } else { 0 };
        if version == MODEL_MIGRATIONS.len() {
            return Ok(());
        }
        migrate(client, &self.options.schema, MODEL_MIGRATIONS[version..].concat().into_iter().map(seeded)).await?;
        let format = MODEL_MIGRATIONS.len();
        client
            .batch_execute(&format!(
                "INSERT INTO {schema}.indelible_format (format) VALUES ({format}) \
                 ON CONFLICT (one) DO UPDATE SET format = excluded.format"
            ))
            .await
            .map_err(|error| Failure::Server("giving it its version", error))?;
        tracing::info!(schema = %self.options.schema, from = version, to = format, "migrated a read model");
        Ok(())
    }
}

/// A migration's text, with the bug that is wanted.
fn seeded(statement: &'static str) -> Cow<'static, str> {
    const FENCE: &str = "\n       AND p.epoch = the_epoch AND p.position = from_position";
    const IS_BEHIND: &str = "seen > reached";
    for (bug, text, instead) in [(bugs::LEASE_WITHOUT_FENCE, FENCE, ""), (bugs::TAKE_OVER_BEHIND, IS_BEHIND, "false")] {
        if bugs::is_on(bug) && statement.contains(text) {
            return statement.replace(text, instead).into();
        }
    }
    statement.into()
}

/// The name of a version's schema.
pub(super) fn home(options: &ModelOptions, projection: &ProjectionId) -> String {
    let ProjectionId { name, version } = projection;
    let home = format!("{}_{name}_{version}", options.schema);
    match home.len() <= 63 {
        true => home,
        // The server would cut it, and take two for one.
        false => {
            let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()).as_u64_pair().0;
            format!("{}_{hash:016x}_{version}", options.schema)
        }
    }
}
