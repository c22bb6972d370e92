//! P1: wherever a worker dies, the read model is what a clean pass gives.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};

use crate::{chaos::Chaos, fixture::*};

fn small_batches() -> RunnerOptions {
    let mut options = RunnerOptions::default();
    options.batch_events_max = 7;
    options
}

#[tokio::test]
async fn a_worker_that_dies_anywhere_loses_and_doubles_nothing() {
    let store = MemoryStore::new();
    let head = deposits(&store, 300).await;
    let expected = clean_pass(&store).await;
    let mut deaths = 0;
    for point in POINTS {
        for nth in 1..=12 {
            let model = MemoryModel::new();
            let faulty = Faulty::new(&model, point, Fault::Death, nth);
            {
                let start = Worker::new(&store).with_options(small_batches()).add(&faulty, Tally).start();
                let whole = async {
                    let running = start.await.unwrap();
                    running.wait_for(&head, SOON).await.unwrap()
                };
                tokio::select! {
                    () = faulty.struck.notified() => deaths += 1,
                    waited = whole => assert_eq!(waited, Waited::Reached),
                }
            }
            let running = Worker::new(&store).with_options(small_batches()).add(&model, Tally).start().await.unwrap();
            assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached, "{point:?} {nth}");
            assert_eq!(model.query::<Tally>().unwrap(), expected, "{point:?} {nth}");
        }
    }
    assert!(deaths >= 50, "only {deaths} deaths");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_anywhere_loses_and_doubles_nothing() {
    let store = MemoryStore::new();
    let head = deposits(&store, 300).await;
    let expected = clean_pass(&store).await;
    for point in POINTS.into_iter().skip(2) {
        for nth in 1..=12 {
            let model = MemoryModel::new();
            let faulty = Faulty::new(&model, point, Fault::Outage, nth);
            let running = Worker::new(&store).with_options(small_batches()).add(&faulty, Tally).start().await.unwrap();
            assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached, "{point:?} {nth}");
            assert_eq!(model.query::<Tally>().unwrap(), expected, "{point:?} {nth}");
        }
    }
}

#[tokio::test]
async fn each_stream_comes_in_order_and_whole_while_it_grows() {
    let store = MemoryStore::new();
    let model = MemoryModel::new();
    deposits(&store, 200).await;
    let running = Worker::new(&store).with_options(small_batches()).add(&model, Tally).start().await.unwrap();
    let head = deposits(&store, 200).await;
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let views = model.query::<Tally>().unwrap();
    let lists = views.scan(&LISTS, .., usize::MAX).unwrap();
    assert_eq!(lists.len(), 20);
    for (account, versions) in lists {
        assert!(versions.is_sorted_by(|a, b| a < b), "{account}: {versions:?}");
    }
    assert_eq!(views.get(&TOTAL, &()).unwrap(), Some(2 * 200 * 201 / 2));
    assert_eq!(views, clean_pass(&store).await);
}

#[tokio::test(start_paused = true)]
async fn an_idle_partition_writes_where_it_has_looked_to_once_a_second() {
    let store = MemoryStore::new();
    let model = MemoryModel::new();
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    let head = append(&store, 1, new(AccountEvent::Renamed { name: "nobody asked".into() })).await;
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    for row in model.partitions(&ProjectionId::of::<Tally>()).await.unwrap() {
        assert_eq!(row.position, store.head().await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_that_get_nothing_write_once_a_second_and_not_at_all_when_nothing_comes() {
    let (store, chaos) = (MemoryStore::new(), Chaos::new(&MemoryModel::new()));
    let running = Worker::new(&store).add(&chaos, Tally).start().await.unwrap();
    let commits = || chaos.seen.commits.load(Relaxed);
    let tick = Duration::from_millis(10);

    // Nobody asked for any of them.
    for _ in 0..1_000 {
        append(&store, 1, new(AccountEvent::Renamed { name: "n".into() })).await;
        tokio::time::sleep(tick).await;
    }
    assert!((4 * 9..=4 * 10).contains(&commits()), "{} in 10 s, of four partitions", commits());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = commits();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(commits(), before, "there was nothing to write");

    // All of them are one partition's, which has them at once.
    for _ in 0..1_000 {
        append(&store, 1, deposited(1)).await;
        tokio::time::sleep(tick).await;
    }
    let others = commits() - before - 1_000;
    assert!((3 * 9..=3 * 10).contains(&others), "{others} in 10 s, of three partitions");
    assert_eq!(running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
}
