//! Looking at a read model.

use indelible_projections::{ProjectionId, ReadModelError};
use tokio_postgres::Row;

use super::{Params, Shared, error::About, leases::id, tx::PostgresTx};

/// What queries see of a projection, as it was when it was first asked: all questions are answered from the same state,
/// over several tables too. It holds a connection, and keeps versions of all projections in the schema from taking over and
/// from being reset; so not for long.
pub struct PostgresSnapshot {
    tx: PostgresTx,
    /// Whose current version it looks at.
    #[cfg(feature = "sagas")]
    pub(super) projection: ProjectionId,
}

pub(super) async fn snapshot(shared: &Shared, name: &str) -> Result<PostgresSnapshot, ReadModelError> {
    let unversioned = ProjectionId { name: name.into(), version: 0 };
    let link = shared.link(&About::nobody("a query")).await?;
    let about = About::projection("a query", &unversioned);
    let path = format!("{}, public, pg_temp", shared.statements.schema);
    let mut tx =
        PostgresTx::begin(link, path.as_str().into(), about, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    // First of all, so that what is shown then stays so: what rows there are is settled when anything is asked.
    let lock = format!("LOCK TABLE {}.indelible_views IN ACCESS SHARE MODE", shared.statements.schema);
    tx.batch(format!("SET LOCAL search_path = {path}; {lock}")).await?;
    let shown = tx.query_opt(&shared.statements.shown, (name,)).await?;
    let Some(row) = shown else { return Err(ReadModelError::Unknown { projection: name.into() }) };
    let projection = id(name, row.get("version"));
    if row.get::<_, &str>("state") == "rebuilding" {
        return Err(ReadModelError::Rebuilding { projection });
    }
    tx.is_about(projection.clone());
    Ok(PostgresSnapshot {
        tx,
        #[cfg(feature = "sagas")]
        projection,
    })
}

impl PostgresSnapshot {
    /// Asks; the projection's tables have their plain names.
    ///
    /// # Errors
    /// [`Rejected`](ReadModelError::Rejected) for what the server refuses, [`Unavailable`](ReadModelError::Unavailable).
    pub async fn query(&mut self, sql: &str, params: impl Params) -> Result<Vec<Row>, ReadModelError> {
        self.tx.query(sql, params).await
    }

    /// As [`query`](Self::query), for one row or none.
    ///
    /// # Errors
    /// As [`query`](Self::query), and [`Rejected`](ReadModelError::Rejected) for more than one row.
    pub async fn query_opt(&mut self, sql: &str, params: impl Params) -> Result<Option<Row>, ReadModelError> {
        self.tx.query_opt(sql, params).await
    }
}
