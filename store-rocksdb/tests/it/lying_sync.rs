//! A sync that fails once, and then says yes.
//!
//! The fault: the disk refuses writes for a moment. The kernel tells the next sync, *once*, and takes the pages that it could
//! not write for clean: a second sync succeeds, though what it stands for is not on the disk. What a program reads back
//! meanwhile is right, and after the machine has started again it is gone.
//!
//! So nothing that is handed over after a failed sync may be acknowledged, whatever later syncs say, until the store is
//! opened again. The disk is a block device of our own; ext4 has no journal here, which would stop the file system
//! where the kernel forgets. The control that the fault is real: a program that appends to a file and syncs again
//! after a failure loses what it takes for safe. The store without syncs loses nothing here: the disk is taken down in order.
//!
//! `INDELIBLE_LYING_SYNC_CYCLES` says how many times (6). Needs root, a loop device, nbdkit and nbdfuse.

use std::{thread, time::Duration};

use indelible_core::conformance::fault::{Journal, Line, Verdict, Work};

use crate::{
    campaign::{keep, number},
    child::{Running, command, copy_all, skip, writer},
    control,
    disk::{BREAKABLE, Disk, FileSystem, lacks},
    judge::verify,
};

/// How long writes fail.
const BROKEN: Duration = Duration::from_millis(200);
const FAULT: &str = "sync failed once";
const FILE_SYSTEM: FileSystem = FileSystem::Ext4WithoutJournal;

/// The bugs that a lying sync must find.
#[cfg(feature = "bugs")]
const BUGS: &[&str] = &["swallow-failed-write", "sync-over-failed-sync"];

/// One failure; says what was found, and whether the store said that a write failed.
fn fail_once(cycle: u64, bug: Option<&str>) -> (Verdict, bool) {
    let mut disk = Disk::new(FILE_SYSTEM, BREAKABLE, 128);
    let store = disk.mounted().join("store");
    let work = Work { cycle, writers: 1 + cycle % 8, appends: 200, weakly: false, again: Vec::new() };
    let mut child = Running::start(writer(&work, bug, &store, &[]));
    let mut journal = Journal::default();
    let answers = 20 + cycle % 7;
    while let Some(line) = child.line() {
        journal.take(&line, true);
        if journal.answers == answers {
            disk.fails(true);
            thread::sleep(BROKEN);
            disk.fails(false);
        }
    }
    let ended_well = child.succeeds();
    disk.restart();
    let copy = tempfile::tempdir().unwrap();
    copy_all(&store, copy.path());
    let mut verdict = verify(copy.path(), &journal);
    if !ended_well {
        verdict.wrong("ended by itself", || format!("{:?}", journal.errors));
    }
    if !verdict.is_clean() && bug.is_none() {
        keep(FAULT, &store, &journal);
    }
    (verdict, journal.errors.iter().any(|line| line.starts_with("unknown")))
}

/// Records that a plain file has lost which were acknowledged after a failed sync had been tried again.
fn retry_over() -> u64 {
    let mut disk = Disk::new(FILE_SYSTEM, BREAKABLE, 128);
    let dir = disk.mounted().join("plain");
    let mut child = Running::start(command("file, again", &dir, &[]));
    let mut done = 0;
    while let Some(line) = child.line() {
        match line.split(' ').next() {
            Some("done") => done += 1,
            Some("failed") => disk.fails(false),
            _ => {}
        }
        if line == "done 20" {
            disk.fails(true);
        }
        if done == 100 {
            child.kill();
        }
    }
    disk.restart();
    done - control::whole(&dir).min(done)
}

#[test]
fn a_failed_sync_is_never_retried_over() {
    if let Some(lack) = lacks(FILE_SYSTEM, BREAKABLE) {
        skip(&lack);
        return;
    }
    let cycles = number("INDELIBLE_LYING_SYNC_CYCLES").unwrap_or(6);
    let (mut verdict, mut seen) = (Verdict::default(), 0);
    let mut tries = 0;
    // A process may be through before the disk fails, or write nothing while it does.
    while seen < cycles && tries < 5 * cycles {
        tries += 1;
        let (found, was_told) = fail_once(tries, None);
        verdict.add(found);
        seen += u64::from(was_told);
    }
    // A quick program may be through before the disk fails.
    let lost = (0..20).map(|_| retry_over()).find(|lost| *lost > 0).unwrap_or(0);
    println!("{FAULT}: {tries} disks, {seen} failures told: {verdict}");
    let controls = format!("plain file, synced again after a failure: {lost} of 100 records lost");
    Line::new(FAULT, tries, seen, &verdict, &controls).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(seen, cycles, "the fault did not happen");
    assert!(lost > 0, "a sync that is tried again loses nothing: the rig is wrong");
}

#[cfg(feature = "bugs")]
#[test]
fn a_lying_sync_finds_seeded_bugs() {
    if let Some(lack) = lacks(FILE_SYSTEM, BREAKABLE) {
        skip(&lack);
        return;
    }
    for bug in BUGS {
        // Now and then nothing was to be written while writes failed.
        let mut verdict = Verdict::default();
        for cycle in 1..=20 {
            verdict.add(fail_once(cycle, Some(bug)).0);
            if !verdict.is_clean() {
                break;
            }
        }
        indelible_core::conformance::fault::seeded(FAULT, bug, !verdict.is_clean(), &verdict);
    }
}
