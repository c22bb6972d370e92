//! That money, stock and shipments agree, in every order.

use anyhow::{Result, ensure};
use indelible::{Executor, Repository};

use crate::{
    domain::{Order, Shipment, Stock},
    provider::Provider,
};

/// What came of all orders.
#[derive(Debug, Default)]
pub struct Proof {
    pub fulfilled: u64,
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
    Ok(order.failed.is_some() || (order.paid && shipped))
}

/// Holds everything against everything else.
pub async fn prove(executor: &Executor, provider: &Provider, count: u64) -> Result<Proof> {
    let (mut proof, payments) = (Proof::default(), provider.payments()?);
    let stock = Repository::<Stock>::on(executor);
    for (id, item, cents) in (0..count).map(order) {
        let order = Repository::<Order>::on(executor).load(&id).await?;
        let shipped = Repository::<Shipment>::on(executor).load(&id).await?.times;
        let paid: Vec<u64> = payments.iter().filter(|(of, _)| *of == id).map(|(_, cents)| *cents).collect();
        let has = stock.load(&item).await?.reserved.get(&id).copied().unwrap_or_default();
        if order.failed.is_some() {
            ensure!(
                !order.paid && shipped == 0 && paid.is_empty() && !has,
                "{id} failed: {order:?} {shipped} {paid:?}"
            );
            proof.failed += 1;
        } else {
            ensure!(order.paid && shipped == 1 && paid == [cents] && has, "{id}: {order:?} {shipped} {paid:?} {has}");
            proof.fulfilled += 1;
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
