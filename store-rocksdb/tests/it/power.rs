//! Power cuts.
//!
//! The fault: the power goes at a random moment, while several tasks append, or while the store is opened or closed. In two ways:
//!
//! - *The page cache is lost*: an ext4 or XFS of our own is shut down by its own means, without its journal or with it, so
//!   that its names are newer than its data. What was not synced is gone. Blind to the disk's own cache; and a sync that is
//!   under way at that moment may say yes though nothing is stored, so that only answers count that were read before the
//!   cut.
//! - *The disk's cache is lost too*: ext4 lies on a disk whose write cache is emptied. What was not flushed is gone, whoever
//!   said that it was written. Between two flushes all is lost or nothing: a reordering within is not shown.
//!
//! Neither shows disks that lie about a flush. The controls: a program that appends to a file and syncs loses nothing,
//! and the store without syncs loses something; otherwise the rig doesn't cut what it says.
//!
//! `INDELIBLE_POWER_CYCLES` says how many times each (30), `INDELIBLE_SEED` from which numbers. Needs root, a loop device,
//! xfsprogs, nbdkit and nbdfuse.

use std::path::PathBuf;

use indelible_core::conformance::fault::Line;
use indelible_rocksdb::Durability;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    campaign::{Fault, Plan, number, run, seed},
    child::{Running, skip},
    control,
    disk::{Below, Disk, FileSystem, VOLATILE, lacks},
};

/// The bugs that each kind of power cut must find. Shutting a file system down takes longer than a sync, so that it finds
/// no event that is visible for the time of a sync too early.
#[cfg(feature = "bugs")]
const BUGS: &[(&str, Disks, &[&str])] = &[
    (PAGE_CACHE, SHUT_DOWN, &["acknowledge-before-sync"]),
    (DISK_CACHE, CACHE_LOST, &["acknowledge-before-sync", "visible-before-sync"]),
];

const PAGE_CACHE: &str = "power cut, page cache lost";
const DISK_CACHE: &str = "power cut, disk cache lost";

type Disks = &'static [(FileSystem, Below)];

/// In each life another of these.
const SHUT_DOWN: Disks = &[(FileSystem::Ext4, Below::Loop), (FileSystem::Xfs, Below::Loop)];
const CACHE_LOST: Disks = &[(FileSystem::Ext4, VOLATILE)];

/// XFS takes no smaller ones.
const MIB: u64 = 320;

struct Cut {
    disks: Disks,
    disk: Option<Disk>,
    lives: usize,
    random: StdRng,
}

impl Cut {
    fn new(disks: Disks, seed: u64) -> Self {
        Self { disks, disk: None, lives: 0, random: StdRng::seed_from_u64(seed) }
    }

    fn disk(&mut self) -> &mut Disk {
        self.disk.as_mut().expect("a life has begun")
    }
}

impl Fault for Cut {
    fn dir(&self) -> PathBuf {
        self.disk.as_ref().expect("a life has begun").mounted().join("data").join("store")
    }

    fn renew(&mut self) {
        self.disk = None;
        let (file_system, below) = self.disks[self.lives % self.disks.len()];
        self.lives += 1;
        self.disk = Some(Disk::new(file_system, below, MIB));
    }

    fn strike(&mut self, child: &mut Running) {
        let flushes_names = self.random.random();
        self.disk().cut(flushes_names);
        child.kill();
    }

    fn recover(&mut self) {
        self.disk().restart();
    }

    fn trusts_late_answers(&self) -> bool {
        false
    }
}

fn can_cut(disks: Disks) -> bool {
    let lack = disks.iter().find_map(|(file_system, below)| lacks(*file_system, *below));
    lack.is_none_or(|lack| skip(&lack))
}

fn cuts_lose_nothing(name: &'static str, disks: Disks) {
    if !can_cut(disks) {
        return;
    }
    let plan = Plan::new(name, number("INDELIBLE_POWER_CYCLES").unwrap_or(30), seed());
    let mut cut = Cut::new(disks, plan.seed);
    let tally = run(&mut cut, &plan);
    let (records, lost) = control::run(&mut cut, (plan.cycles / 10).max(4));
    let suspects = (plan.cycles / 10).max(6);
    let buffered = Plan { cycles: suspects, ..plan.clone() }.suspect(None, Durability::Buffered);
    // Where the machine is slow, little is written in a cycle; and from some numbers few cuts hit a write.
    let mut unsynced = run(&mut cut, &buffered);
    for n in 1..=4 {
        if unsynced.verdict.lost > 0 {
            break;
        }
        unsynced = run(&mut cut, &Plan { seed: plan.seed.wrapping_add(n), ..buffered.clone() });
    }
    let controls = format!(
        "plain file: {lost} of {records} records lost; without syncs: events lost in {} of {} cuts; {}",
        unsynced.unclean,
        unsynced.looks,
        tally.recovery()
    );
    Line::new(name, tally.cycles, tally.hits(), &tally.verdict, &controls).seed(plan.seed).print();
    println!("{name}: {}", tally.verdict);
    assert!(tally.verdict.is_clean(), "INDELIBLE_SEED={}: {}", plan.seed, tally.verdict);
    assert_eq!(lost, 0, "the control loses records: the rig is wrong");
    assert!(unsynced.verdict.lost > 0, "without syncs nothing is lost: the rig cuts no power: {unsynced:?}");
    assert!(tally.in_flight * 4 >= tally.cycles, "only {} cuts hit an append", tally.in_flight);
}

#[test]
fn a_lost_page_cache_loses_nothing() {
    cuts_lose_nothing(PAGE_CACHE, SHUT_DOWN);
}

#[test]
fn a_lost_disk_cache_loses_nothing() {
    cuts_lose_nothing(DISK_CACHE, CACHE_LOST);
}

#[cfg(feature = "bugs")]
#[test]
fn power_cuts_find_seeded_bugs() {
    for (name, disks, bugs) in BUGS {
        if !can_cut(disks) {
            return;
        }
        for bug in *bugs {
            // It ends with the first thing that is found; some cuts strike where a bug doesn't show.
            let plan = Plan::new(name, 64, seed()).suspect(Some(bug), Durability::Synced);
            let tally = run(&mut Cut::new(disks, plan.seed), &plan);
            indelible_core::conformance::fault::seeded(name, bug, tally.unclean > 0, &tally.verdict);
        }
    }
}
