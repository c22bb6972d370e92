//! What is on the disk: the two RocksDB databases of a store, how they are set up, and how reading them can fail.

use std::path::{Path, PathBuf};

use indelible_core::{InvalidInput, StoreError};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, DBRecoveryMode, ErrorKind, InfoLogger, LiveFile, LogLevel, Options,
    ReadOptions, ReadTier, WriteOptions, properties::BACKGROUND_ERRORS,
};
use rustix::process::{Resource, getrlimit};

use crate::{bugs, frame::Damage, open::Lock};

/// What both databases keep in memory of what they have read, in bytes.
const CACHE_BYTES: usize = 48 * 1024 * 1024;
/// What the log's last events take in memory until they are written as a table, in bytes.
const LOG_BUFFER_BYTES: usize = 32 * 1024 * 1024;

/// What is left of the files that the process may open for all but tables.
const OTHER_FILES: u64 = 40;
/// Who reads so many events of the log at once goes through it. They have about as many bytes as are fetched ahead.
const SCANNED_MIN: u64 = 500;
const READ_AHEAD_BYTES: usize = 128 * 1024;
/// So many tables of less than so many bytes are too many.
const SMALL_TABLES_MAX: usize = 64;
const SMALL_TABLE_BYTES: usize = 1024 * 1024;

/// What is reachable by its name only. With a full disk the store still opens for reading; and what has failed is not tried
/// over in the background.
const BY_NAME: &str = "avoid_flush_during_recovery=true;max_bgerror_resume_count=0";

/// Identity and checkpoints, beside the log's blocks.
const STATE: &str = "state";
/// Snapshots, beside the index.
const SNAPSHOTS: &str = "snapshots";

/// An open store. Fields are dropped in this order.
pub(crate) struct Engine {
    /// The truth: the log, the store's identity, checkpoints.
    pub(crate) log: DB,
    /// What can be made again from the log, and snapshots.
    pub(crate) index: DB,
    pub(crate) dir: PathBuf,
    /// None of a reader beside the process that writes.
    pub(crate) _lock: Option<Lock>,
}

impl Engine {
    pub(crate) fn state(&self) -> &ColumnFamily {
        state(&self.log)
    }

    /// Leaves nothing of the log in memory, nor in the write-ahead log.
    pub(crate) fn flush_log(&self) -> Result<(), rocksdb::Error> {
        self.log.flush_cf(self.state())?;
        self.log.flush()
    }

    pub(crate) fn snapshots(&self) -> &ColumnFamily {
        snapshots(&self.index)
    }
}

pub(crate) fn snapshots(index: &DB) -> &ColumnFamily {
    index.cf_handle(SNAPSHOTS).expect("opened with it")
}

pub(crate) fn state(log: &DB) -> &ColumnFamily {
    log.cf_handle(STATE).expect("opened with it")
}

pub(crate) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

pub(crate) fn index_dir(dir: &Path) -> PathBuf {
    dir.join("index")
}

