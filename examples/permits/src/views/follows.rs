//! The directly-follows graph: how often one activity comes right after another in a case.

use indelible::{
    Answer, Cause, Envelope, PostgresModel, PostgresTx, Project, Projection, Question, ReadTables, Table, WriteTables,
};
use serde::Serialize;

use super::{Ask, TableModel, count, name, number, ranked};
use crate::case::{Case, CaseEvent};

#[derive(Clone, Projection)]
#[projection(name = "follows", of = Case)]
pub struct Follows;

impl Question for Follows {
    /// The most frequent first.
    type Answer = Vec<Edge>;
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Edge {
    pub from: String,
    pub to: String,
    pub count: u64,
}

const EDGES: Table<(String, String), u64> = Table::new("edges");
/// What was done last in each case.
const ENDS: Table<String, String> = Table::new("ends");

fn edges(counts: Vec<((String, String), u64)>) -> Vec<Edge> {
    ranked(counts).into_iter().map(|((from, to), count)| Edge { from, to, count }).collect()
}

impl<M: TableModel> Project<M> for Follows {
    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let case = envelope.recorded.stream.id().to_owned();
        if let Some(before) = tx.get(&ENDS, &case)? {
            count(tx, &EDGES, &(before, step.activity.clone()))?;
        }
        Ok(tx.put(&ENDS, &case, &step.activity)?)
    }
}
impl<M: TableModel> Answer<Follows> for Ask<M> {
    async fn answer(&self, _: &Follows) -> Result<Vec<Edge>, Cause> {
        Ok(edges(self.0.look::<Follows>()?.scan(&EDGES, .., usize::MAX)?))
    }
}

impl Project<PostgresModel> for Follows {
    const SETUP: &'static str =
        "CREATE TABLE edges (before bytea NOT NULL, activity bytea NOT NULL, count bigint NOT NULL);
        CREATE UNIQUE INDEX ON edges (sha256(before), sha256(activity));
        CREATE TABLE ends (case_id text PRIMARY KEY, activity bytea NOT NULL)";

    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        // All parts of a statement see what was there before it.
        let upserts = "WITH edge AS (
                INSERT INTO edges SELECT activity, $2::bytea, 1 FROM ends WHERE case_id = $1
                ON CONFLICT (sha256(before), sha256(activity)) DO UPDATE SET count = edges.count + 1)
            INSERT INTO ends VALUES ($1, $2) ON CONFLICT (case_id) DO UPDATE SET activity = excluded.activity";
        Ok(tx.execute(upserts, (envelope.recorded.stream.id(), step.activity.as_bytes())).await?)
    }
}
impl Answer<Follows> for Ask<PostgresModel> {
    async fn answer(&self, _: &Follows) -> Result<Vec<Edge>, Cause> {
        let mut views = self.0.query::<Follows>().await?;
        let rows = views.query("SELECT before, activity, count FROM edges", ()).await?;
        let edge = |row| Ok(((name(row, "before")?, name(row, "activity")?), number(row, "count")?));
        Ok(edges(rows.iter().map(edge).collect::<Result<_, Cause>>()?))
    }
}
