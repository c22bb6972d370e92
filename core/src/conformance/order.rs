//! L3: positions and versions without holes, visible in their order, with any number of writers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use super::{Harness, fixture::*};
use crate::{
    AnyStore, Append, AppendOutcome, Delivery, ExpectedVersion, Filter, Position, ReadLog, RecordedEvent, StartFrom,
    StreamId, Subscription,
};

const WRITERS: usize = 32;
const APPENDS: usize = 20;

/// Holds a log against the rule: positions 1, 2, 3 …, and versions 1, 2, 3 … in each stream.
fn assert_no_holes(log: &[RecordedEvent]) {
    let mut versions: HashMap<&StreamId, u64> = HashMap::new();
    for (n, event) in log.iter().enumerate() {
        assert_eq!(event.position.get(), n as u64 + 1, "a position is missing or doubled");
        let version = versions.entry(&event.stream).or_default();
        *version += 1;
        assert_eq!(event.version.get(), *version, "a version of {} is missing or doubled", event.stream);
    }
}

/// Writers beside each other, with appends of 1 to 3 events and such that fail among them. The number that it gives
/// becomes the log's last position when all are through.
async fn many_writers(h: &dyn Harness) -> (Arc<AtomicU64>, tokio::task::JoinHandle<()>) {
    let end = Arc::new(AtomicU64::new(u64::MAX));
    let handles = [h.store(), h.another().await];
    let set_end = Arc::clone(&end);
    let writers = tokio::spawn(async move {
        let written = race(WRITERS, |n| {
            let store = handles[n % 2].clone();
            async move {
                let mut written = 0;
                for append in 0..APPENDS {
                    let own = to(&format!("writer-{n}"), events(1 + append % 2));
                    let append = match append % 5 {
                        1 => own.check(stream("nowhere-1"), ExpectedVersion::Exists),
                        2 => own.event(stream("shared-1"), event("Happened")),
                        _ => own,
                    };
                    if let AppendOutcome::Appended(answer) = store.append(append).await.unwrap() {
                        written += answer.events.len() as u64;
                    }
                }
                written
            }
        });
        set_end.store(written.await.into_iter().sum(), SeqCst);
    });
    (end, writers)
}

/// Appends that fail take no position and no version.
pub(super) async fn l3_appends_that_fail_leave_no_holes(h: &mut dyn Harness) {
    let store = h.store();
    let known = event("Happened");
    appended(&store, to("a-1", [known.clone()])).await;
    for n in 0..10 {
        for failing in [
            Append::to(stream("a-1"), exact(99), events(2)),
            to("a-1", [event("Happened"), known.clone()]),
            to("b-1", events(1)).check(stream("a-1"), ExpectedVersion::NoStream),
            Append::new(),
        ] {
            let _whatever_comes_of_it = store.append(failing).await;
        }
        write(&store, ["a-1", "b-1"][n % 2], 1 + n % 3).await;
    }
    assert_no_holes(&log(&store).await);
}

/// The head, what is published, and the places of the log are of one mind.
pub(super) async fn l3_the_head_is_the_last_event(h: &mut dyn Harness) {
    let store = h.store();
    let published = store.published();
    assert_eq!(store.head().await.unwrap(), crate::Token::start(store.id()), "an empty log stands at its start");
    assert_eq!(*published.borrow(), Position::START);
    for count in [1, 3, 1] {
        let answer = appended(&store, to("a-1", events(count))).await;
        assert_eq!(store.head().await.unwrap(), answer.token);
        assert_eq!(*published.borrow(), answer.token.position, "an append is answered when it is published");
        let stream_head = store.stream_head(&stream("a-1")).await.unwrap();
        let last = answer.events.last().unwrap();
        assert_eq!((stream_head.version, stream_head.position), (last.version, last.position));
    }
    for event in log(&store).await {
        assert_eq!(store.token(event.position).await.unwrap().event, event.id);
    }
}

/// 32 writers, and a reader that follows what is published: it sees every event once, and in order.
pub(super) async fn l3_a_tailing_reader_misses_nothing(h: &mut dyn Harness) {
    let store = h.another().await;
    let (end, writers) = many_writers(h).await;
    let mut published = store.published();
    let mut seen: Vec<RecordedEvent> = Vec::new();
    let mut looked_to = Position::START;
    while looked_to.get() < end.load(SeqCst) {
        let head = *published.borrow_and_update();
        if head > looked_to {
            seen.extend(read(&store, ReadLog::all().from(looked_to.plus(1)).to(head)).await);
            looked_to = head;
        }
        let _or_look_again = tokio::time::timeout(Duration::from_millis(5), published.changed()).await;
    }
    writers.await.unwrap();
    assert_seen_all(&store, &seen).await;
}

/// The same for a subscription.
pub(super) async fn l3_a_subscription_misses_nothing(h: &mut dyn Harness) {
    let store = h.another().await;
    let (end, writers) = many_writers(h).await;
    let mut subscription = Subscription::shared(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    let mut seen: Vec<RecordedEvent> = Vec::new();
    let mut looked_to = Position::START;
    while looked_to.get() < end.load(SeqCst) {
        match tokio::time::timeout(Duration::from_millis(5), subscription.next()).await {
            Ok(Ok(Delivery::Event(event))) => {
                looked_to = event.position;
                seen.push(event);
            }
            Ok(Ok(Delivery::Progress(token) | Delivery::CaughtUp(token))) => looked_to = token.position,
            Ok(Err(error)) => panic!("the subscription failed: {error}"),
            Err(_elapsed) => {}
        }
    }
    writers.await.unwrap();
    assert_seen_all(&store, &seen).await;
}

async fn assert_seen_all(store: &AnyStore, seen: &[RecordedEvent]) {
    let log = log(store).await;
    assert_no_holes(&log);
    let missed: Vec<_> = log.iter().filter(|event| !seen.contains(event)).map(|event| event.position).collect();
    assert_eq!(missed, [], "events became visible behind the reader");
    assert_eq!(positions(seen), positions(&log), "the reader saw every event once, and in order");
}

/// What was seen of the log is what it begins with for ever.
pub(super) async fn l3_the_log_only_grows(h: &mut dyn Harness) {
    let store = h.another().await;
    let (_, writers) = many_writers(h).await;
    let mut before: Vec<_> = Vec::new();
    loop {
        let is_last = writers.is_finished();
        let now: Vec<_> = log(&store).await.into_iter().map(|event| event.id).collect();
        assert!(now.starts_with(&before), "{} events were seen, and then others in their place", before.len());
        before = now;
        if is_last {
            break;
        }
        tokio::task::yield_now().await;
    }
    writers.await.unwrap();
    assert_no_holes(&log(&store).await);
}

/// A writer's appends stand in the log in the order in which it had them answered.
pub(super) async fn l3_each_writers_order_is_kept(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    let written = race(16, |n| {
        let handles = handles.clone();
        async move {
            let mut ids = Vec::new();
            for append in 0..20 {
                let store = &handles[(n + append) % 2];
                let answer = appended(store, to(["a-1", "b-1"][append % 2], events(1))).await;
                ids.push(answer.events[0].id);
            }
            ids
        }
    });
    let written = written.await;
    let log = log(&handles[0]).await;
    assert_no_holes(&log);
    let places: HashMap<_, _> = log.iter().map(|event| (event.id, event.position)).collect();
    for ids in written {
        assert!(ids.iter().map(|id| places[id]).is_sorted(), "a writer's appends have changed their order");
    }
}
