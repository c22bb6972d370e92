//! Feeds that lose messages, and inboxes of several processes.

use std::time::Duration;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use indelible_core::store::memory::MemoryStore;
use indelible_publishing::{
    Delivery, Feed, FeedError, Inbox, InboxState, Place, RunningInbox,
    testing::{MemoryBroker, killed::Mirrors},
};

use crate::fixture::{SOON, measured, told};

fn start(store: &MemoryStore, broker: &MemoryBroker) -> RunningInbox {
    Inbox::new(store, broker.clone(), Mirrors::new(store)).start().unwrap()
}

async fn taken(inbox: &mut RunningInbox, to: u64) {
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|taken| taken.sequence == to), SOON).await;
    assert!(taken.is_some(), "{:?}", inbox.status());
}

async fn stopped(inbox: &mut RunningInbox) -> String {
    let stopped = inbox.until(|status| matches!(status.state, InboxState::Stopped { .. }), SOON).await;
    match stopped.map(|status| status.state) {
        Some(InboxState::Stopped { error }) => error.to_string(),
        _ => panic!("it goes on: {:?}", inbox.status()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_has_lost_messages_stops_an_inbox_until_it_is_rewound() {
    for anew in [false, true] {
        let (store, broker) = (MemoryStore::new(), MemoryBroker::new());
        (1..=4).for_each(|number| broker.put("gauge-a", measured("a", 1, number)));
        let mut inbox = start(&store, &broker);
        taken(&mut inbox, 4).await;
        assert!(inbox.drain(SOON).await);
        if anew {
            broker.make_anew()
        } else {
            broker.lose_behind(2)
        }
        let mut inbox = start(&store, &broker);
        assert!(stopped(&mut inbox).await.starts_with("messages are lost: "));
        // The publisher publishes all of it again.
        let known = if anew { 0 } else { 2 };
        (known + 1..=6).for_each(|number| broker.put("gauge-a", measured("a", 1, number)));
        inbox.rewind().await.unwrap();
        taken(&mut inbox, 6).await;
        assert_eq!(told(&store, "a").await, [1, 2, 3, 4, 5, 6]);
    }
}

#[tokio::test(start_paused = true)]
async fn several_processes_may_run_an_inbox() {
    let (store, broker) = (MemoryStore::new(), MemoryBroker::new());
    let (mut one, mut other) = (start(&store, &broker), start(&store, &broker));
    for number in 1..=200 {
        broker.put("gauge-a", measured("a", 1, number));
        broker.put("gauge-b", measured("b", if number == 150 { 9 } else { 1 }, number));
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }
    taken(&mut one, 400).await;
    taken(&mut other, 400).await;
    assert_eq!(told(&store, "a").await, (1..=200).collect::<Vec<_>>());
    assert_eq!(told(&store, "b").await, (1..=149).collect::<Vec<_>>());
    // Each letter is there once, whoever has parked it.
    let letters = one.letters().await.unwrap();
    assert_eq!(
        letters.iter().map(|letter| letter.sequence).collect::<Vec<_>>(),
        (150..=200).map(|n| 2 * n).collect::<Vec<_>>()
    );
}

/// Says nothing.
struct Silent;

impl Feed for Silent {
    async fn read(&self, _: Option<&Place>) -> Result<BoxStream<'static, Result<Delivery, FeedError>>, FeedError> {
        Ok(stream::pending().boxed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_rewind_is_not_undone_by_another_process() {
    for looks in [false, true] {
        let (store, broker) = (MemoryStore::new(), MemoryBroker::new());
        let mut other = start(&store, &broker);
        (1..=4).for_each(|number| broker.put("gauge-a", measured("a", 1, number)));
        taken(&mut other, 4).await;
        // Until it has written that down.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let one = Inbox::new(&store, Silent, Mirrors::new(&store)).start().unwrap();
        one.rewind().await.unwrap();
        drop(one);
        if looks {
            // It looks into the journal before it writes, and must not take that for its own.
            assert!(other.discard(1, "none").await.is_err());
        }
        broker.put("gauge-a", measured("a", 1, 5));
        let anew = other.until(|status| status.received >= 4 + 5, SOON).await;
        assert!(anew.is_some(), "{looks}: {:?}", other.status());
        taken(&mut other, 5).await;
        assert_eq!(told(&store, "a").await, [1, 2, 3, 4, 5]);
    }
}
