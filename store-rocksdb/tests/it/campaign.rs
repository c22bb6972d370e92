//! A fault, again and again: a process writes, the fault strikes at a random moment, the next process opens what is left
//! and goes on; and every few cycles a copy of what is left is judged. The faults are in `kill` and `power`.
//!
//! Each life begins with an empty directory and has some cycles, so that a judgement stays quick however many there are.
//! Of a copy, so that the next process finds what the fault has left, and not what the judge's opening made of it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use indelible_core::conformance::fault::{Journal, Verdict, Work};
use indelible_rocksdb::Durability;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    child::{OPTIONS, Running, copy_all, writer},
    judge::verify,
};

/// What strikes a writing process.
pub(crate) trait Fault {
    /// Where the store is.
    fn dir(&self) -> PathBuf;
    /// Makes an empty place for a store.
    fn renew(&mut self);
    /// Strikes, and ends the process.
    fn strike(&mut self, child: &mut Running);
    /// Makes what is left readable, when the process is gone.
    fn recover(&mut self);
    /// Whether an answer counts that was said before the strike but read after it.
    fn trusts_late_answers(&self) -> bool;
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) cycles: u64,
    /// Cycles of a life.
    pub(crate) life: u64,
    /// After how many of them what is left is judged; always at the end of a life.
    pub(crate) look_every: u64,
    pub(crate) seed: u64,
    pub(crate) durability: Durability,
    pub(crate) bug: Option<String>,
}

impl Plan {
    pub(crate) fn new(name: &'static str, cycles: u64, seed: u64) -> Self {
        Self { name, cycles, life: 12, look_every: 3, seed, durability: Durability::Synced, bug: None }
    }

    /// A few short lives, each judged: for bugs and for the store without syncs, which must be found out.
    pub(crate) fn suspect(self, bug: Option<&str>, durability: Durability) -> Self {
        Self { life: 2, look_every: 1, bug: bug.map(str::to_owned), durability, ..self }
    }

    fn expects_loss(&self) -> bool {
        self.bug.is_some() || self.durability == Durability::Buffered
    }
}

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cycles: u64,
    /// Strikes that hit an append under way, and others that hit an opening, or a close.
    pub(crate) in_flight: u64,
    pub(crate) openings: u64,
    pub(crate) closings: u64,
    /// Judgements, and how many of them found something.
    pub(crate) looks: u64,
    pub(crate) unclean: u64,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    /// How long it took from the start of a process until the store that was struck before was open.
    pub(crate) recoveries: Vec<Duration>,
}

/// A cycle's process has so many answers before it is struck.
const ANSWERS_MIN: u64 = 30;
/// What a process is struck at.
#[derive(Clone, Copy, PartialEq)]
enum Moment {
    Writing,
    Opening,
    Closing,
    /// When it has written for so long that what a store does once a second has been done.
    Lingering,
}

impl Moment {
    fn any(random: &mut StdRng) -> Self {
        match random.random_range(0..20) {
            0..3 => Self::Opening,
            3..6 => Self::Closing,
            6 => Self::Lingering,
            _ => Self::Writing,
        }
    }
}

const LINGER: Duration = Duration::from_millis(1_050);

impl Tally {
    /// Strikes that were seen to hit something.
    pub(crate) fn hits(&self) -> u64 {
        self.in_flight + self.openings + self.closings
    }

    /// The median and the 99th percentile of recoveries.
    pub(crate) fn recovery(&self) -> String {
        let mut sorted = self.recoveries.clone();
        sorted.sort_unstable();
        let of = |percent: usize| sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default();
        format!("open again after {:.0?}, p99 {:.0?}", of(50), of(99))
    }
}

pub(crate) fn run(fault: &mut dyn Fault, plan: &Plan) -> Tally {
    let started = Instant::now();
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut tally = Tally::default();
    while tally.cycles < plan.cycles {
        let life = plan.life.min(plan.cycles - tally.cycles);
        fault.renew();
        let verdict = live(fault, plan, life, &mut random, &mut tally);
        tally.verdict.add(verdict);
        if tally.unclean > 0 && plan.durability == Durability::Synced {
            break;
        }
    }
    tally.took = started.elapsed();
    tally
}

