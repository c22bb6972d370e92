//! What an author writes: a [`Saga`], whose [`plan`](Saga::plan) says what is done, how it is undone, and in which order.

use std::{borrow::Cow, time::Duration};

use indelible_core::Timestamp;
use indelible_projections::Retry;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Past, sagas::escaped};

/// A process over several aggregates and the world outside, which happens as a whole or is undone.
///
/// The type is what the process is about, as it was started: `Trip { traveller, hotel }`. What became of its steps is its
/// [`Past`]. From the two its plan is told anew each time, so it may depend on what the steps answered.
///
/// The plan is made by a pure function. A saga that runs is asked again and again, in other processes and after a
/// restart, so what it said of a step that has begun must stay: see [`VERSION`](Self::VERSION).
#[diagnostic::on_unimplemented(message = "`{Self}` is not a saga", note = "write `impl Saga for {Self}`")]
pub trait Saga: Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The category of its journals, whose streams are `name-id`. No `-` in it; at most 64 bytes.
    const NAME: &'static str;

    /// The version of its plan. A saga keeps the one that it was started with: [`Past::version`].
    const VERSION: u32 = 1;

    /// Into how many partitions sagas are dealt out, which processes share. Stored with the agenda, and not to be changed.
    const PARTITIONS: u32 = 4;

    /// What it has done outside, as data: usually an enum.
    type Effect: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What is to be done, as far as that can be told now.
    fn plan(&self, past: &Past) -> Plan<Self::Effect>;
}

/// Steps, one after the other or side by side.
#[derive(Clone, Debug)]
pub struct Plan<E> {
    pub(crate) stages: Vec<Vec<Step<E>>>,
    /// One, or a fault.
    pivots: Vec<Cow<'static, str>>,
}

impl<E> Default for Plan<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> Plan<E> {
    /// Nothing to be done yet.
    pub const fn new() -> Self {
        Self { stages: Vec::new(), pivots: Vec::new() }
    }

    /// Then this.
    #[must_use]
    pub fn step(mut self, step: Step<E>) -> Self {
        self.stages.push(vec![step]);
        self
    }

    /// Then these, side by side. It goes on when all are done.
    #[must_use]
    pub fn side_by_side(mut self, steps: impl IntoIterator<Item = Step<E>>) -> Self {
        self.stages.push(steps.into_iter().collect());
        self
    }

    /// Then the step after which there is no way back: once it is done nothing is undone any more, and what fails behind
    /// it needs intervention. Its own undo is for when it failed and may have happened all the same: without one it needs
    /// intervention then. There is one at most. What must not fail behind it is tried [for ever](Retry::FOREVER), by a performer
    /// that is never [refused](crate::Failure::Refused).
    #[must_use]
    pub fn pivot(mut self, step: Step<E>) -> Self {
        self.pivots.push(step.name.clone());
        self.step(step)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Step<E>> {
        self.steps().find(|step| step.name == name)
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step<E>> {
        self.stages.iter().flatten()
    }

    pub(crate) fn pivot_name(&self) -> Option<&str> {
        self.pivots.first().map(Cow::as_ref)
    }

    /// Why it can't be followed, where it can't.
    pub(crate) fn fault(&self) -> Option<String> {
        let names: Vec<&str> = self.steps().map(|step| step.name.as_ref()).collect();
        let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
        let is_name =
            |name: &&&str| (1..=STEP_BYTES_MAX).contains(&escaped(name).len()) && !name.contains(char::is_control);
        let none = names.iter().find(|name| !is_name(name));
        match (twice, none, &self.pivots[..]) {
            (Some((_, name)), ..) => Some(format!("two steps are called {name}")),
            (.., [first, second, ..]) => Some(format!("two steps are pivots: {first} and {second}")),
            (_, Some(name), _) => Some(format!("{name:?} is no step's name: 1 to {STEP_BYTES_MAX} bytes of text")),
            _ => None,
        }
    }
}

/// The longest name of a step, in bytes, where `/` and `%` count three.
pub(crate) const STEP_BYTES_MAX: usize = 64;

/// Something to be done, or to be waited for. Its name stands for it in the journal, and must stay.
#[derive(Clone, Debug)]
pub struct Step<E> {
    pub(crate) name: Cow<'static, str>,
    pub(crate) what: What<E>,
    pub(crate) undo: Option<E>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Duration,
    pub(crate) retry: Retry,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(crate) enum What<E> {
    Effect(E),
    Signal,
    Sleep(Duration),
    Until(Timestamp),
}

impl<E> Step<E> {
    /// Has an effect brought about outside, or a command executed.
    pub fn new(name: impl Into<Cow<'static, str>>, effect: E) -> Self {
        Self::of(name, What::Effect(effect))
    }

    /// Waits for a [signal](crate::Sagas::signal) of this name, which may have come already.
    pub fn signal(name: impl Into<Cow<'static, str>>) -> Self {
        Self::of(name, What::Signal)
    }

    /// Waits so long.
    pub fn sleep(name: impl Into<Cow<'static, str>>, time: Duration) -> Self {
        Self::of(name, What::Sleep(time))
    }

    /// Waits until then, by [the clock](crate#time).
    pub fn until(name: impl Into<Cow<'static, str>>, time: Timestamp) -> Self {
        Self::of(name, What::Until(time))
    }

    fn of(name: impl Into<Cow<'static, str>>, what: What<E>) -> Self {
        let deadline = Duration::from_secs(30);
        Self { name: name.into(), what, undo: None, timeout: None, deadline, retry: Retry::DEFAULT }
    }

    /// That is undone by this effect, if it may have happened and the saga fails later. It also comes for what has not happened
    /// after all, and for a call that was given up before it was made, and is done then: there is nothing to undo. It is tried
    /// by the step's [policy](Self::retry), without its timeout; when that is used up an operator is asked.
    #[must_use]
    pub fn undo(mut self, effect: E) -> Self {
        self.undo = Some(effect);
        self
    }

    /// That fails when it is not done so long after it began, as soon as a worker looks: what comes late, but before that,
    /// counts. An attempt under way is awaited, and counts. The attempts of [`Retry::DEFAULT`] are used up in seconds: what is
    /// to be tried until its time is up is tried [for ever](Retry::FOREVER).
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Whose calls may take so long each: 30 s. Nobody knows then whether one had its effect.
    #[must_use]
    pub fn deadline(mut self, time: Duration) -> Self {
        self.deadline = time;
        self
    }

    /// That is tried again by this policy, and undone by it too: [`Retry::DEFAULT`], five attempts in some seconds.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}
