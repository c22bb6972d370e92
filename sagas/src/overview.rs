//! Where sagas stand, all together: how many at which step, which, since when; and how many have ended, how.

use std::{marker::PhantomData, time::Duration};

use indelible_core::{Cause, Timestamp};
use indelible_projections::{
    Envelope, OnFailure, Project, Projection, ReadModel, ReadTables, Table, Wants, WriteTables,
};
use serde::{Deserialize, Serialize};

use crate::{Act, Journal, Outcome, Saga, SagaEvent, Task, agenda::Name};

/// Where a saga stands, by its id and step: a row for each step that it is at, as there may be several side by side, and one
/// for no step, `""`, for the saga as a whole. Those that have ended are not here.
pub const STANDINGS: Table<(String, String), Place> = Table::new("standings");
/// How many sagas there are by what they do and the step they do it at, each at all of its steps; and at no step, `""`, by
/// what they do as a whole, each once, those that have ended by how. So of ten that have ended three were compensated, and
/// of five that run four wait for a signature. What was ever `done` or `undone` at a step is counted there too: so one in
/// fifty flights is undone, and a hotel takes two seconds.
pub const COUNTS: Table<(String, String), Count> = Table::new("counts");

/// Where a saga stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// `running`, `compensating`, or `stuck` where it needs intervention; at a step also `waiting`, for a signal or for time,
    /// and `failed`, until those beside it are through.
    pub doing: String,
    /// Since when it has done that there.
    pub since: Timestamp,
    /// When it was started; when it came to the step.
    pub started: Timestamp,
}

/// How many sagas there are somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// So many.
    pub sagas: u64,
    /// Of those that have ended, and of what was done or undone at a step, how long it took together, in milliseconds.
    pub took_ms: u64,
}

impl Count {
    fn and_one_that_took(&mut self, time: Duration) {
        self.sagas += 1;
        self.took_ms = self.took_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
}

/// A projection of a saga's journals into [`STANDINGS`] and [`COUNTS`], in any read model with typed tables: memory, and
/// RocksDB. On PostgreSQL it has tables of SQL: see `PostgresModel::standings` and `counts` there.
///
/// ```
/// # use indelible_core::store::memory::MemoryStore;
/// # use indelible_projections::{ReadTables, Worker, memory::MemoryModel};
/// # use indelible_sagas::{Past, Plan, Saga, Sagas, Step, overview::{COUNTS, Overview, STANDINGS}};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Clone, Serialize, Deserialize)] struct Loan;
/// # impl Saga for Loan {
/// #     const NAME: &'static str = "loan";
/// #     type Effect = ();
/// #     fn plan(&self, _: &Past) -> Plan<()> { Plan::new().step(Step::signal("signed")) }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (store, model) = (MemoryStore::new(), MemoryModel::new());
/// let running = Worker::new(&store).add(&model, Overview::<Loan>::new()).start().await?;
/// let loans = Sagas::<Loan>::new(&store);
/// loans.start("ada", Loan).await?;
/// loans.start("bob", Loan).await?;
/// let done = loans.signal("bob", "signed", &true).await?;
/// running.wait_for(&done.token(), Duration::from_secs(5)).await?;
///
/// let view = model.query::<Overview<Loan>>()?;
/// let place = |doing: &str, step: &str| (doing.to_owned(), step.to_owned());
/// assert_eq!(view.get(&COUNTS, &place("waiting", "signed"))?.unwrap().sagas, 1);
/// assert_eq!(view.get(&COUNTS, &place("running", ""))?.unwrap().sagas, 1);
/// assert_eq!(view.get(&COUNTS, &place("completed", ""))?.unwrap().sagas, 1);
/// assert_eq!(view.get(&STANDINGS, &place("ada", "signed"))?.unwrap().doing, "waiting");
/// # Ok(()) }
/// ```
pub struct Overview<S>(PhantomData<fn() -> S>);

impl<S: Saga> Overview<S> {
    /// The projection.
    #[expect(clippy::new_without_default, reason = "there is nothing in it")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<S: Saga> Projection for Overview<S> {
    const NAME: &'static str = Name::<S>::OVERVIEW;
    // A journal that can't be read must not hide the others.
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    type Event = SagaEvent;
    fn wants() -> Wants<SagaEvent> {
        Wants::of::<Journal<S>>()
    }
}

impl<S: Saga, M: ReadModel<Tx: WriteTables>> Project<M> for Overview<S> {
    async fn apply(&self, envelope: &Envelope<SagaEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let (saga, at) = (envelope.recorded.stream.id().to_owned(), envelope.recorded.recorded_at);
        for goes in Goes::by(&envelope.event) {
            match goes {
                Goes::To { doing, step } => {
                    let here = (saga.clone(), step.to_owned());
                    let was = leave(tx, &here)?;
                    let started = was.map_or(at, |was| was.started);
                    count(tx, doing, step, |count| count.sagas += 1)?;
                    tx.put(&STANDINGS, &here, &Place { doing: doing.into(), since: at, started })?;
                }
                Goes::From { step, through } => {
                    if let (Some(was), Some(how)) = (leave(tx, &(saga.clone(), step.to_owned()))?, through) {
                        count(tx, how, step, |count| count.and_one_that_took(at.since(was.started)))?;
                    }
                }
                Goes::Fails { step } => {
                    let here = (saga.clone(), step.to_owned());
                    if let Some(was) = leave(tx, &here)? {
                        count(tx, FAILED, step, |count| count.sagas += 1)?;
                        tx.put(&STANDINGS, &here, &Place { doing: FAILED.into(), since: at, ..was })?;
                    }
                }
                Goes::Back => {
                    for (here, place) in tx.scan_prefix(&STANDINGS, &saga, usize::MAX)? {
                        if [STUCK, FAILED].contains(&place.doing.as_str()) && !here.1.is_empty() {
                            leave(tx, &here)?;
                        }
                    }
                }
                Goes::Out { outcome } => {
                    let mut took = Duration::ZERO;
                    for (here, place) in tx.scan_prefix(&STANDINGS, &saga, usize::MAX)? {
                        if here.1.is_empty() {
                            took = at.since(place.started);
                        }
                        leave(tx, &here)?;
                    }
                    count(tx, outcome, "", |count| count.and_one_that_took(took))?;
                }
            }
        }
        Ok(())
    }
}

/// [`Place::doing`] of one that needs intervention.
const STUCK: &str = "stuck";
/// That of a step that has failed, before it is known what that leads to.
const FAILED: &str = "failed";

/// Where an event takes a saga; for read models that keep an [`Overview`] in tables of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes<'a> {
    /// To a place, where it may be already; at no step as a whole.
    To {
        /// As [`Place::doing`].
        doing: &'static str,
        /// The step.
        step: &'a str,
    },
    /// Away from a step, if it is there.
    From {
        /// The step.
        step: &'a str,
        /// What it is counted as for ever, with the time since it came there: `done` or `undone`. One that was skipped is
        /// not counted.
        through: Option<&'static str>,
    },
    /// Nowhere, but it has `failed` at a step, if it is there.
    Fails {
        /// The step.
        step: &'a str,
    },
    /// Away from all steps at which it is `stuck` or has `failed`.
    Back,
    /// To its end, and away from all else.
    Out {
        /// `completed`, `compensated` or `given up`.
        outcome: &'static str,
    },
}