/// How both databases are set up, with the memory that they share.
#[derive(Clone)]
pub(crate) struct Setup {
    cache: Cache,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self { cache: Cache::new_lru_cache(CACHE_BYTES) }
    }

    pub(crate) fn open_log(&self, dir: &Path, create: bool) -> Result<DB, rocksdb::Error> {
        let (options, families) = self.log(create)?;
        DB::open_cf_descriptors(&options, dir, families)
    }

    /// The log as it is: whatever comes of it, its files stay as they are.
    pub(crate) fn look_at_log(&self, dir: &Path) -> Result<DB, rocksdb::Error> {
        let (options, families) = self.log(false)?;
        DB::open_cf_descriptors_read_only(&options, dir, families, false)
    }

    fn log(&self, create: bool) -> Result<(Options, [ColumnFamilyDescriptor; 2]), rocksdb::Error> {
        let mut options = self.database(create)?;
        // The default mode drops synced events in silence after one damaged byte; this one forgives an incomplete last
        // write and refuses all else. It excludes the recycling of log files, which is off by default.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // The few checkpoints would otherwise keep every write-ahead log since they were last flushed.
        options.set_max_total_wal_size(3 * LOG_BUFFER_BYTES as u64);
        Ok((options, self.log_families()))
    }

    fn log_families(&self) -> [ColumnFamilyDescriptor; 2] {
        let mut log = Options::default();
        log.set_block_based_table_factory(&self.tables(None));
        log.set_write_buffer_size(LOG_BUFFER_BYTES);
        log.set_max_write_buffer_number(3);
        // Keys only ascend: tables never overlap, and move from level to level as they are.
        compress_quickly(&mut log);
        [("default", log), (STATE, self.small())].map(|(name, family)| ColumnFamilyDescriptor::new(name, family))
    }

    pub(crate) fn open_index(&self, dir: &Path) -> Result<DB, rocksdb::Error> {
        let (options, families) = self.index_database()?;
        DB::open_cf_descriptors(&options, dir, families)
    }

    /// The index as it is, of a store that can only be read.
    pub(crate) fn look_at_index(&self, dir: &Path) -> Result<DB, rocksdb::Error> {
        let (options, families) = self.index_database()?;
        DB::open_cf_descriptors_read_only(&options, dir, families, false)
    }

    fn index_database(&self) -> Result<(Options, [ColumnFamilyDescriptor; 2]), rocksdb::Error> {
        let mut options = self.database(true)?;
        // The index itself is never in it, and snapshots may be lost.
        options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
        Ok((options, self.index_families()))
    }

    fn index_families(&self) -> [ColumnFamilyDescriptor; 2] {
        let families = [("default", self.index()), (SNAPSHOTS, self.small())];
        families.map(|(name, family)| ColumnFamilyDescriptor::new(name, family))
    }

    /// The log of another process, read only; `private` is a directory of our own.
    pub(crate) fn follow_log(&self, dir: &Path, private: &Path) -> Result<DB, rocksdb::Error> {
        DB::open_cf_descriptors_as_secondary(&self.follower()?, dir, private, self.log_families())
    }

    /// Its index.
    pub(crate) fn follow_index(&self, dir: &Path, private: &Path) -> Result<DB, rocksdb::Error> {
        DB::open_cf_descriptors_as_secondary(&self.follower()?, dir, private, self.index_families())
    }

    fn follower(&self) -> Result<Options, rocksdb::Error> {
        let mut options = self.database(false)?;
        options.create_missing_column_families(false);
        // What is open stays readable when its owner deletes it.
        options.set_max_open_files(-1);
        Ok(options)
    }

    /// The log and the index of a copy that nobody works on, to be read and left as they are.
    pub(crate) fn look_at(&self, dir: &Path) -> (Result<DB, rocksdb::Error>, Result<DB, rocksdb::Error>) {
        let open = |dir: PathBuf, (mut options, families): (Options, [ColumnFamilyDescriptor; 2])| {
            // It would write a file of its own otherwise.
            options.set_info_logger(InfoLogger::new_stderr_logger(LogLevel::Fatal, None::<&str>));
            DB::open_cf_descriptors_read_only(&options, dir, families, false)
        };
        (
            self.log(false).and_then(|options| open(log_dir(dir), options)),
            self.index_database().and_then(|options| open(index_dir(dir), options)),
        )
    }

    /// The index's tables.
    pub(crate) fn index(&self) -> Options {
        // Its tables have filters: most event ids that are looked up are new, and so are many streams.
        let mut options = self.small();
        compress_quickly(&mut options);
        options
    }

    fn database(&self, create: bool) -> Result<Options, rocksdb::Error> {
        let mut options = Options::default().get_options_from_string(BY_NAME)?;
        options.create_if_missing(create);
        // A first opening that was killed on its way may have made one of them only.
        options.create_missing_column_families(true);
        options.set_max_open_files(open_files());
        // In 64 parts of four files each, which is the default, files that are in use push one another out.
        options.set_table_cache_num_shard_bits(1);
        options.set_keep_log_file_num(4);
        options.set_log_level(LogLevel::Warn);
        // An idle store does nothing.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        Ok(options)
    }

    pub(crate) fn small(&self) -> Options {
        let mut options = Options::default();
        options.set_block_based_table_factory(&self.tables(Some(10.0)));
        options.set_write_buffer_size(8 * 1024 * 1024);
        options.set_compression_type(DBCompressionType::Zstd);
        options
    }

    fn tables(&self, bloom_bits: Option<f64>) -> BlockBasedOptions {
        let mut tables = BlockBasedOptions::default();
        tables.set_block_cache(&self.cache);
        tables.set_block_size(16 * 1024);
        tables.set_format_version(6);
        // Indexes and filters grow with the log: they are read in parts, and count for the cache.
        tables.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        tables.set_cache_index_and_filter_blocks(true);
        tables.set_pin_top_level_index_and_filter(true);
        if let Some(bits) = bloom_bits {
            tables.set_bloom_filter(bits, false);
            tables.set_partition_filters(true);
        }
        tables
    }
}

