//! Dead letters: events that could not be handled, and those that wait behind them.

use std::time::SystemTime;

use indelible_core::{EventId, EventType, Position, StreamId, Version};
use indelible_projections::{DeadLetter, LetterEnd, Partition, ProjectionId, ReadModelError};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Shared,
    batch::number,
    error::About,
    leases::{storable, time},
    tx::PostgresTx,
};
use crate::{
    bugs,
    sql::{bigint, count},
};

pub(super) async fn park(shared: &Shared, tx: &mut PostgresTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
    if bugs::is_on(bugs::POISON_SKIPPED) {
        return Ok(());
    }
    let Some(ProjectionId { name, version }) = tx.projection() else {
        return Err(ReadModelError::rejected("a dead letter", "it is in no batch"));
    };
    let params = (
        &*name,
        i64::from(version),
        bigint(letter.position.get()),
        number(letter.partition.0),
        letter.event.as_uuid(),
        letter.stream.as_str(),
        bigint(letter.version.get()),
        letter.event_type.as_str(),
        letter.error.as_deref().map(storable),
        i64::from(letter.attempts),
        SystemTime::from(letter.parked_at),
    );
    tx.execute(&shared.statements.park, params).await
}

pub(super) async fn unpark(
    shared: &Shared,
    tx: &mut PostgresTx,
    letter: &DeadLetter,
    end: &LetterEnd,
) -> Result<(), ReadModelError> {
    let Some(ProjectionId { name, version }) = tx.projection() else {
        return Err(ReadModelError::rejected("a dead letter", "it is in no batch"));
    };
    let (version, position) = (i64::from(version), bigint(letter.position.get()));
    let gone = match end {
        LetterEnd::Redriven => tx.query(&shared.statements.redriven, (&*name, version, position)).await?,
        LetterEnd::Discarded(reason) => {
            let params = (&*name, version, position, storable(reason));
            tx.query(&shared.statements.discard, params).await?
        }
    };
    match gone.is_empty() {
        true => Err(ReadModelError::rejected("a dead letter", "it is there no more")),
        false => Ok(()),
    }
}

pub(super) async fn letters(
    shared: &Shared,
    projection: &ProjectionId,
    stream: Option<&StreamId>,
    after: Position,
    limit: usize,
) -> Result<Vec<DeadLetter>, ReadModelError> {
    let about = About::projection("looking for dead letters", projection);
    let (name, version) = (&*projection.name, i64::from(projection.version));
    let (after, limit) = (bigint(after.get()), bigint(limit as u64));
    let rows = match stream {
        None => shared.ask(about, &shared.statements.letters, (name, version, after, limit)).await,
        Some(stream) => {
            let params = (name, version, after, limit, stream.as_str());
            shared.ask(about, &shared.statements.letters_of_stream, params).await
        }
    };
    rows?.iter().map(letter).collect()
}

pub(super) async fn discarded(
    shared: &Shared,
    projection: &ProjectionId,
    after: Position,
    limit: usize,
) -> Result<Vec<(DeadLetter, String)>, ReadModelError> {
    let about = About::projection("looking for discarded events", projection);
    let params = (&*projection.name, i64::from(projection.version), bigint(after.get()), bigint(limit as u64));
    let rows = shared.ask(about, &shared.statements.discarded, params).await?;
    rows.iter().map(|row| Ok((letter(row)?, row.get("reason")))).collect()
}

fn letter(row: &Row) -> Result<DeadLetter, ReadModelError> {
    let invalid = |error| ReadModelError::corrupted("a dead letter", error);
    Ok(DeadLetter {
        partition: Partition(row.get::<_, i32>("partition").cast_unsigned()),
        event: EventId::from_uuid(row.get::<_, Uuid>("event")),
        stream: row.get::<_, &str>("stream").parse().map_err(invalid)?,
        version: Version::new(count(row.get("stream_version"))),
        position: Position::new(count(row.get("position"))),
        event_type: EventType::new(row.get::<_, &str>("event_type")).map_err(invalid)?,
        error: row.get("error"),
        attempts: u32::try_from(row.get::<_, i64>("attempts")).unwrap_or(u32::MAX),
        parked_at: time(row, "parked_at"),
    })
}
