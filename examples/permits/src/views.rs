//! What is to be known of all cases: five projections, each with what it answers.
//!
//! Each is told twice how to take an event in: by typed tables, which are in memory or on RocksDB, and by SQL.

mod activities;
mod durations;
mod follows;
mod variants;
mod workload;

use std::{cmp::Reverse, collections::BTreeSet, ops::Bound};

use anyhow::{Error, Result};
use indelible::{
    Answer, AsStore, Cause, MemoryModel, Project, Projection, ReadModel, ReadModelError, ReadTables, RocksModel,
    RocksSnapshot, Table, Worker, WriteTables,
    postgres::Row,
    projections::{Key, Value, memory::MemorySnapshot},
};

pub use activities::Activities;
pub use durations::{Durations, Spread};
pub use follows::{Edge, Follows};
pub use variants::{VARIANTS, Variant, Variants};
pub use workload::{DAYS, ResourceDay, Workload};

use crate::facts::Facts;

/// A read model of typed tables.
pub trait TableModel: ReadModel<Tx: WriteTables> {
    type Snapshot<'a>: ReadTables;

    /// What a projection holds now.
    fn look<P: Projection>(&self) -> Result<Self::Snapshot<'_>, ReadModelError>;
}
impl TableModel for MemoryModel {
    type Snapshot<'a> = MemorySnapshot;
    fn look<P: Projection>(&self) -> Result<MemorySnapshot, ReadModelError> {
        self.query::<P>()
    }
}
impl TableModel for RocksModel {
    type Snapshot<'a> = RocksSnapshot<'a>;
    fn look<P: Projection>(&self) -> Result<RocksSnapshot<'_>, ReadModelError> {
        self.query::<P>()
    }
}

/// A read model that takes all of the views, and answers all questions.
pub trait Views: Send + Sync {
    /// A worker that keeps them.
    fn worker(&self, store: &impl AsStore) -> Worker;

    /// What they say now.
    fn facts(&self) -> impl Future<Output = Result<Facts>> + Send;
}

/// Who asks the views in a read model.
pub struct Ask<M>(pub M);

impl<M: ReadModel> Views for Ask<M>
where
    Activities: Project<M>,
    Workload: Project<M>,
    Durations: Project<M>,
    Follows: Project<M>,
    Variants: Project<M>,
    Self: Answer<Activities> + Answer<Workload> + Answer<Durations> + Answer<Follows> + Answer<Variants>,
{
    fn worker(&self, store: &impl AsStore) -> Worker {
        let worker = Worker::new(store).add(&self.0, Activities).add(&self.0, Workload).add(&self.0, Durations);
        worker.add(&self.0, Follows).add(&self.0, Variants)
    }

    async fn facts(&self) -> Result<Facts> {
        let activities = self.answer(&Activities).await.map_err(Error::from_boxed)?;
        let workload = self.answer(&Workload).await.map_err(Error::from_boxed)?;
        let durations = self.answer(&Durations).await.map_err(Error::from_boxed)?;
        let follows = self.answer(&Follows).await.map_err(Error::from_boxed)?;
        let variants = self.answer(&Variants).await.map_err(Error::from_boxed)?;
        Ok(Facts::new(activities, workload, durations, variants, follows))
    }
}

// ---- in tables ---------------------------------------------------------------------------------------------------------

/// One more.
fn count<K: Key>(tx: &mut impl WriteTables, table: &Table<K, u64>, key: &K) -> Result<(), ReadModelError> {
    let before = tx.get(table, key)?.unwrap_or(0);
    tx.put(table, key, &(before + 1))
}

/// Shows each row, a page of them in memory.
fn each<K: Key + Clone, V: Value>(
    tables: &impl ReadTables,
    table: &Table<K, V>,
    mut show: impl FnMut(K, V) -> Result<(), ReadModelError>,
) -> Result<(), ReadModelError> {
    const PAGE: usize = 1_000;
    let mut after = Bound::Unbounded;
    loop {
        let rows = tables.scan(table, (after, Bound::Unbounded), PAGE)?;
        let last = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
        rows.into_iter().try_for_each(|(key, value)| show(key, value))?;
        match last {
            Some(last) => after = Bound::Excluded(last),
            None => return Ok(()),
        }
    }
}

