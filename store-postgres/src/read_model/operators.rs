//! What operators want: of a version, and of whoever owns a partition.

use indelible_core::Position;
use indelible_projections::{Done, Errand, Partition, ProjectionId, ReadModelError, Want, Wish};
use tokio_postgres::Row;

use super::{Shared, batch::number, error::About, leases::storable};
use crate::sql::{bigint, count};

pub(super) async fn want(shared: &Shared, projection: &ProjectionId, want: Want) -> Result<(), ReadModelError> {
    let (paused, max) = match want {
        Want::Paused(paused) => (Some(paused), None),
        Want::BuildingEventsPerSecondMax(max) => (None, Some(i64::from(max))),
    };
    let params = (&*projection.name, i64::from(projection.version), paused, max);
    let about = About::projection("keeping what is wanted of it", projection);
    known(projection, shared.ask(about, &shared.statements.want, params).await?)
}

pub(super) async fn wish(shared: &Shared, projection: &ProjectionId, wish: &Wish) -> Result<(), ReadModelError> {
    let (stream, position, reason) = match &wish.errand {
        Errand::Restart => (None, Position::START, None),
        Errand::Redrive { stream, to } => (Some(stream), *to, None),
        Errand::Discard { stream, position, reason } => (Some(stream), *position, Some(storable(reason))),
    };
    let params = (
        &*projection.name,
        i64::from(projection.version),
        wish.id.cast_signed(),
        number(wish.partition.0),
        stream.map(|stream| stream.as_str()),
        bigint(position.get()),
        reason,
    );
    let about = About::projection("writing a wish down", projection);
    known(projection, shared.ask(about, &shared.statements.wish, params).await?)
}

/// Statements that change what there is of a version say so.
fn known(projection: &ProjectionId, rows: Vec<Row>) -> Result<(), ReadModelError> {
    match rows.is_empty() {
        true => Err(ReadModelError::Unknown { projection: projection.to_string() }),
        false => Ok(()),
    }
}

pub(super) async fn wishes(shared: &Shared, projection: &ProjectionId) -> Result<Vec<Wish>, ReadModelError> {
    let params = (&*projection.name, i64::from(projection.version));
    let about = About::projection("looking for wishes", projection);
    let rows = shared.ask(about, &shared.statements.wishes, params).await?;
    rows.iter().map(wish_of).collect()
}

pub(super) async fn answer(
    shared: &Shared,
    projection: &ProjectionId,
    wish: u64,
    answer: &Done,
) -> Result<(), ReadModelError> {
    let (version, letters) = (i64::from(projection.version), bigint(answer.letters));
    let params = (&*projection.name, version, wish.cast_signed(), letters, answer.error.as_deref().map(storable));
    let about = About::projection("answering a wish", projection);
    shared.ask(about, &shared.statements.answer, params).await.map(drop)
}

pub(super) async fn outcome(
    shared: &Shared,
    projection: &ProjectionId,
    wish: u64,
    is_last: bool,
) -> Result<Option<Done>, ReadModelError> {
    let params = (&*projection.name, i64::from(projection.version), wish.cast_signed(), is_last);
    let about = About::projection("looking what came of a wish", projection);
    let rows = shared.ask(about, &shared.statements.outcome, params).await?;
    let done =
        |row: &Row| Some(Done { letters: count(row.get::<_, Option<i64>>("letters")?), error: row.get("error") });
    Ok(rows.first().and_then(done))
}

fn wish_of(row: &Row) -> Result<Wish, ReadModelError> {
    let position = Position::new(count(row.get("position")));
    let errand = match row.get::<_, Option<&str>>("stream") {
        None => Errand::Restart,
        Some(stream) => {
            let stream = stream.parse().map_err(|error| ReadModelError::corrupted("a wish", error))?;
            match row.get("reason") {
                None => Errand::Redrive { stream, to: position },
                Some(reason) => Errand::Discard { stream, position, reason },
            }
        }
    };
    Ok(Wish {
        id: row.get::<_, i64>("wish").cast_unsigned(),
        partition: Partition(row.get::<_, i32>("partition").cast_unsigned()),
        errand,
    })
}
