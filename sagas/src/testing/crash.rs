//! Crashes at every point: before and after each journal write, each write of the agenda, each effect and each timer,
//! alone and in pairs. Whatever happens, a saga must come to what it comes to without.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use indelible_core::{AnyStore, AsStore, store::memory::MemoryStore};
use indelible_projections::memory::MemoryModel;

use super::Scenario;
use crate::{AgendaModel, Saga, Standing, past::Way};

mod clerk;
mod judge;
mod process;
mod run;
mod watched;

use run::Run;

/// What came of crashing everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Crashes {
    /// How many points there are in a run without crashes.
    pub points: usize,
    /// How many pairs of points they died at, and how many there are.
    pub pairs: usize,
    /// See [`pairs`](Self::pairs).
    pub pairs_in_all: usize,
    /// How many runs there were.
    pub runs: usize,
    /// How many processes died in them.
    pub crashes: usize,
    /// How often each thing was seen to happen in the run without crashes: events by type, `child` and `timer`.
    pub seen: BTreeMap<&'static str, usize>,
    /// How many processes died at each kind of moment, `before an append` or `after a call`.
    pub died: BTreeMap<&'static str, usize>,
    /// What was wrong; empty is what a test asks for.
    pub faults: Vec<String>,
}

impl fmt::Display for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, pairs, pairs_in_all, runs, crashes, faults, .. } = self;
        let faults = faults.len();
        write!(
            f,
            "{runs} runs, {crashes} crashes at {points} points and {pairs} of {pairs_in_all} pairs, {faults} faults"
        )
    }
}

impl std::ops::AddAssign for Crashes {
    fn add_assign(&mut self, other: Self) {
        self.points += other.points;
        self.pairs += other.pairs;
        self.pairs_in_all += other.pairs_in_all;
        self.runs += other.runs;
        self.crashes += other.crashes;
        other.seen.into_iter().for_each(|(what, times)| *self.seen.entry(what).or_default() += times);
        other.died.into_iter().for_each(|(at, times)| *self.died.entry(at).or_default() += times);
        self.faults.extend(other.faults);
    }
}

/// Plays a saga to its end, on a store and an agenda in memory; then again, and again, each time dying at another point,
/// and at so many pairs of points, spread over all of them. What was done is done a second time by another worker each time,
/// which must change nothing. Time is skipped. With each effect a command is executed under its key, so that one that came
/// twice is found in the log.
///
/// It is the plan that crashes: whether it comes to the same, and what may have happened is undone where it says how. Your
/// performer isn't called, nor are aggregates of yours; and that a step should have an undo, and has none, only you know, and
/// [`then_undoes`](super::Given::then_undoes) is told. One that is left to an operator has come to that. There are points for
/// each attempt, and runs for each point, so that a script gives what is tried for long an end soon; one that never ends is
/// a fault.
///
/// # Panics
/// Where the saga can't even be started.
pub async fn crash_everywhere<S: Saga>(scenario: &Scenario<S>, pairs: usize) -> Crashes {
    let (mut report, alone) = undisturbed(scenario, "crashed").await;
    if !report.faults.is_empty() {
        return report;
    }
    let points = report.points;
    report.pairs_in_all = pairs_in_all(points);
    let deaths = (0..points).map(|point| vec![point]).chain((0..).map_while(|nth| pair(points, pairs, nth)));
    for deadly in deaths {
        if report.faults.len() > FAULTS_MAX {
            break;
        }
        let (store, model) = in_memory();
        report +=
            compared(Run::new(scenario, "crashed", &store, &model, deadly.iter().copied()), &deadly, &alone).await;
    }
    report
}

