//! L13: a stream that is closed has its last event for ever.

use super::{Harness, fixture::*};
use crate::{
    Append, AppendOutcome, CloudEvent, Condition, ExpectedVersion, FailedCondition, Limits, Position, Version,
};

fn closed(name: &str, version: u64) -> FailedCondition {
    FailedCondition::Closed { stream: stream(name), version: Version::new(version) }
}

/// After the last event every append conflicts, whatever it expects, and names the stream and its version.
pub(super) async fn l13_a_closed_stream_takes_no_more(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "account-1", 2).await;
    assert!(!store.stream_head(&stream("account-1")).await.unwrap().closed);
    appended(&store, to("account-1", events(2)).close(stream("account-1"))).await;
    let head = store.stream_head(&stream("account-1")).await.unwrap();
    assert_eq!((head.version.get(), head.position.get(), head.closed), (4, 4, true));
    for expected in [ExpectedVersion::Any, ExpectedVersion::Exists, exact(4)] {
        let append = Append::to(stream("account-1"), expected, events(1));
        assert_eq!(conflict(&store, append).await, [closed("account-1", 4)], "{expected:?}");
    }
    let beside = to("account-2", events(1)).event(stream("account-1"), event("Happened"));
    assert_eq!(conflict(&store, beside).await, [closed("account-1", 4)], "beside another stream");
    let again = to("account-1", events(1)).close(stream("account-1"));
    assert_eq!(conflict(&store, again).await, [closed("account-1", 4)], "closing it again");
    assert_eq!(versions(&read_stream(&store, "account-1").await), [1, 2, 3, 4], "a closed stream is read as ever");
    assert_eq!(crate::conformance::fixture::head(&store).await.get(), 4);
}

/// That a stream is closed is named beside all else that failed.
pub(super) async fn l13_closed_is_one_of_the_failed_conditions(h: &mut dyn Harness) {
    let store = h.store();
    appended(&store, to("account-1", [tagged("Closed", &["account:1"])]).close(stream("account-1"))).await;
    let append = Append::to(stream("account-1"), exact(7), events(1))
        .require(Condition::none_after(with_tags(&["account:1"]), Position::START));
    let failed = conflict(&store, append).await;
    assert!(failed.contains(&closed("account-1", 1)), "the closed stream is not named in {failed:?}");
}

/// A closed stream can be checked.
pub(super) async fn l13_a_closed_stream_can_be_checked(h: &mut dyn Harness) {
    let store = h.store();
    appended(&store, to("account-1", events(2)).close(stream("account-1"))).await;
    for expected in [ExpectedVersion::Any, ExpectedVersion::Exists, exact(2)] {
        appended(&store, to("account-2", events(1)).check(stream("account-1"), expected)).await;
    }
}

/// The event that closes a stream says so: the last of the append's in that stream, and no other.
pub(super) async fn l13_the_last_event_says_so(h: &mut dyn Harness) {
    let store = h.store();
    let append = to("account-1", events(2))
        .event(stream("account-2"), event("Happened"))
        .event(stream("account-1"), event("Closed"))
        .event(stream("account-3"), event("Closed"))
        .close(stream("account-1"))
        .close(stream("account-3"));
    let answer = appended(&store, append).await;
    let says_so: Vec<bool> = answer.events.iter().map(|event| event.closes_stream).collect();
    assert_eq!(says_so, [false, false, false, true, true]);
    let log = log(&store).await;
    assert_eq!(log, answer.events);
    for event in log {
        let json = serde_json::to_string(&CloudEvent::new(&event, store.id())).unwrap();
        let back = serde_json::from_str::<CloudEvent>(&json).unwrap().into_recorded().unwrap();
        assert_eq!(back.closes_stream, event.closes_stream);
    }
    write(&store, "account-2", 1).await;
    assert_eq!(conflict(&store, to("account-3", events(1))).await, [closed("account-3", 1)]);
}

/// An append that fails closes nothing.
pub(super) async fn l13_a_failed_append_closes_nothing(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "account-1", 1).await;
    let failing = to("account-1", events(1)).check(stream("nowhere-1"), ExpectedVersion::Exists);
    if let Ok(AppendOutcome::Conflict(_)) = store.append(failing.close(stream("account-1"))).await {
        assert!(!store.stream_head(&stream("account-1")).await.unwrap().closed);
        write(&store, "account-1", 1).await;
    }
}

/// Closed is closed after the store was opened again.
pub(super) async fn l13_closed_is_kept(h: &mut dyn Harness) {
    let store = h.store();
    appended(&store, to("account-1", events(1)).close(stream("account-1"))).await;
    write(&store, "filler-1", 1).await;
    drop(store);
    h.reopen(Limits::default()).await;
    let store = h.store();
    assert!(store.stream_head(&stream("account-1")).await.unwrap().closed);
    assert_eq!(conflict(&store, to("account-1", events(1))).await, [closed("account-1", 1)]);
}

/// One closes while many write: nothing follows the last event.
pub(super) async fn l13_nothing_slips_in_behind_the_last_event(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    for round in 0..5 {
        let name = format!("account-{round}");
        race(16, |n| {
            let (store, name) = (handles[n % 2].clone(), name.clone());
            async move {
                for append in 0..4 {
                    let own = to(&name, events(1));
                    let own = if n == 0 && append == 2 { own.close(stream(&name)) } else { own };
                    match store.append(own).await.unwrap() {
                        AppendOutcome::Appended(_) => {}
                        AppendOutcome::Conflict(failed) => {
                            assert!(matches!(failed[..], [FailedCondition::Closed { .. }]), "conflicts for {failed:?}");
                        }
                    }
                }
            }
        })
        .await;
        let events = read_stream(&handles[0], &name).await;
        let (last, before) = events.split_last().unwrap();
        assert!(last.closes_stream, "an event follows the one that closed its stream");
        assert!(before.iter().all(|event| !event.closes_stream));
    }
}
