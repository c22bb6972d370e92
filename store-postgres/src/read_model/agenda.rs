//! Agendas of sagas, in a table of each agenda's own, which no view shows. What is due is told by the database's clock.

use std::time::SystemTime;

use indelible_core::{Cause, Timestamp};
use indelible_projections::{Partition, ReadModelError};
use indelible_sagas::{Agenda, AgendaModel, Entry, Item, Saga, Work};
use tokio_postgres::Row;

use super::{PostgresModel, PostgresTx, open};
use crate::sql::quoted;

impl AgendaModel for PostgresModel {
    const SETUP_AGENDA: &'static str = include_str!("../sql/read_model/agenda.sql");

    async fn put(tx: &mut PostgresTx, partition: Partition, entry: &Entry) -> Result<(), Cause> {
        let (item, work, due) = (entry.item.to_string(), entry.work as i16, SystemTime::from(entry.due));
        let put = "INSERT INTO indelible_agenda (saga, item, partition, work, due, attempt)
                   VALUES ($1, $2, $3, $4, $5, $6)
                   ON CONFLICT (saga, item) DO UPDATE
                   SET work = excluded.work, due = excluded.due, attempt = excluded.attempt";
        Ok(tx.execute(put, (&entry.saga, &item, partition.0 as i32, work, due, entry.attempt as i32)).await?)
    }

    async fn remove(tx: &mut PostgresTx, _: Partition, saga: &str, item: &Item) -> Result<(), Cause> {
        Ok(tx.execute("DELETE FROM indelible_agenda WHERE saga = $1 AND item = $2", (saga, &item.to_string())).await?)
    }

    async fn earliest<S: Saga>(
        &self,
        partition: Partition,
        work: Work,
        after: Option<&Entry>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<Timestamp>), ReadModelError> {
        let mut snapshot = self.query::<Agenda<S>>().await?;
        let home = quoted(&open::home(&self.shared.options, &snapshot.projection));
        let select = format!("SELECT saga, item, due, attempt, clock_timestamp() AS now FROM {home}.indelible_agenda");
        let order = "ORDER BY due, saga, item LIMIT";
        let (partition, kind, limit) = (partition.0 as i32, work as i16, i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = match after {
            None => {
                snapshot
                    .query(&format!("{select} WHERE partition = $1 AND work = $2 {order} $3"), (partition, kind, limit))
                    .await?
            }
            Some(Entry { saga, item, due, .. }) => {
                let later = format!(
                    "{select} WHERE partition = $1 AND work = $2 AND (due, saga, item) > ($3, $4, $5) {order} $6"
                );
                let (due, item) = (SystemTime::from(*due), item.to_string());
                snapshot.query(&later, (partition, kind, due, saga, &item, limit)).await?
            }
        };
        let entry = |row: &Row| {
            let item = row.get::<_, &str>("item").parse::<Item>();
            let item = item.map_err(|error| ReadModelError::rejected("an entry of the agenda", error))?;
            let attempt = row.get::<_, i32>("attempt").cast_unsigned();
            Ok(Entry { saga: row.get("saga"), item, attempt, due: time(row, "due"), work })
        };
        Ok((rows.iter().map(entry).collect::<Result<_, ReadModelError>>()?, rows.first().map(|row| time(row, "now"))))
    }
}

fn time(row: &Row, column: &str) -> Timestamp {
    row.get::<_, SystemTime>(column).into()
}
