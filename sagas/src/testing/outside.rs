//! A world outside that answers by a script, and keeps what was done in it: once for each idempotency key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use crate::{Act, Call, Failure, Perform, Saga};

/// What the world outside answers to an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It is done, with this answer.
    Done(Value),
    /// It does not happen.
    Refused,
    /// It happens, and the answer is lost.
    Lost,
    /// It does not happen, and nobody says so.
    Silent,
}

/// What the world outside answers to each attempt at each step; [done](Answer::Done) where nothing is said, with the answer
/// `null`. Where the plan reads a step's answer as something else, say one.
#[derive(Clone, Debug, Default)]
pub struct Script(BTreeMap<(String, Act), Vec<Answer>>);

impl Script {
    /// All is done at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// These are the answers to the attempts at a step; the last is that to all that follow.
    #[must_use]
    pub fn answers(mut self, step: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.0.insert((step.into(), Act::Do), answers.into_iter().collect());
        self
    }

    /// These are the answers to the attempts at undoing a step.
    #[must_use]
    pub fn undo_answers(mut self, step: &str, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.0.insert((step.into(), Act::Undo), answers.into_iter().collect());
        self
    }

    fn answer(&self, step: &str, act: Act, attempt: u32) -> Answer {
        let answers = self.0.get(&(step.to_owned(), act)).map_or(&[][..], Vec::as_slice);
        let answer = answers.get(attempt as usize - 1).or(answers.last());
        answer.cloned().unwrap_or(Answer::Done(Value::Null))
    }
}

/// A world outside. Clones are one world. The answer to an attempt is always the same, also when it comes again.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    script: Arc<Script>,
    world: Arc<Mutex<World>>,
}

#[derive(Debug, Default)]
struct World {
    happened: BTreeSet<String>,
    calls: Vec<(String, u32)>,
    faults: Vec<String>,
    answered: BTreeMap<String, u32>,
}

impl Outside {
    /// A world that answers so.
    pub fn new(script: Script) -> Self {
        Self { script: Arc::new(script), world: Arc::default() }
    }

    /// What was done, by idempotency key.
    pub fn happened(&self) -> BTreeSet<String> {
        self.world().happened.clone()
    }

    /// The calls that came, each with its attempt.
    pub fn calls(&self) -> Vec<(String, u32)> {
        self.world().calls.clone()
    }

    /// What was wrong with them: another attempt after an answer that it was done.
    pub fn faults(&self) -> Vec<String> {
        self.world().faults.clone()
    }

    /// Whether a call has its effect.
    pub(crate) fn happens(&self, call: &Call) -> bool {
        let answer = self.script.answer(call.step(), call.act(), call.attempt());
        matches!(answer, Answer::Done(_) | Answer::Lost)
    }

    pub(crate) fn fault(&self, fault: String) {
        self.world().faults.push(fault);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Saga> Perform<S> for Outside {
    async fn perform(&self, _: S::Effect, call: &Call) -> Result<Value, Failure> {
        let answer = self.script.answer(call.step(), call.act(), call.attempt());
        let mut world = self.world();
        world.calls.push((call.key().to_owned(), call.attempt()));
        if let Some(earlier) = world.answered.get(call.key()).copied().filter(|earlier| *earlier < call.attempt()) {
            let fault = format!("{} was answered at attempt {earlier}, and tried again", call.key());
            world.faults.push(fault);
        }
        match answer {
            Answer::Done(answer) => {
                world.happened.insert(call.key().to_owned());
                world.answered.insert(call.key().to_owned(), call.attempt());
                Ok(answer)
            }
            Answer::Refused => Err(Failure::refused("the script says so")),
            Answer::Lost => {
                world.happened.insert(call.key().to_owned());
                Err(Failure::unsure("the answer was lost"))
            }
            Answer::Silent => Err(Failure::unsure("no answer")),
        }
    }
}
