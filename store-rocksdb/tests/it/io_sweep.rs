//! Every single I/O call fails, or is the last.
//!
//! The fault: the n-th call of a kind that a thread makes is its process's last (SIGKILL), or says that the disk is broken
//! (EIO) or full (ENOSPC) though nothing is, once, or from then on; for each n, until there are no so many. And files may
//! grow to a size and no further, so that the write that crosses it writes a part, and the next one fails. Of a lone writer's short life,
//! from an empty directory to its close; of that from its opening on; and of an opening of what a killed process has left, which must be as safe to
//! interrupt as to repeat. Afterwards the store opens, and nothing is lost.
//!
//! Blind to calls through mapped memory, and to faults that come in pairs.
//!
//! `INDELIBLE_SWEEP_STEP` says that only every so many-th call is tried (23), from a random one on; 1 tries all. Needs strace.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use indelible_core::conformance::fault::{Journal, Line, Verdict, Work};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    campaign::{keep, number, seed},
    child::{Running, WAITS, can_trace, copy_all, writer},
    control,
    judge::verify,
};

const KILL: &str = "signal=KILL";
const EIO: &str = "error=EIO";
const ENOSPC: &str = "error=ENOSPC";
/// That call, and every one after it.
const EIO_ON: &str = "error=EIO+";

type Calls = &'static [(&'static str, &'static [&'static str])];

/// The calls with which files are changed, or read, and what may become of them.
const CALLS: Calls = &[
    ("openat", &[KILL, EIO, EIO_ON, ENOSPC]),
    ("write", &[KILL]),
    ("pwrite64", &[KILL, EIO, EIO_ON, ENOSPC]),
    ("fdatasync", &[KILL, EIO, EIO_ON, ENOSPC]),
    ("fsync", &[KILL, EIO, EIO_ON, ENOSPC]),
    ("rename", &[KILL, EIO, ENOSPC]),
    ("mkdir", &[KILL, EIO, ENOSPC]),
    ("ftruncate", &[KILL, EIO]),
    ("fallocate", &[KILL, ENOSPC]),
    ("sync_file_range", &[KILL, EIO]),
    ("unlink", &[KILL, EIO]),
    ("unlinkat", &[KILL, EIO]),
    ("link", &[KILL, EIO, ENOSPC]),
    ("linkat", &[KILL, EIO, ENOSPC]),
    ("pread64", &[EIO]),
    ("read", &[EIO]),
];

/// Failures that may strike the harness too, whose runtime wakes its threads by such calls and may hang for it until its time
/// is over: for long runs. What a failed write does is shown by `failed_write` and `full_disk` besides.
const SLOW_CALLS: Calls = &[("write", &[EIO, EIO_ON, ENOSPC])];

/// The bugs that the sweep must find, and by which calls.
#[cfg(feature = "bugs")]
const BUGS: &[(&str, Calls)] = &[("swallow-failed-write", &[("fdatasync", &[EIO])])];

/// Of a sweep over all calls, the bytes between two sizes that no file may grow beyond.
const SHORT_STEP: u64 = 701;

const FAULT: &str = "I/O call killed or failed";

/// What a sweep starts from: a directory, with what was said of it.
struct Begin {
    dir: TempDir,
    journal: Journal,
    /// Whether only what is done with the open store counts. The n-th call is that of any thread: where an opening
    /// has more of them than what comes after, only this reaches that.
    is_open: bool,
}

#[derive(Default)]
struct Swept {
    /// Points that were tried, and those whose fault was seen to happen in one of the store's files.
    points: u64,
    hits: u64,
    verdict: Verdict,
}

