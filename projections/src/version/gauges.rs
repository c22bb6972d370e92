//! Where the partitions are that this process owns, through the `metrics` facade, once a second.

use std::collections::BTreeSet;

use indelible_core::{AnyStore, Position, Timestamp};
use metrics::gauge;
use tokio::time::Instant;

use super::{STEADY_EVERY, behind_since};
use crate::{Partition, PartitionState, PartitionStatus, ProjectionId};

#[derive(Default)]
pub(super) struct Gauges {
    /// Which partitions have gauges.
    partitions: BTreeSet<Partition>,
    /// Where the one stood that was furthest behind, and when the event that it has to take next was recorded.
    oldest: Option<(Position, Timestamp)>,
    read_at: Option<Instant>,
}

impl Gauges {
    /// Says how far the partition has looked that is furthest behind.
    pub fn set(&mut self, id: &ProjectionId, owned: &[PartitionStatus], head: Position) -> Option<Position> {
        let set = |partition: Partition, position: Position, lag: u64| {
            let labels = [("projection", id.to_string()), ("partition", partition.to_string())];
            gauge!("indelible_projection_position", &labels).set(position.get() as f64);
            gauge!("indelible_projection_lag_events", &labels).set(lag as f64);
        };
        let now: BTreeSet<Partition> = owned.iter().map(|lane| lane.partition).collect();
        for gone in self.partitions.difference(&now) {
            set(*gone, Position::START, 0);
        }
        for lane in owned {
            set(lane.partition, lane.looked_to.position, lane.lag_events(head));
        }
        self.partitions = now;

        let count = |name: &'static str, count: usize| {
            gauge!(name, "projection" => id.to_string()).set(count as f64);
        };
        let stopped = |lane: &&PartitionStatus| matches!(lane.state, PartitionState::Stopped { .. });
        count("indelible_projection_partitions_owned", owned.len());
        count("indelible_projection_partitions_stopped", owned.iter().filter(stopped).count());
        count("indelible_projection_streams_parked", owned.iter().map(|lane| lane.parked.len()).sum());
        owned.iter().map(|lane| lane.looked_to.position).min()
    }

    /// How long the oldest event has waited that one of them has not looked at: the one behind `behind`, where they are
    /// behind. A small read a second at the most, and none while that partition stands still.
    pub async fn set_behind(&mut self, id: &ProjectionId, behind: Option<Position>, store: &AnyStore) {
        let known = self.oldest.filter(|(position, _)| Some(*position) == behind);
        if let (Some(behind), None) = (behind, known) {
            if self.read_at.is_some_and(|at| at.elapsed() < STEADY_EVERY) {
                return;
            }
            self.read_at = Some(Instant::now());
            match behind_since(store, behind).await {
                Ok(recorded_at) => self.oldest = recorded_at.map(|at| (behind, at)),
                Err(_) => return, // what is behind can't be told now, and the runner says why
            }
        }
        let waits =
            self.oldest.filter(|_| behind.is_some()).map(|(_, recorded_at)| Timestamp::now().since(recorded_at));
        gauge!("indelible_projection_behind_seconds", "projection" => id.to_string())
            .set(waits.unwrap_or_default().as_secs_f64());
    }
}
