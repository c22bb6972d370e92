//! What RocksDB offers without a store around it: one writer, the group in one synced batch, two puts an event: the log
//! by position, and the stream's index by stream and version. Opened as the store opens it.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode,
    Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::{
    Append, Found, Subject,
    group::{GroupWriter, Sink},
};
use crate::job::{Log, Place};

pub struct Bare {
    writer: GroupWriter,
    db: Arc<DB>,
}

struct TwoPuts {
    db: Arc<DB>,
    head: u64,
    record: Vec<u8>,
}

/// As the store opens its log and its index: the same cache, compression and tables.
fn options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_bloom_filter(10.0, false);
    tables.set_block_size(16 * 1024);
    tables.set_format_version(6);
    tables.set_block_cache(&Cache::new_lru_cache(48 * 1024 * 1024));
    tables.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    tables.set_partition_filters(true);
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.create_if_missing(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_compression_options(-14, 1, 0, 0);
    options.set_max_open_files(256);
    options.set_table_cache_num_shard_bits(1);
    options
}

/// The one that is always there; a batched get wants it named.
const FAMILY: &str = "default";
/// Stream and version, in front of the data.
const HEADER_BYTES: usize = 12;

impl Sink for TwoPuts {
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
                batch.put(log_key(position), &self.record);
                batch.put(key::<13>(b's', &[&append.stream.to_be_bytes(), &version.to_be_bytes()]), position);
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.db.write_opt(batch, &options)?)
    }
}

fn log_key(position: [u8; 8]) -> [u8; 9] {
    key(b'l', &[&position])
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
    async fn open(place: &Place, log: Log) -> Result<Self> {
        let options = options();
        let db = Arc::new(DB::open_cf_with_opts(&options, place.directory()?, [(FAMILY, options.clone())])?);
        let sink = TwoPuts { db: Arc::clone(&db), head: log.events, record: Vec::new() };
        Ok(Self { writer: GroupWriter::start(sink, log)?, db })
    }

    async fn append(&self, append: Append) -> Result<()> {
        self.writer.append(append).await
    }

    /// The stream's index from its first version on, then all its records at once.
    async fn load(&self, stream: u32) -> Result<Found> {
        let prefix: [u8; 5] = key(b's', &[&stream.to_be_bytes()]);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(key::<5>(b's', &[&(stream + 1).to_be_bytes()]));
        let mut keys = Vec::new();
        for entry in self.db.iterator_opt(IteratorMode::From(&prefix, Direction::Forward), options) {
            let (_, position) = entry?;
            keys.push(log_key(position.as_ref().try_into()?));
        }
        let family = self.db.cf_handle(FAMILY).context("its only column family")?;
        let mut found = Found::default();
        for record in self.db.batched_multi_get_cf(&family, &keys, true) {
            let record = record?.context("an index entry without a record")?;
            found.add(&record[HEADER_BYTES..]);
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(*b"m");
        options.set_readahead_size(2 << 20);
        options.fill_cache(false);
        let mut records = self.db.raw_iterator_opt(options);
        let mut found = Found::default();
        records.seek(b"l");
        while let Some(record) = records.value() {
            ensure!(record.len() > HEADER_BYTES, "a short record");
            found.add(&record[HEADER_BYTES..]);
            records.next();
        }
        records.status()?;
        Ok(found)
    }

    async fn close(self) -> Result<()> {
        self.writer.close()
    }
}
