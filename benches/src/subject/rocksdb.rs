//! What RocksDB offers without a store around it: one writer, the group in one synced batch, two puts an event: the log
//! by position, and the stream's index by stream and version. Opened as the store opens it. Once with all in one column family,
//! and once with a family for each of the two.

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

pub struct Bare<const FAMILIES: bool = false> {
    writer: GroupWriter,
    db: Arc<DB>,
}

struct TwoPuts<const FAMILIES: bool> {
    db: Arc<DB>,
    head: u64,
    record: Vec<u8>,
}

/// As the store opens its log and its index: the same cache, compression and tables.
fn options(cache: &Cache, has_filter: bool) -> Options {
    let mut tables = BlockBasedOptions::default();
    if has_filter {
        tables.set_bloom_filter(10.0, false);
    }
    tables.set_block_size(16 * 1024);
    tables.set_format_version(6);
    tables.set_block_cache(cache);
    tables.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    tables.set_partition_filters(true);
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_top_level_index_and_filter(true);
    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_compression_options(-14, 1, 0, 0);
    options.set_max_open_files(256);
    options.set_table_cache_num_shard_bits(1);
    options
}

/// The family that is always there; a batched get wants it named.
const LOG: &str = "default";
/// That of the index, where there are two.
const fn index_family(families: bool) -> &'static str {
    if families { "index" } else { LOG }
}
/// Stream and version, in front of the data.
const HEADER_BYTES: usize = 12;

impl<const FAMILIES: bool> Sink for TwoPuts<FAMILIES> {
    fn write(&mut self, group: &[Append]) -> Result<()> {
        let index = self.db.cf_handle(index_family(FAMILIES)).context("no index")?;
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
                let version = key::<13>(b's', &[&append.stream.to_be_bytes(), &version.to_be_bytes()]);
                batch.put_cf(&index, version, position);
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

impl<const FAMILIES: bool> Subject for Bare<FAMILIES> {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        let cache = Cache::new_lru_cache(48 * 1024 * 1024);
        let (log_options, index_options) = (options(&cache, !FAMILIES), options(&cache, true));
        let families = [(LOG, log_options.clone()), (index_family(true), index_options)];
        let families = families.into_iter().take(1 + usize::from(FAMILIES));
        let db = Arc::new(DB::open_cf_with_opts(&log_options, place.directory()?, families)?);
        let sink = TwoPuts::<FAMILIES> { db: Arc::clone(&db), head: log.events, record: Vec::new() };
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
        let index = self.db.cf_handle(index_family(FAMILIES)).context("no index")?;
        for entry in self.db.iterator_cf_opt(&index, options, IteratorMode::From(&prefix, Direction::Forward)) {
            let (_, position) = entry?;
            keys.push(log_key(position.as_ref().try_into()?));
        }
        let log = self.db.cf_handle(LOG).context("no log")?;
        let mut found = Found::default();
        for record in self.db.batched_multi_get_cf(&log, &keys, true) {
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
