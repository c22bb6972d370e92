//! L7: first the past, then the present, without a seam.
//!
//! One writer at a time: what many writers do to a reader is L3's.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::timeout;

use super::{Harness, fixture::*};
use crate::{
    AnyStore, Delivery, Filter, PAGE_EVENTS_MAX, Position, Query, QueryItem, RecordedEvent, StartFrom, Store,
    StoreError, Subscription, Token,
};

type Subscribed = Subscription<dyn Store>;

async fn subscribe(store: &AnyStore, filter: impl Into<Filter>, from: StartFrom) -> Subscribed {
    Subscription::shared(store.clone(), filter.into(), from).await.expect("the store can be subscribed to")
}

async fn next(subscription: &mut Subscribed) -> Delivery {
    match timeout(SOON, subscription.next()).await {
        Ok(delivery) => delivery.expect("the subscription goes on"),
        Err(_elapsed) => panic!("the subscription is silent, though there is something to say"),
    }
}

/// The events up to the mark that the past is through at `head`, and no further.
async fn until_caught_up(subscription: &mut Subscribed, head: Position) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    loop {
        match next(subscription).await {
            Delivery::Event(event) => events.push(event),
            Delivery::Progress(_) => {}
            Delivery::CaughtUp(token) if token.position < head => {}
            Delivery::CaughtUp(token) => {
                assert_eq!(token.position, head, "caught up with what is not there");
                return events;
            }
        }
    }
}

async fn assert_silent(subscription: &mut Subscribed) {
    if let Ok(delivery) = timeout(Duration::from_millis(30), subscription.next()).await {
        panic!("there is nothing to say, and yet: {delivery:?}");
    }
}

/// All events, then the mark, then silence.
pub(super) async fn l7_the_past_comes_first(h: &mut dyn Harness) {
    let store = h.store();
    let written = write(&store, "a-1", 5).await;
    let mut subscription = subscribe(&store, Filter::all(), StartFrom::Beginning).await;
    for event in written {
        assert_eq!(next(&mut subscription).await, Delivery::Event(event));
    }
    let head = store.head().await.unwrap();
    assert_eq!(next(&mut subscription).await, Delivery::CaughtUp(head), "the mark when the past is through");
    assert_silent(&mut subscription).await;
}

/// An empty log has no past.
pub(super) async fn l7_an_empty_log_is_caught_up_with(h: &mut dyn Harness) {
    let store = h.store();
    let mut subscription = subscribe(&store, Filter::all(), StartFrom::Beginning).await;
    assert_eq!(next(&mut subscription).await, Delivery::CaughtUp(Token::start(store.id())));
    let written = write(&store, "a-1", 1).await;
    assert_eq!(next(&mut subscription).await, Delivery::Event(written[0].clone()));
}

/// From now on: nothing of what was there.
pub(super) async fn l7_from_now(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "a-1", 5).await;
    let head = store.head().await.unwrap();
    let mut subscription = subscribe(&store, Filter::all(), StartFrom::Now).await;
    assert_eq!(next(&mut subscription).await, Delivery::CaughtUp(head));
    let written = write(&store, "a-1", 2).await;
    for event in written {
        assert_eq!(next(&mut subscription).await, Delivery::Event(event));
    }
}

/// From each place of the log: what comes after it.
pub(super) async fn l7_from_a_token(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "a-1", 5).await;
    for position in 0..=5 {
        let token = store.token(Position::new(position)).await.unwrap();
        let mut subscription = subscribe(&store, Filter::all(), StartFrom::After(token)).await;
        let seen = until_caught_up(&mut subscription, Position::new(5)).await;
        assert_eq!(positions(&seen), (position + 1..=5).collect::<Vec<_>>(), "after {position}");
    }
}

/// A subscriber that waits is woken by each append, and told each time that it has caught up.
pub(super) async fn l7_what_is_new_comes_by_itself(h: &mut dyn Harness) {
    let store = h.another().await;
    let writer = h.store();
    let mut subscription = subscribe(&store, Filter::all(), StartFrom::Beginning).await;
    next(&mut subscription).await;
    for n in 1..=10 {
        let waiting = tokio::spawn(async move {
            let delivery = next(&mut subscription).await;
            (subscription, delivery)
        });
        tokio::task::yield_now().await;
        let written = write(&writer, "a-1", 1).await;
        let delivery;
        (subscription, delivery) = waiting.await.unwrap();
        assert_eq!(delivery, Delivery::Event(written[0].clone()));
        assert_eq!(until_caught_up(&mut subscription, Position::new(n)).await, []);
    }
    assert_silent(&mut subscription).await;
}

/// Subscriptions that come from the past into the present while it is written.
pub(super) async fn l7_the_seam_loses_nothing(h: &mut dyn Harness) {
    const PAST: usize = PAGE_EVENTS_MAX + 200;
    const PRESENT: usize = 200;
    let store = h.another().await;
    let writer = h.store();
    write(&writer, "past-1", PAST).await;
    let writing = tokio::spawn(async move {
        for n in 0..PRESENT {
            write(&writer, &format!("present-{}", n % 7), 1).await;
        }
    });
    let reading = (0..4).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(n)).await;
            let mut subscription = subscribe(&store, Filter::all(), StartFrom::Beginning).await;
            let mut seen = Vec::new();
            while seen.len() < PAST + PRESENT {
                if let Delivery::Event(event) = next(&mut subscription).await {
                    seen.push(event.position.get());
                }
            }
            seen
        })
    });
    for reading in reading.collect::<Vec<_>>() {
        let seen = reading.await.unwrap();
        assert_eq!(seen, (1..=(PAST + PRESENT) as u64).collect::<Vec<_>>(), "every event once, and in order");
    }
    writing.await.unwrap();
}

