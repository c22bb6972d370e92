//! What an agenda asks of a read model.

use indelible_core::{Cause, Timestamp};
use indelible_projections::{Partition, ReadModel, ReadModelError, memory::MemoryModel};

use super::{Agenda, Entry, Item, Work, due_in_tables, put_in_tables, remove_from_tables};
use crate::Saga;

/// A read model that can keep agendas, and dead letters: what can't be read is parked. What it keeps of an entry is found by
/// partition, kind and time.
pub trait AgendaModel: ReadModel {
    /// What makes room for an agenda: [`Project::SETUP`](indelible_projections::Project::SETUP).
    const SETUP_AGENDA: &'static str = "";

    /// Keeps an entry, instead of the one of the same saga and item.
    ///
    /// # Errors
    /// Those of the transaction.
    fn put(tx: &mut Self::Tx, partition: Partition, entry: &Entry) -> impl Future<Output = Result<(), Cause>> + Send;

    /// Drops an entry, if it is there.
    ///
    /// # Errors
    /// Those of the transaction.
    fn remove(
        tx: &mut Self::Tx,
        partition: Partition,
        saga: &str,
        item: &Item,
    ) -> impl Future<Output = Result<(), Cause>> + Send;

    /// Up to `limit` entries of a partition and a kind by time, saga and item, those after `after`, whether their time has come or
    /// not; and what time it is, where the database has a clock of its own.
    ///
    /// # Errors
    /// Those of the database.
    fn earliest<S: Saga>(
        &self,
        partition: Partition,
        work: Work,
        after: Option<&Entry>,
        limit: usize,
    ) -> impl Future<Output = Result<(Vec<Entry>, Option<Timestamp>), ReadModelError>> + Send;
}

impl AgendaModel for MemoryModel {
    async fn put(tx: &mut Self::Tx, partition: Partition, entry: &Entry) -> Result<(), Cause> {
        Ok(put_in_tables(tx, partition, entry)?)
    }

    async fn remove(tx: &mut Self::Tx, _: Partition, saga: &str, item: &Item) -> Result<(), Cause> {
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
