//! The ways that cases take: which sequences of activities there are, and how many cases have gone each.
//!
//! The sequences are the nodes of a tree: an activity behind a shorter sequence. A step moves its case on by one node, so
//! that it costs the same however long the case is.

use std::collections::HashMap;

use indelible::{
    Answer, Cause, Envelope, PostgresModel, PostgresTx, Project, Projection, Question, ReadModelError, ReadTables,
    Table, WriteTables, postgres::Row,
};
use serde::Serialize;
use uuid::Uuid;

use super::{Ask, TableModel, Top, each, number};
use crate::case::{Case, CaseEvent};

#[derive(Clone, Projection)]
#[projection(name = "variants", of = Case)]
pub struct Variants;

impl Question for Variants {
    /// How many there are, and the most frequent of them.
    type Answer = (u64, Vec<Variant>);
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Variant {
    pub count: u64,
    pub activities: Vec<String>,
}

/// How many are shown.
pub const VARIANTS: usize = 5;

/// Each sequence by a hash of it, as the shorter one and what was done then.
const NODES: Table<u128, (u128, String)> = Table::new("nodes");
/// Where each case is.
const PLACES: Table<String, u128> = Table::new("places");
/// Where nothing is done yet.
const ROOT: u128 = 0;

impl<M: TableModel> Project<M> for Variants {
    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let case = envelope.recorded.stream.id().to_owned();
        let parent = tx.get(&PLACES, &case)?.unwrap_or(ROOT);
        let node = Uuid::new_v5(&Uuid::from_u128(parent), step.activity.as_bytes()).as_u128();
        if tx.get(&NODES, &node)?.is_none() {
            tx.put(&NODES, &node, &(parent, step.activity.clone()))?;
        }
        Ok(tx.put(&PLACES, &case, &node)?)
    }
}
impl<M: TableModel> Answer<Variants> for Ask<M> {
    async fn answer(&self, _: &Variants) -> Result<(u64, Vec<Variant>), Cause> {
        let views = self.0.look::<Variants>()?;
        let mut cases = HashMap::<u128, u64>::new();
        each(&views, &PLACES, |_, node| {
            *cases.entry(node).or_default() += 1;
            Ok(())
        })?;
        let mut top = Top::new(VARIANTS);
        for (node, count) in &cases {
            if top.takes(*count) {
                top.add(sequence(&views, *node)?, *count);
            }
        }
        let variants = top.into_iter().map(|(activities, count)| Variant { count, activities });
        Ok((cases.len() as u64, variants.collect()))
    }
}

/// All that was done on the way to a node.
fn sequence(views: &impl ReadTables, mut node: u128) -> Result<Vec<String>, ReadModelError> {
    let mut activities = Vec::new();
    while let Some((parent, activity)) = views.get(&NODES, &node)? {
        activities.push(activity);
        node = parent;
    }
    activities.reverse();
    Ok(activities)
}

impl Project<PostgresModel> for Variants {
    const SETUP: &'static str =
        "CREATE TABLE nodes (node bytea PRIMARY KEY, parent bytea NOT NULL, activity bytea NOT NULL);
        CREATE TABLE places (case_id text PRIMARY KEY, node bytea NOT NULL)";

    async fn apply(&self, envelope: &Envelope<CaseEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let CaseEvent::StepTaken(step) = &envelope.event;
        let moves = "WITH move AS (
                SELECT parent, sha256(parent || $2::bytea) AS node
                FROM coalesce((SELECT node FROM places WHERE case_id = $1), sha256('')) AS parent),
            made AS (INSERT INTO nodes SELECT node, parent, $2 FROM move ON CONFLICT DO NOTHING)
            INSERT INTO places SELECT $1::text, node FROM move ON CONFLICT (case_id) DO UPDATE SET node = excluded.node";
        Ok(tx.execute(moves, (envelope.recorded.stream.id(), step.activity.as_bytes())).await?)
    }
}
impl Answer<Variants> for Ask<PostgresModel> {
    async fn answer(&self, _: &Variants) -> Result<(u64, Vec<Variant>), Cause> {
        let top = "WITH RECURSIVE variants AS (SELECT node, count(*) AS cases FROM places GROUP BY node),
            top AS (SELECT * FROM variants ORDER BY cases DESC FETCH FIRST ($1) ROWS WITH TIES),
            way AS (
                SELECT node AS variant, 0 AS back, parent, activity FROM top JOIN nodes USING (node)
                UNION ALL
                SELECT variant, back + 1, nodes.parent, nodes.activity
                FROM way JOIN nodes ON nodes.node = way.parent)
            SELECT (SELECT count(*) FROM variants) AS variants, cases, array_agg(activity ORDER BY back DESC) AS activities
            FROM top JOIN way ON way.variant = top.node GROUP BY top.node, cases ORDER BY cases DESC, activities LIMIT $1";
        let mut views = self.0.query::<Variants>().await?;
        let rows = views.query(top, (VARIANTS as i64,)).await?;
        let variants = rows.first().map_or(Ok(0), |row| number(row, "variants"))?;
        let variant = |row: &Row| {
            let activities: Vec<Vec<u8>> = row.try_get("activities")?;
            let activities = activities.into_iter().map(String::from_utf8).collect::<Result<_, _>>()?;
            Ok(Variant { count: number(row, "cases")?, activities })
        };
        Ok((variants, rows.iter().map(variant).collect::<Result<_, Cause>>()?))
    }
}
