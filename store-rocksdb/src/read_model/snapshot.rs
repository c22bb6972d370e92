//! What queries see: a projection's tables at one moment.

use std::ops::Bound;

use indelible_projections::{ReadModelError, Rows, Tables};
use rocksdb::{DB, ReadOptions, Snapshot};

use super::{record, unreadable, walk};

/// A projection's tables as they were: [`ReadTables`](indelible_projections::ReadTables) reads them. Reads block the
/// thread where they need the disk.
pub struct RocksSnapshot<'a> {
    snapshot: Snapshot<'a>,
    db: &'a DB,
    space: u32,
}

impl<'a> RocksSnapshot<'a> {
    pub(super) fn new(db: &'a DB, space: u32) -> Self {
        Self { snapshot: db.snapshot(), db, space }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl Tables for RocksSnapshot<'_> {
    fn read(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadModelError> {
        self.db.get_opt(record::row(self.space, table, key)?, &self.options()).map_err(unreadable)
    }

    fn rows(
        &self,
        table: &'static str,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        limit: usize,
    ) -> Result<Rows, ReadModelError> {
        let mut found = Rows::new();
        if limit == 0 {
            return Ok(found);
        }
        let prefix = record::table(self.space, table)?.len();
        let (start, end) = record::rows(self.space, table, &range)?;
        let mut options = self.options();
        options.set_iterate_upper_bound(end.clone());
        walk(self.db.raw_iterator_opt(options), (start, end), |key, value| {
            found.push((key[prefix..].to_vec(), value.to_vec()));
            found.len() < limit
        })
        .map_err(unreadable)?;
        Ok(found)
    }
}