/// A filtered subscription gives what it is asked for, and says how far it has looked.
pub(super) async fn l7_a_filtered_subscription_tells_how_far_it_looked(h: &mut dyn Harness) {
    let store = h.store();
    let mut subscription = subscribe(&store, Filter::categories([category("a")]), StartFrom::Beginning).await;
    next(&mut subscription).await;
    for _ in 0..3 {
        let wanted = write(&store, "a-1", 2).await;
        let others = write(&store, "b-1", 3).await;
        let head = others[2].position;
        let mut seen = Vec::new();
        let mut looked_to = Position::START;
        while looked_to < head {
            match next(&mut subscription).await {
                Delivery::Event(event) => seen.push(event),
                Delivery::Progress(token) | Delivery::CaughtUp(token) => {
                    assert!(token.position >= looked_to, "progress went back");
                    assert_eq!(token, store.token(token.position).await.unwrap(), "progress is a place of the log");
                    looked_to = token.position;
                }
            }
        }
        assert_eq!(seen, wanted);
        assert_eq!(until_caught_up(&mut subscription, head).await, []);
    }
    let others = write(&store, "b-1", 1).await;
    let token = store.token(others[0].position).await.unwrap();
    assert_eq!(next(&mut subscription).await, Delivery::Progress(token), "progress without an event");
    assert_eq!(next(&mut subscription).await, Delivery::CaughtUp(token));
    let mut resumed = subscribe(&store, Filter::categories([category("a")]), StartFrom::After(token)).await;
    assert_eq!(next(&mut resumed).await, Delivery::CaughtUp(token), "progress is a place to go on from");
}

/// Nobody reads, and the writer goes on; then the reader gets all.
pub(super) async fn l7_a_slow_subscriber_slows_nobody(h: &mut dyn Harness) {
    const BATCHES: usize = 30;
    let store = h.store();
    let mut subscription = subscribe(&store, Filter::all(), StartFrom::Beginning).await;
    next(&mut subscription).await;
    for _ in 0..BATCHES {
        let written = timeout(SOON, write(&store, "a-1", 100)).await;
        assert!(written.is_ok(), "the writer waits for a subscriber");
    }
    let all = (1..=100 * BATCHES as u64).collect::<Vec<_>>();
    let seen = until_caught_up(&mut subscription, Position::new(100 * BATCHES as u64)).await;
    assert_eq!(positions(&seen), all);
}

/// Waiting for the next delivery may be given up at any point, and taken up again.
pub(super) async fn l7_giving_up_waiting_loses_nothing(h: &mut dyn Harness) {
    const EVENTS: u64 = 60;
    let store = h.store();
    let mut subscription = subscribe(&store, Filter::all(), StartFrom::Beginning).await;
    let writer = tokio::spawn(async move {
        for _ in 0..EVENTS {
            write(&store, "a-1", 1).await;
            tokio::task::yield_now().await;
        }
    });
    let mut seen = Vec::new();
    let mut given_up: u64 = 0;
    let reading = async {
        while seen.len() < EVENTS as usize {
            let polled = futures::poll!(Box::pin(subscription.next()));
            let delivery = match polled {
                std::task::Poll::Ready(delivery) => delivery.unwrap(),
                std::task::Poll::Pending => {
                    given_up += 1;
                    tokio::time::sleep(Duration::from_micros(200)).await;
                    match timeout(Duration::from_micros(50 * (given_up % 40)), subscription.next()).await {
                        Ok(delivery) => delivery.unwrap(),
                        Err(_elapsed) => continue,
                    }
                }
            };
            seen.extend(delivery.into_event().map(|event| event.position.get()));
        }
    };
    assert!(timeout(3 * SOON, reading).await.is_ok(), "events are lost when waiting is given up");
    assert_eq!(seen, (1..=EVENTS).collect::<Vec<_>>());
    writer.await.unwrap();
}

/// A subscriber that looks in now and then, and never waits, gets on however long a read takes.
pub(super) async fn l7_giving_up_at_once_gets_on(h: &mut dyn Harness) {
    const EVENTS: u64 = 20;
    let store = h.another().await;
    write(&h.store(), "a-1", EVENTS as usize).await;
    let mut subscription = subscribe(&store, Filter::from(tag("no:such")), StartFrom::Beginning).await;
    let reading = async {
        loop {
            match subscription.next().now_or_never() {
                Some(Ok(Delivery::CaughtUp(token))) if token.position.get() == EVENTS => break,
                Some(delivery) => drop(delivery.unwrap()),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    assert!(timeout(SOON, reading).await.is_ok(), "whoever doesn't wait sees nothing");
}

/// Many subscriptions, each with a place of its own.
pub(super) async fn l7_subscriptions_dont_touch_each_other(h: &mut dyn Harness) {
    let store = h.store();
    let mut subscriptions = Vec::new();
    for n in 0..20 {
        write(&store, "a-1", 1).await;
        subscriptions.push((n, subscribe(&store, Filter::all(), StartFrom::Now).await));
    }
    for (n, subscription) in &mut subscriptions {
        let seen = until_caught_up(subscription, Position::new(20)).await;
        assert_eq!(positions(&seen), (*n + 2..=20).collect::<Vec<_>>());
    }
}

/// A filter that asks for nothing is refused, not waited for.
pub(super) async fn l7_a_filter_that_asks_for_nothing_is_refused(h: &mut dyn Harness) {
    let filter = Query::new([QueryItem::default()]);
    let result = Subscription::shared(h.store(), filter, StartFrom::Beginning).await;
    assert!(matches!(result, Err(StoreError::Invalid(_))), "a filter that asks for nothing must be refused");
}
