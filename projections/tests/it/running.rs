//! Running: the order of the whole log, pausing, draining, targets without transactions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};

use crate::fixture::*;

const ORDER: Table<u64, u64> = Table::new("order");

#[derive(Projection)]
#[projection(name = "whole", of = Account, whole_log)]
struct Whole;
impl Project<MemoryModel> for Whole {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        let position = envelope.recorded.position.get();
        let next = tx.scan(&ORDER, .., usize::MAX)?.len() as u64;
        Ok(tx.put(&ORDER, &next, &position)?)
    }
}

#[tokio::test]
async fn the_whole_log_comes_in_its_order() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    deposits(&store, 100).await;
    let running = Worker::new(&store).add(&model, Whole).add(&model, Tally).start().await.unwrap();
    let head = deposits(&store, 100).await;
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let order = model.query::<Whole>().unwrap().scan(&ORDER, .., usize::MAX).unwrap();
    assert_eq!(order, (0..head.position.get()).map(|n| (n, n + 1)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_paused_one_waits_and_a_drained_one_has_written_where_it_is() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = deposits(&store, 50).await;
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    running.pause::<Tally>().await;
    let head = append(&store, 1, deposited(1)).await;
    assert_eq!(running.wait_for(&head, Duration::from_millis(50)).await.unwrap(), Waited::TimedOut);
    running.resume::<Tally>().await;
    assert_eq!(running.wait_for_projection::<Tally>(&head, SOON).await.unwrap(), Waited::Reached);
    assert!(running.drain(SOON).await);
    for row in model.partitions(&ProjectionId::of::<Tally>()).await.unwrap() {
        assert_eq!(row.position, head);
    }
}

type Client = Arc<Mutex<BTreeMap<String, (u64, u64)>>>;

impl Project<AtLeastOnce<Client>> for Whole {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut DirectTx<Client>) -> Result<(), Cause> {
        let AccountEvent::Deposited { cents } = envelope.event else { return Ok(()) };
        let mut rows = tx.client.lock().unwrap();
        let (sum, seen) = rows.entry(envelope.recorded.stream.id().to_owned()).or_default();
        if envelope.recorded.position.get() > *seen {
            (*sum, *seen) = (*sum + cents, envelope.recorded.position.get());
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_target_without_transactions_goes_on_from_its_checkpoint() {
    let (store, client) = (MemoryStore::new(), Client::default());
    for _ in 0..3 {
        let target = AtLeastOnce::new(client.clone(), &store);
        let running = Worker::new(&store).add(&target, Whole).start().await.unwrap();
        let head = deposits(&store, 20).await;
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
        assert_eq!(store.head().await.unwrap(), head);
    }
    let target = AtLeastOnce::new(client.clone(), &store);
    let running = Worker::new(&store).add(&target, Whole).start().await.unwrap();
    assert!(running.is_alive() && running.drain(SOON).await);
    drop(target);
    assert_eq!(Arc::strong_count(&client), 1, "something still holds what somebody else may want to open now");
    assert_eq!(client.lock().unwrap().values().map(|(sum, _)| sum).sum::<u64>(), 3 * 20 * 21 / 2);
}
