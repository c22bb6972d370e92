//! Backups: whole copies of a store at a moment, many in one directory, each a directory with a [`manifest`]. Tables that
//! two of them have in common are one file. Called by applications through the handle and through [`Backups`].
//!
//! A backup is made of a [`Frozen`] copy, under another name until it is whole, verified and durable. What it holds is
//! published before it counts, so that it is a prefix of what the store's readers see.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use indelible_core::{Cause, Position, StoreError, StoreId, Timestamp, Token};

use crate::{
    Durability, OpenError, RocksStore, Verification,
    anchor::{self, Anchor, Place},
    frame::Damage,
    frozen::Frozen,
    open,
    store::Shared,
    verify::{self, Watch, stoppable},
};

mod files;
mod manifest;

#[cfg(feature = "fuzzing")]
pub(crate) use manifest::comes_back;
use manifest::{Listed, Manifest};

/// The name of one in the making, or going.
const PARTIAL: &str = "partial";
/// Without this file, and with others, a store is refused at opening: restoring copies it when all else is there for good.
const LAST: &str = "log/CURRENT";

/// Why a backup was not made, read, or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The store said no: it is stopped, its disk is full, a file can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy was read and is damaged, so the store is: [`verify`](RocksStore::verify) it.
    #[error("a backup of a damaged store is none: {}", first(.0))]
    Damaged(Box<Verification>),
    /// The directory is in use, a backup was made by a newer version, or a restored store can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory's backups are those of another store.
    #[error("{} holds backups of another store, {found}", path.display())]
    AnotherStore {
        /// The directory.
        path: PathBuf,
        /// Whose backups it holds.
        found: StoreId,
    },
    /// There is no such backup, or no whole one.
    #[error("{} holds no backup {id}", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// The backup's id.
        id: u64,
    },
    /// A store is restored into an empty directory, or one that is not there.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A backup is not as it was written.
    #[error("{} is damaged: {what}", path.display())]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The operating system said no.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What was answered.
        #[source]
        source: Cause,
    },
}

fn first(verification: &Verification) -> String {
    verification.problems.first().map(ToString::to_string).unwrap_or_default()
}

/// What was tried with a file, for errors.
fn failed(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BackupError {
    move |error| BackupError::Io { path: path.into(), what, source: error.into() }
}

/// A whole copy of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Its number in its directory: 1, 2, 3 …
    pub id: u64,
    /// The last event that it holds, and the store's id.
    pub head: Token,
    /// When it was begun.
    pub taken_at: Timestamp,
    /// What it holds.
    pub bytes: u64,
    /// What it holds that no backup before it in the directory did when it was made.
    pub added_bytes: u64,
}

impl Backup {
    fn of(id: u64, manifest: &Manifest) -> Self {
        let Manifest { head, taken_at, added_bytes, ref files } = *manifest;
        Self { id, head, taken_at, bytes: files.iter().map(|file| file.bytes).sum(), added_bytes }
    }
}

impl RocksStore {
    /// Copies the store as it is now into a directory of backups, on whatever disk, while everybody goes on: all events up
    /// to a head, which is published, with the index, checkpoints that are not ahead of it, and snapshots. Tables that the last
    /// backup in the directory has are shared with it where the disk can do that. The copy is
    /// [verified](Self::verify) as a whole before it counts; one that was interrupted never does.
    ///
    /// A backup is a directory that holds a store and a manifest; [`Backups`] lists, verifies, deletes and restores them.
    /// Dropping the future ends it.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] where the store is, [`BackupError::Io`] where the directory's disk is full. The store itself
    /// goes on, also where its own disk is full. [`StoreError::Unavailable`] where it was opened again meanwhile,
    /// as by [`rebuild_indexes`](Self::rebuild_indexes), [`StoreError::Stopped`] where it was closed.
    pub async fn backup(&self, dir: impl AsRef<Path>) -> Result<Backup, BackupError> {
        let shared = Arc::clone(self.shared());
        let backups = Backups::at(dir);
        stoppable(self.shared(), move |go_on| Ok(backups.take(&shared, &mut Watch::new(go_on, &mut |_| {})))).await?
    }
}

