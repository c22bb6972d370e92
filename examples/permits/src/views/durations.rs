//! How many steps a case takes, and how long.

use indelible::{
    Answer, Cause, Envelope, PostgresModel, PostgresTx, Project, Projection, Question, ReadTables, Table, WriteTables,
};

use super::{Ask, TableModel, each};
use crate::case::{Case, CaseEvent};

#[derive(Clone, Projection)]
#[projection(name = "durations", of = Case)]
pub struct Durations;

impl Question for Durations {
    type Answer = Spread;
}

/// What all cases come to; `None` where there is no case. Durations in milliseconds, those of each case rounded down.
#[derive(Debug, Default, PartialEq)]
pub struct Spread {
    pub cases: u64,
    pub steps_min: Option<u64>,
    pub steps_max: Option<u64>,
    pub ms_min: Option<u64>,
    /// The lower middle one.
    pub ms_median: Option<u64>,
    pub ms_max: Option<u64>,
    pub ms_sum: u64,
}

/// How many steps, and the microseconds since 1970 of the first and the last.
const CASES: Table<String, (u64, i64, i64)> = Table::new("cases");

impl<M: TableModel> Project<M> for Durations {
    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let (case, at) = (envelope.recorded.stream.id().to_owned(), step.occurred_at.as_micros());
        let (steps, first, _) = tx.get(&CASES, &case)?.unwrap_or((0, at, at));
        Ok(tx.put(&CASES, &case, &(steps + 1, first, at))?)
    }
}
impl<M: TableModel> Answer<Durations> for Ask<M> {
    async fn answer(&self, _: &Durations) -> Result<Spread, Cause> {
        let (mut steps_of, mut ms) = (Vec::new(), Vec::new());
        each(&self.0.look::<Durations>()?, &CASES, |_, (steps, first, last)| {
            steps_of.push(steps);
            ms.push(last.abs_diff(first) / 1_000);
            Ok(())
        })?;
        ms.sort_unstable();
        Ok(Spread {
            cases: ms.len() as u64,
            steps_min: steps_of.iter().min().copied(),
            steps_max: steps_of.iter().max().copied(),
            ms_min: ms.first().copied(),
            ms_median: ms.get(ms.len().saturating_sub(1) / 2).copied(),
            ms_max: ms.last().copied(),
            ms_sum: ms.iter().sum(),
        })
    }
}

impl Project<PostgresModel> for Durations {
    const SETUP: &'static str = "CREATE TABLE durations
        (case_id text PRIMARY KEY, steps bigint NOT NULL, first bigint NOT NULL, last bigint NOT NULL)";

    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let upsert = "INSERT INTO durations VALUES ($1, 1, $2, $2)
            ON CONFLICT (case_id) DO UPDATE SET steps = durations.steps + 1, last = excluded.last";
        Ok(tx.execute(upsert, (envelope.recorded.stream.id(), step.occurred_at.as_micros())).await?)
    }
}
impl Answer<Durations> for Ask<PostgresModel> {
    async fn answer(&self, _: &Durations) -> Result<Spread, Cause> {
        let spread = "SELECT count(*) AS cases, min(steps) AS steps_min, max(steps) AS steps_max,
                min(ms) AS ms_min, percentile_disc(0.5) WITHIN GROUP (ORDER BY ms) AS ms_median, max(ms) AS ms_max,
                sum(ms)::bigint AS ms_sum
            FROM (SELECT steps, (last - first) / 1000 AS ms FROM durations) AS cases";
        let mut views = self.0.query::<Durations>().await?;
        let Some(row) = views.query_opt(spread, ()).await? else { return Ok(Spread::default()) };
        let number = |column| Ok::<_, Cause>(row.try_get::<_, Option<i64>>(column)?.map(u64::try_from).transpose()?);
        Ok(Spread {
            cases: number("cases")?.unwrap_or(0),
            steps_min: number("steps_min")?,
            steps_max: number("steps_max")?,
            ms_min: number("ms_min")?,
            ms_median: number("ms_median")?,
            ms_max: number("ms_max")?,
            ms_sum: number("ms_sum")?.unwrap_or(0),
        })
    }
}
