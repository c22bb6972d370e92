//! Backups of a store at work.
//!
//! Each is restored, and must be a prefix of the log: without a hole, its index that of its log, no checkpoint ahead of it,
//! and readers who saw more must be told. The faults: backups that are interrupted, changed, or made where there is no room.
//! Beside it stands what a plain copy of the files under the same load is worth.
//!
//! `INDELIBLE_BACKUPS` says how many are taken (20).

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::{TryStreamExt, future};
use indelible_core::conformance::fault::Line;
use indelible_core::{
    Append, AppendOutcome, CheckpointStore, ContentType, EventStore, EventStoreExt, EventType, ExpectedVersion,
    NewEvent, Position, ReadLog, StoreError,
};
use indelible_rocksdb::{Backup, BackupError, Backups, OpenError, RocksStore};
use tempfile::TempDir;
use tokio::time;

use crate::{
    child::{Running, command},
    conformance::copy_files,
    verification::write,
};

const FAULT: &str = "backup at work";

#[tokio::test(flavor = "multi_thread")]
async fn backups_under_load_are_prefixes_of_the_log() {
    let count: usize = env::var("INDELIBLE_BACKUPS").map_or(20, |count| count.parse().expect("a number"));
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(write(store.clone(), writer, Arc::clone(&is_over)))).collect();
    let reader = tokio::spawn(follow(store.clone(), Arc::clone(&is_over)));
    let started = Instant::now();
    let mut taken: Vec<Backup> = Vec::new();
    let (mut copies, mut broken_copies) = (0, 0);
    let mut has_index = false;
    // Where the disk is slow, it takes the writers longer until something is indexed.
    while taken.len() < count || (!has_index && taken.len() < 20 * count) {
        let now = store.statistics();
        has_index = now.index_lag < now.head;
        let before = store.head().await.unwrap();
        let backup = store.backup(elsewhere.path()).await.unwrap();
        let after = store.head().await.unwrap();
        assert!(before.position <= backup.head.position && backup.head.position <= after.position);
        taken.push(backup);
        if taken.len() % 8 == 1 {
            copies += 1;
            broken_copies += usize::from(!is_whole_copy(dir.path()).await);
        }
    }
    let (took, count) = (started.elapsed(), taken.len());
    is_over.store(true, Relaxed);
    for ended in future::join_all(writers).await {
        ended.unwrap();
    }
    reader.await.unwrap();

    let backups = Backups::at(elsewhere.path());
    assert_eq!(backups.list().unwrap(), taken);
    let mut indexed = Position::START;
    for backup in &taken {
        let (restored, found) = restored(&backups, backup).await;
        assert_eq!(restored.head().await.unwrap(), backup.head);
        assert_eq!(found.events, backup.head.position.get());
        indexed = indexed.max(found.indexed);
        is_prefix(&restored, &store).await;
        // A reader who has seen the last event of the live store.
        let newer = store.head().await.unwrap();
        assert!(matches!(restored.check(&newer).await, Err(StoreError::Diverged { .. })));
        let checkpoint = restored.load_checkpoint("reader").await.unwrap();
        assert!(checkpoint.is_none_or(|token| token.position <= backup.head.position));
        restored.close().await.unwrap();
    }
    assert!(indexed > Position::START, "no event was ever indexed");
    let added: u64 = taken.iter().map(|backup| backup.added_bytes).sum();
    let bytes: u64 = taken.iter().map(|backup| backup.bytes).sum();
    let events = taken[count - 1].head.position.get();
    println!(
        "{count} backups in {took:.1?} under 4 writers, {events} events in the last, {} of {} KiB new: \
         {count} restored, {count} prefixes, 0 holes (cp: {broken_copies} of {copies} broken)",
        added / 1024,
        bytes / 1024
    );
    assert!(broken_copies > 0, "what is no backup is taken for one");
    let controls = format!("cp, the log first: {broken_copies} of {copies} copies broken");
    Line::clean(FAULT, count as u64, count as u64, events, &controls).print();
}

