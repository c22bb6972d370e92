//! The control of every rig: a program that only appends to a file and syncs it. Where it loses something, the rig does
//! not show what it says; and without it, nobody would know.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::{
    campaign::Fault,
    child::{Running, command, say},
};

const FILE: &str = "records";

/// Larger than a page: one that was not written is not written with the next.
fn record(n: u64) -> String {
    format!("{n:0>4999}\n")
}

/// The child. After a failure it ends, or does what must not be done: goes on, and takes later syncs at their word.
pub(crate) fn write(dir: &Path, goes_on: bool) {
    fs::create_dir_all(dir).unwrap();
    let mut file = File::options().append(true).create(true).open(dir.join(FILE)).unwrap();
    // The names are made durable as the bytes are.
    File::open(dir).and_then(|dir| dir.sync_all()).unwrap();
    File::open(dir.parent().unwrap()).and_then(|dir| dir.sync_all()).unwrap();
    for n in 0.. {
        say(&format!("append {n}"));
        let mut written = file.write_all(record(n).as_bytes()).and_then(|()| file.sync_data());
        while goes_on && written.is_err() {
            say("failed");
            written = file.sync_data();
        }
        if written.is_err() {
            return;
        }
        say(&format!("done {n}"));
    }
}

/// What the control lost: so many cycles, records acknowledged, and records lost.
pub(crate) fn run(fault: &mut dyn Fault, cycles: u64) -> (u64, u64) {
    let (mut acknowledged, mut lost) = (0, 0);
    for cycle in 0..cycles {
        fault.renew();
        let mut child = Running::start(command("file", &fault.dir(), &[]));
        let (mut done, mut has_struck) = (0, false);
        while let Some(line) = child.line() {
            if line.starts_with("done") && (!has_struck || fault.trusts_late_answers()) {
                done += 1;
            }
            if done == 20 + cycle * 7 % 50 && !has_struck {
                fault.strike(&mut child);
                has_struck = true;
            }
        }
        fault.recover();
        acknowledged += done;
        lost += done.saturating_sub(whole(&fault.dir()));
    }
    (acknowledged, lost)
}

/// What it lost when it ended by itself, behind a program that makes it fail: records acknowledged, and lost.
pub(crate) fn run_out(dir: &Path, through: &[&str]) -> (u64, u64) {
    let mut child = Running::start(command("file", dir, through));
    let mut done = 0;
    while let Some(line) = child.line() {
        done += u64::from(line.starts_with("done"));
    }
    (done, done.saturating_sub(whole(dir)))
}

/// How many records are there, from the first on.
pub(crate) fn whole(dir: &Path) -> u64 {
    let bytes = fs::read(dir.join(FILE)).unwrap_or_default();
    let records = bytes.split_inclusive(|byte| *byte == b'\n').zip(0..);
    records.take_while(|(line, n)| *line == record(*n).as_bytes()).count() as u64
}
