//! Filled logs: each is made once, and every round works on a copy of it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use indelible_bench::{job::Log, machine, subject::Kind};
use tempfile::TempDir;

pub struct Logs {
    dir: PathBuf,
    /// Removed with it, unless they are kept.
    _temporary: Option<TempDir>,
}

impl Logs {
    pub fn new(dir: &Path, kept: Option<&Path>) -> Result<Self> {
        if let Some(kept) = kept {
            fs::create_dir_all(kept)?;
            return Ok(Self { dir: kept.canonicalize()?, _temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("indelible-bench-logs-").tempdir_in(dir)?;
        Ok(Self { dir: temporary.path().into(), _temporary: Some(temporary) })
    }

    fn path(&self, subject: Kind, log: Log) -> PathBuf {
        self.dir.join(format!("{subject}-{}-{:?}", log.events, log.ids).to_lowercase())
    }

    /// It stands beside a log that was filled to its end.
    fn mark(&self, subject: Kind, log: Log) -> PathBuf {
        self.path(subject, log).with_extension("filled")
    }

    pub fn has(&self, subject: Kind, log: Log) -> bool {
        self.mark(subject, log).exists()
    }

    /// An empty directory for a log.
    pub fn start(&self, subject: Kind, log: Log) -> Result<PathBuf> {
        let path = self.path(subject, log);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(path)
    }

    pub fn finish(&self, subject: Kind, log: Log) -> Result<()> {
        File::create(self.mark(subject, log))?;
        Ok(())
    }

    /// Copies a log into an empty directory. Files that their owner never changes are linked; the others are on the disk
    /// when this returns, so that nobody's clock runs while they are written.
    pub fn lend(&self, subject: Kind, log: Log, to: &Path) -> Result<()> {
        let from = self.path(subject, log);
        for file in machine::files_in(&from)? {
            let copy = to.join(file.strip_prefix(&from)?);
            fs::create_dir_all(copy.parent().context("a file in a directory")?)?;
            if is_final(subject, &copy) {
                fs::hard_link(&file, &copy)?;
            } else {
                fs::copy(&file, &copy)?;
                File::open(&copy)?.sync_all()?;
            }
        }
        Ok(())
    }
}

/// RocksDB never changes a table, and our plain file begins a new segment when it is opened.
fn is_final(subject: Kind, file: &Path) -> bool {
    let is = |extension: &str| file.extension().is_some_and(|found| found == extension);
    match subject {
        Kind::Rocksdb | Kind::IndelibleRocksdb => is("sst") || is("blob"),
        kind => kind.is_file() && is("segment"),
    }
}

#[cfg(test)]
mod tests {
    use indelible_bench::job::Ids;

    use super::*;

    #[test]
    fn a_copy_that_is_written_to_leaves_the_log_as_it_was() {
        let (dir, copy) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let logs = Logs::new(dir.path(), None).expect("a directory");
        let log = Log { events: 10_000, ids: Ids::V7 };
        let filled = logs.start(Kind::Rocksdb, log).expect("a directory");
        fs::create_dir(filled.join("store")).expect("a directory");
        for (name, content) in [("store/1.sst", "table"), ("store/CURRENT", "1"), ("2.log", "old")] {
            fs::write(filled.join(name), content).expect("a file");
        }
        assert!(!logs.has(Kind::Rocksdb, log));
        logs.finish(Kind::Rocksdb, log).expect("a mark");
        assert!(logs.has(Kind::Rocksdb, log) && !logs.has(Kind::Rocksdb, Log { ids: Ids::V4, ..log }));

        logs.lend(Kind::Rocksdb, log, copy.path()).expect("a copy");
        fs::write(copy.path().join("2.log"), "new").expect("a file");
        fs::remove_file(copy.path().join("store/1.sst")).expect("a file");
        let read = |dir: &Path, name| fs::read_to_string(dir.join(name)).ok();
        assert_eq!(read(&filled, "2.log").as_deref(), Some("old"));
        assert_eq!(read(&filled, "store/1.sst").as_deref(), Some("table"));
        assert_eq!(read(copy.path(), "store/CURRENT").as_deref(), Some("1"));
    }
}
