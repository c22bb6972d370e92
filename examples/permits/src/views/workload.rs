//! How much each resource has to do, day by day.

use std::collections::BTreeMap;

use indelible::{Answer, Cause, Envelope, PostgresModel, PostgresTx, Project, Projection, Question, Table};
use serde::Serialize;

use super::{Ask, TableModel, Top, count, each, name, number, ranked};
use crate::case::{Case, CaseEvent};

#[derive(Clone, Projection)]
#[projection(name = "workload", of = Case)]
pub struct Workload;

impl Question for Workload {
    /// All resources, and the busiest days, the most steps first. Steps that nobody is named for are left out.
    type Answer = (Vec<(String, u64)>, Vec<ResourceDay>);
}

#[derive(Debug, PartialEq, Serialize)]
pub struct ResourceDay {
    pub resource: String,
    pub day: String,
    pub count: u64,
}

/// How many are shown.
pub const DAYS: usize = 20;

const STEPS: Table<(String, String), u64> = Table::new("steps");

impl<M: TableModel> Project<M> for Workload {
    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let Some(resource) = step.resource() else { return Ok(()) };
        Ok(count(tx, &STEPS, &(resource, step.day()))?)
    }
}
impl<M: TableModel> Answer<Workload> for Ask<M> {
    async fn answer(&self, _: &Workload) -> Result<(Vec<(String, u64)>, Vec<ResourceDay>), Cause> {
        let (mut resources, mut days) = (BTreeMap::new(), Top::new(DAYS));
        each(&self.0.look::<Workload>()?, &STEPS, |(resource, day), count| {
            *resources.entry(resource.clone()).or_default() += count;
            days.add((resource, day), count);
            Ok(())
        })?;
        let days = days.into_iter().map(|((resource, day), count)| ResourceDay { resource, day, count });
        Ok((ranked(resources.into_iter().collect()), days.collect()))
    }
}

impl Project<PostgresModel> for Workload {
    const SETUP: &'static str = r#"CREATE TABLE workload (resource bytea NOT NULL, day text COLLATE "C" NOT NULL, count bigint NOT NULL);
        CREATE UNIQUE INDEX ON workload (sha256(resource), day)"#;

    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let Some(resource) = step.resource() else { return Ok(()) };
        let upsert = "INSERT INTO workload VALUES ($1, $2, 1)
            ON CONFLICT (sha256(resource), day) DO UPDATE SET count = workload.count + 1";
        Ok(tx.execute(upsert, (resource.as_bytes(), step.day())).await?)
    }
}
impl Answer<Workload> for Ask<PostgresModel> {
    async fn answer(&self, _: &Workload) -> Result<(Vec<(String, u64)>, Vec<ResourceDay>), Cause> {
        let mut views = self.0.query::<Workload>().await?;
        let rows =
            views.query("SELECT resource, sum(count)::bigint AS count FROM workload GROUP BY resource", ()).await?;
        let resources = rows.iter().map(|row| Ok((name(row, "resource")?, number(row, "count")?)));
        let resources = ranked(resources.collect::<Result<_, Cause>>()?);
        let busiest = "SELECT resource, day, count FROM workload ORDER BY count DESC, resource, day LIMIT $1";
        let rows = views.query(busiest, (DAYS as i64,)).await?;
        let day = |row| {
            Ok(ResourceDay { resource: name(row, "resource")?, day: row.try_get("day")?, count: number(row, "count")? })
        };
        Ok((resources, rows.iter().map(day).collect::<Result<_, Cause>>()?))
    }
}
