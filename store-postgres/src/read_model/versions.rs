//! Versions of projections: each in a schema of its own, one of them shown to queries (P5).

use indelible_core::{Position, Token};
use indelible_projections::{ProjectionId, ReadModelError, Registration, VersionRow, VersionState, Wanted};
use tokio_postgres::Row;

use super::{Params, Shared, batch::number, error::About, leases::id, open, tx::PostgresTx};
use crate::{
    connect::Patience,
    sql::{bigint, count, quoted},
};

pub(super) async fn register(shared: &Shared, registration: &Registration) -> Result<VersionRow, ReadModelError> {
    let Registration { projection, partitions, setup, .. } = registration;
    let mut patience = Patience::new(shared.options.patience);
    loop {
        if let Some((version, made_by)) = version(shared, projection).await? {
            if version.partitions != *partitions {
                let (stored, asked) = (version.partitions, *partitions);
                return Err(ReadModelError::Partitions { projection: projection.clone(), stored, asked });
            }
            if made_by != *setup {
                tracing::warn!(%projection, "its setup is another than the one that made its tables");
            }
            shared.remember(&version);
            return Ok(version);
        }
        match make(shared, registration).await {
            Ok(()) => {}
            // Others are at it.
            Err(error @ ReadModelError::Conflict { .. }) if !patience.wait().await => return Err(error),
            Err(ReadModelError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn make(shared: &Shared, registration: &Registration) -> Result<(), ReadModelError> {
    let Registration { projection, partitions, head, setup } = registration;
    let about = About::projection("making its tables", projection);
    let home = open::home(&shared.options, projection);
    let link = shared.link(&about).await?;
    let mut tx =
        PostgresTx::begin(link, shared.outside.clone(), about, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
    let name = &*projection.name;
    let params = (
        name,
        i64::from(projection.version),
        number(*partitions),
        head.store.as_uuid(),
        bigint(head.position.get()),
        home.as_str(),
        *setup,
    );
    let is_new = tx.query_opt(&shared.statements.make, params).await?.is_some_and(|row| row.get(0));
    if is_new {
        tx.batch(format!("SET LOCAL search_path = {}, public, pg_temp", quoted(&home))).await?;
        tx.batch((*setup).into()).await?;
        tx.batch("SET LOCAL search_path TO DEFAULT".into()).await?;
        tx.execute(&shared.statements.show, (name,)).await?;
        tracing::info!(%projection, schema = %home, "made its tables");
    }
    tx.commit(shared.options.patience).await
}

/// A version, and the setup that made it.
pub(super) async fn version(
    shared: &Shared,
    projection: &ProjectionId,
) -> Result<Option<(VersionRow, String)>, ReadModelError> {
    let about = About::projection("looking for it", projection);
    let rows = shared.ask(about, &shared.statements.versions, (&*projection.name,)).await?;
    let row = rows.iter().find(|row| row.get::<_, i64>("version") == i64::from(projection.version));
    Ok(row.map(|row| (version_row(&projection.name, row), row.get("setup"))))
}

pub(super) async fn versions(shared: &Shared, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
    let rows = shared.ask(About::nobody("looking for versions"), &shared.statements.versions, (name,)).await?;
    Ok(rows.iter().map(|row| version_row(name, row)).collect())
}

fn version_row(name: &str, row: &Row) -> VersionRow {
    VersionRow {
        projection: id(name, row.get("version")),
        partitions: row.get::<_, i32>("partitions").cast_unsigned(),
        replays_to: Position::new(count(row.get("replays_to"))),
        state: match row.get("state") {
            "current" => VersionState::Current,
            "rebuilding" => VersionState::Rebuilding,
            "former" => VersionState::Former,
            _ => VersionState::Building,
        },
        wanted: Wanted {
            paused: row.get("paused"),
            building_events_per_second_max: row
                .get::<_, Option<i64>>("building_events_per_second_max")
                .map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        },
    }
}

pub(super) async fn take_over(shared: &Shared, projection: &ProjectionId) -> Result<(), ReadModelError> {
    let params = (&*projection.name, i64::from(projection.version));
    change(shared, About::projection("taking over", projection), &shared.statements.take_over, params).await
}

pub(super) async fn drop_version(shared: &Shared, projection: &ProjectionId) -> Result<(), ReadModelError> {
    let params = (&*projection.name, i64::from(projection.version));
    change(shared, About::projection("dropping", projection), &shared.statements.drop, params).await
}

pub(super) async fn reset(shared: &Shared, projection: &ProjectionId, head: Token) -> Result<(), ReadModelError> {
    let (store, position) = (head.store.as_uuid(), bigint(head.position.get()));
    let params = (&*projection.name, i64::from(projection.version), store, position);
    change(shared, About::projection("resetting", projection), &shared.statements.reset, params).await
}

pub(super) async fn caught_up(shared: &Shared, projection: &ProjectionId) -> Result<(), ReadModelError> {
    let params = (&*projection.name, i64::from(projection.version));
    change(shared, About::projection("showing", projection), &shared.statements.caught_up, params).await
}

/// One change of versions. It waits for queries that are under way, a little at a time, so that others don't wait behind
/// it for long.
async fn change(shared: &Shared, about: About, sql: &str, params: impl Params) -> Result<(), ReadModelError> {
    let mut patience = Patience::new(shared.options.patience);
    loop {
        match shared.ask(about.clone(), sql, &params).await {
            Err(ReadModelError::Conflict { .. }) if patience.wait().await => {}
            answer => return answer.map(drop),
        }
    }
}
