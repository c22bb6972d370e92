//! L1: an append is written as a whole, or not at all.

use super::{Harness, fixture::*};
use crate::{Append, AppendOutcome, ExpectedVersion, Position, ReadLog, RecordedEvent, Token, Version};

/// The answer holds the events as they are recorded, and a token at the last.
pub(super) async fn l1_an_append_is_answered_as_it_is_recorded(h: &mut dyn Harness) {
    let store = h.store();
    for count in [1, 2, 100] {
        let answer = appended(&store, to("account-1", events(count))).await;
        let head = store.head().await.unwrap();
        let recorded = read(&store, ReadLog::all().from(Position::new(head.position.get() + 1 - count as u64))).await;
        assert_eq!(answer.events, recorded, "the answer holds the events as they are recorded");
        assert_eq!(answer.token, head, "the answer's token is the last event's");
        let last = recorded.last().unwrap();
        assert_eq!(answer.token, Token { store: store.id(), position: last.position, event: last.id });
        assert!(!answer.repeated, "an append that was never written before is not repeated");
    }
}

/// Events take their positions in the order in which the append names them.
pub(super) async fn l1_events_are_recorded_in_the_appends_order(h: &mut dyn Harness) {
    let store = h.store();
    let ordered: Vec<_> = (0..50).map(|n| event(&format!("Step{n}"))).collect();
    appended(&store, to("process-1", ordered.clone())).await;
    let ids: Vec<_> = log(&store).await.iter().map(|event| event.id).collect();
    assert_eq!(ids, ordered.iter().map(|event| event.id).collect::<Vec<_>>());
}

/// One append writes to several streams, its events as mixed as it names them.
pub(super) async fn l1_an_append_writes_several_streams(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "account-b", 3).await;
    let append = Append::new()
        .event(stream("account-a"), event("Withdrawn"))
        .event(stream("account-b"), event("Deposited"))
        .event(stream("bank-1"), event("Transferred"))
        .event(stream("account-a"), event("Charged"))
        .check(stream("account-b"), ExpectedVersion::Exists);
    let answer = appended(&store, append).await;
    let place = |event: &RecordedEvent| (event.stream.to_string(), event.version.get(), event.position.get());
    let expected = [("account-a", 1, 4), ("account-b", 4, 5), ("bank-1", 1, 6), ("account-a", 2, 7)];
    let expected = expected.map(|(name, version, position)| (name.to_owned(), version, position));
    assert_eq!(answer.events.iter().map(place).collect::<Vec<_>>(), expected);
    assert_eq!(read(&store, ReadLog::all().from(Position::new(4))).await, answer.events);
    assert_eq!(versions(&read_stream(&store, "account-a").await), [1, 2]);
}

/// Only the last event of an append says that it ends one.
pub(super) async fn l1_the_last_event_ends_its_append(h: &mut dyn Harness) {
    let store = h.store();
    for count in [1, 3, 2] {
        write(&store, "account-1", count).await;
    }
    let ends: Vec<bool> = log(&store).await.iter().map(|event| event.ends_append).collect();
    assert_eq!(ends, [true, false, false, true, false, true]);
}

/// Whatever comes of an append that demands too much: all of it is there, or nothing in any place.
pub(super) async fn l1_an_append_that_is_not_written_leaves_nothing(h: &mut dyn Harness) {
    let store = h.store();
    let first = appended(&store, to("account-1", [tagged("Opened", &["owner:ada"])])).await;
    let position = first.token.position;
    let taken = first.events[0].id;
    let two = || {
        Append::new()
            .event(stream("fresh-1"), tagged("Started", &["fresh"]))
            .event(stream("account-1"), tagged("Deposited", &["fresh"]))
    };
    let demanding = [
        two().check(stream("account-1"), exact(7)),
        two().check(stream("other-1"), ExpectedVersion::Exists),
        two().require(crate::Condition::none_after(with_tags(&["owner:ada"]), Position::START)),
        two().require(crate::Condition::none_after(with_tags(&["nobody"]), position.plus(100))),
        two().event(stream("fresh-1"), event("Again").with_id(taken)),
    ];
    for append in demanding {
        let before = head(&store).await;
        let ids: Vec<_> = append.events().iter().map(|(_, event)| event.id).collect();
        if let Ok(AppendOutcome::Appended(answer)) = store.append(append.clone()).await {
            let written = read(&store, ReadLog::all().from(before.plus(1))).await;
            assert_eq!(written, answer.events, "what is written is what is answered");
            assert_eq!(written.len(), append.events().len(), "a part of an append is written: {append:?}");
            return;
        }
        assert_eq!(head(&store).await, before, "the log goes on after an append that is not written: {append:?}");
        assert_eq!(store.stream_head(&stream("fresh-1")).await.unwrap().version, Version::NONE);
        assert_eq!(store.stream_head(&stream("account-1")).await.unwrap().version, Version::FIRST);
        assert_eq!(store.streams(None, None, 10).await.unwrap(), [stream("account-1")]);
        assert_eq!(store.categories(None, 10).await.unwrap(), [category("account")]);
        assert_eq!(read(&store, ReadLog::matching(with_tags(&["fresh"]))).await, []);
        for id in ids.into_iter().filter(|id| *id != taken) {
            assert_eq!(store.event(id).await.unwrap(), None, "an event of an append that is not written is found");
        }
    }
}

/// A reader beside a writer of appends of several events never sees a part of one.
pub(super) async fn l1_no_reader_sees_a_part_of_an_append(h: &mut dyn Harness) {
    const APPENDS: usize = 150;
    let (store, seen_from) = (h.store(), h.another().await);
    let writer = tokio::spawn(async move {
        for n in 0..APPENDS {
            let append = (0..4).fold(Append::new(), |append, s| append.event(stream(&format!("s-{s}")), event("Half")));
            assert_eq!(appended(&store, append).await.token.position, Position::new(4 * (n as u64 + 1)));
        }
    });
    let mut looks = 0;
    while !writer.is_finished() {
        looks += 1;
        let head = head(&seen_from).await;
        assert_eq!(head.get() % 4, 0, "the head stands inside an append");
        let page = seen_from.read_log(&ReadLog::all().backwards().limit(1)).await.unwrap();
        assert!(page.events.iter().all(|last| last.ends_append), "the last event that is seen ends no append");
        let mut versions = Vec::new();
        for s in (0..4).rev() {
            versions.push(seen_from.stream_head(&stream(&format!("s-{s}"))).await.unwrap().version);
        }
        assert!(versions.is_sorted(), "a stream that was looked at later is behind: {versions:?}");
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert!(looks > 0, "the reader looked at nothing");
}
