//! Random sagas, and all that they meet: for tests of stores and read models, which let them
//! [crash everywhere](super::crash_everywhere_on).

use std::time::Duration;

use indelible_core::AsStore;
use indelible_projections::Retry;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Crashes, Scenario, Script, crash_everywhere, crash_everywhere_on};
use crate::{Act, AgendaModel, Past, Plan, Saga, Step, Tell};

/// A saga whose plan is what it is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Random {
    /// What the names of its steps begin with.
    prefix: String,
    stages: Vec<Vec<Piece>>,
    pivot: Option<usize>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Piece {
    Effect { undo: bool, attempts: u32, timeout_ms: Option<u64> },
    Child,
    Signal { timeout_ms: Option<u64> },
    Sleep { ms: u64 },
}

impl Random {
    fn name(&self, stage: usize, at: usize) -> String {
        format!("{}{stage}.{at}", self.prefix)
    }

    fn step(&self, past: &Past, name: String, piece: &Piece) -> Step<String> {
        let timed = |step: Step<String>, ms: Option<u64>| match ms {
            Some(ms) => step.timeout(Duration::from_millis(ms)),
            None => step,
        };
        match piece {
            Piece::Effect { undo, attempts, timeout_ms } => {
                let retry = Retry { attempts_max: *attempts, ..Retry::DEFAULT };
                let step = timed(Step::new(name.clone(), format!("do {name}")).retry(retry), *timeout_ms);
                // What is undone depends on what was answered.
                let undoing = format!("undo {name}: {:?}", past.result::<Value>(&name));
                if *undo { step.undo(undoing) } else { step }
            }
            Piece::Child => Step::new(name, "have it done".into()).undo("have it undone".into()),
            Piece::Signal { timeout_ms } => timed(Step::signal(name), *timeout_ms),
            Piece::Sleep { ms } => Step::sleep(name, Duration::from_millis(*ms)),
        }
    }
}

impl Saga for Random {
    const NAME: &'static str = "random";
    const PARTITIONS: u32 = 1;
    type Effect = String;

    fn plan(&self, past: &Past) -> Plan<String> {
        self.stages.iter().enumerate().fold(Plan::new(), |plan, (stage, pieces)| {
            let step = |(at, piece)| self.step(past, self.name(stage, at), piece);
            let mut steps: Vec<_> = pieces.iter().enumerate().map(step).collect();
            match self.pivot == Some(stage) {
                true => plan.pivot(steps.remove(0)),
                false => plan.side_by_side(steps),
            }
        })
    }
}

/// The numbers of small random sagas, for crashes at all pairs of their points: one that waits for time, and then too long,
/// so that an operator leaves something out; one that is undone after a lost answer; one that waits for time and for a
/// signal; and one that is undone when its time is up. All of them end.
pub const SMALL: [u64; 4] = [10, 13, 23, 31];

/// The random saga of a number: up to four stages of up to three steps side by side, of effects, waits for time and for
/// signals, with timeouts, lost answers and refusals, perhaps a pivot, perhaps children, perhaps cancelled at one of its
/// steps, perhaps with an operator.
pub fn random_scenario(seed: u64) -> Scenario<Random> {
    let mut random = Dice { random: StdRng::seed_from_u64(seed), steps: Vec::new(), script: Script::new() };
    let mut scenario = Scenario::new(Random { prefix: String::new(), stages: Vec::new(), pivot: None });
    scenario.about = random.saga(&mut scenario, "", 0);
    scenario.script = std::mem::take(&mut random.script);
    if random.random.random_bool(0.3) {
        scenario.cancelled_at = random.steps.choose(&mut random.random).cloned();
    }
    for step in random.steps.clone() {
        for act in [Act::Do, Act::Undo] {
            scenario = match random.tells(act) {
                tells if tells.is_empty() => scenario,
                tells => scenario.operated(&step, act, tells),
            };
        }
    }
    scenario
}

/// Has the random sagas of these numbers crash at every point and at so many pairs of points each, on a store and a read
/// model of the caller's. Their ids begin with this name, which is another each time that a store is used.
///
/// # Panics
/// Where one of them comes to anything else than without crashes.
pub async fn crash_random_sagas_on<M: AgendaModel>(
    store: &impl AsStore,
    model: &M,
    name: &str,
    numbers: impl IntoIterator<Item = u64>,
    pairs: usize,
) -> Crashes {
    let mut all = Crashes::default();
    for number in numbers {
        all += whole(
            number,
            pairs,
            crash_everywhere_on(store, model, &format!("{name}{number}"), &random_scenario(number), pairs).await,
        );
    }
    all
}

