//! What became of the orders, and that money, stock and shipments agree in every one.

use anyhow::{Result, ensure};
use futures::TryStreamExt;
use indelible::{Aggregate, EventStoreExt, Executor, Query, ReadLog, ReadStream, RecordedEvent, Repository, Tag};

use crate::{
    domain::{Order, Shipment, Stock},
    provider::Provider,
};

/// What came of all orders.
#[derive(Debug, Default)]
pub struct Proof {
    pub shipped: u64,
    pub failed: u64,
    pub cents: u64,
}

/// The items, and how many pieces there are of each.
pub const ITEMS: [(&str, u64); 3] = [("tea", 1_000), ("cups", 1_000), ("pot", 2)];

/// What the nth order is for, and what it costs.
pub fn order(n: u64) -> (String, String, u64) {
    (format!("o{n}"), ITEMS[n as usize % ITEMS.len()].0.to_owned(), 100 + n)
}

/// Whether an order has come to an end.
pub async fn is_settled(executor: &Executor, id: &str) -> Result<bool> {
    let order = Repository::<Order>::on(executor).load(id).await?;
    let shipped = Repository::<Shipment>::on(executor).load(id).await?.times > 0;
    Ok(order.failed.is_some() || (order.paid > 0 && shipped))
}

/// What happened to an order, as the log has it, whichever aggregate it happened to.
pub async fn way(executor: &Executor, id: &str) -> Result<Vec<String>> {
    let (store, id) = (executor.store(), id.to_owned());
    let mut events: Vec<RecordedEvent> = Vec::new();
    for stream in [Order::stream(&id)?, Shipment::stream(&id)?] {
        events.extend(store.stream(ReadStream::new(stream)).try_collect::<Vec<_>>().await?);
    }
    let on_shelves = ReadLog::matching(Query::default().tagged(Tag::of("order", &id)?));
    events.extend(store.log(on_shelves).try_collect::<Vec<_>>().await?);
    events.sort_by_key(|event| event.position);
    Ok(events.iter().map(|event| event.event_type.as_str().to_lowercase()).collect())
}

/// Holds everything against everything else.
pub async fn prove(executor: &Executor, provider: &Provider, count: u64) -> Result<Proof> {
    let mut proof = Proof::default();
    let stock = Repository::<Stock>::on(executor);
    for (id, item, cents) in (0..count).map(order) {
        let order = Repository::<Order>::on(executor).load(&id).await?;
        let shipped = Repository::<Shipment>::on(executor).load(&id).await?.times;
        let paid = provider.payments(&id)?;
        let has = stock.load(&item).await?.reserved.get(&id).copied().unwrap_or_default();
        if order.failed.is_some() {
            ensure!(
                order.paid == 0 && shipped == 0 && paid.is_empty() && !has,
                "{id} failed: {order:?} {shipped} {paid:?}"
            );
            proof.failed += 1;
        } else {
            ensure!(
                order.paid == 1 && shipped == 1 && paid == [cents] && has,
                "{id}: {order:?} {shipped} {paid:?} {has}"
            );
            proof.shipped += 1;
            proof.cents += cents;
        }
    }
    for (item, pieces) in ITEMS {
        let shelf = stock.load(item).await?;
        let taken = shelf.reserved.values().filter(|has| **has).count() as u64;
        ensure!(shelf.left + taken == pieces, "of {item} {} are left and {taken} taken", shelf.left);
    }
    Ok(proof)
}
