//! The booking of a trip: what a newcomer would write.

use indelible_sagas::{Call, Failure, Past, Perform, Plan, Saga, Step};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trip {
    pub traveller: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Effect {
    Book(String),
    Cancel { booking: Option<String> },
    Charge,
    SendTickets,
}

impl Saga for Trip {
    const NAME: &'static str = "trip";
    type Effect = Effect;

    fn plan(&self, past: &Past) -> Plan<Effect> {
        let book = |what: &'static str| {
            Step::new(what, Effect::Book(what.into())).undo(Effect::Cancel { booking: past.result(what) })
        };
        Plan::new()
            .step(book("flight"))
            .side_by_side([book("hotel"), book("car")])
            .pivot(Step::new("pay", Effect::Charge))
            .step(Step::new("tickets", Effect::SendTickets))
    }
}

/// Books everything at once.
pub(crate) struct Agency;

impl Perform<Trip> for Agency {
    async fn perform(&self, effect: Effect, call: &Call) -> Result<Value, Failure> {
        match effect {
            Effect::Book(what) => Ok(json!(format!("{what} of {}", call.saga()))),
            Effect::Cancel { .. } | Effect::Charge | Effect::SendTickets => Ok(Value::Null),
        }
    }
}