/// The same in memory, each time in a new one.
///
/// # Panics
/// As [`crash_random_sagas_on`].
pub async fn crash_random_sagas(numbers: impl IntoIterator<Item = u64>, pairs: usize) -> Crashes {
    let mut all = Crashes::default();
    for number in numbers {
        all += whole(number, pairs, crash_everywhere(&random_scenario(number), pairs).await);
    }
    all
}

fn whole(number: u64, pairs: usize, report: Crashes) -> Crashes {
    assert!(report.faults.is_empty(), "random saga {number}: {report}:\n{}", report.faults.join("\n"));
    assert_eq!(report.pairs, report.pairs_in_all.min(pairs), "pairs of random saga {number}");
    report
}

/// What a random saga is made of.
struct Dice {
    random: StdRng,
    /// The names of all steps.
    steps: Vec<String>,
    script: Script,
}

/// How deep children are nested.
const CHILDREN_MAX: usize = 2;

impl Dice {
    fn saga(&mut self, scenario: &mut Scenario<Random>, prefix: &str, depth: usize) -> Random {
        let stages = self.random.random_range(1..=if depth == 0 { 4 } else { 2 });
        let pivot = self.random.random_bool(0.4).then(|| self.random.random_range(0..stages));
        let mut saga = Random { prefix: prefix.into(), stages: Vec::new(), pivot };
        for stage in 0..stages {
            let is_pivot = pivot == Some(stage);
            let width = if is_pivot { 1 } else { *[1, 1, 2, 3].choose(&mut self.random).unwrap_or(&1) };
            if width == 1 && !is_pivot && depth < CHILDREN_MAX && self.random.random_bool(0.2) {
                let name = saga.name(stage, 0);
                let child = self.saga(scenario, &format!("{name}>"), depth + 1);
                scenario.children.insert(name.clone(), child);
                self.steps.push(name);
                saga.stages.push(vec![Piece::Child]);
                continue;
            }
            let names: Vec<String> = (0..width).map(|at| saga.name(stage, at)).collect();
            saga.stages.push(names.iter().map(|name| self.piece(scenario, name, is_pivot)).collect());
            self.steps.extend(names);
        }
        saga
    }

    fn piece(&mut self, scenario: &mut Scenario<Random>, name: &str, is_pivot: bool) -> Piece {
        let timeout_ms = self.random.random_bool(0.3).then(|| self.random.random_range(1..400));
        match self.random.random_range(0..10) {
            0 if !is_pivot => Piece::Sleep { ms: self.random.random_range(1..100_000) },
            1 if !is_pivot => {
                // A signal that never comes must be given up some day.
                let comes = self.random.random_bool(0.6);
                if comes {
                    scenario.signals.insert(name.into(), json!(name));
                }
                Piece::Signal { timeout_ms: timeout_ms.or((!comes).then_some(50)) }
            }
            _ => {
                let attempts = self.random.random_range(1..=3);
                let (answers, undo_answers) = (self.answers(attempts, 0.15), self.answers(attempts, 0.1));
                self.script = std::mem::take(&mut self.script).answers(name, answers).undo_answers(name, undo_answers);
                Piece::Effect { undo: self.random.random_bool(0.8), attempts, timeout_ms }
            }
        }
    }

    fn answers(&mut self, attempts: u32, fails: f64) -> Vec<Answer> {
        let mut answers: Vec<Answer> = Vec::new();
        while answers.len() < attempts as usize - 1 && self.random.random_bool(0.3) {
            answers.push(if self.random.random_bool(0.5) { Answer::Lost } else { Answer::Silent });
        }
        // What fails after an answer was lost is what is easily got wrong.
        let fails = if answers.is_empty() { fails } else { 3.0 * fails };
        let done = Answer::Done(json!(self.random.random_range(0..100)));
        if self.random.random_bool(fails) {
            answers.push(
                [Answer::Refused, Answer::Lost, Answer::Silent]
                    .choose(&mut self.random)
                    .cloned()
                    .unwrap_or(done.clone()),
            );
            // What comes of it when an operator has it tried again.
            if self.random.random_bool(0.5) {
                let left = (attempts as usize).saturating_sub(answers.len());
                answers.extend(std::iter::repeat_n(answers[answers.len() - 1].clone(), left));
                answers.push(done);
            }
        } else {
            answers.push(done);
        }
        answers
    }

    fn tells(&mut self, act: Act) -> Vec<Tell<Random>> {
        let reason = || "an operator says so".to_owned();
        let mut tells = Vec::new();
        while tells.len() < 2 && self.random.random_bool(0.4) {
            tells.push(Tell::Retry);
        }
        match self.random.random_range(0..5) {
            0 | 1 => tells.push(Tell::Skip { reason: reason() }),
            2 if act == Act::Do => tells.push(Tell::Compensate { reason: reason() }),
            3 => tells.push(Tell::GiveUp { reason: reason() }),
            _ => {}
        }
        tells
    }
}
