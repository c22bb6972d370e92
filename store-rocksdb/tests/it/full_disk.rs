//! A full disk.
//!
//! The fault: a file system of our own is filled while the store writes, so that an append finds no room; and it is full,
//! to some bytes, when the store is opened. What was acknowledged stays. The store that was open answers appends with an
//! error, and reads on; an opening works, or says that it can't, and never that the store is damaged; when there is room
//! again all is there, and more is written.
//!
//! Not shown: room that runs out while large tables are compacted; those of the index here are small.
//!
//! `INDELIBLE_FULL_DISK_CYCLES` says how many times (4). Needs root.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    sync::{Arc, Mutex},
};

use indelible_core::{
    StoreError,
    conformance::fault::{Journal, Line, Verdict, Work, judge_reads},
};
use indelible_rocksdb::{OpenError, RocksStore};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    campaign::{keep, number, seed},
    child::{copy_all, skip},
    control,
    disk::{Below, Disk, FileSystem, lacks},
    judge::verify,
};

const FAULT: &str = "disk full";
const MIB: u64 = 48;
const BALLAST: &str = "ballast";

/// Fills what is left, but for so many bytes, more or less.
pub(crate) fn fill(disk: &Disk, leave: u64) {
    let mut ballast = File::options().append(true).create(true).open(disk.mounted().join(BALLAST)).unwrap();
    let before = ballast.metadata().unwrap().len();
    for chunk in [1 << 20, 1 << 12] {
        while ballast.write_all(&vec![7; chunk]).is_ok() {}
    }
    let full = ballast.metadata().unwrap().len();
    ballast.set_len(full.saturating_sub(leave).max(before)).and_then(|()| ballast.sync_all()).unwrap();
}

/// Makes so many bytes of room.
pub(crate) fn free(disk: &Disk, bytes: u64) {
    let ballast = File::options().write(true).open(disk.mounted().join(BALLAST)).unwrap();
    let length = ballast.metadata().unwrap().len();
    ballast.set_len(length.saturating_sub(bytes)).unwrap();
}

#[derive(Default)]
struct Tally {
    verdict: Verdict,
    /// Disks on which an append found no room.
    full: u64,
    opened: u64,
    /// Disks on which tables had been compacted by then.
    compacted: u64,
}

/// More numbers of files are gone than write-ahead logs and manifests can have taken.
const REPLACED_MIN: u64 = 20;

/// How many numbers were given to tables of a database, or other files, that are not there any more.
fn replaced_tables(database: &Path) -> u64 {
    let names = fs::read_dir(database).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let numbers: Vec<u64> = names.filter_map(|name| name.strip_suffix(".sst")?.parse().ok()).collect();
    numbers.iter().max().map_or(0, |last| last - numbers.len() as u64)
}

