//! What RocksDB offers without a store around it: one writer, the group in one synced batch, two puts an event: the log
//! by position, and the stream's index by stream and version, each in a column family. Opened as the store opens them.

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

/// As the store opens its log and its index: the same cache, compression and tables, and filters for what is looked up by
/// itself.
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

/// The one that is always there.
const LOG: &str = "default";
const INDEX: &str = "index";
/// Stream and version, in front of the data.
const HEADER_BYTES: usize = 12;

type Position = [u8; 8];

impl Sink for TwoPuts {
    fn write(&mut self, group: &[Append]) -> Result<()> {
        let index = self.db.cf_handle(INDEX).context("no index")?;
        let mut batch = WriteBatch::default();
        for append in group {
            for (version, event) in (append.expected + 1..).zip(&append.events) {
                self.head += 1;
                let position: Position = self.head.to_be_bytes();
                self.record.clear();
                self.record.extend_from_slice(&append.stream.to_le_bytes());
                self.record.extend_from_slice(&version.to_le_bytes());
                self.record.extend_from_slice(event);
                batch.put(position, &self.record);
                batch.put_cf(&index, [&append.stream.to_be_bytes()[..], &version.to_be_bytes()].concat(), position);
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(true);
        Ok(self.db.write_opt(batch, &options)?)
    }
}

impl Subject for Bare {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        let cache = Cache::new_lru_cache(48 * 1024 * 1024);
        let (log_options, index_options) = (options(&cache, false), options(&cache, true));
        let families = [(LOG, log_options.clone()), (INDEX, index_options)];
        let db = Arc::new(DB::open_cf_with_opts(&log_options, place.directory()?, families)?);
        let sink = TwoPuts { db: Arc::clone(&db), head: log.events, record: Vec::new() };
        Ok(Self { writer: GroupWriter::start(sink, log)?, db })
    }

    async fn append(&self, append: Append) -> Result<()> {
        self.writer.append(append).await
    }

    /// The stream's index from its first version on, then all its records at once.
    async fn load(&self, stream: u32) -> Result<Found> {
        let [log, index] = [LOG, INDEX].map(|name| self.db.cf_handle(name).context("no such column family"));
        let (log, index) = (log?, index?);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound((stream + 1).to_be_bytes());
        let mut positions: Vec<Position> = Vec::new();
        let from = IteratorMode::From(&stream.to_be_bytes(), Direction::Forward);
        for entry in self.db.iterator_cf_opt(&index, options, from) {
            let (_, position) = entry?;
            positions.push(position.as_ref().try_into()?);
        }
        let mut found = Found::default();
        for record in self.db.batched_multi_get_cf(&log, &positions, true) {
            let record = record?.context("an index entry without a record")?;
            found.add(&record[HEADER_BYTES..]);
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let mut options = ReadOptions::default();
        options.set_readahead_size(2 << 20);
        options.fill_cache(false);
        let mut records = self.db.raw_iterator_opt(options);
        let mut found = Found::default();
        records.seek_to_first();
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