fn live(fault: &mut dyn Fault, plan: &Plan, life: u64, random: &mut StdRng, tally: &mut Tally) -> Verdict {
    let mut journal = Journal::default();
    for cycle in 1..=life {
        let mut verdict = write(fault, plan, cycle, &mut journal, random, tally);
        fault.recover();
        tally.cycles += 1;
        if cycle % plan.look_every != 0 && cycle < life && verdict.is_clean() {
            continue;
        }
        let copy = tempfile::tempdir().unwrap();
        // A process that was struck at once may not have made it.
        if fault.dir().exists() {
            copy_all(&fault.dir(), copy.path());
        }
        let found = verify(copy.path(), &journal);
        verdict.add(found);
        tally.looks += 1;
        if !verdict.is_clean() {
            tally.unclean += 1;
            if !plan.expects_loss() {
                keep(plan.name, &fault.dir(), &journal);
            }
            return verdict;
        }
        if cycle == life {
            return verdict;
        }
    }
    unreachable!("the last cycle of a life is judged")
}

/// One process, from its start to its end by the fault.
fn write(
    fault: &mut dyn Fault,
    plan: &Plan,
    cycle: u64,
    journal: &mut Journal,
    random: &mut StdRng,
    tally: &mut Tally,
) -> Verdict {
    let mut verdict = Verdict::default();
    journal.next_process();
    let again = journal.unknown().into_iter().rev().take(20).collect();
    let moment = Moment::any(random);
    let writers = random.random_range(1..=8);
    let appends = if moment == Moment::Closing { random.random_range(0..30) } else { u64::MAX };
    let work = Work { cycle, writers, appends, weakly: plan.durability == Durability::Buffered, again };
    let mut command = writer(&work, plan.bug.as_deref(), &fault.dir(), &[]);
    let (segment, queue) = ([2_000, 20_000, 200_000].choose(random), [1_000, 100_000, 10_000_000].choose(random));
    command.env(OPTIONS, format!("{} {}", segment.unwrap(), queue.unwrap()));
    let (started, mut child) = (Instant::now(), Running::start(command));
    let errors = journal.errors.len();
    let answers = ANSWERS_MIN + random.random_range(0..60);
    let mut strike_at = None;
    if moment == Moment::Opening {
        thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
        strike_at = Some(Instant::now());
    }
    let (mut has_struck, mut last) = (false, String::new());
    loop {
        if !has_struck && strike_at.is_some_and(|at| Instant::now() >= at) {
            if journal.errors.len() > errors {
                verdict.wrong("error without a fault", || journal.errors[errors].clone());
            }
            fault.strike(&mut child);
            has_struck = true;
        }
        let Some(line) = child.line() else { break };
        journal.take(&line, !has_struck || fault.trusts_late_answers());
        if cycle > 1 && line.starts_with("opened ") {
            tally.recoveries.push(started.elapsed());
        }
        if line == "closing" && !has_struck {
            // Nothing more is said before it is closed.
            thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
            strike_at = Some(Instant::now());
        } else if journal.answers >= answers && strike_at.is_none() && moment != Moment::Closing {
            let least = if moment == Moment::Lingering { LINGER } else { Duration::ZERO };
            strike_at = Some(Instant::now() + least + Duration::from_micros(random.random_range(0..10_000)));
        }
        last = line;
    }
    // Where the fault is the disk's, a process may live to say what came of it; one that was writing says that it closes.
    match last.split(' ').next() {
        _ if journal.unknown().iter().any(|name| name.cycle == cycle) => tally.in_flight += 1,
        Some("opening" | "unopened") => tally.openings += 1,
        Some("closing" | "unclosed") if moment == Moment::Closing => tally.closings += 1,
        _ => {}
    }
    if !has_struck {
        let last = journal.errors.last().cloned();
        verdict.wrong("ended by itself", || format!("cycle {cycle}: {last:?}"));
    }
    verdict
}

/// Keeps what a failed test leaves behind, and says where.
pub(crate) fn keep(name: &str, dir: &Path, journal: &Journal) {
    let kept = env::temp_dir().join(format!("indelible-kept-{}-{}", name.replace(' ', "-"), process::id()));
    let _ = fs::remove_dir_all(&kept);
    copy_all(dir, &kept.join("store"));
    journal.save(&kept.join("journal"));
    println!("{name}: the store and what was said of it are kept in {}", kept.display());
}

/// The number in an environment variable.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// `INDELIBLE_SEED`, or a new one.
pub(crate) fn seed() -> u64 {
    number("INDELIBLE_SEED").unwrap_or_else(|| rand::random::<u32>().into())
}
