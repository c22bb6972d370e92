//! What a subscription costs, and what it does when the store fails it.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures::{FutureExt, StreamExt};
use indelible_core::{Delivery, EventStore, Filter, Repository, StartFrom, Subscription, Tag};
use tokio::time::{sleep, timeout};

use crate::bank::{Account, Deposit, Watched};

#[tokio::test(start_paused = true)]
async fn an_idle_subscription_asks_nothing() {
    let store = Watched::new();
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Deposit(1)).await.unwrap();
    let mut live = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    assert!(matches!(live.next().await.unwrap(), Delivery::Event(_)));
    assert!(matches!(live.next().await.unwrap(), Delivery::CaughtUp(_)));

    let asked = store.reads.load(Relaxed);
    assert!(timeout(Duration::from_secs(24 * 60 * 60), live.next()).await.is_err(), "a day passes");
    assert_eq!(store.reads.load(Relaxed), asked, "an idle subscription reads nothing");

    // And is woken, whenever.
    let deposit = async {
        sleep(Duration::from_secs(60)).await;
        accounts.execute("a", Deposit(2)).await.unwrap()
    };
    let (delivery, done) = tokio::join!(live.next(), deposit);
    assert_eq!(delivery.unwrap().into_event().unwrap(), done.events()[0]);
}

#[tokio::test]
async fn a_subscription_that_is_behind_says_how_far_it_looked() {
    let store = Watched::new();
    let accounts = Repository::<Account>::new(&store);
    for _ in 0..10 {
        accounts.execute("a", Deposit(1)).await.unwrap();
    }
    let filter = Filter::from(indelible_core::Query::default().tagged(Tag::new("no:such").unwrap()));
    let subscription = Subscription::new(store.clone(), filter, StartFrom::Beginning).await.unwrap();
    let head = store.head().await.unwrap();
    let deliveries: Vec<_> = subscription.into_stream().take(2).map(Result::unwrap).collect().await;
    assert_eq!(deliveries, [Delivery::Progress(head), Delivery::CaughtUp(head)]);
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let store = Watched::new();
    let accounts = Repository::<Account>::new(&store);
    let mut live = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    let mut seen = Vec::new();
    for n in 1..=100 {
        accounts.execute("a", Deposit(n)).await.unwrap();
        // Asked once and dropped, like a branch of a select that lost.
        if let Some(delivery) = live.next().now_or_never() {
            seen.extend(delivery.unwrap().into_event());
        }
    }
    while seen.len() < 100 {
        seen.extend(live.next().await.unwrap().into_event());
    }
    assert!(seen.iter().map(|event| event.position.get()).eq(1..=100));
}
