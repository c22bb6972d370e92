//! T9: random sagas that crash at every point, in pairs; and seeded bugs, which that must find.
//!
//! `INDELIBLE_SAGAS` says how many random sagas crash at each point (100), `INDELIBLE_SAGA_PAIRS` how many of them at each
//! pair of points (6), `INDELIBLE_SEED` from which number.

use std::{collections::BTreeMap, env, time::Duration};

use indelible_sagas::{
    Past, Plan, Retry, Saga, Step,
    bugs::{Bug, choose},
    testing::{Answer, Crashes, Script, crash_everywhere},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A saga whose plan is what it is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Random {
    stages: Vec<Vec<Piece>>,
    pivot: Option<usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Piece {
    Effect { undo: bool, attempts: u32, timeout_ms: Option<u64> },
    Signal { timeout_ms: Option<u64> },
    Sleep { ms: u64 },
}

fn name(stage: usize, at: usize) -> String {
    format!("{stage}.{at}")
}

impl Saga for Random {
    const NAME: &'static str = "random";
    type Effect = String;

    fn plan(&self, past: &Past) -> Plan<String> {
        let retry = |attempts| Retry { attempts_max: attempts, ..Retry::DEFAULT };
        let step = |stage: usize, at: usize, piece: &Piece| {
            let name = name(stage, at);
            let timed = |step: Step<String>, ms: Option<u64>| match ms {
                Some(ms) => step.timeout(Duration::from_millis(ms)),
                None => step,
            };
            match piece {
                Piece::Effect { undo, attempts, timeout_ms } => {
                    let step =
                        timed(Step::new(name.clone(), format!("do {name}")).retry(retry(*attempts)), *timeout_ms);
                    // What is undone depends on what was answered.
                    let undoing = format!("undo {name}: {:?}", past.result::<Value>(&name));
                    if *undo { step.undo(undoing) } else { step }
                }
                Piece::Signal { timeout_ms } => timed(Step::signal(name), *timeout_ms),
                Piece::Sleep { ms } => Step::sleep(name, Duration::from_millis(*ms)),
            }
        };
        self.stages.iter().enumerate().fold(Plan::new(), |plan, (stage, pieces)| {
            let mut steps: Vec<_> = pieces.iter().enumerate().map(|(at, piece)| step(stage, at, piece)).collect();
            match self.pivot == Some(stage) {
                true => plan.pivot(steps.remove(0)),
                false => plan.side_by_side(steps),
            }
        })
    }
}

/// A saga, what the world outside answers, and the signals that come.
fn random(seed: u64) -> (Random, Script, BTreeMap<String, Value>) {
    let random = &mut StdRng::seed_from_u64(seed);
    let stages = random.random_range(1..=4);
    let pivot = random.random_bool(0.4).then(|| random.random_range(0..stages));
    let (mut saga, mut script, mut signals) = (Random { stages: Vec::new(), pivot }, Script::new(), BTreeMap::new());
    for stage in 0..stages {
        let width = if pivot == Some(stage) { 1 } else { *[1, 1, 2, 3].choose(random).unwrap() };
        let mut pieces = Vec::new();
        for at in 0..width {
            let name = name(stage, at);
            let timeout_ms = random.random_bool(0.3).then(|| random.random_range(1..400));
            pieces.push(match random.random_range(0..10) {
                0 if pivot != Some(stage) => Piece::Sleep { ms: random.random_range(1..100_000) },
                1 if pivot != Some(stage) => {
                    // A signal that never comes must be given up some day.
                    let comes = random.random_bool(0.6);
                    if comes {
                        signals.insert(name.clone(), json!(seed));
                    }
                    Piece::Signal { timeout_ms: timeout_ms.or((!comes).then_some(50)) }
                }
                _ => {
                    let attempts = random.random_range(1..=3);
                    script = script.answers(&name, answers(random, attempts, 0.15));
                    script = script.undo_answers(&name, answers(random, attempts, 0.03));
                    Piece::Effect { undo: random.random_bool(0.8), attempts, timeout_ms }
                }
            });
        }
        saga.stages.push(pieces);
    }
    (saga, script, signals)
}

fn answers(random: &mut StdRng, attempts: u32, fails: f64) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    while answers.len() < attempts as usize - 1 && random.random_bool(0.3) {
        answers.push([Answer::Lost, Answer::Silent].choose(random).unwrap().clone());
    }
    // What fails after an answer was lost is what is easily got wrong.
    let fails = if answers.is_empty() { fails } else { 3.0 * fails };
    let last = match random.random_bool(fails) {
        true => [Answer::Refused, Answer::Lost, Answer::Silent].choose(random).unwrap().clone(),
        false => Answer::Done(json!(random.random_range(0..100))),
    };
    answers.push(last);
    answers
}

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |number| number.parse().unwrap())
}

async fn crash(seed: u64, pairs: bool) -> Crashes {
    let (saga, script, signals) = random(seed);
    crash_everywhere(saga, &script, &signals, pairs).await
}

#[tokio::test]
async fn random_sagas_come_to_the_same_wherever_they_crash() {
    let (mut runs, mut crashes, mut points) = (0, 0, 0);
    let (first, count) = (number("INDELIBLE_SEED", 1), number("INDELIBLE_SAGAS", 100));
    let pairs = number("INDELIBLE_SAGA_PAIRS", 6);
    for seed in first..first + count {
        let report = crash(seed, seed < first + pairs).await;
        assert!(report.faults.is_empty(), "seed {seed}: {report}:\n{}", report.faults.join("\n"));
        (runs, crashes, points) = (runs + report.runs, crashes + report.crashes, points + report.points);
    }
    println!(
        "{count} random sagas, {pairs} of them in pairs, {points} points, {runs} runs, {crashes} crashes, 0 faults"
    );
    assert!(crashes as u64 > 10 * count, "only {crashes} processes died");
}

#[tokio::test]
async fn seeded_bugs_are_found() {
    for bug in [
        Bug::EffectBeforeJournal,
        Bug::JournalWithoutFencing,
        Bug::TimerInMemoryOnly,
        Bug::FiresWithoutExpectedVersion,
        Bug::CompensatesTwice,
        Bug::ForgetsLostAttempts,
    ] {
        choose(Some(bug));
        let mut found = None;
        for seed in 1..=200 {
            let report = crash(seed, false).await;
            if let Some(fault) = report.faults.first() {
                found = Some(format!("by seed {seed}: {}", fault.lines().next().unwrap_or_default()));
                break;
            }
        }
        choose(None);
        println!("{bug:?} was found {}", found.unwrap_or_else(|| panic!("{bug:?} was not found")));
    }
}