/// A directory of backups of one store. All that it does blocks.
///
/// ```
/// # use indelible_core::EventStore;
/// use indelible_rocksdb::{Backups, RocksStore};
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let (path, elsewhere, again) = (directory.path().join("a"), directory.path().join("b"), directory.path().join("c"));
/// let store = RocksStore::open(path)?;
/// let taken = store.backup(&elsewhere).await?; // every hour, say
///
/// let backups = Backups::at(&elsewhere);
/// backups.keep(24)?;
/// let newest = backups.list()?.pop().expect("there is one");
/// assert_eq!(newest, taken);
/// backups.restore(newest.id, &again)?;
/// assert_eq!(RocksStore::open(again)?.head().await?, newest.head);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Backups {
    dir: PathBuf,
}

impl Backups {
    /// Those in a directory.
    pub fn at(dir: impl AsRef<Path>) -> Self {
        Self { dir: dir.as_ref().into() }
    }

    /// All whole ones, the oldest first. One whose manifest is damaged is passed over with a warning, so that it hides none
    /// of the others; [`verify`](Self::verify) says what is wrong with it.
    ///
    /// # Errors
    /// [`BackupError::Open`] where a manifest is of a newer version, [`BackupError::Io`] where one can't be read.
    pub fn list(&self) -> Result<Vec<Backup>, BackupError> {
        let mut whole = Vec::new();
        for id in self.ids()? {
            whole.extend(self.whole(id)?.map(|manifest| Backup::of(id, &manifest)));
        }
        Ok(whole)
    }

    /// Reads all of a backup, compares its files with their checksums, and what they hold as [`RocksStore::verify`] does.
    ///
    /// # Errors
    /// [`BackupError::Corrupted`] names a file that is not as it was written, [`BackupError::Damaged`] what it holds.
    pub fn verify(&self, id: u64) -> Result<Verification, BackupError> {
        let dir = self.path(id);
        for listed in self.manifest(id)?.files {
            let path = dir.join(&listed.path);
            let found = files::sum(&path).map_err(failed("read", &path))?;
            listed.compare(found, &path)?;
        }
        whole(verify::copy(&dir, &mut Watch::new(&|| Ok(()), &mut |_| {}))?)
    }

    /// Deletes all that are older than the newest so many whole ones. One whose manifest is damaged is not counted as one of
    /// those.
    ///
    /// # Errors
    /// [`BackupError::Open`] where a backup is being made, or a manifest is of a newer version; [`BackupError::Io`] where a
    /// file can't be read or deleted.
    pub fn keep(&self, newest: usize) -> Result<(), BackupError> {
        let whole = self.list()?;
        let oldest = match newest {
            0 => u64::MAX,
            _ => whole.iter().nth_back(newest - 1).map_or(0, |kept| kept.id),
        };
        self.ids()?.into_iter().filter(|id| *id < oldest).try_for_each(|id| self.delete(id))
    }

    /// Deletes one. Others keep what they share with it.
    ///
    /// # Errors
    /// As [`keep`](Self::keep), and [`BackupError::Missing`].
    pub fn delete(&self, id: u64) -> Result<(), BackupError> {
        if !self.ids()?.contains(&id) {
            return Err(BackupError::Missing { path: self.dir.clone(), id });
        }
        let _lock = open::lock(&self.dir)?;
        self.remove_partial()?;
        // From here on it is none.
        let partial = self.dir.join(PARTIAL);
        fs::rename(self.path(id), &partial).map_err(failed("delete", self.path(id)))?;
        files::sync(&self.dir).map_err(failed("sync", &self.dir))?;
        self.remove_partial()
    }

