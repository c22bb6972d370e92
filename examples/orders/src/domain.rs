//! The aggregates: orders, one shelf of stock an item, and shipments.

use std::{collections::BTreeMap, convert::Infallible};

use indelible::{
    Aggregate, Apply, CommandContext, CommandError, Context, Done, Event, Events, Executor, Handle, Repository,
};
use serde::{Deserialize, Serialize};

// ---- orders ------------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum OrderEvent {
    Placed { item: String, cents: u64 },
    Paid,
    Failed { why: String },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "order")]
pub struct Order {
    pub item: String,
    pub cents: u64,
    /// How often.
    pub paid: u64,
    pub failed: Option<String>,
}

impl Apply for Order {
    type Event = OrderEvent;
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::Placed { item, cents } => (self.item, self.cents) = (item.clone(), *cents),
            OrderEvent::Paid => self.paid += 1,
            OrderEvent::Failed { why } => self.failed = Some(why.clone()),
        }
    }
}

/// Whatever happens to an order, it is told by an event: `execute(id, OrderEvent::Paid)`.
impl Handle<OrderEvent> for Order {
    type Error = Infallible;
    fn handle(&self, event: &OrderEvent, _: &Context<Self>) -> Result<Events<OrderEvent>, Infallible> {
        Ok(event.clone().into())
    }
}

/// That an order is paid: told once for ever under its receipt, however often the provider says so.
pub async fn confirm(
    executor: &Executor,
    order: &str,
    receipt: &str,
    context: CommandContext,
) -> Result<Done, CommandError<Infallible>> {
    let context = context.with_idempotency_key(receipt)?;
    Repository::<Order>::on(executor).execute(order, OrderEvent::Paid).with(context).await
}

// ---- stock -------------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum StockEvent {
    Received {
        pieces: u64,
    },
    Reserved {
        #[event(tag)]
        order: String,
    },
    Released {
        #[event(tag)]
        order: String,
    },
}

/// The pieces of an item that are left, and the orders that have one.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "stock")]
pub struct Stock {
    pub left: u64,
    pub reserved: BTreeMap<String, bool>,
}

impl Apply for Stock {
    type Event = StockEvent;
    fn apply(&mut self, event: &StockEvent) {
        match event {
            StockEvent::Received { pieces } => self.left += pieces,
            StockEvent::Reserved { order } => {
                self.left -= 1;
                self.reserved.insert(order.clone(), true);
            }
            StockEvent::Released { order } => {
                self.left += 1;
                self.reserved.insert(order.clone(), false);
            }
        }
    }
}

pub struct Receive(pub u64);
impl Handle<Receive> for Stock {
    type Error = Infallible;
    fn handle(&self, Receive(pieces): &Receive, _: &Context<Self>) -> Result<Events<StockEvent>, Infallible> {
        Ok(StockEvent::Received { pieces: *pieces }.into())
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("nothing is left")]
pub struct SoldOut;

pub struct Reserve(pub String);
impl Handle<Reserve> for Stock {
    type Error = SoldOut;
    fn handle(&self, Reserve(order): &Reserve, _: &Context<Self>) -> Result<Events<StockEvent>, SoldOut> {
        if self.left == 0 { Err(SoldOut) } else { Ok(StockEvent::Reserved { order: order.clone() }.into()) }
    }
}

/// What an order has not, it can't give back.
pub struct Release(pub String);
impl Handle<Release> for Stock {
    type Error = Infallible;
    fn handle(&self, Release(order): &Release, _: &Context<Self>) -> Result<Events<StockEvent>, Infallible> {
        let has = self.reserved.get(order).copied().unwrap_or_default();
        Ok(has.then(|| StockEvent::Released { order: order.clone() }).into())
    }
}

// ---- shipments ---------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum ShipmentEvent {
    Shipped,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "shipment")]
pub struct Shipment {
    pub times: u64,
}

impl Apply for Shipment {
    type Event = ShipmentEvent;
    fn apply(&mut self, _: &ShipmentEvent) {
        self.times += 1;
    }
}

pub struct Ship;
impl Handle<Ship> for Shipment {
    type Error = Infallible;
    fn handle(&self, _: &Ship, _: &Context<Self>) -> Result<Events<ShipmentEvent>, Infallible> {
        Ok(ShipmentEvent::Shipped.into())
    }
}
