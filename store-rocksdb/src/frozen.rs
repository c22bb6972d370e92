//! A copy of a live store that stands still, beside it in its directory and made in a moment: RocksDB's checkpoints of both
//! databases, whose tables are links to those of the store. Made for `verify` and `backup`, gone when dropped.
//!
//! The index is taken first, then the anchor, then the log: what the index holds, and what the anchor has seen, is in the
//! log, which only grows. Nothing is flushed for it, so a disk that is full stops the copy and not the store.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use indelible_core::StoreError;
use rocksdb::{DB, checkpoint::Checkpoint};
use uuid::Uuid;

use crate::{anchor, bugs, engine, rebuild, store::Run};

/// What the names of their directories start with.
const PREFIX: &str = "frozen-";

/// The copy's directory, which goes with it.
pub(crate) struct Frozen(PathBuf);

impl Frozen {
    pub(crate) fn of(run: &Run) -> Result<Self, StoreError> {
        let store = &run.engine.dir;
        let io = |error: io::Error| StoreError::unavailable("copying the store's files", error);
        let frozen = Self(store.join(format!("{PREFIX}{}", Uuid::now_v7().simple())));
        fs::create_dir(frozen.dir()).map_err(io)?;
        let log = || checkpoint(&run.engine.log, &engine::log_dir(frozen.dir()));
        if bugs::is_on(bugs::BACKUP_LOG_FIRST) {
            log()?;
            thread::sleep(Duration::from_secs(2));
        }
        checkpoint(&run.engine.index, &engine::index_dir(frozen.dir()))?;
        fs::copy(store.join(anchor::NAME), frozen.dir().join(anchor::NAME)).map_err(io)?;
        if !bugs::is_on(bugs::BACKUP_LOG_FIRST) {
            log()?;
        }
        Ok(frozen)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a copy's files stay until the store is opened again");
        }
    }
}

fn checkpoint(db: &DB, dir: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::unavailable("copying a database", error);
    // The write-ahead log is copied, never written as a table.
    Checkpoint::new(db).and_then(|checkpoint| checkpoint.create_checkpoint_with_log_size(dir, u64::MAX)).map_err(failed)
}

/// Removes what a process left behind that was killed in the middle of it.
pub(crate) fn remove_leftovers(store: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == rebuild::DIR || name.to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
