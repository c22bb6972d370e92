//! Typed tables over bytes: what the memory and the embedded read model have in common.
//!
//! A read model brings [`Tables`] and [`WritableTables`] over bytes; applications use [`ReadTables`] and
//! [`WriteTables`].

use std::{
    marker::PhantomData,
    ops::{Bound, RangeBounds},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::ReadModelError;

mod index;
mod key;

pub use index::{Index, Indexes};
pub use key::{Key, Prefix};

/// The name and the types of a table: `const BALANCES: Table<String, i64> = Table::new("balances");`.
///
/// Rows are kept in the order of their keys. Values are bincode: what serde skips or tags internally does not come back,
/// and is refused when it is written.
pub struct Table<K: Key, V: Value> {
    name: &'static str,
    indexes: &'static [&'static dyn Indexes<K, V>],
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Table<K, V> {
    /// A table of this name in its projection.
    pub const fn new(name: &'static str) -> Self {
        Self { name, indexes: &[], types: PhantomData }
    }

    /// That keeps these indexes: `.indexed(&[&BY_OWNER])`. Each write of a row then reads it first.
    #[must_use]
    pub const fn indexed(self, indexes: &'static [&'static dyn Indexes<K, V>]) -> Self {
        Self { indexes, ..self }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// What a row holds.
pub trait Value: Serialize + DeserializeOwned + 'static {}
impl<V: Serialize + DeserializeOwned + 'static> Value for V {}

/// Rows in bytes.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Tables of keys and values in bytes, as an engine brings them: consistent in themselves, as a snapshot or a
/// transaction that sees its own writes.
pub trait Tables {
    /// The value of a key.
    ///
    /// # Errors
    /// Those of the engine.
    fn read(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadModelError>;

    /// Up to `limit` rows in the order of their keys.
    ///
    /// # Errors
    /// Those of the engine.
    fn rows(
        &self,
        table: &'static str,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        limit: usize,
    ) -> Result<Rows, ReadModelError>;
}

/// [`Tables`] that can be written to.
pub trait WritableTables: Tables {
    /// Writes a row, or deletes it where there is no value.
    ///
    /// # Errors
    /// Those of the engine.
    fn write(&mut self, table: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), ReadModelError>;
}

/// Reads typed rows.
pub trait ReadTables: Tables {
    /// The value of a key.
    ///
    /// # Errors
    /// Those of the engine, and [`Rejected`](ReadModelError::Rejected) for a row that doesn't decode.
    fn get<K: Key, V: Value>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, ReadModelError> {
        self.read(table.name, &key.to_bytes())?.map(|value| decoded(table.name, &value)).transpose()
    }

    /// Up to `limit` rows whose keys are in a range, in the order of their keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn scan<K: Key, V: Value>(
        &self,
        table: &Table<K, V>,
        range: impl RangeBounds<K>,
        limit: usize,
    ) -> Result<Vec<(K, V)>, ReadModelError> {
        let bytes = |bound: Bound<&K>| bound.map(Key::to_bytes);
        typed(table, self.rows(table.name, (bytes(range.start_bound()), bytes(range.end_bound())), limit)?)
    }

    /// Up to `limit` rows that an index of the table has under `by`, in the order of their keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn find<I: Key, K: Key, V: Value>(
        &self,
        table: &Table<K, V>,
        index: &Index<I, K, V>,
        by: &I,
        limit: usize,
    ) -> Result<Vec<(K, V)>, ReadModelError> {
        let mut found = Vec::new();
        for (row, _) in self.rows(index.name(), key::starting(by.to_bytes()), limit)? {
            let (_, key) = <(I, K)>::from_bytes(&row)?;
            if let Some(value) = self.get(table, &key)? {
                found.push((key, value));
            }
        }
        Ok(found)
    }

    /// Up to `limit` rows whose keys, which are tuples, start so.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn scan_prefix<K: Key + Prefix<P>, V: Value, P: Key>(
        &self,
        table: &Table<K, V>,
        prefix: &P,
        limit: usize,
    ) -> Result<Vec<(K, V)>, ReadModelError> {
        typed(table, self.rows(table.name, key::starting(prefix.to_bytes()), limit)?)
    }
}
impl<T: Tables + ?Sized> ReadTables for T {}

/// Writes typed rows.
pub trait WriteTables: WritableTables + ReadTables {
    /// Writes a row.
    ///
    /// # Errors
    /// Those of the engine, and [`Rejected`](ReadModelError::Rejected) for a value that doesn't encode.
    fn put<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K, value: &V) -> Result<(), ReadModelError> {
        let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())
            .map_err(|error| ReadModelError::rejected(format!("a row of {}", table.name), error))?;
        if cfg!(debug_assertions) {
            decoded::<V>(table.name, &bytes)?;
        }
        if !table.indexes.is_empty() {
            let before = self.get(table, key)?;
            index::keep(self, table, key, before.as_ref(), Some(value))?;
        }
        self.write(table.name, key.to_bytes(), Some(bytes))
    }

    /// Deletes a row, if it is there.
    ///
    /// # Errors
    /// Those of the engine.
    fn delete<K: Key, V: Value>(&mut self, table: &Table<K, V>, key: &K) -> Result<(), ReadModelError> {
        if !table.indexes.is_empty() {
            let before = self.get(table, key)?;
            index::keep(self, table, key, before.as_ref(), None)?;
        }
        self.write(table.name, key.to_bytes(), None)
    }
}
impl<T: WritableTables + ?Sized> WriteTables for T {}

fn decoded<V: Value>(table: &str, bytes: &[u8]) -> Result<V, ReadModelError> {
    // A length that is a lie must not reserve memory.
    let config = bincode::config::standard().with_limit::<{ 256 * 1024 * 1024 }>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((value, read)) if read == bytes.len() => Ok(value),
        Ok(_) => Err(ReadModelError::rejected(format!("a row of {table}"), "its encoding goes on behind the value")),
        Err(error) => Err(ReadModelError::rejected(format!("a row of {table}"), error)),
    }
}

fn typed<K: Key, V: Value>(table: &Table<K, V>, rows: Rows) -> Result<Vec<(K, V)>, ReadModelError> {
    rows.iter().map(|(key, value)| Ok((K::from_bytes(key)?, decoded(table.name, value)?))).collect()
}
