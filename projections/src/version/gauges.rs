//! Where the partitions are that this process owns, through the `metrics` facade, once a second.

use std::collections::BTreeSet;

use indelible_core::Position;
use metrics::gauge;

use crate::{Partition, PartitionState, PartitionStatus, ProjectionId};

/// Which partitions have gauges.
#[derive(Default)]
pub(super) struct Gauges(BTreeSet<Partition>);

impl Gauges {
    pub fn set(&mut self, id: &ProjectionId, owned: &[PartitionStatus], head: Position) {
        let set = |partition: Partition, position: Position, lag: u64| {
            let labels = [("projection", id.to_string()), ("partition", partition.to_string())];
            gauge!("indelible_projection_position", &labels).set(position.get() as f64);
            gauge!("indelible_projection_lag_events", &labels).set(lag as f64);
        };
        let now: BTreeSet<Partition> = owned.iter().map(|lane| lane.partition).collect();
        for gone in self.0.difference(&now) {
            set(*gone, Position::START, 0);
        }
        for lane in owned {
            set(lane.partition, lane.looked_to.position, lane.lag_events(head));
        }
        self.0 = now;

        let count = |name: &'static str, count: usize| {
            gauge!(name, "projection" => id.to_string()).set(count as f64);
        };
        let stopped = |lane: &&PartitionStatus| matches!(lane.state, PartitionState::Stopped { .. });
        count("indelible_projection_partitions_owned", owned.len());
        count("indelible_projection_partitions_stopped", owned.iter().filter(stopped).count());
        count("indelible_projection_streams_parked", owned.iter().map(|lane| lane.parked.len()).sum());
    }
}