impl Begin {
    fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), journal: Journal::default(), is_open: false }
    }

    /// An open store.
    fn open() -> Self {
        Self { is_open: true, ..Self::empty() }
    }

    /// Some appends, and a kill in their midst.
    fn killed() -> Self {
        let mut begin = Self::empty();
        let work = work(1, 8, u64::MAX, &begin.journal);
        let mut child = Running::start(writer(&work, None, &begin.dir.path().join("store"), &[]));
        while let Some(line) = child.line() {
            begin.journal.take(&line, true);
            if begin.journal.answers == 60 {
                child.kill();
            }
        }
        begin
    }

    fn sweep(&self, calls: Calls, step: u64, random: &mut StdRng, bug: Option<&str>, swept: &mut Swept) {
        for (call, faults) in calls {
            for fault in *faults {
                let mut nth = random.random_range(1..=step);
                while self.strike(call, fault, nth, bug, swept) && (bug.is_none() || swept.verdict.is_clean()) {
                    nth += step;
                }
            }
        }
    }

    /// Every so many bytes a file ends, up to the largest.
    fn cut_short(&self, step: u64, random: &mut StdRng, swept: &mut Swept) {
        let mut bytes = random.random_range(1..=step);
        loop {
            let (dir, mut journal, work) = self.prepare();
            let limit = format!("trap '' XFSZ; exec prlimit --fsize={bytes} \"$0\" \"$@\"");
            let mut child = Running::start(writer(&work, None, &dir.path().join("store"), &["sh", "-c", &limit]));
            while let Some(line) = child.line() {
                journal.take(&line, true);
            }
            let (succeeded, is_hit) = (child.succeeds(), !journal.errors.is_empty());
            swept.points += u64::from(is_hit);
            swept.hits += u64::from(is_hit);
            let mut found = verify(&dir.path().join("store"), &journal);
            if !succeeded {
                found.wrong("ended by itself", || format!("files of {bytes} bytes: {:?}", journal.errors));
            }
            if !found.is_clean() {
                keep(FAULT, &dir.path().join("store"), &journal);
            }
            swept.verdict.add(found);
            if !is_hit {
                return;
            }
            bytes += step;
        }
    }

    /// A copy of where it starts, and what is to be done there.
    fn prepare(&self) -> (TempDir, Journal, Work) {
        let dir = tempfile::tempdir().unwrap();
        if self.dir.path().join("store").exists() {
            copy_all(&self.dir.path().join("store"), &dir.path().join("store"));
        }
        let mut journal = self.journal.clone();
        journal.next_process();
        let work = work(2, 1, 16, &journal);
        (dir, journal, work)
    }

    /// Says whether any thread made so many calls.
    fn strike(&self, call: &str, fault: &str, nth: u64, bug: Option<&str>, swept: &mut Swept) -> bool {
        let (dir, mut journal, work) = self.prepare();
        let store = dir.path().join("store");
        let calls = dir.path().join("calls");
        let (error, on) = fault.strip_suffix('+').map_or((fault, ""), |error| (error, "+"));
        let (trace, inject) = (format!("trace=?{call}"), format!("inject=?{call}:{error}:when={nth}{on}"));
        let strace = ["strace", "-f", "-y", "-qq", "-o", calls.to_str().unwrap(), "-e", &trace, "-e", &inject];
        let through = [&strace[..], &["--seccomp-bpf"]].concat();
        let mut command = writer(&work, bug, &store, if self.is_open { &[] } else { &through });
        // It tells of its panics there, of which most are the harness's.
        let panics = dir.path().join("stderr");
        command.stderr(File::create(&panics).unwrap());
        if self.is_open {
            command.env(WAITS, "");
        }
        let mut child = Running::start(command);
        let mut tracer = None;
        while let Some(line) = child.line() {
            if line == "open" {
                tracer = Some(attach(&strace, child.pid()));
                child.go_on();
            }
            journal.take(&line, true);
        }
        let succeeded = child.succeeds();
        if let Some(mut tracer) = tracer {
            tracer.wait().unwrap();
        }
        let hit = hit(&calls, &store, !succeeded && fault == KILL);
        swept.points += u64::from(hit != Hit::Nothing);
        swept.hits += u64::from(matches!(hit, Hit::Store | Hit::Both));
        let mut found = verify(&store, &journal);
        if !succeeded && fault != KILL && hit == Hit::Store {
            found.wrong("ended by itself", || fs::read_to_string(panics).unwrap_or_default());
        }
        if !found.is_clean() {
            found.first = format!("{call} {nth}, {fault}: {}\n{:?}", found.first, journal.errors);
            if bug.is_none() {
                println!("{}", found.first);
                keep(FAULT, &store, &journal);
            }
        }
        swept.verdict.add(found);
        hit != Hit::Nothing
    }
}

