//! Looking at a read model.

use indelible_projections::{ProjectionId, ReadModelError};
use tokio_postgres::Row;

use super::{Params, Shared, error::About, leases::id, tx::PostgresTx};
use crate::sql::quoted;

/// What queries see of a projection, as it was when it was first asked: all questions are answered from the same state,
/// over several tables too. It holds a connection, and keeps the next version from taking over, and this one from being reset;
/// so not for long.
pub struct PostgresSnapshot {
    tx: PostgresTx,
    /// Whose current version it looks at.
    #[cfg(feature = "sagas")]
    pub(super) projection: ProjectionId,
}

/// How often its views are looked for again, since they have become others.
const LOOKS_MAX: usize = 10;

/// Its views are locked before anything is asked, so before it is settled which rows there are: a change of versions is over
/// then, or comes later. Tables are looked up as they are *now*, so that behind a change the rows of one version would be
/// sought in another's tables.
pub(super) async fn snapshot(shared: &Shared, name: &str) -> Result<PostgresSnapshot, ReadModelError> {
    let mut views = shared.views().get(name).cloned().unwrap_or_default();
    let mut refused = None;
    for _ in 0..LOOKS_MAX {
        let mut tx = match locked(shared, name, &views).await {
            // One of them is gone.
            Err(error @ ReadModelError::Rejected { .. }) if !views.is_empty() => {
                (views, refused) = (Vec::new(), Some(error));
                continue;
            }
            tx => tx?,
        };
        let shown = tx.query_opt(&shared.statements.shown, (name,)).await?;
        let Some(row) = shown else { return Err(ReadModelError::Unknown { projection: name.into() }) };
        let projection = id(name, row.get("version"));
        if row.get::<_, &str>("state") == "rebuilding" {
            return Err(ReadModelError::Rebuilding { projection });
        }
        let there: Vec<String> = row.get("views");
        if there != views {
            shared.views().insert(name.into(), there.clone());
            views = there;
            continue;
        }
        tx.is_about(projection.clone());
        return Ok(PostgresSnapshot {
            tx,
            #[cfg(feature = "sagas")]
            projection,
        });
    }
    Err(refused.unwrap_or_else(|| ReadModelError::Conflict { what: format!("looking at {name}"), source: None }))
}

/// A transaction that has locked views, and not looked at anything yet.
async fn locked(shared: &Shared, name: &str, views: &[String]) -> Result<PostgresTx, ReadModelError> {
    let link = shared.link(&About::nobody("a query")).await?;
    let about = About::projection("a query", &ProjectionId { name: name.into(), version: 0 });
    let path = format!("{}, public, pg_temp", shared.statements.schema);
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let mut tx = PostgresTx::begin(link, path.as_str().into(), about, begin);
    let views: Vec<String> =
        views.iter().map(|view| format!("{}.{}", shared.statements.schema, quoted(view))).collect();
    let lock = match &views[..] {
        [] => String::new(),
        views => format!("; LOCK TABLE {} IN ACCESS SHARE MODE", views.join(", ")),
    };
    tx.batch(format!("SET LOCAL search_path = {path}{lock}")).await?;
    Ok(tx)
}

impl PostgresSnapshot {
    /// Asks; the projection's tables have their plain names.
    ///
    /// # Errors
    /// [`Rejected`](ReadModelError::Rejected) for what the server refuses, [`Rebuilding`](ReadModelError::Rebuilding) for a
    /// view of another projection that is, [`Unavailable`](ReadModelError::Unavailable).
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
