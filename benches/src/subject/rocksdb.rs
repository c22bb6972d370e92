//! What RocksDB offers without a store around it: one writer, the group in one synced batch, two puts an event: the log
//! by position, and the stream's index by stream and version. Opened as the store opens it.

use std::path::Path;

use anyhow::Result;
use rocksdb::{BlockBasedOptions, DB, DBCompressionType, DBRecoveryMode, Options, WriteBatch, WriteOptions};

use super::{
    Append, Subject,
    group::{GroupWriter, Log},
};

pub struct Bare(GroupWriter);

struct TwoPuts {
    db: DB,
    head: u64,
    record: Vec<u8>,
}

impl Bare {
    pub fn create(dir: &Path) -> Result<Self> {
        let db = DB::open(&options(), dir)?;
        Ok(Self(GroupWriter::start(TwoPuts { db, head: 0, record: Vec::new() })?))
    }
}

/// Those of the store's options that bear on writing.
fn options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.create_if_missing(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_compression_type(DBCompressionType::None);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}

impl Log for TwoPuts {
    fn write(&mut self, group: &[Append]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for append in group {
            for (version, event) in (append.expected + 1..).zip(&append.events) {
                self.head += 1;
                let position = self.head.to_be_bytes();
                self.record.clear();
                self.record.extend_from_slice(&append.stream.to_le_bytes());
                self.record.extend_from_slice(&version.to_le_bytes());
                self.record.extend_from_slice(event);
                batch.put(key::<9>(b'l', &[&position]), &self.record);
                batch.put(key::<13>(b's', &[&append.stream.to_be_bytes(), &version.to_be_bytes()]), position);
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.db.write_opt(batch, &options)?)
    }
}

fn key<const N: usize>(kind: u8, parts: &[&[u8]]) -> [u8; N] {
    let mut key = [kind; N];
    let mut at = 1;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    key
}

impl Subject for Bare {
    async fn append(&self, append: Append) -> Result<()> {
        self.0.append(append).await
    }

    async fn close(self) -> Result<()> {
        self.0.close()
    }
}
