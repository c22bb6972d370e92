//! A bell, which rings, and says how often it has.

use std::convert::Infallible;

use indelible_core::{Aggregate, Apply, Context, Event, Events, Handle};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub(crate) enum BellEvent {
    Rung { times: u64 },
}
#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "bell")]
pub(crate) struct Bell(u64);
impl Apply for Bell {
    type Event = BellEvent;
    fn apply(&mut self, _: &BellEvent) {
        self.0 += 1;
    }
}
pub(crate) struct Ring;
impl Handle<Ring> for Bell {
    type Error = Infallible;
    fn handle(&self, _: &Ring, _: &Context<Self>) -> Result<Events<BellEvent>, Self::Error> {
        Ok(BellEvent::Rung { times: self.0 + 1 }.into())
    }
}
