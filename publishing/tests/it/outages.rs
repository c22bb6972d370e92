//! Stores that fail an inbox: nothing is lost by it, and it is held against no message.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use indelible_core::{Limits, StoreError, store::memory::MemoryStore};
use indelible_publishing::{
    Inbox, InboxState,
    testing::{MemoryBroker, killed::Mirrors},
};

use crate::{
    faulty::{Faulty, has},
    fixture::{SOON, measured, told},
};

#[tokio::test(start_paused = true)]
async fn what_could_not_be_parked_comes_again() {
    let (log, broker) = (MemoryStore::new(), MemoryBroker::new());
    let failures = AtomicUsize::new(3);
    let store = Faulty::new(&log, move |append| {
        let fails = has(append, "Parked") && failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        fails.then(|| StoreError::unavailable("a test", "it is away"))
    });
    broker.put("gauge-a", measured("a", 1, 1));
    broker.put("gauge-b", measured("b", 9, 1));
    broker.put("gauge-a", measured("a", 1, 2));
    let mut inbox = Inbox::new(&store, broker.clone(), Mirrors::new(&log)).start().unwrap();
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == 3), SOON).await;
    assert!(taken.is_some(), "{:?}", inbox.status());
    let letters = inbox.letters().await.unwrap();
    assert_eq!(letters.iter().map(|letter| letter.sequence).collect::<Vec<_>>(), [2]);
    assert_eq!(told(&log, "a").await, [1, 2]);
}

/// Longer than any retries last; the journal is in another store.
#[tokio::test(start_paused = true)]
async fn an_outage_of_the_commands_store_is_held_against_no_message() {
    let (log, journal, broker) = (MemoryStore::new(), MemoryStore::new(), MemoryBroker::new());
    let failures = AtomicUsize::new(50);
    let store = Faulty::new(&log, move |_| {
        let fails = failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        fails.then(|| StoreError::unavailable("a test", "it is away"))
    });
    (1..=3).for_each(|number| broker.put("gauge-a", measured("a", 1, number)));
    let mut inbox = Inbox::new(&journal, broker.clone(), Mirrors::new(&store)).start().unwrap();
    let waits = inbox.until(|status| matches!(status.state, InboxState::Waiting { .. }), SOON).await;
    assert!(waits.is_some(), "{:?}", inbox.status());
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == 3), SOON).await;
    assert_eq!(taken.expect("it goes on").parked, 0);
    assert_eq!(told(&log, "a").await, [1, 2, 3]);
}

/// All of it is a batch, and no append holds it.
#[tokio::test(start_paused = true)]
async fn what_is_parked_at_once_may_be_more_than_an_append() {
    let log = MemoryStore::with_limits(Limits::new(8_000, 20_000).unwrap());
    let broker = MemoryBroker::new();
    let odd = |bytes: usize| format!("{}\u{1}", "\"".repeat(bytes));
    (1..=40).for_each(|_| broker.put("gauge-a", odd(1_000)));
    broker.put("gauge-b", odd(4_000));
    broker.put("gauge-c", odd(1_000));
    let mut inbox = Inbox::new(&log, broker.clone(), Mirrors::new(&log)).start().unwrap();
    let stopped = inbox.until(|status| matches!(status.state, InboxState::Stopped { .. }), SOON).await.unwrap();
    let InboxState::Stopped { error } = stopped.state else { unreachable!() };
    assert!(error.contains("for inbox-mirrors has"), "{error}");
    assert_eq!((stopped.taken_to.unwrap().sequence, inbox.letters().await.unwrap().len()), (40, 40));
}
