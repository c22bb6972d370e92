//! What waits costs nothing, and what is full says so.

use std::time::Duration;

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, ContentType, Delivery, EventStore, EventStoreExt, EventType, ExpectedVersion, Filter,
    NewEvent, ReadLog, StartFrom, StoreError, Subscription,
};
use indelible_rocksdb::{RocksStore, Statistics};

fn append(stream: &str) -> Append {
    let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
    Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event])
}

#[tokio::test]
async fn an_idle_subscription_reads_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    store.append(append("a-1")).await.unwrap();
    let filters = [Filter::all(), Filter::stream_prefix("b-").unwrap()];
    let mut subscriptions = Vec::new();
    for filter in filters {
        let mut subscription = Subscription::new(store.clone(), filter, StartFrom::Beginning).await.unwrap();
        while !matches!(subscription.next().await.unwrap(), Delivery::CaughtUp(_)) {}
        subscriptions.push(subscription);
    }
    let done = || {
        let Statistics { reads, groups, syncs, .. } = store.statistics();
        (reads, groups, syncs)
    };
    let before = done();
    assert!(before.0 > 0, "the count counts");
    let woken = tokio::time::timeout(Duration::from_secs(2), async {
        futures::future::select_all(subscriptions.iter_mut().map(|subscription| Box::pin(subscription.next()))).await.0
    });
    assert!(woken.await.is_err(), "nothing was written");
    assert_eq!(done(), before, "nothing was read or written for two idle subscriptions");

    store.append(append("b-1")).await.unwrap();
    for subscription in &mut subscriptions {
        while !matches!(subscription.next().await.unwrap(), Delivery::Event(event) if event.stream.as_str() == "b-1") {}
    }
}

/// Callers that are refused were not handed over: all that is in the log was acknowledged.
#[tokio::test]
async fn a_full_queue_refuses_before_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().queue_bytes(1).queue_wait(Duration::ZERO).open(dir.path()).unwrap();
    let outcomes = futures::future::join_all((0..64).map(|n| store.append(append(&format!("a-{n}"))))).await;
    let mut acknowledged = 0;
    for outcome in &outcomes {
        match outcome {
            Ok(AppendOutcome::Appended(_)) => acknowledged += 1,
            Err(StoreError::Overloaded { what }) => assert!(what.contains("in the queue"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    assert!((1..64).contains(&acknowledged), "{acknowledged} of 64 found room");
    assert_eq!(store.log(ReadLog::all()).try_collect::<Vec<_>>().await.unwrap().len(), acknowledged);
}

/// Nobody waits for the answer, and the event is written all the same.
#[tokio::test]
async fn dropping_a_future_does_not_cancel_what_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let mut published = store.published();
    let mut append = Box::pin(store.append(append("a-1")));
    assert!(futures::poll!(&mut append).is_pending(), "one poll hands it over");
    drop(append);
    published.changed().await.unwrap();
    assert_eq!(published.borrow().get(), 1);
}
