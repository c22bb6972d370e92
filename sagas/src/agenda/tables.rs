//! An agenda in typed tables: two rows an entry, by what it is and by when it is due.

use std::ops::Bound;

use indelible_core::Timestamp;
use indelible_projections::{Partition, ReadModelError, ReadTables, Table, WriteTables};

use super::{Entry, Item};

/// Saga and item → partition, time in microseconds.
const ITEMS: Table<(String, String), (u32, i64)> = Table::new("items");
/// Partition, time, saga and item → attempt.
const DUE: Table<(u32, Timestamp, (String, String)), u32> = Table::new("due");

/// [`AgendaModel::put`](super::AgendaModel::put) into tables.
///
/// # Errors
/// Those of the tables.
pub fn put_in_tables(tx: &mut impl WriteTables, partition: Partition, entry: &Entry) -> Result<(), ReadModelError> {
    remove_from_tables(tx, &entry.saga, &entry.item)?;
    let key = (entry.saga.clone(), entry.item.to_string());
    tx.put(&ITEMS, &key, &(partition.0, entry.due.as_micros()))?;
    tx.put(&DUE, &(partition.0, entry.due, key), &entry.attempt)
}

/// [`AgendaModel::remove`](super::AgendaModel::remove) from tables.
///
/// # Errors
/// Those of the tables.
pub fn remove_from_tables(tx: &mut impl WriteTables, saga: &str, item: &Item) -> Result<(), ReadModelError> {
    let key = (saga.to_owned(), item.to_string());
    let Some((partition, due)) = tx.get(&ITEMS, &key)? else { return Ok(()) };
    tx.delete(&ITEMS, &key)?;
    let due = Timestamp::from_micros(due).map_err(|error| ReadModelError::rejected("an entry of the agenda", error))?;
    tx.delete(&DUE, &(partition, due, key))
}

/// [`AgendaModel::earliest`](super::AgendaModel::earliest) from tables.
///
/// # Errors
/// Those of the tables.
pub fn due_in_tables(
    tables: &impl ReadTables,
    partition: Partition,
    after: Option<&Entry>,
    limit: usize,
) -> Result<Vec<Entry>, ReadModelError> {
    let rows = match after {
        None => tables.scan_prefix(&DUE, &partition.0, limit)?,
        Some(after) => {
            let after = (partition.0, after.due, (after.saga.clone(), after.item.to_string()));
            tables.scan(&DUE, (Bound::Excluded(after), Bound::Unbounded), limit)?
        }
    };
    rows.into_iter()
        .take_while(|((of, ..), _)| *of == partition.0)
        .map(|((_, due, (saga, item)), attempt)| {
            let item =
                item.parse::<Item>().map_err(|error| ReadModelError::rejected("an entry of the agenda", error))?;
            Ok(Entry { saga, item, attempt, due })
        })
        .collect()
}
