//! L4: what was acknowledged, or seen, is there for ever.

use std::{collections::HashSet, sync::Arc, sync::Mutex};

use super::{Harness, fixture::*};
use crate::{AnyStore, AppendOutcome, EventId, ExpectedVersion, Limits, Position, Version};

/// A clean stop and start loses nothing, not even the last append.
pub(super) async fn l4_reopening_keeps_everything(h: &mut dyn Harness) {
    for round in 1..=3 {
        let store = h.store();
        write(&store, "account-1", 2).await;
        write(&store, &format!("account-{round}x"), 1).await;
        let (id, head, before) = (store.id(), store.head().await.unwrap(), log(&store).await);
        drop(store);
        h.reopen(Limits::default()).await;
        let store = h.store();
        assert_eq!(store.id(), id, "the log is another after it was reopened");
        assert_eq!(log(&store).await, before);
        assert_eq!(store.head().await.unwrap(), head);
        assert_eq!(*store.published().borrow(), head.position, "what is published starts at the head");
        let stream_head = store.stream_head(&stream("account-1")).await.unwrap();
        assert_eq!(stream_head.version, Version::new(2 * round));
    }
}

/// After a clean stop and after a power cut, positions and versions follow on.
pub(super) async fn l4_the_log_goes_on_where_it_stopped(h: &mut dyn Harness) {
    for round in 0..4 {
        let store = h.store();
        let append = crate::Append::to(stream("account-1"), exact(2 * round), events(2));
        let answer = appended(&store, append).await;
        assert_eq!(positions(&answer.events), [2 * round + 1, 2 * round + 2]);
        assert_eq!(versions(&answer.events), [2 * round + 1, 2 * round + 2]);
        drop(store);
        match round % 2 {
            0 => h.reopen(Limits::default()).await,
            _ => h.crash().await,
        }
    }
}

/// An append that was answered survives a power cut that comes with the answer.
pub(super) async fn l4_what_is_acknowledged_survives_a_crash(h: &mut dyn Harness) {
    for round in 0..4 {
        let store = h.store();
        let answer = appended(&store, to("account-1", events(1 + round))).await;
        h.crash().await;
        let after = h.store();
        assert_eq!(after.head().await.unwrap(), answer.token, "the head is another after the crash");
        for event in answer.events {
            assert_eq!(after.event(event.id).await.unwrap().as_ref(), Some(&event), "an acknowledged event is lost");
        }
    }
}

/// Many writers, and a power cut in the midst of them: all that was answered is there, and no half append.
pub(super) async fn l4_acknowledged_under_load_survives_a_crash(h: &mut dyn Harness) {
    const WRITERS: usize = 16;
    let acknowledged: Arc<Mutex<Vec<EventId>>> = Arc::default();
    let store = h.store();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| {
            let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                while let Ok(AppendOutcome::Appended(answer)) = store.append(to(&format!("w-{n}"), events(3))).await {
                    acknowledged.lock().unwrap().extend(answer.events.iter().map(|event| event.id));
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    while acknowledged.lock().unwrap().len() < 300 {
        tokio::task::yield_now().await;
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    h.crash().await;
    for writer in writers {
        writer.abort();
    }
    let after = log(&h.store()).await;
    let there: HashSet<EventId> = after.iter().map(|event| event.id).collect();
    let lost = acknowledged.iter().filter(|id| !there.contains(id)).count();
    assert_eq!(lost, 0, "of {} acknowledged events some are lost", acknowledged.len());
    assert!(after.last().unwrap().ends_append, "the crash left a part of an append");
}

/// The ways to see that an event is there.
#[derive(Clone, Copy, Debug)]
enum Look {
    Log,
    Stream,
    StreamHead,
    ById,
    Head,
    Published,
}

impl Look {
    const ALL: [Self; 6] = [Self::Log, Self::Stream, Self::StreamHead, Self::ById, Self::Head, Self::Published];

    /// Whether a reader sees the event that was written to its stream at a position.
    async fn sees(self, store: &AnyStore, name: &str, id: EventId, position: Position) -> bool {
        match self {
            Self::Log => log(store).await.iter().any(|event| event.id == id),
            Self::Stream => read_stream(store, name).await.iter().any(|event| event.id == id),
            Self::StreamHead => store.stream_head(&stream(name)).await.unwrap().version > Version::NONE,
            Self::ById => store.event(id).await.unwrap().is_some(),
            Self::Head => store.head().await.unwrap().position >= position,
            Self::Published => *store.published().borrow() >= position,
        }
    }
}

/// A power cut at the moment at which a reader first sees an event, its append not answered yet.
pub(super) async fn l4_what_is_visible_survives_a_crash(h: &mut dyn Harness) {
    for (look, round) in Look::ALL.into_iter().flat_map(|look| [(look, 1), (look, 2)]) {
        let (store, reader) = (h.store(), h.another().await);
        let (name, new) = (format!("seen-{look:?}-{round}"), event("Seen"));
        let (id, position) = (new.id, head(&store).await.plus(1));
        let writer = tokio::spawn({
            let (store, append) = (store.clone(), to(&name, [new]));
            async move { store.append(append).await }
        });
        let visible = async {
            while !look.sees(&reader, &name, id, position).await {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, visible).await.unwrap_or_else(|_| panic!("{look:?} never shows the event"));
        h.crash().await;
        let there = h.store().event(id).await.unwrap().is_some();
        assert!(there, "an event that {look:?} showed was not durable");
        writer.abort();
    }
}

/// What was demanded before a crash is demanded of the log as it is after it.
pub(super) async fn l4_after_a_crash_the_log_is_judged_as_it_is(h: &mut dyn Harness) {
    appended(&h.store(), to("user-1", [tagged("Named", &["name:ada"])])).await;
    h.crash().await;
    let store = h.store();
    assert_eq!(store.stream_head(&stream("user-1")).await.unwrap().version, Version::FIRST);
    assert_eq!(read(&store, crate::ReadLog::matching(with_tags(&["name:ada"]))).await.len(), 1);
    assert_eq!(store.streams(Some(&category("user")), None, 10).await.unwrap(), [stream("user-1")]);
    let next = crate::Append::to(stream("user-1"), ExpectedVersion::Exists, events(1));
    assert_eq!(versions(&appended(&store, next).await.events), [2]);
}

/// A checkpoint is durable when it is kept.
pub(super) async fn l4_checkpoints_survive_a_crash(h: &mut dyn Harness) {
    let store = h.store();
    let token = appended(&store, to("account-1", events(2))).await.token;
    store.save_checkpoint("reader", token).await.unwrap();
    h.crash().await;
    assert_eq!(h.store().load_checkpoint("reader").await.unwrap(), Some(token));
}
