//! Where sagas stand, all together: how many at which step, which, since when; and how many have ended, how.

use std::marker::PhantomData;

use indelible_core::{Cause, Timestamp};
use indelible_projections::{
    Envelope, OnFailure, Project, Projection, ReadModel, ReadTables, Table, Wants, WriteTables,
};
use serde::{Deserialize, Serialize};

use crate::{Act, Journal, Outcome, Saga, SagaEvent, Task, agenda::Name};

/// Where a saga stands, by its id. Those that have ended are not here.
pub const STANDINGS: Table<String, Place> = Table::new("standings");
/// How many sagas there are by what they do and the step they are at; those that have ended by how, at no step.
pub const COUNTS: Table<(String, String), Count> = Table::new("counts");

/// Where a saga stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// `running`, `waiting`, `compensating`, or `stuck` where it needs intervention.
    pub doing: String,
    /// The step that began last.
    pub step: String,
    /// Since when it has been there.
    pub since: Timestamp,
    /// When it was started.
    pub started: Timestamp,
}

/// How many sagas there are somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// So many.
    pub sagas: u64,
    /// Of those that have ended, how long they took together, in milliseconds.
    pub took_ms: u64,
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
/// assert_eq!(view.get(&COUNTS, &place("completed", ""))?.unwrap().sagas, 1);
/// assert_eq!(view.get(&STANDINGS, &"ada".into())?.unwrap().step, "signed");
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
        let was = tx.get(&STANDINGS, &saga)?;
        let started = was.as_ref().map_or(at, |was| was.started);
        let Some(goes) = Goes::by(&envelope.event) else { return Ok(()) };
        if let Some(was) = &was {
            count(tx, &was.doing, &was.step, |count| count.sagas = count.sagas.saturating_sub(1))?;
        }
        match goes {
            Goes::To { doing, step } => {
                count(tx, doing, step, |count| count.sagas += 1)?;
                let place = Place { doing: doing.into(), step: step.into(), since: at, started };
                Ok(tx.put(&STANDINGS, &saga, &place)?)
            }
            Goes::Out { outcome } => {
                let took_ms = u64::try_from(at.since(started).as_millis()).unwrap_or(u64::MAX);
                count(tx, outcome, "", |count| {
                    (count.sagas, count.took_ms) = (count.sagas + 1, count.took_ms.saturating_add(took_ms));
                })?;
                Ok(tx.delete(&STANDINGS, &saga)?)
            }
        }
    }
}

/// Where an event takes a saga; for read models that keep an [`Overview`] in tables of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes<'a> {
    /// To a place.
    To {
        /// As [`Place::doing`].
        doing: &'static str,
        /// As [`Place::step`].
        step: &'a str,
    },
    /// To its end.
    Out {
        /// `completed`, `compensated` or `given up`.
        outcome: &'static str,
    },
}

impl<'a> Goes<'a> {
    /// Where this event takes it; `None` where it stays.
    pub fn by(event: &'a SagaEvent) -> Option<Self> {
        let to = |doing, step| Self::To { doing, step };
        Some(match event {
            SagaEvent::Started { .. } => to("running", ""),
            SagaEvent::StepStarted { step, task: Task::Effect(_), .. } => to("running", step),
            SagaEvent::StepStarted { step, .. } => to("waiting", step),
            SagaEvent::Compensating { .. } => to("compensating", ""),
            SagaEvent::UndoStarted { step, .. } => to("compensating", step),
            SagaEvent::NeedsIntervention { step, .. } => to("stuck", step),
            SagaEvent::Retried { step, signal: true, .. } => to("waiting", step),
            SagaEvent::Retried { step, act, .. } | SagaEvent::Skipped { step, act, .. } => match act {
                Act::Do => to("running", step),
                Act::Undo => to("compensating", step),
            },
            SagaEvent::Ended { outcome } => Self::Out {
                outcome: match outcome {
                    Outcome::Completed => "completed",
                    Outcome::Compensated => "compensated",
                    Outcome::GivenUp { .. } => "given up",
                },
            },
            _ => return None,
        })
    }
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
