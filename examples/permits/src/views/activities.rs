//! How often each activity was done.

use indelible::{Answer, Cause, Envelope, PostgresModel, PostgresTx, Project, Projection, Question, ReadTables, Table};

use super::{Ask, TableModel, count, name, number, ranked};
use crate::case::{Case, CaseEvent};

#[derive(Clone, Projection)]
#[projection(name = "activities", of = Case)]
pub struct Activities;

impl Question for Activities {
    /// The most frequent first.
    type Answer = Vec<(String, u64)>;
}

const COUNTS: Table<String, u64> = Table::new("counts");

impl<M: TableModel> Project<M> for Activities {
    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        Ok(count(tx, &COUNTS, &step.activity)?)
    }
}
impl<M: TableModel> Answer<Activities> for Ask<M> {
    async fn answer(&self, _: &Activities) -> Result<Vec<(String, u64)>, Cause> {
        Ok(ranked(self.0.look::<Activities>()?.scan(&COUNTS, .., usize::MAX)?))
    }
}

impl Project<PostgresModel> for Activities {
    const SETUP: &'static str = "CREATE TABLE activities (activity bytea NOT NULL, count bigint NOT NULL);
        CREATE UNIQUE INDEX ON activities (sha256(activity))";

    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let upsert = "INSERT INTO activities VALUES ($1, 1)
            ON CONFLICT (sha256(activity)) DO UPDATE SET count = activities.count + 1";
        Ok(tx.execute(upsert, (step.activity.as_bytes(),)).await?)
    }
}
impl Answer<Activities> for Ask<PostgresModel> {
    async fn answer(&self, _: &Activities) -> Result<Vec<(String, u64)>, Cause> {
        let mut views = self.0.query::<Activities>().await?;
        let rows = views.query("SELECT activity, count FROM activities", ()).await?;
        let counts = rows.iter().map(|row| Ok((name(row, "activity")?, number(row, "count")?)));
        Ok(ranked(counts.collect::<Result<_, Cause>>()?))
    }
}
