//! Agendas of sagas, in typed tables.

use indelible_core::{Cause, Timestamp};
use indelible_projections::{Partition, ReadModelError};
use indelible_sagas::{Agenda, AgendaModel, Entry, Item, Saga, Work, due_in_tables, put_in_tables, remove_from_tables};

use super::{RocksModel, RocksTx};

impl AgendaModel for RocksModel {
    async fn put(tx: &mut RocksTx, partition: Partition, entry: &Entry) -> Result<(), Cause> {
        Ok(put_in_tables(tx, partition, entry)?)
    }

    async fn remove(tx: &mut RocksTx, _: Partition, saga: &str, item: &Item) -> Result<(), Cause> {
        Ok(remove_from_tables(tx, saga, item)?)
    }

    async fn earliest<S: Saga>(
        &self,
        partition: Partition,
        work: Work,
        after: Option<&Entry>,
        limit: usize,
    ) -> Result<(Vec<Entry>, Option<Timestamp>), ReadModelError> {
        Ok((due_in_tables(&self.query::<Agenda<S>>()?, partition, work, after, limit)?, None))
    }
}
