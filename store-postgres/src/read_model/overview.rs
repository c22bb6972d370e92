//! Overviews of sagas, in tables of each overview's own, which no view shows.

use std::time::SystemTime;

use indelible_core::Cause;
use indelible_projections::{Envelope, Project, ReadModelError};
use indelible_sagas::{
    Saga, SagaEvent,
    overview::{Count, Goes, Overview, Place},
};

use super::{PostgresModel, PostgresTx, open};
use crate::sql::quoted;

impl<S: Saga> Project<PostgresModel> for Overview<S> {
    const SETUP: &'static str = include_str!("../sql/read_model/overview.sql");

    async fn apply(&self, envelope: &Envelope<SagaEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let (saga, at) = (envelope.recorded.stream.id(), SystemTime::from(envelope.recorded.recorded_at));
        let Some(goes) = Goes::by(&envelope.event) else { return Ok(()) };
        let leaves = "UPDATE indelible_counts c SET sagas = c.sagas - 1 FROM indelible_standings s
                       WHERE s.saga = $1 AND c.doing = s.doing AND c.step = s.step";
        tx.execute(leaves, (saga,)).await?;
        match goes {
            Goes::To { doing, step } => {
                let stands = "INSERT INTO indelible_standings VALUES ($1, $2, $3, $4, $4) ON CONFLICT (saga) DO UPDATE
                              SET doing = excluded.doing, step = excluded.step, since = excluded.since";
                tx.execute(stands, (saga, doing, step, at)).await?;
                let comes = "INSERT INTO indelible_counts AS c (doing, step, sagas) VALUES ($1, $2, 1)
                             ON CONFLICT (doing, step) DO UPDATE SET sagas = c.sagas + 1";
                Ok(tx.execute(comes, (doing, step)).await?)
            }
            Goes::Out { outcome } => {
                let ends = "INSERT INTO indelible_counts AS c (doing, step, sagas, took_ms)
                            SELECT $2, '', 1, coalesce((SELECT floor(extract(epoch FROM $3 - s.started) * 1000)
                                                          FROM indelible_standings s WHERE s.saga = $1), 0)::bigint
                            ON CONFLICT (doing, step)
                            DO UPDATE SET sagas = c.sagas + 1, took_ms = c.took_ms + excluded.took_ms";
                tx.execute(ends, (saga, outcome, at)).await?;
                Ok(tx.execute("DELETE FROM indelible_standings WHERE saga = $1", (saga,)).await?)
            }
        }
    }
}

impl PostgresModel {
    /// Up to `limit` sagas that have not ended, by their ids, and where they stand: those first that have stood there for
    /// the longest time. Kept by an [`Overview`].
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn standings<S: Saga>(&self, limit: usize) -> Result<Vec<(String, Place)>, ReadModelError> {
        let mut snapshot = self.query::<Overview<S>>().await?;
        let home = quoted(&open::home(&self.shared.options, &snapshot.projection));
        let select = format!(
            "SELECT saga, doing, step, since, started FROM {home}.indelible_standings ORDER BY since, saga LIMIT $1"
        );
        let rows = snapshot.query(&select, (i64::try_from(limit).unwrap_or(i64::MAX),)).await?;
        let place = |row: &tokio_postgres::Row| Place {
            doing: row.get("doing"),
            step: row.get("step"),
            since: row.get::<_, SystemTime>("since").into(),
            started: row.get::<_, SystemTime>("started").into(),
        };
        Ok(rows.iter().map(|row| (row.get("saga"), place(row))).collect())
    }

    /// How many sagas there are by what they do and the step they are at; those that have ended by how, at no step. Kept
    /// by an [`Overview`].
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn counts<S: Saga>(&self) -> Result<Vec<((String, String), Count)>, ReadModelError> {
        let mut snapshot = self.query::<Overview<S>>().await?;
        let home = quoted(&open::home(&self.shared.options, &snapshot.projection));
        let select = format!(
            "SELECT doing, step, sagas, took_ms FROM {home}.indelible_counts WHERE sagas > 0 ORDER BY doing, step"
        );
        let rows = snapshot.query(&select, ()).await?;
        let number = |row: &tokio_postgres::Row, column| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
        let count = |row| Count { sagas: number(row, "sagas"), took_ms: number(row, "took_ms") };
        Ok(rows.iter().map(|row| ((row.get("doing"), row.get("step")), count(row))).collect())
    }
}
