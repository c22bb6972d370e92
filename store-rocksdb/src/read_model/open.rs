//! Opening a read model's directory: the lock, the database, and what is known of projections.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{Arc, Mutex},
};

use indelible_projections::Partition;
use rocksdb::{DB, DBCompressionType, DBRecoveryMode, ErrorKind, IteratorMode, LogLevel, Options, WriteBatch};

use super::{Inner, Kept, Partitions, record, walk};
use crate::{
    OpenError,
    engine::{Fault, Setup, write_options},
    open::{create_dir_durably, engine_error, lock, refuse},
    wal,
};

/// The version of all that is kept.
const FORMAT: u32 = 1;
/// The database.
const TABLES: &str = "tables";
/// What the last rows take in memory until they are written as a table, in bytes; there may be three of them.
pub(super) const BUFFER_BYTES: usize = 64 * 1024 * 1024;

pub(super) fn open(path: &Path, buffer_bytes: usize) -> Result<Inner, OpenError> {
    let io = |what, error: io::Error| OpenError::Io { path: path.into(), what, source: error.into() };
    let dir = path.join(TABLES);
    // Before anything is written to it.
    let is_new = match find(path, &dir).map_err(|error| io("listing it", error))? {
        Found::Foreign(what) => return Err(OpenError::NotAStore { path: path.into(), what }),
        found => found == Found::Nothing,
    };
    create_dir_durably(path).map_err(|error| io("creating the directory", error))?;
    let lock = lock(path)?;
    if let Some(manifest) = wal::endless_manifest(&dir) {
        let what = format!("{} has a record of a type that is none", manifest.display());
        return Err(OpenError::Corrupted { path: path.into(), what, source: None });
    }
    let failed = |what| move |error| engine_error(path, what, error);
    let db = DB::open(&options(is_new, buffer_bytes), &dir).map_err(|error| damaged(path, error))?;
    match db.get(record::FORMAT_KEY).map_err(failed("reading its format"))? {
        Some(found) => check_format(path, &found)?,
        // What a first opening leaves behind that was killed on its way.
        None if db.iterator(IteratorMode::Start).next().is_none() => {
            let mut batch = WriteBatch::default();
            batch.put(record::FORMAT_KEY, FORMAT.to_be_bytes());
            db.write_opt(batch, &write_options(true)).map_err(failed("writing its format"))?;
        }
        None => return Err(OpenError::NotAStore { path: path.into(), what: format!("{TABLES}, of no read model") }),
    }
    let versions = versions(&db).map_err(|fault| refuse(path, fault))?;
    tracing::info!(path = %path.display(), versions = versions.len(), "a read model was opened");
    Ok(Inner { db, versions: versions.into(), _lock: lock })
}

#[derive(PartialEq)]
enum Found {
    Nothing,
    ReadModel,
    Foreign(String),
}

/// RocksDB would make a database wherever its file `CURRENT` is missing, and delete what it takes for leftovers; we do so
/// only where no data can be.
fn find(path: &Path, dir: &Path) -> io::Result<Found> {
    let tables = names(dir)?;
    if tables.iter().any(|name| name == "CURRENT") {
        return Ok(Found::ReadModel);
    }
    let strangers = names(path)?.into_iter().filter(|name| !["indelible.lock", TABLES].contains(&name.as_str()));
    // But for what a first opening leaves behind that was killed on its way.
    let is_left_over = |name: &str| {
        ["LOCK", "LOG", "IDENTITY", "MANIFEST-000001"].contains(&name)
            || name.starts_with("LOG.old.")
            || name.ends_with(".dbtmp")
    };
    let data = tables.into_iter().filter(|name| !is_left_over(name));
    let data = data.map(|name| format!("{TABLES}/{name}, and no file CURRENT, which says what is of account"));
    Ok(strangers.chain(data).next().map_or(Found::Nothing, Found::Foreign))
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
    }
}

fn check_format(path: &Path, found: &[u8]) -> Result<(), OpenError> {
    let path = path.into();
    match found.try_into().map(u32::from_be_bytes) {
        Ok(FORMAT) => Ok(()),
        Ok(found @ 1..) => {
            Err(OpenError::NewerFormat { path, what: "the read model".into(), found, supported: FORMAT })
        }
        _ => Err(OpenError::Corrupted { path, what: "its format version".into(), source: None }),
    }
}

/// A file that is gone is told by RocksDB's words only.
fn damaged(path: &Path, error: rocksdb::Error) -> OpenError {
    let what = "opening its tables";
    match error.kind() {
        ErrorKind::IOError if error.to_string().contains("No such file") => {
            OpenError::Corrupted { path: path.into(), what: what.into(), source: Some(error.into()) }
        }
        _ => engine_error(path, what, error),
    }
}

/// One column family, so that a batch's rows and its checkpoint are in one memtable, and reach the disk together by
/// whichever way.
fn options(create: bool, buffer_bytes: usize) -> Options {
    let mut options = Setup::new().small();
    options.create_if_missing(create);
    // The write-ahead log isn't synced: after a power cut it may have holes, and counts up to the first.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_write_buffer_size(buffer_bytes);
    options.set_max_write_buffer_number(3);
    // What is young is soon written again.
    let young = DBCompressionType::None;
    let old = DBCompressionType::Zstd;
    options.set_compression_per_level(&[young, young, old, old, old, old, old]);
    options.set_max_open_files(256);
    options.set_keep_log_file_num(4);
    options.set_log_level(LogLevel::Warn);
    // An idle read model does nothing.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn versions(db: &DB) -> Result<BTreeMap<indelible_projections::ProjectionId, Kept>, Fault> {
    let mut known = BTreeMap::new();
    let mut failed = None;
    let walked = walk(db.raw_iterator(), record::versions(), |key, value| {
        match record::decode_version(key, value) {
            Ok((version, space)) => drop(known.insert(version.projection.clone(), (version, space))),
            Err(damage) => failed = Some(Fault::damage(format!("the version {}", key.escape_ascii()), damage)),
        }
        failed.is_none()
    });
    walked.map_err(|error| Fault::engine("reading versions", error))?;
    if let Some(fault) = failed {
        return Err(fault);
    }
    let kept = known.into_iter().map(|(projection, (mut version, space))| {
        let wanted = db.get_pinned(record::wanted(&projection));
        if let Some(value) = wanted.map_err(|error| Fault::engine("reading what is wanted", error))? {
            let wanted = record::decode_wanted(&value);
            let damaged = |damage| Fault::damage(format!("what is wanted of {projection}"), damage);
            version.wanted = wanted.map_err(damaged)?;
        }
        let rows = (0..version.partitions).map(|number| {
            let partition = Partition(number);
            let what = || format!("partition {partition} of {projection}");
            let value = db.get_pinned(record::partition(&projection, partition));
            let value = value.map_err(|error| Fault::engine("reading a checkpoint", error))?;
            let value = value.ok_or_else(|| indelible_core::StoreError::corrupted(format!("{} is missing", what())))?;
            record::decode_partition(partition, &value).map_err(|damage| Fault::damage(what(), damage))
        });
        let rows = rows.collect::<Result<Vec<_>, Fault>>()?;
        let partitions = Arc::new(Partitions { rows: Mutex::new(rows), turn: Arc::default() });
        Ok((projection.clone(), Kept { version, space, partitions }))
    });
    kept.collect()
}
