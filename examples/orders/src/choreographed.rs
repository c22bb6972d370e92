//! The process without a coordinator: each reactor knows what follows from the events of one aggregate. Less is written, and
//! the way of an order stands nowhere: what is undone when is spread over all of them.

use std::{sync::Arc, time::Duration};

use indelible::{
    CommandContext, CommandError, Envelope, Executor, Failure, InvalidInput, Order as Ordered, React, Repository,
    Wants, projections::Retry,
};

use crate::{
    domain::{Order, OrderEvent, Release, Reserve, Ship, Shipment, Stock, StockEvent, confirm},
    provider::{PATIENCE, Provider},
};

/// An event may come again: what is told because of it is told once for ever.
fn because<E>(envelope: &Envelope<E>, key: &str) -> Result<CommandContext, InvalidInput> {
    CommandContext::caused_by(&envelope.recorded).with_idempotency_key(key)
}

/// What fails or is slow holds up its partition, so there are several.
const ORDER: Ordered = Ordered::PerStream { partitions: 4 };

/// An order that was placed wants a piece; one that is paid is shipped.
pub struct OnOrders(pub Executor);

impl React for OnOrders {
    const NAME: &'static str = "on_orders";
    const ORDER: Ordered = ORDER;
    type Event = OrderEvent;
    fn wants() -> Wants<OrderEvent> {
        Wants::of::<Order>()
    }
    async fn react(&self, envelope: &Envelope<OrderEvent>, key: &str) -> Result<(), Failure> {
        let (order, context) = (envelope.recorded.stream.id(), because(envelope, key)?);
        match &envelope.event {
            OrderEvent::Placed { item, .. } => {
                // It may have failed, and this come again: by then there may be a piece.
                let orders = Repository::<Order>::on(&self.0);
                if orders.load(order).await.map_err(Failure::unsure)?.failed.is_some() {
                    return Ok(());
                }
                let reserved =
                    Repository::<Stock>::on(&self.0).execute(item, Reserve(order.into())).with(context.clone());
                match reserved.await {
                    Err(CommandError::Rejected(why)) => {
                        let failed = OrderEvent::Failed { why: why.to_string() };
                        orders.execute(order, failed).with(context).await?;
                    }
                    reserved => drop(reserved?),
                }
            }
            OrderEvent::Paid => drop(Repository::<Shipment>::on(&self.0).execute(order, Ship).with(context).await?),
            OrderEvent::Failed { .. } => {}
        }
        Ok(())
    }
}

/// A piece that was reserved is paid for, or released.
pub struct OnStock {
    pub executor: Executor,
    pub provider: Arc<Provider>,
}

impl React for OnStock {
    const NAME: &'static str = "on_stock";
    const ORDER: Ordered = ORDER;
    // Events of one shelf wait for each other, and for those of any that shares its partition: so a payment of which nobody
    // knows is asked for again and again, and soon.
    const RETRY: Retry =
        Retry { attempts_max: 100, pause_first: Duration::from_millis(5), pause_max: Duration::from_millis(100) };
    const DEADLINE: Duration = PATIENCE;
    type Event = StockEvent;
    fn wants() -> Wants<StockEvent> {
        Wants::of::<Stock>()
    }
    async fn react(&self, envelope: &Envelope<StockEvent>, key: &str) -> Result<(), Failure> {
        let StockEvent::Reserved { order } = &envelope.event else { return Ok(()) };
        let (item, context) = (envelope.recorded.stream.id(), because(envelope, key)?);
        let orders = Repository::<Order>::on(&self.executor);
        let cents = orders.load(order).await.map_err(Failure::unsure)?.cents;
        match self.provider.pay(order, cents, key).await {
            Ok(receipt) => drop(confirm(&self.executor, order, &receipt, context).await?),
            Err(Failure::Refused(why)) => {
                let stock = Repository::<Stock>::on(&self.executor);
                stock.execute(item, Release(order.clone())).with(context.clone()).await?;
                orders.execute(order, OrderEvent::Failed { why }).with(context).await?;
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}
