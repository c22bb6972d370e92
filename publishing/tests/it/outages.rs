//! Stores that fail an inbox: nothing is lost by it, and it is held against no message.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use indelible_core::{Append, Limits, StoreError, store::memory::MemoryStore};
use indelible_publishing::{
    Inbox, InboxState,
    testing::{MemoryBroker, killed::Mirrors},
};

use crate::{
    faulty::{Faulty, has},
    fixture::{SOON, measured, told},
};

const LATER: Duration = Duration::from_secs(600);

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

/// Takes three messages, whose commands the store fails longer than any retries last; the journal is in another store.
async fn takes_all_in_the_end(failures: usize, error: impl Fn(&Append) -> StoreError + Send + Sync + 'static) {
    let (log, journal, broker) = (MemoryStore::new(), MemoryStore::new(), MemoryBroker::new());
    let failures = AtomicUsize::new(failures);
    let store = Faulty::new(&log, move |append| {
        let fails = failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        fails.then(|| error(append))
    });
    (1..=3).for_each(|number| broker.put("gauge-a", measured("a", 1, number)));
    let mut inbox = Inbox::new(&journal, broker.clone(), Mirrors::new(&store)).start().unwrap();
    let waits = inbox.until(|status| matches!(status.state, InboxState::Waiting { .. }), LATER).await;
    assert!(waits.is_some(), "{:?}", inbox.status());
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == 3), LATER).await;
    assert_eq!(taken.expect("it goes on").parked, 0);
    assert_eq!(told(&log, "a").await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_commands_store_is_held_against_no_message() {
    takes_all_in_the_end(50, |_| StoreError::unavailable("a test", "it is away")).await;
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_the_commands_store_does_not_know_is_held_against_no_message() {
    let unknown = |append: &Append| StoreError::OutcomeUnknown { append: Box::new(append.clone()), source: None };
    takes_all_in_the_end(3_000, unknown).await;
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
