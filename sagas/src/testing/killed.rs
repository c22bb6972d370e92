//! Sagas whose processes are killed: what to run, a world outside that outlives them, and what must come of it. For tests
//! of read models and stores.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use indelible_core::AsStore;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Answer;
use crate::{Act, Call, Failure, Outcome, Past, Perform, Plan, Saga, Sagas, Step};

/// A saga of five steps, whose number says how it goes: each tenth is compensated, each seventh is answered at the second
/// attempt only, and each waits a little.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Errand {
    /// Which.
    pub number: u64,
}

impl Saga for Errand {
    const NAME: &'static str = "errand";
    type Effect = String;

    fn plan(&self, past: &Past) -> Plan<String> {
        let step = |name: &'static str| {
            let answer = past.result::<String>(name).unwrap_or_default();
            Step::new(name, format!("do {name} of {}", self.number)).undo(format!("undo {answer}"))
        };
        Plan::new()
            .step(step("a"))
            .side_by_side([step("b"), step("c")])
            .step(Step::sleep("rest", Duration::from_millis(self.number % 50)))
            .step(step("d"))
            .pivot(step("e"))
    }
}

impl Errand {
    fn fails(number: u64) -> bool {
        number % 10 == 3
    }

    fn answer(number: u64, call: &Call) -> Answer {
        match (call.step(), call.act(), call.attempt()) {
            ("d", Act::Do, _) if Self::fails(number) => Answer::Refused,
            ("b", Act::Do, 1) if number % 7 == 1 => Answer::Lost,
            ("a", Act::Undo, 1) if number % 20 == 3 => Answer::Silent,
            _ => Answer::Done(json!(format!("{} {}", call.step(), number))),
        }
    }

    fn happens(number: u64) -> BTreeSet<String> {
        let key = |step: &str, act| Sagas::<Self>::key(&number.to_string(), step, act);
        let (done, undone): (&[&str], &[&str]) = match Self::fails(number) {
            true => (&["a", "b", "c"], &["a", "b", "c"]),
            false => (&["a", "b", "c", "d", "e"], &[]),
        };
        let done = done.iter().map(|step| key(step, Act::Do));
        done.chain(undone.iter().map(|step| key(step, Act::Undo))).collect()
    }
}

/// A world outside, in a directory: a file for each idempotency key.
pub struct KeptOutside {
    dir: PathBuf,
}

impl KeptOutside {
    /// In this directory, which is made.
    ///
    /// # Panics
    /// Where it can't be.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        Self { dir }
    }

    fn file(dir: &Path, key: &str) -> PathBuf {
        dir.join(key.replace('/', "+"))
    }
}

impl Perform<Errand> for KeptOutside {
    async fn perform(&self, effect: String, call: &Call) -> Result<Value, Failure> {
        let number = call.saga().parse().map_err(Failure::refused)?;
        let answer = Errand::answer(number, call);
        if matches!(answer, Answer::Done(_) | Answer::Lost) {
            // What comes again under its key must be the same.
            let file = Self::file(&self.dir, call.key());
            let mut calls = File::options().create(true).append(true).open(file).map_err(Failure::unsure)?;
            calls.write_all(format!("{effect}\n").as_bytes()).map_err(Failure::unsure)?;
        }
        match answer {
            Answer::Done(answer) => Ok(answer),
            Answer::Refused => Err(Failure::refused("it says no")),
            Answer::Lost | Answer::Silent => Err(Failure::unsure("no answer")),
        }
    }
}

/// Starts errands of these numbers, where they are not started yet.
///
/// # Panics
/// Where the store fails.
pub async fn start_errands(store: &impl AsStore, numbers: impl IntoIterator<Item = u64>) {
    let errands = Sagas::<Errand>::new(store);
    for number in numbers {
        match errands.start(&number.to_string(), Errand { number }).await {
            Err(error) if !error.is_rejected() => panic!("errand {number}: {error}"),
            _ => {}
        }
    }
}

/// What must come of errands, when all have ended in time: each as its number says, with exactly that done and undone
/// outside, and each thing always the same.
///
/// # Panics
/// Where something else came of one.
pub async fn judge_errands(
    store: &impl AsStore,
    outside: &Path,
    numbers: impl IntoIterator<Item = u64>,
    time: Duration,
) -> ErrandsDone {
    let (errands, mut done) = (Sagas::<Errand>::new(store), ErrandsDone::default());
    for number in numbers {
        let id = number.to_string();
        let ended = errands.ended(&id, time).await.unwrap_or_else(|error| panic!("errand {number}: {error}"));
        let expected = if Errand::fails(number) { Outcome::Compensated } else { Outcome::Completed };
        if ended.as_ref() != Some(&expected) {
            let history = errands.history(&id).await.unwrap_or_default();
            panic!("errand {number} should have {expected}, and is {ended:?}:\n{history}");
        }
        done.sagas += 1;
        done.compensated += u64::from(expected == Outcome::Compensated);
        let happens = Errand::happens(number);
        for step in ["a", "b", "c", "d", "e"] {
            for act in [Act::Do, Act::Undo] {
                let key = Sagas::<Errand>::key(&id, step, act);
                let calls = fs::read_to_string(KeptOutside::file(outside, &key)).unwrap_or_default();
                let effects: BTreeSet<&str> = calls.lines().collect();
                assert_eq!(!effects.is_empty(), happens.contains(&key), "whether {key} happened outside");
                assert!(effects.len() <= 1, "{key} was not always the same: {effects:?}");
                done.repeated += calls.lines().count().saturating_sub(effects.len()) as u64;
                done.effects += effects.len() as u64;
            }
        }
    }
    done
}

/// What errands came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrandsDone {
    /// How many there were.
    pub sagas: u64,
    /// How many of them were compensated.
    pub compensated: u64,
    /// How many effects happened outside.
    pub effects: u64,
    /// How often one was asked for again, under its key.
    pub repeated: u64,
}

impl fmt::Display for ErrandsDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sagas, compensated, effects, repeated } = self;
        write!(f, "{compensated} of {sagas} sagas compensated, {effects} effects, {repeated} calls for one again")
    }
}
