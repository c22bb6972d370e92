//! Overviews of sagas, in tables of each overview's own, which no view shows.

use std::time::SystemTime;

use indelible_core::Cause;
use indelible_projections::{Envelope, Project, ReadModelError};
use indelible_sagas::{
    Saga, SagaEvent,
    overview::{Count, Goes, Overview, Place},
};
use tokio_postgres::Row;

use super::{PostgresModel, PostgresTx, open};
use crate::sql::{count, quoted};

impl<S: Saga> Project<PostgresModel> for Overview<S> {
    const SETUP: &'static str = include_str!("../sql/read_model/overview.sql");

    async fn apply(&self, envelope: &Envelope<SagaEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let (saga, at) = (envelope.recorded.stream.id(), SystemTime::from(envelope.recorded.recorded_at));
        for goes in Goes::by(&envelope.event) {
            match goes {
                Goes::To { doing, step } => {
                    tx.execute(WAS, (saga, step)).await?;
                    let stands = "INSERT INTO indelible_standings VALUES ($1, $2, $3, $4, $4)
                                  ON CONFLICT (saga, step) DO UPDATE SET doing = excluded.doing, since = excluded.since";
                    tx.execute(stands, (saga, step, doing, at)).await?;
                    let comes = "INSERT INTO indelible_counts AS c (doing, step, sagas) VALUES ($1, $2, 1)
                                 ON CONFLICT (doing, step) DO UPDATE SET sagas = c.sagas + 1";
                    tx.execute(comes, (doing, step)).await?;
                }
                Goes::From { step, through } => {
                    if let Some(how) = through {
                        tx.execute(THROUGH, (saga, step, how, at)).await?;
                    }
                    leave(tx, "step = $2", saga, step).await?;
                }
                Goes::Fails { step } => {
                    tx.execute(WAS, (saga, step)).await?;
                    let fails = "WITH fails AS (UPDATE indelible_standings SET doing = 'failed', since = $3
                                                WHERE saga = $1 AND step = $2 RETURNING step)
                                 INSERT INTO indelible_counts AS c (doing, step, sagas) SELECT 'failed', step, 1 FROM fails
                                 ON CONFLICT (doing, step) DO UPDATE SET sagas = c.sagas + 1";
                    tx.execute(fails, (saga, step, at)).await?;
                }
                Goes::Back => leave(tx, "step > $2 AND doing IN ('stuck', 'failed')", saga, "").await?,
                Goes::Out { outcome } => {
                    tx.execute(THROUGH, (saga, "", outcome, at)).await?;
                    leave(tx, "step >= $2", saga, "").await?;
                }
            }
        }
        Ok(())
    }
}

/// It is no longer counted where it stands at a step, if it does.
const WAS: &str = "UPDATE indelible_counts c SET sagas = c.sagas - 1 FROM indelible_standings s
                   WHERE s.saga = $1 AND s.step = $2 AND (c.doing, c.step) = (s.doing, s.step)";

/// Where it stands it is through, and counted for ever by how, with the time since it came there.
const THROUGH: &str = "INSERT INTO indelible_counts AS c (doing, step, sagas, took_ms)
                       SELECT $3, step, 1, floor(extract(epoch FROM $4 - started) * 1000)::bigint
                       FROM indelible_standings WHERE saga = $1 AND step = $2
                       ON CONFLICT (doing, step)
                       DO UPDATE SET sagas = c.sagas + 1, took_ms = c.took_ms + excluded.took_ms";

/// Takes a saga away from some of the places where it stands.
async fn leave(tx: &mut PostgresTx, which: &str, saga: &str, step: &str) -> Result<(), ReadModelError> {
    let leaves = format!(
        "WITH gone AS (DELETE FROM indelible_standings WHERE saga = $1 AND {which} RETURNING doing, step)
         UPDATE indelible_counts c SET sagas = c.sagas - 1 FROM gone WHERE (c.doing, c.step) = (gone.doing, gone.step)"
    );
    tx.execute(&leaves, (saga, step)).await
}

impl PostgresModel {
    /// Up to `limit` places where sagas stand that have not ended, by id and step, at no step for the saga as a whole: those
    /// first where one has stood for the longest time. Kept by an [`Overview`].
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn standings<S: Saga>(&self, limit: usize) -> Result<Vec<((String, String), Place)>, ReadModelError> {
        let mut snapshot = self.query::<Overview<S>>().await?;
        let home = quoted(&open::home(&self.shared.options, &snapshot.projection));
        let select = format!(
            "SELECT saga, step, doing, since, started FROM {home}.indelible_standings ORDER BY since, saga, step LIMIT $1"
        );
        let rows = snapshot.query(&select, (i64::try_from(limit).unwrap_or(i64::MAX),)).await?;
        let place = |row: &Row| Place {
            doing: row.get("doing"),
            since: row.get::<_, SystemTime>("since").into(),
            started: row.get::<_, SystemTime>("started").into(),
        };
        Ok(rows.iter().map(|row| ((row.get("saga"), row.get("step")), place(row))).collect())
    }

    /// How many sagas there are by what they do and the step they do it at, and at no step as a whole, those that have ended
    /// by how: as [`COUNTS`](indelible_sagas::overview::COUNTS). Kept by an [`Overview`].
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
        let counted = |row: &Row| Count { sagas: count(row.get("sagas")), took_ms: count(row.get("took_ms")) };
        Ok(rows.iter().map(|row| ((row.get("doing"), row.get("step")), counted(row))).collect())
    }
}
