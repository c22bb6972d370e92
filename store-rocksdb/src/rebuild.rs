//! Making the index anew. It is built from the log beside the old one, while everybody goes on; then the store stops for a
//! moment, takes the snapshots over, changes one directory for the other, and is opened again as [`RocksStore::resume`]
//! does. Killed anywhere, the next opening finds the old index, the new one, or none, and goes on from there.

use std::{fs, path::PathBuf, sync::Arc};

use indelible_core::StoreError;
use rocksdb::{DB, IteratorMode};

use crate::{
    RocksStore,
    engine::{self, Setup},
    frozen::Frozen,
    index::{self, Mark},
    open::read_tail,
    store::Shared,
    verify::stoppable,
};

/// Where in the store's directory it is built.
pub(crate) const DIR: &str = "rebuild";
/// How often what came meanwhile is taken in at most, before the store stops for the rest. Each time there is less of it, but
/// where more is written than can be indexed.
const ROUNDS_MAX: usize = 16;

impl RocksStore {
    /// Makes the index anew from the log, for a store whose [`verify`](Self::verify) found it damaged. Snapshots stay.
    ///
    /// Most of the work is done while everybody goes on. At its end the store is closed and opened for a moment, less than a
    /// second for most: what is asked of it then is answered [`Stopped`](StoreError::Stopped), with nothing of it written,
    /// and may be asked again; subscriptions go on when they are asked again. Takes the disk space of a second index.
    ///
    /// # Errors
    /// [`StoreError::Corrupted`] where the log can't be read, [`StoreError::Unavailable`] where there is no room, or the
    /// store was opened again meanwhile: the index stays as it was. [`StoreError::Stopped`] where the store had stopped or was closed. Where it can't be opened again it
    /// is stopped, and [`resume`](Self::resume) tries once more.
    pub async fn rebuild_indexes(&self) -> Result<(), StoreError> {
        let handle = Arc::clone(self.handle());
        stoppable(self.shared(), move |go_on| {
            handle.shared.writes()?;
            let rebuilt = Rebuilt::of(&handle.shared, go_on)?;
            handle.reopen(rebuilt.opening, |old| rebuilt.take_the_place_of(old))
        })
        .await
    }
}

/// An index in the making.
struct Rebuilt {
    /// Of which the log is.
    opening: u64,
    db: DB,
    /// The store's directory.
    store: PathBuf,
    dir: Dir,
}

/// Where it is made, which goes with it.
struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "it stays until the store is opened again");
        }
    }
}

impl Rebuilt {
    #[tracing::instrument(level = "info", name = "rebuild_indexes", skip_all, fields(store = %shared.id))]
    fn of(shared: &Shared, go_on: &dyn Fn() -> Result<(), StoreError>) -> Result<Self, StoreError> {
        let failed = |error| StoreError::unavailable("making a new index", error);
        let (opening, store) = shared.with_run(|run| (run.opening, run.engine.dir.clone()))?;
        // There already is one where another call is making it.
        fs::create_dir(store.join(DIR)).map_err(|error| StoreError::unavailable("making a new index", error))?;
        let dir = Dir(store.join(DIR));
        let setup = Setup::new();
        let db = setup.open_index(&engine::index_dir(&dir.0)).map_err(failed)?;
        let rebuilt = Self { opening, db, store, dir };
        let mut mark = Mark::START;
        for _ in 0..ROUNDS_MAX {
            let (went_on, is_near) = rebuilt.take_in(shared, &setup, mark, go_on)?;
            mark = went_on;
            if is_near {
                break;
            }
        }
        Ok(rebuilt)
    }

    /// Takes in what is behind a mark. Says whether that was little: what came meanwhile is less.
    fn take_in(
        &self,
        shared: &Shared,
        setup: &Setup,
        from: Mark,
        go_on: &dyn Fn() -> Result<(), StoreError>,
    ) -> Result<(Mark, bool), StoreError> {
        let (last, frozen) = shared.with_opening(self.opening, |run| (run.seen.last(), Frozen::of(run)))?;
        let frozen = frozen?;
        let log = setup.look_at(frozen.dir()).0;
        let log = log.map_err(|error| StoreError::unavailable("making a new index", error))?;
        let (index, segment_bytes) = ((&self.db, &*self.dir.0), Some(shared.options.segment_bytes));
        let (rest, mut mark) = read_tail(&log, index, setup, from, last.position, segment_bytes, go_on)?;
        // None of it has filled a segment.
        let is_near = mark == from;
        if !rest.is_empty() {
            mark = index::ingest(&self.db, &self.dir.0, setup, &rest, mark, (last.position, last.event))?;
        }
        Ok((mark, is_near))
    }

    /// Of one that nobody uses any more.
    fn take_the_place_of(self, old: DB) -> Result<(), StoreError> {
        let failed = |error| StoreError::unavailable("keeping snapshots", error);
        for entry in old.iterator_cf(engine::snapshots(&old), IteratorMode::Start) {
            match entry {
                Ok((key, value)) => self.db.put_cf(engine::snapshots(&self.db), key, value).map_err(failed)?,
                // They are a cache, and all this is done because of damage.
                Err(error) => {
                    tracing::warn!(%error, "snapshots that can't be read are lost");
                    break;
                }
            }
        }
        self.db.flush_cf(engine::snapshots(&self.db)).map_err(failed)?;
        drop((old, self.db));
        let index = engine::index_dir(&self.store);
        fs::rename(&index, self.dir.0.join("old"))
            .and_then(|()| fs::rename(engine::index_dir(&self.dir.0), index))
            .and_then(|()| fs::File::open(&self.store)?.sync_all())
            .map_err(|error| StoreError::unavailable("changing the index for the new one", error))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering::Relaxed},
        time::Duration,
    };

    use indelible_core::{Append, AppendOutcome, ContentType, EventStore, EventType, ExpectedVersion, NewEvent};

    use super::*;
    use crate::Durability;

    async fn append(store: &RocksStore, events: usize) {
        let events = (0..events).map(|_| NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}"));
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, events);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }

    /// What the store has to stop for is little of what came while the index was made.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_came_meanwhile_is_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let options = RocksStore::options().durability(Durability::Buffered).segment_bytes(20_000);
        let store = options.open(dir.path()).unwrap();
        for _ in 0..20 {
            append(&store, 1_000).await;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let writing = {
            let (store, is_over) = (store.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Relaxed) {
                    append(&store, 10).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        let rebuild = async || {
            let shared = Arc::clone(store.shared());
            let before = store.head().await.unwrap().position.get();
            let rebuilt = tokio::task::spawn_blocking(move || {
                let rebuilt = Rebuilt::of(&shared, &|| Ok(())).unwrap();
                let mark = index::mark(&rebuilt.db).unwrap().unwrap();
                (mark.position.get(), shared.with_run(|run| run.seen.last().position.get()).unwrap())
            });
            let (indexed, head) = rebuilt.await.unwrap();
            println!("{} events came while the index of {before} was made", head - before);
            (head - before, head - indexed)
        };
        let (mut came, mut left) = rebuild().await;
        for _ in 0..4 {
            if came > 100 && left * 4 < came {
                break;
            }
            // The machine had no time for one of them.
            (came, left) = rebuild().await;
        }
        is_over.store(true, Relaxed);
        writing.await.unwrap();
        assert!(came > 100 && left * 4 < came, "{left} of {came} events are left");
    }
}