    /// Copies a backup into an empty directory, or one that is made, so that it lasts; then opens the store there, which
    /// proves its end, and closes it. The store has the id that it had: readers who saw more of it than the backup holds are
    /// told [`Diverged`](StoreError::Diverged). What an interrupted one leaves behind is refused at opening.
    ///
    /// # Errors
    /// [`BackupError::NotEmpty`], [`BackupError::Missing`]; [`BackupError::Corrupted`] where a file is not as it was written;
    /// [`BackupError::Open`] where the store doesn't open.
    pub fn restore(&self, id: u64, target: impl AsRef<Path>) -> Result<Backup, BackupError> {
        let target = target.as_ref();
        let _span = tracing::info_span!("restore", id, target = %target.display()).entered();
        let manifest = self.manifest(id)?;
        open::create_dir_durably(target).map_err(failed("make", target))?;
        if fs::read_dir(target).map_err(failed("list", target))?.next().is_some() {
            return Err(BackupError::NotEmpty { path: target.into() });
        }
        let (last, first): (Vec<_>, Vec<_>) = manifest.files.iter().partition(|listed| listed.path == LAST);
        for listed in first.into_iter().chain(last) {
            let (from, to) = (self.path(id).join(&listed.path), target.join(&listed.path));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(failed("make", parent))?;
            }
            if listed.path == LAST {
                files::sync_names(target).map_err(failed("sync", target))?;
            }
            let found = files::copy(&from, &to).map_err(failed("copy", &from))?;
            listed.compare(found, &from)?;
        }
        files::sync_names(target).map_err(failed("sync", target))?;
        let store = RocksStore::open(target)?;
        let (id_found, head) = (store.shared().id, store.shared().with_run(|run| run.seen.last())?);
        store.handle().stop()?;
        let found = Token { store: id_found, position: head.position, event: head.event };
        match found == manifest.head {
            true => Ok(Backup::of(id, &manifest)),
            false => {
                let what = format!("it holds {found}, not {}", manifest.head);
                Err(BackupError::Corrupted { path: self.path(id), what })
            }
        }
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id:06}"))
    }

    /// The whole ones: whatever has a name that a backup is given.
    fn ids(&self) -> Result<Vec<u64>, BackupError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed("list", &self.dir))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &self.dir))?.file_name();
            let id = name.to_str().and_then(|name| name.parse::<u64>().ok());
            ids.extend(id.filter(|id| *id < u64::MAX && self.path(*id).file_name() == Some(&*name)));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The newest of them whose manifest is whole: one that is damaged must not keep others from being made.
    fn newest_whole(&self, ids: &[u64]) -> Result<Option<(u64, Manifest)>, BackupError> {
        for id in ids.iter().rev() {
            if let Some(manifest) = self.whole(*id)? {
                return Ok(Some((*id, manifest)));
            }
        }
        Ok(None)
    }

    /// A manifest, unless it is damaged.
    fn whole(&self, id: u64) -> Result<Option<Manifest>, BackupError> {
        match self.manifest(id) {
            Err(BackupError::Corrupted { path, what }) => {
                tracing::warn!(path = %path.display(), what, "a backup with a damaged manifest is passed over");
                Ok(None)
            }
            manifest => manifest.map(Some),
        }
    }

    fn manifest(&self, id: u64) -> Result<Manifest, BackupError> {
        let path = self.path(id).join(manifest::NAME);
        let damaged = |what: &str| BackupError::Corrupted { path: path.clone(), what: what.into() };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(match self.path(id).exists() {
                    false => BackupError::Missing { path: self.dir.clone(), id },
                    true => damaged("it is missing"),
                });
            }
            bytes => bytes.map_err(failed("read", &path))?,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        Manifest::decode(&text).map_err(|damage| match damage {
            Damage::Newer { found, supported } => {
                let (found, supported) = (found.into(), supported.into());
                OpenError::NewerFormat { path, what: "the manifest".into(), found, supported }.into()
            }
            damage => BackupError::Corrupted { path, what: damage.to_string() },
        })
    }

    fn remove_partial(&self) -> Result<(), BackupError> {
        let partial = self.dir.join(PARTIAL);
        match fs::remove_dir_all(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", partial)(error)),
            _ => Ok(()),
        }
    }

    #[tracing::instrument(level = "info", name = "backup", skip_all, fields(store = %shared.id))]
    fn take(&self, shared: &Shared, watch: &mut Watch<'_>) -> Result<Backup, BackupError> {
        open::create_dir_durably(&self.dir).map_err(failed("make", &self.dir))?;
        let _lock = open::lock(&self.dir)?;
        let ids = self.ids()?;
        let before = self.newest_whole(&ids)?;
        if let Some((_, before)) = &before
            && before.head.store != shared.id
        {
            return Err(BackupError::AnotherStore { path: self.dir.clone(), found: before.head.store });
        }
        self.remove_partial()?;
        let partial = self.dir.join(PARTIAL);
        let id = ids.last().map_or(1, |id| id + 1);
        let manifest = match self.fill(&partial, shared, before.as_ref(), watch) {
            Ok(manifest) => manifest,
            Err(error) => {
                // It is none in any case; the next one tries again to remove it.
                let _ = self.remove_partial();
                return Err(error);
            }
        };
        fs::rename(&partial, self.path(id)).map_err(failed("name", self.path(id)))?;
        files::sync(&self.dir).map_err(failed("sync", &self.dir))?;
        tracing::info!(id, head = %manifest.head.position, added_bytes = manifest.added_bytes, "a backup is whole");
        Ok(Backup::of(id, &manifest))
    }

    /// Makes all of a backup but its name.
    fn fill(
        &self,
        partial: &Path,
        shared: &Shared,
        before: Option<&(u64, Manifest)>,
        watch: &mut Watch<'_>,
    ) -> Result<Manifest, BackupError> {
        let taken_at = (shared.options.clock)();
        let (opening, head, frozen) =
            shared.with_run(|run| (run.opening, run.seen.last().position, Frozen::of(run)))?;
        let frozen = frozen?;
        let mut listed = Vec::new();
        let mut added_bytes = 0;
        for path in files::list(frozen.dir()).map_err(failed("list", frozen.dir()))? {
            watch.go_on()?;
            let (from, to) = (frozen.dir().join(&path), partial.join(&path));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(failed("make", parent))?;
            }
            let (bytes, checksum) = match self.share(before, &path, &from, &to) {
                Some(shared) => (shared.bytes, shared.checksum),
                None => {
                    let (bytes, checksum) = files::copy(&from, &to).map_err(failed("write", &to))?;
                    added_bytes += bytes;
                    (bytes, checksum)
                }
            };
            listed.push(Listed { bytes, checksum, path });
        }
        drop(frozen);
        let mut verification = verify::copy(partial, watch)?;
        verify::reaches(&mut verification, head);
        let verification = whole(verification)?;
        let head = verification.head;
        published(shared, opening, head.position, watch)?;
        let place = Place { position: head.position, event: head.event, checksum: verification.checksum };
        let anchored =
            Anchor::create(partial, head.store, Durability::Synced).and_then(|mut anchor| anchor.write(place));
        let path = partial.join(anchor::NAME);
        anchored.map_err(failed("write", &path))?;
        let (bytes, checksum) = files::sum(&path).map_err(failed("read", &path))?;
        listed.retain(|listed| listed.path != anchor::NAME);
        listed.push(Listed { bytes, checksum, path: anchor::NAME.into() });
        let manifest = Manifest { head, taken_at, added_bytes, files: listed };
        let path = partial.join(manifest::NAME);
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(manifest.encode().as_bytes())?;
            file.sync_all()
        });
        written.map_err(failed("write", &path))?;
        files::sync_names(partial).map_err(failed("sync", partial))?;
        Ok(manifest)
    }

    /// Gives a table of the backup before a second name, where it is this one and still as it was written.
    fn share<'a>(&self, before: Option<&'a (u64, Manifest)>, path: &str, from: &Path, to: &Path) -> Option<&'a Listed> {
        let (id, manifest) = before?;
        let listed = manifest.files.iter().find(|listed| listed.path == path && path.ends_with(".sst"))?;
        let theirs = self.path(*id).join(path);
        if !files::is_same_table(from, &theirs).ok()? {
            return None;
        }
        if let Err(damage) = listed.compare(files::sum(&theirs).ok()?, &theirs) {
            tracing::warn!(%damage, "a table of backup {id} is not shared");
            return None;
        }
        fs::hard_link(&theirs, to).ok().map(|()| listed)
    }
}

impl Listed {
    fn compare(&self, (bytes, checksum): (u64, u32), path: &Path) -> Result<(), BackupError> {
        let corrupted = |what: String| Err(BackupError::Corrupted { path: path.into(), what });
        if bytes != self.bytes {
            return corrupted(format!("it has {bytes} bytes, not {}", self.bytes));
        }
        if checksum != self.checksum {
            return corrupted("its checksum is wrong".into());
        }
        Ok(())
    }
}

fn whole(verification: Verification) -> Result<Verification, BackupError> {
    if verification.is_clean() { Ok(verification) } else { Err(BackupError::Damaged(verification.into())) }
}

/// Waits until the store has published what was copied of an opening: a group that was being written may have come along, and
/// is lost where the store stops and is opened again without it.
pub(crate) fn published(shared: &Shared, opening: u64, head: Position, watch: &Watch<'_>) -> Result<(), StoreError> {
    while shared.with_opening(opening, |run| run.seen.last().position)? < head {
        shared.writes()?;
        watch.go_on()?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