/// By zstd at level 1, with the window that RocksDB has by default.
fn compress_quickly(options: &mut Options) {
    options.set_compression_type(DBCompressionType::Zstd);
    options.set_compression_options(-14, 1, 0, 0);
}

/// How many files each of the two databases keeps open at most: few where the process may not open many.
fn open_files() -> i32 {
    let may = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let each = may.saturating_sub(OTHER_FILES) / 2;
    i32::try_from(each).ok().filter(|_| !bugs::is_on(bugs::OPEN_ALL)).unwrap_or(i32::MAX).clamp(20, 256)
}

/// Makes one table of those that lie side by side and are small, where there are many: each opening and closing leaves one,
/// and where keys only ascend RocksDB never rewrites any. Where that fails, the database is opened again as it was, since it
/// would take no writes.
pub(crate) fn merge_small_tables(
    db: DB,
    open: impl FnOnce() -> Result<DB, rocksdb::Error>,
) -> Result<DB, rocksdb::Error> {
    let mut tables = db.live_files()?;
    tables.retain(|table| table.column_family_name == "default");
    let is_small = |table: &LiveFile| table.size < SMALL_TABLE_BYTES;
    if tables.iter().filter(|table| is_small(table)).count() < SMALL_TABLES_MAX {
        return Ok(db);
    }
    tables.sort_unstable_by(|a, b| a.start_key.cmp(&b.start_key));
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    for run in tables.chunk_by(|a, b| is_small(a) && is_small(b)).filter(|run| run.len() > 1) {
        let end = run.iter().filter_map(|table| table.end_key.as_ref()).max();
        db.compact_range_opt(run[0].start_key.as_ref(), end, &options);
    }
    // It does not say otherwise how it went.
    if db.property_int_value(BACKGROUND_ERRORS)?.unwrap_or(0) == 0 {
        return Ok(db);
    }
    tracing::warn!(path = %db.path().display(), "small tables can't be made one");
    drop(db);
    open()
}

/// Where a read may look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// In memory: quick enough for a thread that many tasks share.
    Memory,
    /// On the disk too.
    Disk,
}

impl Tier {
    pub(crate) fn options(self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if self == Self::Memory {
            options.set_read_tier(ReadTier::BlockCache);
        }
        options
    }

    /// For a read of so many events of the log, one after the other. What many pass by pushes nothing out of the cache, and is
    /// fetched ahead.
    pub(crate) fn scanning(self, events: u64) -> ReadOptions {
        let mut options = self.options();
        if events >= SCANNED_MIN && self == Self::Disk {
            options.fill_cache(false);
            options.set_readahead_size(READ_AHEAD_BYTES);
        }
        options
    }
}

/// Why a read failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What it needs is not in memory, or takes long, and it may do neither.
    NotInMemory,
    /// Something is whole, and of a format that came after this code.
    Newer {
        what: String,
        found: u8,
        supported: u8,
    },
    Store(StoreError),
}

impl Fault {
    /// That the bytes of something make no sense.
    pub(crate) fn damage(what: impl Into<String>, damage: Damage) -> Self {
        match damage {
            Damage::Newer { found, supported } => Self::Newer { what: what.into(), found, supported },
            damage => Self::Store(StoreError::Corrupted { what: what.into(), source: Some(damage.into()) }),
        }
    }

    /// What RocksDB said, without its type.
    pub(crate) fn engine(what: &str, error: rocksdb::Error) -> Self {
        match error.kind() {
            ErrorKind::Incomplete => Self::NotInMemory,
            ErrorKind::Corruption => {
                Self::Store(StoreError::Corrupted { what: what.into(), source: Some(error.into()) })
            }
            _ => Self::Store(StoreError::unavailable(what, error)),
        }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
impl From<InvalidInput> for Fault {
    fn from(invalid: InvalidInput) -> Self {
        Self::Store(invalid.into())
    }
}
impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(error) => error,
            Fault::Newer { what, found, supported } => Self::stopped(format!(
                "{what} was written by a newer version, in format {found}; this one reads up to format {supported}"
            )),
            Fault::NotInMemory => Self::Unavailable { what: "reading from memory alone".into(), source: None },
        }
    }
}

/// How a batch is written: durable when it returns, or whenever the machine sees to it.
pub(crate) fn write_options(is_synced: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(is_synced);
    options
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