// ---- in SQL ------------------------------------------------------------------------------------------------------------

/// A name, which is kept as bytes: text has no U+0000 in PostgreSQL. A name may be longer than an index holds, too, so
/// that the tables are unique by its hash.
fn name(row: &Row, column: &str) -> Result<String, Cause> {
    Ok(String::from_utf8(row.try_get(column)?)?)
}

fn number(row: &Row, column: &str) -> Result<u64, Cause> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?)?)
}

// ---- in both -----------------------------------------------------------------------------------------------------------

/// By count falling, then by name rising: the first of all that comes.
struct Top<K> {
    most: usize,
    first: BTreeSet<(Reverse<u64>, K)>,
}

impl<K: Ord> Top<K> {
    fn new(most: usize) -> Self {
        Self { most, first: BTreeSet::new() }
    }

    /// Whether there may be room for one of this count.
    fn takes(&self, count: u64) -> bool {
        self.first.len() < self.most || self.first.last().is_some_and(|(Reverse(last), _)| *last <= count)
    }

    fn add(&mut self, key: K, count: u64) {
        self.first.insert((Reverse(count), key));
        if self.first.len() > self.most {
            self.first.pop_last();
        }
    }

    fn into_iter(self) -> impl Iterator<Item = (K, u64)> {
        self.first.into_iter().map(|(Reverse(count), key)| (key, count))
    }
}

/// All, in that order.
pub fn ranked<K: Ord>(mut counts: Vec<(K, u64)>) -> Vec<(K, u64)> {
    counts.sort_unstable_by(|(a, m), (b, n)| n.cmp(m).then_with(|| a.cmp(b)));
    counts
}

#[cfg(test)]
mod tests {
    use indelible::{Timestamp, projections::testing::given};
    use serde_json::value::RawValue;

    use super::*;
    use crate::case::{Case, CaseEvent, Data, Step};

    fn step(id: u32, activity: &str) -> CaseEvent {
        let data = RawValue::from_string(format!("{{\"resource\":\"R{}\"}}", id % 2)).unwrap();
        let occurred_at = Timestamp::from_micros(i64::from(id) * 3_600_000_000).unwrap();
        let (id, source, activity) = (id.to_string(), "/tests".into(), activity.into());
        CaseEvent::StepTaken(Step { id, source, activity, occurred_at, data: Data(Some(data)) })
    }

    /// The order of cases among each other is not that of the lines: they are appended side by side.
    async fn commutes(projection: impl Project<MemoryModel, Event = CaseEvent> + Clone) {
        let events = given(projection)
            .when::<Case>("a", [step(1, "Receive"), step(2, "Check"), step(3, "Send")])
            .when::<Case>("b", [step(1, "Receive"), step(30, "Check")])
            .when::<Case>("c", [step(2, "Receive"), step(4, "Check"), step(4, "Send"), step(5, "Check")]);
        events.then_in_any_order().await;
    }

    #[tokio::test]
    async fn cases_may_come_in_any_order() {
        commutes(Activities).await;
        commutes(Workload).await;
        commutes(Durations).await;
        commutes(Follows).await;
        commutes(Variants).await;
    }

    #[test]
    fn what_counts_as_much_comes_by_name() {
        let counts = [("b", 1), ("c", 3), ("ä", 1), ("a", 1), ("B", 1)].to_vec();
        let ranked = ranked(counts.clone());
        assert_eq!(ranked, [("c", 3), ("B", 1), ("a", 1), ("b", 1), ("ä", 1)]);
        for most in 0..6 {
            let mut top = Top::new(most);
            for (name, count) in &counts {
                if top.takes(*count) {
                    top.add(*name, *count);
                }
            }
            assert_eq!(top.into_iter().collect::<Vec<_>>(), ranked[..most.min(5)]);
        }
    }
}
