//! The store keeps the contract.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use indelible_core::{
    AnyStore, Limits,
    conformance::{CASE_TIME_MAX, Harness},
};
use indelible_rocksdb::{Options, RocksStore};
use tempfile::TempDir;

use crate::verification::prove;

pub(crate) struct Rocks {
    store: RocksStore,
    dir: TempDir,
    options: Options,
}

impl Rocks {
    pub(crate) fn new() -> Self {
        Self::with(RocksStore::options())
    }

    pub(crate) fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: options.clone().open(dir.path()).unwrap(), dir, options }
    }

    pub(crate) async fn prove(&self) {
        prove(&self.store).await;
    }
}

#[async_trait::async_trait]
impl Harness for Rocks {
    /// Cases share the machine with all other tests: this is for those that hang.
    fn case_time_max(&self) -> Duration {
        3 * CASE_TIME_MAX
    }

    fn store(&self) -> AnyStore {
        Arc::new(self.store.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        self.store.close().await.unwrap();
        self.store = self.options.clone().limits(limits).open(self.dir.path()).unwrap();
    }

    /// Opens a copy of the files as a kill would leave them now. A copy of a database at work is whole only as long as
    /// nothing but its write-ahead log grows: the cases that crash write far less than a table.
    async fn crash(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_files(self.dir.path(), copy.path());
        self.store = RocksStore::open(copy.path()).unwrap();
        self.dir = copy;
    }
}

/// Copies a directory with all that is in it, by name: of a store at work the anchor and the index, and then the log, which
/// must not be behind the anchor.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut files: Vec<_> = fs::read_dir(from).unwrap().map(|file| file.unwrap()).collect();
    files.sort_by_key(|file| file.file_name());
    for file in files {
        let target = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_files(&file.path(), &target);
            continue;
        }
        match fs::copy(file.path(), target) {
            // What the last opening has left over, RocksDB deletes when it comes to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

indelible_core::conformance!(Rocks::new());