/// Saves a checkpoint at the head, over and over.
async fn follow(store: RocksStore, is_over: Arc<AtomicBool>) {
    while !is_over.load(Relaxed) {
        let head = store.head().await.unwrap();
        store.save_checkpoint("reader", head).await.unwrap();
        time::sleep(Duration::from_millis(1)).await;
    }
}

async fn restored(backups: &Backups, backup: &Backup) -> (RocksStore, indelible_rocksdb::Verification) {
    let target = tempfile::tempdir().unwrap().keep();
    assert_eq!(&backups.restore(backup.id, &target).unwrap(), backup);
    let store = RocksStore::open(&target).unwrap();
    let found = store.verify(|_| {}).await.unwrap();
    assert!(found.is_clean(), "{:?}", found.problems);
    // What is open stays readable.
    fs::remove_dir_all(&target).unwrap();
    (store, found)
}

async fn is_prefix(restored: &RocksStore, store: &RocksStore) {
    let mut theirs = store.log(ReadLog::all());
    let mut ours = restored.log(ReadLog::all());
    let mut expected = Position::FIRST;
    while let Some(event) = ours.try_next().await.unwrap() {
        assert_eq!(event.position, expected);
        assert_eq!(Some(event), theirs.try_next().await.unwrap());
        expected = expected.plus(1);
    }
    assert_eq!(restored.head().await.unwrap().position, expected.before());
}

/// Whether a plain copy of a store at work opens, and is a whole store of at least what it was when the copy was begun.
async fn is_whole_copy(dir: &Path) -> bool {
    let copy = tempfile::tempdir().unwrap();
    let cp = |what: &str| {
        std::process::Command::new("cp")
            .arg("-r")
            .arg(dir.join(what))
            .arg(copy.path())
            .output()
            .unwrap()
            .status
            .success()
    };
    if !cp("log") {
        return false;
    }
    // The anchor moves once a second.
    time::sleep(Duration::from_millis(1_500)).await;
    if !(cp("index") && cp("anchor")) {
        return false;
    }
    match RocksStore::open(copy.path()) {
        Ok(store) => store.verify(|_| {}).await.is_ok_and(|found| found.is_clean()),
        Err(_) => false,
    }
}

/// A closed store with so many tables of about a megabyte, that don't compress.
async fn store(tables: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for table in 0..tables {
        let store = RocksStore::open(dir.path()).unwrap();
        fill(&store, table).await;
        store.close().await.unwrap();
    }
    dir
}

async fn fill(store: &RocksStore, seed: u64) {
    use rand::{RngCore, SeedableRng, rngs::StdRng};
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..10 {
        let mut data = vec![0; 100_000];
        random.fill_bytes(&mut data);
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::from_static("bytes"), data);
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, [event]);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
}

#[tokio::test]
async fn backups_share_tables_and_go_one_by_one() {
    let (dir, elsewhere) = (store(3).await, tempfile::tempdir().unwrap());
    let path = elsewhere.path().join("hourly/a");
    let backups = Backups::at(&path);
    assert_eq!(backups.list().unwrap(), []);
    let store = RocksStore::open(dir.path()).unwrap();
    let first = store.backup(&path).await.unwrap();
    assert_eq!((first.id, first.added_bytes), (1, first.bytes));
    fill(&store, 9).await;
    let second = store.backup(&path).await.unwrap();
    assert_eq!(second.id, 2);
    assert!(second.added_bytes * 2 < second.bytes, "{second:?}");
    let files = |id: &str| -> Vec<PathBuf> {
        let listed = fs::read_dir(path.join(id).join("log")).unwrap().map(|entry| entry.unwrap().path());
        listed.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
    };
    let shared = files("000002").into_iter().filter(|path| path.metadata().unwrap().nlink() == 2).count();
    assert!(shared >= 3, "{shared} tables are shared");
    // A rebuilt index has tables of the same names, which are others.
    store.rebuild_indexes().await.unwrap();
    let third = store.backup(&path).await.unwrap();
    backups.delete(1).unwrap();
    assert!(matches!(backups.delete(1), Err(BackupError::Missing { id: 1, .. })));
    assert_eq!(backups.list().unwrap(), [second.clone(), third.clone()]);
    for backup in [&second, &third] {
        let found = backups.verify(backup.id).unwrap();
        assert_eq!(found.head, backup.head);
        let (restored, _) = restored(&backups, backup).await;
        is_prefix(&restored, &store).await;
    }
    backups.keep(1).unwrap();
    assert_eq!(backups.list().unwrap(), [third]);
    assert!(backups.verify(3).is_ok());
}

