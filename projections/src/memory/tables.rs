//! The tables of the memory read model: those of a transaction, and those of a snapshot.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use tokio::sync::OwnedMutexGuard;

use super::MemoryModel;
use crate::{
    Advance, DeadLetter, LetterEnd, ReadModelError,
    table::{Rows, Tables, WritableTables},
};

/// Tables by their names. A snapshot shares them, and who writes while there is one pays for the copy.
pub(super) type Contents = BTreeMap<&'static str, Arc<Sorted<Vec<u8>>>>;
type Sorted<V> = BTreeMap<Vec<u8>, V>;

/// A transaction: [`WriteTables`](crate::WriteTables) writes to it, and it sees its own writes. Those of a projection
/// have their turns.
#[derive(Debug)]
pub struct MemoryTx {
    model: MemoryModel,
    pub(super) advance: Advance,
    writes: BTreeMap<&'static str, Sorted<Option<Vec<u8>>>>,
    pub(super) parked: Vec<DeadLetter>,
    pub(super) ended: Vec<(DeadLetter, LetterEnd)>,
    _turn: OwnedMutexGuard<()>,
}

impl MemoryTx {
    pub(super) fn new(model: MemoryModel, advance: Advance, turn: OwnedMutexGuard<()>) -> Self {
        Self { model, advance, writes: BTreeMap::new(), parked: Vec::new(), ended: Vec::new(), _turn: turn }
    }

    /// Brings what was written into the tables.
    pub(super) fn write_to(&mut self, tables: &mut Contents) {
        for (table, writes) in std::mem::take(&mut self.writes) {
            let rows = Arc::make_mut(tables.entry(table).or_default());
            for (key, value) in writes {
                match value {
                    Some(value) => rows.insert(key, value),
                    None => rows.remove(&key),
                };
            }
        }
    }
}

impl Tables for MemoryTx {
    fn read(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadModelError> {
        match self.writes.get(table).and_then(|writes| writes.get(key)) {
            Some(written) => Ok(written.clone()),
            None => self.model.with(&self.advance.projection, |kept| Ok(value(&kept.tables, table, key))),
        }
    }

    fn rows(
        &self,
        table: &'static str,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        limit: usize,
    ) -> Result<Rows, ReadModelError> {
        let written: Vec<_> = self.writes.get(table).into_iter().flat_map(|writes| in_range(writes, &range)).collect();
        // Each of them hides one row at most.
        let limit_below = limit.saturating_add(written.len());
        let mut rows: BTreeMap<_, _> = self
            .model
            .with(&self.advance.projection, |kept| Ok(rows(&kept.tables, table, &range, limit_below)))?
            .into_iter()
            .collect();
        for (key, value) in written {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }
}

impl WritableTables for MemoryTx {
    fn write(&mut self, table: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), ReadModelError> {
        self.writes.entry(table).or_default().insert(key, value);
        Ok(())
    }
}

/// A projection's tables as they were: [`ReadTables`](crate::ReadTables) reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemorySnapshot {
    pub(super) tables: Contents,
}

impl Tables for MemorySnapshot {
    fn read(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadModelError> {
        Ok(value(&self.tables, table, key))
    }

    fn rows(
        &self,
        table: &'static str,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        limit: usize,
    ) -> Result<Rows, ReadModelError> {
        Ok(rows(&self.tables, table, &range, limit))
    }
}

fn value(tables: &Contents, table: &str, key: &[u8]) -> Option<Vec<u8>> {
    tables.get(table)?.get(key).cloned()
}

fn rows(tables: &Contents, table: &str, range: &(Bound<Vec<u8>>, Bound<Vec<u8>>), limit: usize) -> Rows {
    let rows = tables.get(table).into_iter().flat_map(|rows| in_range(rows, range));
    rows.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The rows of a range, which may be empty or the wrong way round: of such a one a map would panic.
fn in_range<'a, V>(
    rows: &'a Sorted<V>,
    range: &(Bound<Vec<u8>>, Bound<Vec<u8>>),
) -> impl Iterator<Item = (&'a Vec<u8>, &'a V)> {
    let empty = match range {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => start >= end,
        _ => false,
    };
    (!empty).then(|| rows.range(range.clone())).into_iter().flatten()
}
