//! An agenda in typed tables: two rows an entry, by what it is and by when it is due.

use std::ops::Bound;

use indelible_core::Timestamp;
use indelible_projections::{Partition, ReadModelError, ReadTables, Table, WriteTables};

use super::{Entry, Item, Work};

/// Saga and item → lane, time in microseconds.
const ITEMS: Table<(String, String), (u32, i64)> = Table::new("items");
/// Lane, time, saga and item → attempt.
const DUE: Table<(u32, Timestamp, (String, String)), u32> = Table::new("due");

/// A partition's entries of a kind stand by themselves.
fn lane(partition: Partition, work: Work) -> u32 {
    Work::ALL.len() as u32 * partition.0 + work as u32
}

/// [`AgendaModel::put`](super::AgendaModel::put) into tables.
///
/// # Errors
/// Those of the tables.
pub fn put_in_tables(tx: &mut impl WriteTables, partition: Partition, entry: &Entry) -> Result<(), ReadModelError> {
    remove_from_tables(tx, &entry.saga, &entry.item)?;
    let key = (entry.saga.clone(), entry.item.to_string());
    let lane = lane(partition, entry.work);
    tx.put(&ITEMS, &key, &(lane, entry.due.as_micros()))?;
    tx.put(&DUE, &(lane, entry.due, key), &entry.attempt)
}

/// [`AgendaModel::remove`](super::AgendaModel::remove) from tables.
///
/// # Errors
/// Those of the tables.
pub fn remove_from_tables(tx: &mut impl WriteTables, saga: &str, item: &Item) -> Result<(), ReadModelError> {
    let key = (saga.to_owned(), item.to_string());
    let Some((lane, due)) = tx.get(&ITEMS, &key)? else { return Ok(()) };
    tx.delete(&ITEMS, &key)?;
    let due = Timestamp::from_micros(due).map_err(|error| ReadModelError::rejected("an entry of the agenda", error))?;
    tx.delete(&DUE, &(lane, due, key))
}

/// [`AgendaModel::earliest`](super::AgendaModel::earliest) from tables.
///
/// # Errors
/// Those of the tables.
pub fn due_in_tables(
    tables: &impl ReadTables,
    partition: Partition,
    work: Work,
    after: Option<&Entry>,
    limit: usize,
) -> Result<Vec<Entry>, ReadModelError> {
    let lane = lane(partition, work);
    let rows = match after {
        None => tables.scan_prefix(&DUE, &lane, limit)?,
        Some(after) => {
            let after = (lane, after.due, (after.saga.clone(), after.item.to_string()));
            tables.scan(&DUE, (Bound::Excluded(after), Bound::Unbounded), limit)?
        }
    };
    rows.into_iter()
        .take_while(|((of, ..), _)| *of == lane)
        .map(|((_, due, (saga, item)), attempt)| {
            let item =
                item.parse::<Item>().map_err(|error| ReadModelError::rejected("an entry of the agenda", error))?;
            Ok(Entry { saga, item, attempt, due, work })
        })
        .collect()
}
