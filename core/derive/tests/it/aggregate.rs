//! Aggregates: category, id, snapshots and the shape of the state.

use indelible_core::{Aggregate, AggregateId, Apply, ContentType, Event, SnapshotPolicy};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum DoorEvent {
    Opened,
}

#[derive(Clone, AggregateId)]
struct DoorId(u64);

macro_rules! apply {
    ($($aggregate:ty),*) => {$(
        impl Apply for $aggregate {
            type Event = DoorEvent;
            fn apply(&mut self, _: &DoorEvent) {}
        }
    )*};
}
apply!(Plain, Door, Gate, v1::Lock, v2::Lock, retyped::Lock, renamed::Lock, through_serde::Lock, versioned::Lock);

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "plain")]
struct Plain;

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "door", id = DoorId, snapshot(every = 100, bytes = 65536, version = 2, codec = json))]
struct Door {
    open: bool,
}

/// A state machine, with snapshots by bytes alone.
#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "gate", snapshot(bytes = 1024))]
enum Gate {
    #[default]
    Shut,
    Open(u64, Option<String>),
}

#[test]
fn defaults() {
    assert_eq!(Plain::stream(&String::from("a-b")).unwrap().as_str(), "plain-a-b");
    assert_eq!(Plain::SNAPSHOTS, SnapshotPolicy::NEVER);
    assert_eq!(Plain::snapshot_codec().content_type(), ContentType::BINCODE);
}

#[test]
fn what_the_attributes_say() {
    assert_eq!(Door::CATEGORY.as_str(), "door");
    assert_eq!(Door::stream(&DoorId(7)).unwrap().as_str(), "door-7");
    assert_eq!(Door::SNAPSHOTS, SnapshotPolicy::every(100).or_bytes(65536));
    assert_eq!(Door::snapshot_codec().content_type(), ContentType::JSON);
    assert_eq!(Gate::SNAPSHOTS, SnapshotPolicy::bytes(1024));
}

/// One aggregate at several times of its life.
macro_rules! lock {
    ($time:ident, $category:literal, $(#[$attr:meta])* $field:ident: $type:ty $(, snapshot($($snapshot:tt)*))?) => {
        mod $time {
            #[derive(Clone, Default, serde::Serialize, serde::Deserialize, indelible_core::Aggregate)]
            #[aggregate(category = $category $(, snapshot($($snapshot)*))?)]
            pub(super) struct Lock {
                $(#[$attr])*
                $field: $type,
            }
        }
    };
}
lock!(v1, "lock", tries: u32);
lock!(v2, "lock", tries: u32, snapshot(every = 10));
lock!(retyped, "lock", tries: u64);
lock!(renamed, "lock", attempts: u32);
lock!(through_serde, "lock", #[serde(default)] tries: u32);
lock!(versioned, "lock", tries: u32, snapshot(version = 2));

#[test]
fn every_change_of_the_shape_is_another_state() {
    let states = [
        v1::Lock::STATE,
        retyped::Lock::STATE,
        renamed::Lock::STATE,
        through_serde::Lock::STATE,
        versioned::Lock::STATE,
        Gate::STATE,
        Plain::STATE,
        Door::STATE,
    ];
    for (i, state) in states.iter().enumerate() {
        assert!(!states[..i].contains(state), "{state}");
    }
    assert_eq!(v1::Lock::STATE, v2::Lock::STATE, "when snapshots are taken is not what is in them");
}
