//! The agenda: what is due, when, of which saga. Effects, attempts after a pause, timers and timeouts are entries in it, and
//! nothing else wakes a saga.
//!
//! It is a read model of the journals, projected exactly once, so it can't lose or invent an entry, costs the append path
//! nothing, and is there after a restart. It decides nothing: an entry says where to look, and the journal whether there is
//! something to do. So one that is old, or taken twice, does no harm.

use std::{collections::HashMap, fmt, marker::PhantomData, sync::Arc, time::Duration};

use indelible_core::{Cause, Timestamp};
use indelible_projections::{Envelope, OnFailure, Order, Partition, Project, Projection, Wants};
use tokio::sync::{Notify, mpsc};

use crate::{Act, Journal, Saga, SagaEvent, Task};

mod model;
mod tables;

pub use model::AgendaModel;
pub use tables::{due_in_tables, put_in_tables, remove_from_tables};

/// Something that is due.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The saga's id.
    pub saga: String,
    /// What about it.
    pub item: Item,
    /// Which attempt.
    pub attempt: u32,
    /// When.
    pub due: Timestamp,
    /// What it takes.
    pub work: Work,
}

impl Entry {
    /// Whether it is due as soon as the log has what says so.
    pub(crate) fn is_due_at_once(&self, recorded_at: Timestamp) -> bool {
        self.work != Work::Moment && self.due <= recorded_at
    }
}

/// What an entry takes. Each kind is found by itself, so that however many of the one are due, none of the other waits
/// behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Work {
    /// A call of the performer, which may be slow.
    Call,
    /// A look into the journal, and perhaps an append.
    Timer,
    /// The same when a moment has come, which the clock alone says: the log's time may be ahead of it.
    Moment,
}

impl Work {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Call, Self::Timer, Self::Moment];
}

/// What is due about a saga. Prints as `do flight`, and is parsed from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    /// To do a step, or to go on when it has waited.
    Do(String),
    /// To undo it.
    Undo(String),
    /// Its timeout.
    Timeout(String),
}

impl Item {
    pub(crate) fn of(act: Act, step: &str) -> Self {
        match act {
            Act::Do => Self::Do(step.into()),
            Act::Undo => Self::Undo(step.into()),
        }
    }

    /// The step.
    pub fn step(&self) -> &str {
        match self {
            Self::Do(step) | Self::Undo(step) | Self::Timeout(step) => step,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Do(_) => "do",
            Self::Undo(_) => "undo",
            Self::Timeout(_) => "timeout",
        };
        write!(f, "{what} {}", self.step())
    }
}

impl std::str::FromStr for Item {
    type Err = Cause;
    fn from_str(text: &str) -> Result<Self, Cause> {
        match text.split_once(' ') {
            Some(("do", step)) => Ok(Self::Do(step.into())),
            Some(("undo", step)) => Ok(Self::Undo(step.into())),
            Some(("timeout", step)) => Ok(Self::Timeout(step.into())),
            _ => Err(format!("{text:?} is nothing that can be due").into()),
        }
    }
}

/// What an event does to the agenda.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// This is due, instead of what was of the same saga and item.
    Put(Entry),
    /// This is due no more, if it was.
    Remove(String, Item),
}

/// What an event of a saga does to the agenda, where the log took it at this time. Times are the log's: a decision knows
/// none, so its clock can't be wrong.
pub(crate) fn changes(saga: &str, event: &SagaEvent, at: Timestamp) -> Vec<Change> {
    let put_at = |work, item, attempt, due| Change::Put(Entry { saga: saga.into(), item, attempt, due, work });
    let put = |work, item, attempt, after| put_at(work, item, attempt, at + after);
    let remove = |item| Change::Remove(saga.into(), item);
    let millis = Duration::from_millis;
    let over = |step: &String| vec![remove(Item::Do(step.clone())), remove(Item::Timeout(step.clone()))];
    match event {
        SagaEvent::StepStarted { step, task, timeout_ms } => {
            let item = Item::Do(step.clone());
            let due = match task {
                Task::Effect(_) => Some(put(Work::Call, item, 1, Duration::ZERO)),
                Task::SleepMs(time) => Some(put(Work::Timer, item, 1, millis(*time))),
                Task::Until(due) => Some(put_at(Work::Moment, item, 1, *due)),
                Task::Signal => None,
            };
            let timeout = timeout_ms.map(|time| put(Work::Timer, Item::Timeout(step.clone()), 1, millis(time)));
            due.into_iter().chain(timeout).collect()
        }
        SagaEvent::AttemptFailed { step, act, attempt, after_ms, .. } => {
            vec![put(Work::Call, Item::of(*act, step), attempt + 1, millis(*after_ms))]
        }
        SagaEvent::Stopping { step, attempt } => {
            vec![put(Work::Call, Item::Do(step.clone()), *attempt, Duration::ZERO)]
        }
        SagaEvent::Retried { step, act, attempt, timeout_ms, signal } if *attempt > 0 => {
            let due = (!signal).then(|| put(Work::Call, Item::of(*act, step), *attempt, Duration::ZERO));
            let timeout = timeout_ms.map(|time| put(Work::Timer, Item::Timeout(step.clone()), *attempt, millis(time)));
            due.into_iter().chain(timeout).collect()
        }
        SagaEvent::UndoStarted { step, .. } => vec![put(Work::Call, Item::Undo(step.clone()), 1, Duration::ZERO)],
        SagaEvent::StepDone { step, .. } | SagaEvent::StepFailed { step, .. } => over(step),
        SagaEvent::TimedOut { step } => vec![remove(Item::Timeout(step.clone()))],
        SagaEvent::Undone { step } | SagaEvent::UndoFailed { step, .. } => vec![remove(Item::Undo(step.clone()))],
        SagaEvent::Started { .. }
        | SagaEvent::Signalled { .. }
        | SagaEvent::Cancelled { .. }
        | SagaEvent::Compensating { .. }
        | SagaEvent::NeedsIntervention { .. }
        | SagaEvent::Retried { .. }
        | SagaEvent::Skipped { .. }
        | SagaEvent::Ended { .. } => Vec::new(),
    }
}

