//! Who has which partition, and how far it has come.

use std::time::{Duration, SystemTime};

use indelible_core::{EventId, Position, StoreId, StreamId, Timestamp, Token};
use indelible_projections::{
    Claim, Epoch, Lease, Partition, PartitionRow, ProjectionId, ReadModelError, Roster, WorkerId, WorkerRow,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Shared, batch::number, error::About};
use crate::sql::{bigint, count};

pub(super) async fn take(
    shared: &Shared,
    projection: &ProjectionId,
    partition: Partition,
    worker: &WorkerId,
) -> Result<Option<Claim>, ReadModelError> {
    let mut about = About::projection("taking", projection);
    about.partition = Some(partition);
    let params =
        (&*projection.name, i64::from(projection.version), number(partition.0), worker.0.as_str(), shared.lease_ms());
    let rows = match shared.ask(about, &shared.statements.call_take, params).await {
        // Its owner's last batch is still under way.
        Err(ReadModelError::Conflict { what, source }) => return Err(ReadModelError::Unavailable { what, source }),
        answer => answer?,
    };
    let Some(row) = rows.first() else { return Ok(None) };
    let parked: Vec<String> = row.get("parked");
    let parked = parked.iter().map(|stream| stream.parse::<StreamId>()).collect::<Result<_, _>>();
    Ok(Some(Claim {
        projection: projection.clone(),
        partition,
        epoch: Epoch(count(row.get("epoch"))),
        position: token(row),
        replays_to: Position::new(count(row.get("replays_to"))),
        parked: parked.map_err(|error| ReadModelError::corrupted("the name of a parked stream", error))?,
    }))
}

pub(super) async fn partitions(
    shared: &Shared,
    projection: &ProjectionId,
) -> Result<Vec<PartitionRow>, ReadModelError> {
    let about = About::projection("looking for partitions", projection);
    let params = (&*projection.name, i64::from(projection.version));
    let rows = shared.ask(about, &shared.statements.partitions, params).await?;
    if rows.is_empty() {
        return Err(ReadModelError::Unknown { projection: projection.to_string() });
    }
    let row = |row: &Row| PartitionRow {
        partition: Partition(row.get::<_, i32>("partition").cast_unsigned()),
        epoch: Epoch(count(row.get("epoch"))),
        position: token(row),
        updated_at: time(row, "updated_at"),
        owner: row.get::<_, Option<String>>("owner").map(WorkerId),
        parked: usize::try_from(row.get::<_, i64>("parked")).unwrap_or(0),
        stopped: row.get("stopped"),
    };
    Ok(rows.iter().map(row).collect())
}

pub(super) async fn renew(shared: &Shared, worker: &WorkerRow) -> Result<Roster, ReadModelError> {
    let about = || About::projection("renewing leases", &worker.runs);
    let (name, version) = (&*worker.runs.name, i64::from(worker.runs.version));
    let (since, troubled) = (SystemTime::from(worker.since), i64::from(worker.troubled));
    let params = (name, version, &*worker.id.0, &*worker.host, since, troubled, shared.lease_ms());
    shared.ask(about(), &shared.statements.call_renew, params).await?;
    let workers = shared.ask(about(), &shared.statements.workers, (name, version)).await?;
    let leases = shared.ask(about(), &shared.statements.leases, (name, version)).await?;
    let lease = |row: &Row| Lease {
        partition: Partition(row.get::<_, i32>(0).cast_unsigned()),
        worker: WorkerId(row.get(1)),
        expires_in: Duration::from_secs_f64(row.get::<_, f64>(2).max(0.0)),
    };
    Ok(Roster { workers: workers.iter().map(worker_row).collect(), leases: leases.iter().map(lease).collect() })
}

pub(super) async fn workers(shared: &Shared) -> Result<Vec<WorkerRow>, ReadModelError> {
    let params = (None::<&str>, None::<i64>);
    let rows = shared.ask(About::nobody("looking for workers"), &shared.statements.workers, params).await?;
    Ok(rows.iter().map(worker_row).collect())
}

fn worker_row(row: &Row) -> WorkerRow {
    WorkerRow {
        id: WorkerId(row.get("worker")),
        host: row.get("host"),
        since: time(row, "since"),
        runs: id(row.get("projection"), row.get("version")),
        troubled: u32::try_from(row.get::<_, i64>("troubled")).unwrap_or(u32::MAX),
    }
}

pub(super) async fn release(shared: &Shared, claim: &Claim) -> Result<(), ReadModelError> {
    let Claim { projection, partition, epoch, .. } = claim;
    let about = About::projection("giving back", projection);
    let params = (&*projection.name, i64::from(projection.version), number(partition.0), bigint(epoch.0));
    shared.ask(about, &shared.statements.release, params).await.map(drop)
}

pub(super) async fn stopped(shared: &Shared, claim: &Claim, error: &str) -> Result<(), ReadModelError> {
    let Claim { projection, partition, epoch, .. } = claim;
    let about = About::projection("telling that it has stopped", projection);
    let (version, partition) = (i64::from(projection.version), number(partition.0));
    let params = (&*projection.name, version, partition, bigint(epoch.0), storable(error));
    shared.ask(about, &shared.statements.stopped, params).await.map(drop)
}

pub(super) async fn leave(shared: &Shared, worker: &WorkerId, projection: &ProjectionId) -> Result<(), ReadModelError> {
    let params = (&*projection.name, i64::from(projection.version), &*worker.0);
    shared.ask(About::projection("leaving", projection), &shared.statements.leave, params).await.map(drop)
}

/// Text without the one character that the server has no room for.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) fn id(name: &str, version: i64) -> ProjectionId {
    ProjectionId { name: name.into(), version: u32::try_from(version).unwrap_or(u32::MAX) }
}

fn token(row: &Row) -> Token {
    Token {
        store: StoreId::from_uuid(row.get::<_, Uuid>("store")),
        position: Position::new(count(row.get("position"))),
        event: EventId::from_uuid(row.get::<_, Uuid>("event")),
    }
}

pub(super) fn time(row: &Row, column: &str) -> Timestamp {
    row.get::<_, SystemTime>(column).into()
}