/// As [`crash_everywhere`], on a store and a read model of the caller's, which outlive the processes that die: at each
/// point, and at `pairs` pairs of points. Each run has a saga of its own, from `r0` on, or `{name}.r0` in a store that is
/// used again.
///
/// # Panics
/// As [`crash_everywhere`], and where the store or the read model fail.
pub async fn crash_everywhere_on<S: Saga, M: AgendaModel>(
    store: &impl AsStore,
    model: &M,
    name: &str,
    scenario: &Scenario<S>,
    pairs: usize,
) -> Crashes {
    let (store, mut report, mut singles) = (store.as_store(), Crashes::default(), 0);
    for run in 0_usize.. {
        // Pauses between attempts hang on a saga's id, and points on them.
        let id = format!("{name}.r{run}");
        let (undisturbed, alone) = undisturbed(scenario, &id).await;
        let points = undisturbed.points;
        if run == 0 {
            report = undisturbed;
            if !report.faults.is_empty() {
                return report;
            }
        }
        report.pairs_in_all = pairs_in_all(points);
        let deadly = match pair(points, pairs, report.pairs) {
            _ if singles < points => vec![singles],
            Some(pair) => pair,
            None => return report,
        };
        singles += usize::from(deadly.len() == 1);
        report += compared(Run::new(scenario, &id, &store, model, deadly.iter().copied()), &deadly, &alone).await;
        if report.faults.len() > FAULTS_MAX {
            return report;
        }
    }
    report
}

/// The nth pair of `pairs`, spread over all that there are; `None` behind the last.
fn pair(points: usize, pairs: usize, nth: usize) -> Option<Vec<usize>> {
    let all = pairs_in_all(points);
    let pairs = pairs.min(all);
    let mut at = (nth < pairs).then(|| nth * all / pairs)?;
    let first = (0..points).find(|first| match at.checked_sub(behind(points, *first)) {
        Some(left) => {
            at = left;
            false
        }
        None => true,
    })?;
    Some(vec![first, first + 1 + at])
}

fn pairs_in_all(points: usize) -> usize {
    (0..points).map(|first| behind(points, first)).sum()
}

/// How many points may be the second of a pair. After a crash some of the moments come again, so it may come later than there
/// were points.
fn behind(points: usize, first: usize) -> usize {
    points + PAIRS_BEYOND - first - 1
}

/// How much later than all points the second crash of a pair may be.
const PAIRS_BEYOND: usize = 6;
/// Who has found so many faults needs no more.
const FAULTS_MAX: usize = 10;

fn in_memory() -> (AnyStore, MemoryModel) {
    (MemoryStore::new().as_store(), MemoryModel::new())
}

/// A run without crashes, in memory, and what it came to.
async fn undisturbed<S: Saga>(scenario: &Scenario<S>, id: &str) -> (Crashes, Ends) {
    let (store, model) = in_memory();
    let played = Run::new(scenario, id, &store, &model, []).play().await;
    let faults = played.faults.into_iter().map(|fault| format!("without crashes: {fault}")).collect();
    (Crashes { points: played.passed, runs: 1, seen: played.seen, faults, ..Crashes::default() }, played.end)
}

/// A run with crashes, held against what comes of it without.
async fn compared<S: Saga, M: AgendaModel>(run: Run<'_, S, M>, deadly: &[usize], alone: &Ends) -> Crashes {
    let played = run.play().await;
    let told = |fault| format!("with crashes at {deadly:?}: {fault}");
    let mut faults: Vec<String> = played.faults.into_iter().map(told).collect();
    if played.end != *alone {
        faults.push(told(format!("it came to {:#?}, and without to {alone:#?}", played.end)));
    }
    // All but the second of a pair is a moment of the run without crashes.
    if played.died.is_empty() {
        faults.push(told("nothing died".into()));
    }
    let mut died = BTreeMap::new();
    played.died.iter().for_each(|at| *died.entry(*at).or_default() += 1);
    let pairs = usize::from(deadly.len() == 2);
    Crashes { pairs, runs: 1, crashes: played.died.len(), died, faults, ..Crashes::default() }
}

/// What a saga and its children came to, by id. How often something was tried may differ, what it came to may not.
type Ends = BTreeMap<String, End>;

#[derive(Debug, PartialEq)]
struct End {
    standing: Standing,
    steps: Vec<(String, Way, Option<Way>)>,
    /// What happened outside, by key.
    happened: BTreeSet<String>,
}

/// What came of a run.
struct Played {
    end: Ends,
    passed: usize,
    died: Vec<&'static str>,
    seen: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}