/// The changes that the agenda keeps.
pub(crate) fn kept(saga: &str, event: &SagaEvent, at: Timestamp) -> Vec<Change> {
    #[cfg(feature = "bugs")]
    if crate::bugs::is(crate::bugs::Bug::TimerInMemoryOnly) {
        let forgotten = |change| match change {
            Change::Put(entry) if entry.due > at => Change::Remove(entry.saga, entry.item),
            change => change,
        };
        return changes(saga, event, at).into_iter().map(forgotten).collect();
    }
    changes(saga, event, at)
}

/// The projection of a saga's journals into its agenda.
pub struct Agenda<S> {
    /// Rung so that a worker in this process looks soon.
    bell: Arc<Notify>,
    /// What is due at once is told to it straight away, while there is room: the journal has it, and a worker looks there.
    fresh: mpsc::Sender<Entry>,
    saga: PhantomData<fn() -> S>,
}

impl<S> Agenda<S> {
    pub(crate) fn new(bell: Arc<Notify>, fresh: mpsc::Sender<Entry>) -> Self {
        Self { bell, fresh, saga: PhantomData }
    }
}

impl<S: Saga> Projection for Agenda<S> {
    const NAME: &'static str = Name::<S>::AGENDA;
    const ORDER: Order = Order::PerStream { partitions: S::PARTITIONS };
    // A journal that can't be read must not stop the others.
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    type Event = SagaEvent;

    fn wants() -> Wants<SagaEvent> {
        Wants::of::<Journal<S>>()
    }
}

impl<S: Saga, M: AgendaModel> Project<M> for Agenda<S> {
    const SETUP: &'static str = M::SETUP_AGENDA;

    async fn apply(&self, envelope: &Envelope<SagaEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        Project::<M>::apply_batch(self, std::slice::from_ref(envelope), tx).await
    }

    async fn apply_batch(&self, envelopes: &[Envelope<SagaEvent>], tx: &mut M::Tx) -> Result<(), Cause> {
        // Most of what is put in is taken out soon, often by the same batch.
        let mut last = HashMap::new();
        for Envelope { event, recorded, replaying, .. } in envelopes {
            for change in kept(recorded.stream.id(), event, recorded.recorded_at) {
                let item = match &change {
                    Change::Put(entry) => entry.item.clone(),
                    Change::Remove(_, item) => item.clone(),
                };
                let at_once =
                    matches!(&change, Change::Put(entry) if !replaying && entry.is_due_at_once(recorded.recorded_at));
                last.insert((&recorded.stream, item), (change, at_once));
            }
        }
        for ((stream, _), (change, at_once)) in last {
            let partition = Partition::of(stream, S::PARTITIONS);
            match change {
                Change::Remove(saga, item) => M::remove(tx, partition, &saga, &item).await?,
                Change::Put(entry) => {
                    M::put(tx, partition, &entry).await?;
                    if !at_once || self.fresh.try_send(entry).is_err() {
                        self.bell.notify_one();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Names of a saga's projections, `trip_agenda`, made when this is compiled: one of the saga's own name stays possible.
pub(crate) struct Name<S>(PhantomData<S>);

impl<S: Saga> Name<S> {
    const AGENDA_BYTES: [u8; 96] = joined(S::NAME, "_agenda");
    pub(crate) const AGENDA: &'static str = text(&Self::AGENDA_BYTES, S::NAME.len() + "_agenda".len());
    const OVERVIEW_BYTES: [u8; 96] = joined(S::NAME, "_overview");
    pub(crate) const OVERVIEW: &'static str = text(&Self::OVERVIEW_BYTES, S::NAME.len() + "_overview".len());
}

const fn joined(name: &str, suffix: &str) -> [u8; 96] {
    assert!(name.len() <= 64, "a saga's name has at most 64 bytes");
    let (name, suffix) = (name.as_bytes(), suffix.as_bytes());
    let (mut bytes, mut at) = ([0; 96], 0);
    while at < name.len() + suffix.len() {
        bytes[at] = if at < name.len() { name[at] } else { suffix[at - name.len()] };
        at += 1;
    }
    bytes
}

const fn text(bytes: &'static [u8], length: usize) -> &'static str {
    match std::str::from_utf8(bytes.split_at(length).0) {
        Ok(text) => text,
        Err(_) => panic!("text and text is text"),
    }
}
