//! What the memory read model promises.

use indelible_core::{EventStore, Token, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};

use crate::fixture::*;

#[tokio::test]
async fn who_took_a_partition_first_can_commit_nothing_more() {
    let store = MemoryStore::new();
    let (start, end) = (store.head().await.unwrap(), append(&store, 1, deposited(1)).await);
    let (model, id) = (MemoryModel::new(), ProjectionId::of::<Tally>());
    model.register(&Registration { projection: id.clone(), partitions: 1, head: start, setup: "" }).await.unwrap();
    let first = model.take(&id, Partition(0), &WorkerId("a".into())).await.unwrap().unwrap();
    let step =
        |epoch: Epoch, from: Token| Advance { projection: id.clone(), partition: Partition(0), epoch, from, to: end };
    let mut zombie = model.begin(&step(first.epoch, start)).await.unwrap();
    zombie.put(&TOTAL, &(), &1).unwrap();
    let second = model.take(&id, Partition(0), &WorkerId("b".into())).await.unwrap().unwrap();
    assert!(matches!(model.commit(zombie).await, Err(ReadModelError::Fenced { .. })));
    assert_eq!(model.query::<Tally>().unwrap().get(&TOTAL, &()).unwrap(), None);
    model.commit(model.begin(&step(second.epoch, start)).await.unwrap()).await.unwrap();
    assert!(matches!(model.begin(&step(second.epoch, start)).await, Err(ReadModelError::Fenced { .. })));
}

const BY_OWNER: Index<String, u64, String> = Index::new("by_owner", |_, owner| owner.clone());
const OWNERS: Table<u64, String> = Table::new("owners").indexed(&[&BY_OWNER]);

#[tokio::test]
async fn a_transaction_sees_its_own_writes_in_scans_and_indexes_and_a_snapshot_none_of_later() {
    let store = MemoryStore::new();
    let (start, end) = (store.head().await.unwrap(), append(&store, 1, deposited(1)).await);
    let (model, id) = (MemoryModel::new(), ProjectionId::of::<Tally>());
    model.register(&Registration { projection: id.clone(), partitions: 1, head: start, setup: "" }).await.unwrap();
    let epoch = model.take(&id, Partition(0), &WorkerId("a".into())).await.unwrap().unwrap().epoch;
    let step = |from, to| Advance { projection: id.clone(), partition: Partition(0), epoch, from, to };
    let ada = || "ada".to_owned();

    let mut tx = model.begin(&step(start, end)).await.unwrap();
    for key in 0..10 {
        tx.put(&OWNERS, &key, &if key % 2 == 0 { ada() } else { "bob".into() }).unwrap();
    }
    model.commit(tx).await.unwrap();
    let before = model.query::<Tally>().unwrap();

    let mut tx = model.begin(&step(end, end)).await.unwrap();
    tx.delete(&OWNERS, &0).unwrap();
    tx.put(&OWNERS, &1, &ada()).unwrap();
    tx.put(&OWNERS, &2, &"eve".to_owned()).unwrap();
    let keys = |rows: Vec<(u64, String)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(keys(tx.find(&OWNERS, &BY_OWNER, &ada(), 3).unwrap()), [1, 4, 6]);
    assert_eq!(keys(tx.scan(&OWNERS, 0..4, 2).unwrap()), [1, 2]);
    assert_eq!(keys(tx.scan(&OWNERS, 8.., 9).unwrap()), [8, 9]);
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tried")]
    let reversed = tx.scan(&OWNERS, 4..2, 9).unwrap();
    assert!(reversed.is_empty());
    model.commit(tx).await.unwrap();

    let after = model.query::<Tally>().unwrap();
    assert_eq!(keys(before.find(&OWNERS, &BY_OWNER, &ada(), 9).unwrap()), [0, 2, 4, 6, 8]);
    assert_eq!(keys(after.find(&OWNERS, &BY_OWNER, &ada(), 9).unwrap()), [1, 4, 6, 8]);
    assert_eq!(keys(after.scan(&OWNERS, .., 99).unwrap()), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test]
async fn another_count_of_partitions_is_refused() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = store.head().await.unwrap();
    model
        .register(&Registration { projection: ProjectionId::of::<Tally>(), partitions: 3, head, setup: "" })
        .await
        .unwrap();
    let refused = Worker::new(&store).add(&model, Tally).start().await.err().unwrap();
    assert!(refused.cause.to_string().contains("3 partitions, and not in 4"), "{}", refused.cause);
}

#[tokio::test]
async fn a_checkpoint_of_another_log_stops_it() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    drop(Worker::new(&store).add(&model, Tally).start().await.unwrap());
    let other = MemoryStore::new();
    let head = append(&other, 1, deposited(1)).await;
    let running = Worker::new(&other).add(&model, Tally).start().await.unwrap();
    let Waited::Stopped(error) = running.wait_for(&head, SOON).await.unwrap() else { panic!("went on") };
    assert!(error.starts_with("diverged"), "{error}");
}

#[tokio::test]
async fn a_version_takes_over_and_a_reset_hides_what_is_half_built() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = deposits(&store, 50).await;
    let id = ProjectionId::of::<Tally>();
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    let built = model.query::<Tally>().unwrap();
    let next = ProjectionId { version: 2, ..id.clone() };
    model.register(&Registration { projection: next.clone(), partitions: 4, head, setup: "" }).await.unwrap();
    assert_eq!(model.query::<Tally>().unwrap(), built);
    assert!(matches!(model.take_over(&next).await, Err(ReadModelError::Behind { .. })));
    assert_eq!(model.query::<Tally>().unwrap(), built);
    model.drop_version(&next).await.unwrap();
    assert!(model.drop_version(&id).await.is_err());
    model.reset(&id, head).await.unwrap();
    assert!(matches!(model.query::<Tally>(), Err(ReadModelError::Rebuilding { .. })));
    drop(running);
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    model.caught_up(&id).await.unwrap();
    assert_eq!(model.query::<Tally>().unwrap(), built);
}