/// What the store says while it is open on a full disk, and when it is opened there.
fn fill_up(cycle: u64, room: u64, random: &mut StdRng, tally: &mut Tally) -> Verdict {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let file_system = [FileSystem::Tmpfs, FileSystem::Ext4][cycle as usize % 2];
    let disk = Disk::new(file_system, Below::Loop, MIB);
    let dir = disk.mounted().join("store");
    let journal = Arc::new(Mutex::new(Journal::default()));
    let write = |appends: u64, cycle: u64, store: &RocksStore| {
        let taker = Arc::clone(&journal);
        let work = Work { cycle, writers: 4, appends, weakly: false, again: Vec::new() };
        runtime.block_on(work.run(store.clone(), Arc::new(move |line| taker.lock().unwrap().take(line, true))));
    };
    let said = || journal.lock().unwrap().clone();

    // Before the store is opened: RocksDB reserves what it finds for its log.
    fill(&disk, random.random_range(0..room));
    let mut verdict = Verdict::default();
    let store = loop {
        // What is indexed at a time is little, so that tables are made, and made into others, meanwhile.
        match RocksStore::options().segment_bytes(3_000).open(&dir) {
            Ok(store) => break store,
            Err(OpenError::Io { .. }) => free(&disk, 1 << 20),
            Err(error) => {
                verdict.wrong("refused to open", || format!("without room for a new store: {error:?}"));
                return verdict;
            }
        }
    };
    write(u64::MAX, 1, &store);
    let refused = runtime.block_on(store.resume());
    if !matches!(refused, Err(StoreError::Unavailable { .. })) {
        verdict.wrong("resumed", || format!("without room: {refused:?}"));
    }
    tally.compacted += u64::from(replaced_tables(&dir.join("index")) > REPLACED_MIN);
    let errors = &said().errors;
    tally.full += u64::from(errors.iter().any(|line| line.starts_with("unknown") || line.starts_with("stopped")));
    let found = runtime.block_on(judge_reads(&store, &said()));
    verdict.add(Verdict { acknowledged: 0, unknown: 0, unknown_written: 0, ..found });
    if let Some(other) = errors.iter().find(|line| !line.starts_with("unknown") && !line.starts_with("stopped")) {
        verdict.wrong("error", || other.clone());
    }
    let _ = runtime.block_on(store.close());
    drop(store);
    journal.lock().unwrap().next_process();

    for leave in [random.random_range(0..300_000), 0] {
        fill(&disk, leave);
        open_full(&dir, &runtime, &said(), &mut verdict, tally);
    }
    match RocksStore::open(&dir) {
        // Opened to read, and then to write in the same process.
        Ok(store) => {
            free(&disk, u64::MAX);
            match runtime.block_on(store.resume()) {
                Ok(()) => write(10, 2, &store),
                Err(error) => verdict.wrong("not resumed", || format!("with room again: {error:?}")),
            }
        }
        Err(error) => verdict.wrong("refused to open", || format!("with room again: {error:?}")),
    }
    // Elsewhere: what RocksDB reserves for two openings, one right after the other, can be more than all of this disk.
    let copy = tempfile::tempdir().unwrap();
    copy_all(&dir, copy.path());
    verdict.add(verify(copy.path(), &said()));
    if !verdict.is_clean() {
        keep(FAULT, &dir, &said());
    }
    verdict
}

fn open_full(
    dir: &Path,
    runtime: &tokio::runtime::Runtime,
    journal: &Journal,
    verdict: &mut Verdict,
    tally: &mut Tally,
) {
    match RocksStore::open(dir) {
        Ok(store) => {
            tally.opened += 1;
            let found = runtime.block_on(judge_reads(&store, journal));
            verdict.add(Verdict { acknowledged: 0, unknown: 0, unknown_written: 0, ..found });
        }
        Err(error) => verdict.wrong("refused to open", || format!("on a full disk: {error:?}")),
    }
}

/// Records that the control had acknowledged before it found no room, and how many of them it lost.
fn plain_file() -> (u64, u64) {
    let disk = Disk::new(FileSystem::Ext4, Below::Loop, MIB);
    fill(&disk, 1 << 20);
    control::run_out(&disk.mounted().join("plain"), &[])
}

#[test]
fn a_full_disk_loses_nothing_and_is_read_on() {
    if let Some(lack) = lacks(FileSystem::Tmpfs, Below::Loop).or_else(|| lacks(FileSystem::Ext4, Below::Loop)) {
        skip(&lack);
        return;
    }
    let cycles = number("INDELIBLE_FULL_DISK_CYCLES").unwrap_or(4);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut tally, mut filled) = (Tally::default(), 0);
    // All of them may be full before any table is compacted: then there are more, with more room.
    while filled < cycles || (filled < cycles + 20 && tally.compacted == 0 && tally.verdict.is_clean()) {
        let room = if filled < cycles { 1 << 20 } else { 4 << 20 };
        let verdict = fill_up(filled, room, &mut random, &mut tally);
        tally.verdict.add(verdict);
        filled += 1;
    }
    let cycles = filled;
    let (records, lost) = plain_file();
    let Tally { verdict, full, opened, compacted } = tally;
    let controls = format!(
        "opened {opened} times while full; tables had been compacted on {compacted}; \
         plain file: {lost} of {records} records lost"
    );
    println!("{FAULT}: {cycles} disks, an append found no room on {full}; {controls}: {verdict}");
    Line::new(FAULT, cycles, full, &verdict, &controls).seed(seed).print();
    assert!(verdict.is_clean(), "INDELIBLE_SEED={seed}: {verdict}");
    assert_eq!(full, cycles, "a disk was not full");
    assert!(records > 0 && lost == 0, "the control loses {lost} of {records} records: the rig is wrong");
    assert!(compacted > 0, "no table was ever compacted");
}
