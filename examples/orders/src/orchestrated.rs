//! The process as a saga: it knows where each order is, and undoes what must be undone.

use std::{sync::Arc, time::Duration};

use indelible::{Call, Executor, Failure, Past, Perform, Plan, Repository, Saga, Step, sagas::Retry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    domain::{Order, OrderEvent, Release, Reserve, Ship, Shipment, Stock, confirm},
    provider::{PATIENCE, Provider},
};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fulfilment {
    pub item: String,
    pub cents: u64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    Place { item: String, cents: u64 },
    Fail,
    Reserve { item: String },
    Release { item: String },
    Pay { cents: u64 },
    Confirm { receipt: String },
    Ship,
}

impl Saga for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Effect = Effect;

    fn plan(&self, past: &Past) -> Plan<Effect> {
        let (item, cents) = (self.item.clone(), self.cents);
        // A payment of which nobody knows the outcome must be found out, and not guessed.
        let (soon, later) = (Duration::from_millis(20), Duration::from_millis(500));
        let patient = Retry { attempts_max: 100, pause_first: soon, pause_max: later };
        let receipt = past.result("pay").unwrap_or_default();
        Plan::new()
            .step(Step::new("place", Effect::Place { item: item.clone(), cents }).undo(Effect::Fail))
            .step(Step::new("stock", Effect::Reserve { item: item.clone() }).undo(Effect::Release { item }))
            .pivot(Step::new("pay", Effect::Pay { cents }).deadline(PATIENCE).retry(patient))
            .side_by_side([Step::new("confirm", Effect::Confirm { receipt }), Step::new("ship", Effect::Ship)])
    }
}

/// Brings its effects about: commands, and the provider.
pub struct Shop {
    pub executor: Executor,
    pub provider: Arc<Provider>,
}

impl Perform<Fulfilment> for Shop {
    async fn perform(&self, effect: Effect, call: &Call) -> Result<Value, Failure> {
        let (order, context) = (call.saga().to_owned(), call.command()?);
        let (orders, stock) = (Repository::<Order>::on(&self.executor), Repository::<Stock>::on(&self.executor));
        let done = match effect {
            Effect::Place { item, cents } => {
                orders.execute(&order, OrderEvent::Placed { item, cents }).with(context).await?
            }
            Effect::Fail => {
                let why = "it could not be fulfilled".to_owned();
                orders.execute(&order, OrderEvent::Failed { why }).with(context).await?
            }
            Effect::Reserve { item } => stock.execute(item, Reserve(order)).with(context).await?,
            Effect::Release { item } => stock.execute(item, Release(order)).with(context).await?,
            Effect::Confirm { receipt } => confirm(&self.executor, &order, &receipt, context).await?,
            Effect::Ship => Repository::<Shipment>::on(&self.executor).execute(order, Ship).with(context).await?,
            Effect::Pay { cents } => return Ok(json!(self.provider.pay(&order, cents, call.key()).await?)),
        };
        Ok(json!(done.token().position.get()))
    }
}