impl<'a> Goes<'a> {
    /// Where this event takes it, one after the other.
    pub fn by(event: &'a SagaEvent) -> Vec<Self> {
        let to = |doing, step| Self::To { doing, step };
        let again = |act: &Act| match act {
            Act::Do => "running",
            Act::Undo => "compensating",
        };
        match event {
            SagaEvent::Started { .. } => vec![to("running", "")],
            SagaEvent::StepStarted { step, task: Task::Effect(_), .. } => vec![to("running", step)],
            SagaEvent::StepStarted { step, .. } => vec![to("waiting", step)],
            SagaEvent::StepDone { step, .. } => vec![Self::From { step, through: Some("done") }],
            SagaEvent::Undone { step } => vec![Self::From { step, through: Some("undone") }],
            SagaEvent::StepFailed { step, .. } | SagaEvent::UndoFailed { step, .. } => vec![Self::Fails { step }],
            SagaEvent::Compensating { .. } => vec![Self::Back, to("compensating", "")],
            SagaEvent::UndoStarted { step, .. } => vec![to("compensating", step)],
            SagaEvent::NeedsIntervention { step, .. } => vec![to(STUCK, ""), to(STUCK, step)],
            SagaEvent::Skipped { step, act, .. } | SagaEvent::Retried { step, act, attempt: 0, .. } => {
                vec![Self::From { step, through: None }, to(again(act), "")]
            }
            SagaEvent::Retried { step, act, signal, .. } => {
                vec![to(again(act), ""), to(if *signal { "waiting" } else { again(act) }, step)]
            }
            SagaEvent::Ended { outcome } => vec![Self::Out {
                outcome: match outcome {
                    Outcome::Completed => "completed",
                    Outcome::Compensated => "compensated",
                    Outcome::GivenUp { .. } => "given up",
                },
            }],
            SagaEvent::AttemptFailed { .. }
            | SagaEvent::TimedOut { .. }
            | SagaEvent::Stopping { .. }
            | SagaEvent::Signalled { .. }
            | SagaEvent::Cancelled { .. } => Vec::new(),
        }
    }
}

/// Takes a saga away from where it stands, if it does.
fn leave(tx: &mut impl WriteTables, here: &(String, String)) -> Result<Option<Place>, Cause> {
    let was = tx.get(&STANDINGS, here)?;
    if let Some(was) = &was {
        count(tx, &was.doing, &here.1, |count| count.sagas = count.sagas.saturating_sub(1))?;
        tx.delete(&STANDINGS, here)?;
    }
    Ok(was)
}

fn count(tx: &mut impl WriteTables, doing: &str, step: &str, change: impl FnOnce(&mut Count)) -> Result<(), Cause> {
    let place = (doing.to_owned(), step.to_owned());
    let mut count = tx.get(&COUNTS, &place)?.unwrap_or_default();
    change(&mut count);
    match count.sagas {
        0 => Ok(tx.delete(&COUNTS, &place)?),
        _ => Ok(tx.put(&COUNTS, &place, &count)?),
    }
}
