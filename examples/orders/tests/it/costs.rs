//! What an order costs in either form: events, and appends, of which each is at least one wait for the disk.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use indelible::{
    Append, AppendOutcome, EventStore, Executor, MemoryModel, MemoryStore, Reactor, Repository, SagaWorker, Sagas,
    Store, StoreError, Worker, testing::Layer,
};
use orders::{
    choreographed::{OnOrders, OnStock},
    domain::{Order, OrderEvent, Receive, Stock},
    orchestrated::{Fulfilment, Shop},
    proof::{is_settled, order, prove, way},
    provider::{Luck, Provider},
};

const ORDERS: u64 = 24;
const SOON: Duration = Duration::from_secs(60);

/// A store that keeps account: of each order the events of every append.
#[derive(Clone, Default)]
struct Counting {
    log: MemoryStore,
    appends: Arc<Mutex<BTreeMap<String, Vec<usize>>>>,
}

#[async_trait]
impl Layer for Counting {
    fn beneath(&self) -> &dyn Store {
        &self.log
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let outcome = self.log.append(append).await?;
        if let AppendOutcome::Appended(appended) = &outcome {
            let event = &appended.events[0];
            let tagged = event.tags.first().and_then(|tag| tag.as_str().strip_prefix("order:"));
            let order = tagged.unwrap_or(event.stream.id()).to_owned();
            self.appends.lock().unwrap().entry(order).or_default().push(appended.events.len());
        }
        Ok(outcome)
    }
}

/// Events and appends of an order that was shipped, and of one that was declined, where nothing else went wrong. A reactor may
/// make a call again because of another's: that is told once for ever. A saga that makes one again writes that down.
async fn costs(choreographed: bool) -> [(usize, usize); 2] {
    let (store, model, dir) = (Counting::default(), MemoryModel::new(), tempfile::tempdir().unwrap());
    let executor = Executor::new(&store);
    let provider = Arc::new(Provider::new(dir.path(), 1, &executor));
    let (on_orders, on_stock) =
        (OnOrders(executor.clone()), OnStock { executor: executor.clone(), provider: provider.clone() });
    let reactors = Worker::new(&store).add(&model, Reactor(on_orders)).add(&model, Reactor(on_stock)).start();
    let shop = Shop { executor: executor.clone(), provider: provider.clone() };
    let (_reactors, _sagas) = match choreographed {
        true => (Some(reactors.await.unwrap()), None),
        false => (None, Some(SagaWorker::new(&store).add(&model, shop).start().await.unwrap())),
    };
    let sagas = Sagas::<Fulfilment>::new(&store);
    for (item, pieces) in orders::proof::ITEMS {
        Repository::<Stock>::on(&executor).execute(item, Receive(pieces)).await.unwrap();
    }
    for (id, item, cents) in (0..ORDERS).map(order) {
        match choreographed {
            true => {
                drop(Repository::<Order>::on(&executor).execute(&id, OrderEvent::Placed { item, cents }).await.unwrap())
            }
            false => drop(sagas.start(&id, Fulfilment { item, cents }).await.unwrap()),
        }
    }
    for (id, ..) in (0..ORDERS).map(order) {
        while !is_settled(&executor, &id).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(choreographed || sagas.ended(&id, SOON).await.unwrap().is_some());
    }
    prove(&executor, &provider, ORDERS).await.unwrap();
    let mut costs = BTreeMap::new();
    for (id, ..) in (0..ORDERS).map(order) {
        let mut calls: Vec<_> = provider.calls(&id).unwrap().concat().into_iter().map(|(luck, _)| luck).collect();
        if choreographed {
            calls.dedup();
        }
        if let [luck @ (Luck::Fine | Luck::Declined)] = calls[..] {
            let appends = store.appends.lock().unwrap()[&id].clone();
            let cost = (appends.iter().sum::<usize>(), appends.len());
            let way = way(&executor, &id).await.unwrap();
            assert_eq!(*costs.entry(luck).or_insert(cost), cost, "{id}: {way:?}");
        }
    }
    [costs[&Luck::Fine], costs[&Luck::Declined]]
}

#[tokio::test]
async fn what_each_form_costs_is_what_is_said_of_it() {
    assert_eq!(costs(true).await, [(4, 4), (4, 4)]);
    assert_eq!(costs(false).await, [(16, 10), (17, 10)]);
}