fn work(cycle: u64, writers: u64, appends: u64, journal: &Journal) -> Work {
    Work { cycle, writers, appends, weakly: false, again: journal.unknown() }
}

/// Traces a process that runs, with all its threads.
fn attach(strace: &[&str], process: u32) -> Child {
    let is_traced = |task: &Path| {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    };
    let tasks = || fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap().path());
    // A thread that begins while strace looks for threads is missed by it.
    for _ in 0..5 {
        let mut tracer = Command::new(strace[0]).args(&strace[1..]).args(["-p", &process.to_string()]).spawn().unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if tasks().all(|task| is_traced(&task)) {
                return tracer;
            }
            thread::sleep(Duration::from_millis(1));
        }
        kill_process(Pid::from_child(&tracer), Signal::INT).unwrap();
        tracer.wait().unwrap();
    }
    panic!("strace does not attach");
}

/// Whose call the fault has hit: of each thread the n-th.
#[derive(Debug, PartialEq)]
enum Hit {
    Nothing,
    /// Not the store's: that of a library that the program begins with, or what the test harness says.
    Elsewhere,
    Store,
    Both,
}

fn hit(calls: &Path, store: &Path, was_killed: bool) -> Hit {
    let calls = fs::read_to_string(calls).unwrap_or_default();
    let is_hit = |line: &&str| line.contains("(INJECTED)") || line.ends_with("= ?") && was_killed;
    let is_stores = |line: &str| line.contains(store.to_str().unwrap());
    let (stores, others): (Vec<&str>, Vec<&str>) = calls.lines().filter(is_hit).partition(|line| is_stores(line));
    match (stores.is_empty(), others.is_empty()) {
        (true, true) if was_killed => Hit::Elsewhere,
        (true, true) => Hit::Nothing,
        (true, false) => Hit::Elsewhere,
        (false, true) => Hit::Store,
        (false, false) => Hit::Both,
    }
}

/// Records that the control had acknowledged before one of its calls failed or was its last, and how many it lost.
fn plain_file() -> (u64, u64) {
    let faults = [("fdatasync", KILL), ("fdatasync", EIO), ("write", KILL)];
    let runs = faults.iter().flat_map(|fault| [5, 20].map(|nth| (fault, nth)));
    runs.fold((0, 0), |(records, lost), ((call, fault), nth)| {
        let dir = tempfile::tempdir().unwrap();
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{fault}:when={nth}"));
        let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let (done, gone) = control::run_out(&dir.path().join("plain"), &strace);
        (records + done, lost + gone)
    })
}

#[test]
fn any_io_call_may_fail_or_be_the_last() {
    if !can_trace() {
        return;
    }
    let step = number("INDELIBLE_SWEEP_STEP").unwrap_or(23);
    let (mut swept, seed) = (Swept::default(), seed());
    let random = &mut StdRng::seed_from_u64(seed);
    for begin in [Begin::empty(), Begin::open(), Begin::killed()] {
        begin.sweep(CALLS, step, random, None, &mut swept);
        if step == 1 {
            begin.sweep(SLOW_CALLS, step, random, None, &mut swept);
        }
    }
    for begin in [Begin::empty(), Begin::killed()] {
        begin.cut_short(SHORT_STEP * step, random, &mut swept);
    }
    let (records, lost) = plain_file();
    let Swept { points, hits, verdict } = swept;
    println!("{FAULT}: {points} points, {hits} of them in the store's files: {verdict}");
    let controls = format!("one call of {step}; plain file: {lost} of {records} records lost");
    Line::new(FAULT, hits, hits, &verdict, &controls).seed(seed).print();
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(lost, 0, "the control loses records: the rig is wrong");
    assert!(hits * step > 200, "only {hits} calls were hit");
}

#[cfg(feature = "bugs")]
#[test]
fn the_io_sweep_finds_seeded_bugs() {
    if !can_trace() {
        return;
    }
    for (bug, calls) in BUGS {
        let mut swept = Swept::default();
        Begin::open().sweep(calls, 3, &mut StdRng::seed_from_u64(seed()), Some(bug), &mut swept);
        indelible_core::conformance::fault::seeded(FAULT, bug, !swept.verdict.is_clean(), &swept.verdict);
    }
}