#[tokio::test]
async fn what_is_in_the_way_is_refused() {
    let (dir, other, elsewhere) = (store(1).await, store(1).await, tempfile::tempdir().unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    let backup = store.backup(elsewhere.path()).await.unwrap();
    let other = RocksStore::open(other.path()).unwrap();
    match other.backup(elsewhere.path()).await {
        Err(BackupError::AnotherStore { found, .. }) => assert_eq!(found, store.id()),
        answer => panic!("{answer:?}"),
    }
    let backups = Backups::at(elsewhere.path());
    assert!(matches!(backups.restore(1, dir.path()), Err(BackupError::NotEmpty { .. })));
    assert!(matches!(backups.restore(7, elsewhere.path().join("7")), Err(BackupError::Missing { id: 7, .. })));
    assert!(matches!(backups.verify(7), Err(BackupError::Missing { id: 7, .. })));
    let (mut made, mut refused) = (vec![backup], None);
    // One may be through before the other begins.
    while refused.is_none() {
        let (first, second) = future::join(store.backup(elsewhere.path()), store.backup(elsewhere.path())).await;
        for told in [first, second] {
            match told {
                Ok(backup) => made.push(backup),
                Err(error) => refused = Some(error),
            }
        }
    }
    assert!(matches!(refused, Some(BackupError::Open(OpenError::Locked { .. }))), "{refused:?}");
    made.sort_by_key(|backup| backup.id);
    assert_eq!(backups.list().unwrap(), made);
    store.close().await.unwrap();
    assert!(matches!(store.backup(elsewhere.path()).await, Err(BackupError::Store(StoreError::Stopped { .. }))));
}

/// Killed or dropped in the middle, or between the files.
#[tokio::test]
async fn an_interrupted_backup_is_none() {
    let (dir, elsewhere) = (store(2).await, tempfile::tempdir().unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    let backups = Backups::at(elsewhere.path());
    for wait in 0..20 {
        if let Ok(made) = time::timeout(Duration::from_millis(wait), store.backup(elsewhere.path())).await {
            // The one before may still be ending.
            assert!(matches!(made, Ok(_) | Err(BackupError::Open(OpenError::Locked { .. }))), "{made:?}");
        }
        for backup in backups.list().unwrap() {
            backups.verify(backup.id).unwrap();
        }
    }
    let whole = loop {
        match store.backup(elsewhere.path()).await {
            Err(BackupError::Open(OpenError::Locked { .. })) => time::sleep(Duration::from_millis(5)).await,
            made => break made.unwrap(),
        }
    };
    // What a kill leaves behind.
    let partial = elsewhere.path().join("partial");
    copy_files(&elsewhere.path().join(format!("{:06}", whole.id)), &partial);
    fs::remove_file(partial.join("manifest")).unwrap();
    assert_eq!(backups.list().unwrap().last(), Some(&whole));
    let next = store.backup(elsewhere.path()).await.unwrap();
    assert_eq!(next.id, whole.id + 1);
    assert!(!partial.exists());
    // And a store's own directory: the copy that stood still, and an index in the making.
    store.close().await.unwrap();
    fs::create_dir_all(dir.path().join("frozen-1/log")).unwrap();
    fs::create_dir_all(dir.path().join("rebuild/index")).unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    assert!(!dir.path().join("frozen-1").exists() && !dir.path().join("rebuild").exists());
    assert_eq!(store.head().await.unwrap(), next.head);
}

/// A restore that was killed is refused, and so is each byte that has changed.
#[tokio::test]
async fn what_is_not_whole_is_not_restored() {
    let (dir, elsewhere) = (store(1).await, tempfile::tempdir().unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    let backup = store.backup(elsewhere.path()).await.unwrap();
    let backups = Backups::at(elsewhere.path());
    let made = elsewhere.path().join("000001");
    let mut files = Vec::new();
    for folder in [made.clone(), made.join("log"), made.join("index")] {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.extend(entries.filter(|path| path.is_file() && path.metadata().unwrap().len() > 0));
    }
    // Nothing is in it that the manifest doesn't tell.
    let manifest = fs::read_to_string(made.join("manifest")).unwrap();
    for file in &files {
        let name = file.strip_prefix(&made).unwrap().to_str().unwrap();
        assert!(name == "manifest" || manifest.contains(name), "{name} is not told of");
    }
    for file in &files {
        let kept = fs::read(file).unwrap();
        let mut changed = kept.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(file, changed).unwrap();
        let target = tempfile::tempdir().unwrap();
        let refused = backups.restore(1, target.path());
        assert!(matches!(&refused, Err(BackupError::Corrupted { .. })), "{}: {refused:?}", file.display());
        let refused = backups.verify(1);
        assert!(matches!(&refused, Err(BackupError::Corrupted { .. })), "{}: {refused:?}", file.display());
        fs::write(file, kept).unwrap();
        // What it has copied until then is no store, but for the file that comes last.
        let is_last = file.ends_with("log/CURRENT");
        let is_empty = fs::read_dir(target.path()).unwrap().count() == 0;
        let opened = RocksStore::open(target.path());
        assert!(opened.is_err() || is_last || is_empty, "{}", file.display());
    }
    println!("a changed byte in each of {} files: all refused", files.len());
    let target = tempfile::tempdir().unwrap();
    assert_eq!(backups.restore(1, target.path()).unwrap(), backup);
    fs::remove_file(target.path().join("log/CURRENT")).unwrap();
    assert!(matches!(RocksStore::open(target.path()), Err(OpenError::Corrupted { .. })));
}

#[test]
fn a_disk_that_is_full_stops_the_backup_and_not_the_store() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = runtime.block_on(store(1));
    // No file may be longer than half a megabyte, or a whole one, as the shell has it.
    let limit = ["sh", "-c", "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\""];
    assert!(Running::start(command("back up without room", dir.path(), &limit)).succeeds());
    let elsewhere = dir.path().join("backups");
    let backups = Backups::at(&elsewhere);
    assert_eq!(backups.list().unwrap(), []);
    let store = RocksStore::open(dir.path()).unwrap();
    runtime.block_on(async {
        let made = store.backup(&elsewhere).await.unwrap();
        assert_eq!(made.head.position, Position::new(11));
    });
}

/// The child: a table does not fit.
pub(crate) async fn without_room(store: RocksStore, dir: &Path) {
    let refused = store.backup(dir.join("backups")).await;
    assert!(matches!(&refused, Err(BackupError::Io { what: "write", .. })), "{refused:?}");
    let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
    let append = Append::to("s-2".parse().unwrap(), ExpectedVersion::NoStream, [event]);
    assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    assert!(store.verify(|_| {}).await.unwrap().is_clean());
    store.close().await.unwrap();
}

/// A table that rots on the backups' disk is no part of the next one, which has the store's.
#[tokio::test]
async fn a_damaged_backup_spoils_none_after_it() {
    let (dir, elsewhere) = (store(2).await, tempfile::tempdir().unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    let backups = Backups::at(elsewhere.path());
    store.backup(elsewhere.path()).await.unwrap();
    let tables = fs::read_dir(elsewhere.path().join("000001/log")).unwrap().map(|entry| entry.unwrap().path());
    let table = tables.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&table).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&table, &bytes).unwrap();
    let second = store.backup(elsewhere.path()).await.unwrap();
    assert_eq!(second.id, 2);
    assert!(second.added_bytes >= bytes.len() as u64 && second.added_bytes < second.bytes, "{second:?}");
    backups.verify(2).unwrap();
    let third = store.backup(elsewhere.path()).await.unwrap();
    assert!(third.added_bytes * 2 < third.bytes, "it shares with the second: {third:?}");
    for backup in [&second, &third] {
        is_prefix(&restored(&backups, backup).await.0, &store).await;
    }
    assert!(matches!(backups.verify(1), Err(BackupError::Corrupted { .. })));
}

/// Names that no backup is given, and a manifest that a newer version wrote.
#[tokio::test]
async fn what_is_no_backup_is_left_alone() {
    let (dir, elsewhere) = (store(1).await, tempfile::tempdir().unwrap());
    let store = RocksStore::open(dir.path()).unwrap();
    for name in ["7", "0000008", "+00009", "18446744073709551615"] {
        fs::create_dir(elsewhere.path().join(name)).unwrap();
    }
    let first = store.backup(elsewhere.path()).await.unwrap();
    assert_eq!(first.id, 1);
    let backups = Backups::at(elsewhere.path());
    assert_eq!(backups.list().unwrap(), [first]);

    let manifest = elsewhere.path().join("000001/manifest");
    let whole = fs::read_to_string(&manifest).unwrap();
    let is_damaged = || {
        let damaged = backups.verify(1).unwrap_err();
        assert!(matches!(damaged, BackupError::Corrupted { .. }), "{damaged:?}");
        assert_eq!(backups.list().unwrap(), []);
    };
    fs::remove_file(&manifest).unwrap();
    is_damaged();
    for bytes in [&whole.as_bytes()[1..], &[&[whole.as_bytes()[0] ^ 0x80], &whole.as_bytes()[1..]].concat()] {
        fs::write(&manifest, bytes).unwrap();
        is_damaged();
    }
    let second = store.backup(elsewhere.path()).await.unwrap();
    assert_eq!(second.id, 2, "it keeps no other from being made");
    assert_eq!(backups.list().unwrap(), std::slice::from_ref(&second));

    let text = whole.replace("indelible backup 1", "indelible backup 2");
    let (lines, _) = text.rsplit_once("checksum").unwrap();
    fs::write(&manifest, format!("{lines}checksum {:08x}\n", crc32c::crc32c(lines.as_bytes()))).unwrap();
    for newer in [backups.list().unwrap_err(), backups.keep(0).unwrap_err()] {
        assert!(matches!(newer, BackupError::Open(OpenError::NewerFormat { found: 2, supported: 1, .. })), "{newer:?}");
    }

    let ids = || [1, 2, 3].map(|id| elsewhere.path().join(format!("{id:06}")).exists());
    fs::write(&manifest, "").unwrap();
    assert_eq!(store.backup(elsewhere.path()).await.unwrap().id, 3);
    fs::write(elsewhere.path().join("000003/manifest"), "").unwrap();
    backups.keep(2).unwrap();
    assert_eq!(ids(), [true; 3], "there is one whole one");
    backups.keep(1).unwrap();
    assert_eq!(ids(), [false, true, true], "of whole ones, the newest");
    assert_eq!(backups.list().unwrap(), [second]);
    backups.keep(0).unwrap();
    assert_eq!(ids(), [false; 3]);
}

/// One that copies the log first is found out: the index or the anchor has gone on since.
#[cfg(feature = "bugs")]
#[test]
fn copying_the_log_first_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = command("back up at work", dir.path(), &[]);
    child.env("INDELIBLE_BUG", "backup-log-first");
    let mut child = Running::start(child);
    let said = child.line().expect("it says how it went");
    let is_found = said.starts_with("a backup of a damaged store is none: ");
    indelible_core::conformance::fault::seeded(FAULT, "backup-log-first", is_found, &said);
    assert!(child.succeeds());
}

/// The child: takes a few backups while it writes, and says what came of the first that failed.
pub(crate) async fn at_work(store: RocksStore, dir: &Path) {
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(write(store.clone(), writer, Arc::clone(&is_over)))).collect();
    let mut said = "nothing".to_owned();
    for _ in 0..10 {
        if let Err(error) = store.backup(dir.join("backups")).await {
            said = error.to_string();
            break;
        }
    }
    is_over.store(true, Relaxed);
    future::join_all(writers).await;
    crate::child::say(&said);
}
