//! The domain: a garage lets cars in while there is room, and asks a fee of those that leave.

use std::collections::BTreeMap;

use indelible::{Aggregate, Apply, Context, Event, Events, Handle, Timestamp};
use serde::{Deserialize, Serialize};

const SPACES: usize = 2;
const EUROS_PER_HOUR: u64 = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum GarageEvent {
    Entered {
        plate: String,
        at: Timestamp,
    },
    Left {
        #[event(tag)]
        plate: String,
        minutes: u64,
        euros: u64,
    },
}

/// The cars that are in, and since when.
#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "garage")]
pub struct Garage(BTreeMap<String, Timestamp>);

impl Apply for Garage {
    type Event = GarageEvent;

    fn apply(&mut self, event: &GarageEvent) {
        match event {
            GarageEvent::Entered { plate, at } => self.0.insert(plate.clone(), *at),
            GarageEvent::Left { plate, .. } => self.0.remove(plate),
        };
    }
}

pub struct Enter(pub String);
pub struct Leave(pub String);

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum GarageError {
    #[error("the garage is full")]
    Full,
    #[error("the car is in already")]
    AlreadyIn,
    #[error("the car is not in")]
    NotIn,
}

impl Handle<Enter> for Garage {
    type Error = GarageError;

    fn handle(&self, Enter(plate): &Enter, context: &Context<Self>) -> Result<Events<GarageEvent>, GarageError> {
        if self.0.contains_key(plate) {
            return Err(GarageError::AlreadyIn);
        }
        let entered = GarageEvent::Entered { plate: plate.clone(), at: context.now() };
        if self.0.len() < SPACES { Ok(entered.into()) } else { Err(GarageError::Full) }
    }
}

impl Handle<Leave> for Garage {
    type Error = GarageError;

    fn handle(&self, Leave(plate): &Leave, context: &Context<Self>) -> Result<Events<GarageEvent>, GarageError> {
        let entered = self.0.get(plate).ok_or(GarageError::NotIn)?;
        let minutes = context.now().since(*entered).as_secs().div_ceil(60);
        Ok(GarageEvent::Left { plate: plate.clone(), minutes, euros: minutes.div_ceil(60) * EUROS_PER_HOUR }.into())
    }
}

#[cfg(test)]
mod tests {
    use indelible::testing::given;

    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-03-01T{time}Z").parse().expect("a time")
    }

    fn entered(plate: &str, time: &str) -> GarageEvent {
        GarageEvent::Entered { plate: plate.into(), at: at(time) }
    }

    fn left(plate: &str, minutes: u64, euros: u64) -> GarageEvent {
        GarageEvent::Left { plate: plate.into(), minutes, euros }
    }

    #[test]
    fn every_hour_begun_is_paid() {
        for (time, minutes, euros) in [("08:00:00", 0, 0), ("08:00:01", 1, 3), ("09:00:00", 60, 3), ("09:00:01", 61, 6)]
        {
            given::<Garage>([entered("ADA 1", "08:00:00")])
                .at(at(time))
                .when(Leave("ADA 1".into()))
                .then([left("ADA 1", minutes, euros)]);
        }
    }

    #[test]
    fn a_full_garage_lets_nobody_in_until_a_car_leaves() {
        let (ada, bob) = (entered("ADA 1", "08:00:00"), entered("BOB 2", "08:15:00"));
        given::<Garage>([ada.clone(), bob.clone()]).when(Enter("CLEO 3".into())).then_rejected(GarageError::Full);
        given::<Garage>([ada, bob, left("BOB 2", 45, 3)])
            .at(at("09:05:00"))
            .when(Enter("CLEO 3".into()))
            .then([entered("CLEO 3", "09:05:00")]);
    }

    #[test]
    fn a_car_is_in_once_and_leaves_once() {
        let ada = entered("ADA 1", "08:00:00");
        given::<Garage>([ada]).when(Enter("ADA 1".into())).then_rejected(GarageError::AlreadyIn);
        given::<Garage>([]).when(Leave("ADA 1".into())).then_rejected(GarageError::NotIn);
    }
}
