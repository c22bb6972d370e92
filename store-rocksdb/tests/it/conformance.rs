//! The store keeps the contract.

use std::{fs, io, path::Path, sync::Arc};

use indelible_core::{AnyStore, Limits, conformance::Harness};
use indelible_rocksdb::RocksStore;
use tempfile::TempDir;

struct Rocks {
    store: RocksStore,
    dir: TempDir,
}

impl Rocks {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: RocksStore::open(dir.path()).unwrap(), dir }
    }
}

#[async_trait::async_trait]
impl Harness for Rocks {
    fn store(&self) -> AnyStore {
        Arc::new(self.store.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        self.store.close().await.unwrap();
        self.store = RocksStore::options().limits(limits).open(self.dir.path()).unwrap();
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

pub(crate) fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let file = entry.unwrap();
        match fs::copy(file.path(), to.join(file.file_name())) {
            // What the last opening has left over, RocksDB deletes when it comes to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            copied => drop(copied.unwrap()),
        }
    }
}

indelible_core::conformance!(Rocks::new());
