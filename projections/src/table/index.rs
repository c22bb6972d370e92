//! Secondary indexes: rows found by something else than their key.

use super::{Key, Table, Value, WritableTables};
use crate::ReadModelError;

/// An index of a table: `const BY_OWNER: Index<String, u64, Account> = Index::new("by_owner", |_, a| a.owner.clone());`,
/// which the table [names](Table::indexed). It is kept with each row that is written.
pub struct Index<I, K, V> {
    name: &'static str,
    by: fn(&K, &V) -> I,
}

impl<I: Key, K: Key, V: Value> Index<I, K, V> {
    /// An index of this name, a table's as any other, by what the function makes of a row.
    pub const fn new(name: &'static str, by: fn(&K, &V) -> I) -> Self {
        Self { name, by }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// An [`Index`] by whatever.
pub trait Indexes<K, V>: Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// The key of a row in it.
    fn row(&self, key: &K, value: &V) -> Vec<u8>;
}

impl<I: Key, K: Key, V: Value> Indexes<K, V> for Index<I, K, V> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn row(&self, key: &K, value: &V) -> Vec<u8> {
        let mut row = (self.by)(key, value).to_bytes();
        key.write(&mut row);
        row
    }
}

/// Moves a row in the indexes of its table, from what it was to what it will be.
pub(super) fn keep<K: Key, V: Value>(
    tables: &mut (impl WritableTables + ?Sized),
    table: &Table<K, V>,
    key: &K,
    before: Option<&V>,
    after: Option<&V>,
) -> Result<(), ReadModelError> {
    for index in table.indexes {
        let (before, after) = (before.map(|value| index.row(key, value)), after.map(|value| index.row(key, value)));
        if before == after {
            continue;
        }
        if let Some(row) = before {
            tables.write(index.name(), row, None)?;
        }
        if let Some(row) = after {
            tables.write(index.name(), row, Some(Vec::new()))?;
        }
    }
    Ok(())
}
