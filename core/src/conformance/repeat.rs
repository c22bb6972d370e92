//! L5: the same append again is answered, not written again; another append under a known id is refused.

use super::{Harness, fixture::*};
use crate::{
    AnyStore, Append, Condition, ContentType, CorrelationId, EventId, EventType, ExpectedVersion, Limits, Metadata,
    NewEvent, Position, StoreError,
};

/// Asserts that an append is refused for an id that another append holds.
async fn assert_id_conflict(store: &AnyStore, append: Append, taken: EventId, at: Position, why: &str) {
    let before = head(store).await;
    match store.append(append).await {
        Err(error @ StoreError::IdConflict { .. }) => {
            let StoreError::IdConflict { id, position } = &error else { unreachable!() };
            assert_eq!((*id, *position), (taken, at), "{why}: names the id and where it is recorded");
            assert!(!error.is_retryable(), "{why}: sending it again is no use");
        }
        other => panic!("{why}: must be an id conflict, got {other:?}"),
    }
    assert_eq!(head(store).await, before, "{why}: an id conflict writes nothing");
}

/// A repetition is answered as the first was, whatever is expected and however far the stream has moved on.
pub(super) async fn l5_a_repetition_is_answered_as_the_first(h: &mut dyn Harness) {
    let store = h.store();
    let append = Append::to(stream("account-1"), ExpectedVersion::NoStream, events(3))
        .event(stream("account-2"), tagged("Deposited", &["to:2"]));
    let first = appended(&store, append.clone()).await;
    for moved_on in 0..3 {
        let again = appended(&store, append.clone()).await;
        assert!(again.repeated, "an append that was written before is repeated");
        assert_eq!((&again.events, again.token), (&first.events, first.token), "the first one's answer again");
        assert_eq!(head(&store).await.get(), 4 + moved_on, "a repetition writes nothing");
        write(&store, "account-1", 1).await;
    }
}

/// Known appends are told before any condition is judged: with conditions that now fail, and with others than before.
pub(super) async fn l5_a_repetition_is_told_before_conditions(h: &mut dyn Harness) {
    let store = h.store();
    let named = tagged("Named", &["name:ada"]);
    let free = Condition::none_after(with_tags(&["name:ada"]), Position::START);
    let append = || Append::new().event(stream("user-1"), named.clone());
    let first = appended(&store, append().require(free.clone()).check(stream("user-1"), exact(0))).await;
    let beyond = Condition::none_after(with_tags(&["name:ada"]), Position::new(1_000));
    for again in [
        append().require(free.clone()).check(stream("user-1"), exact(0)),
        append().check(stream("user-1"), exact(77)).check(stream("nowhere-1"), ExpectedVersion::Exists),
        append().require(beyond),
        append(),
    ] {
        let again = appended(&store, again).await;
        assert!(again.repeated);
        assert_eq!(again.events, first.events);
    }
}

/// What is known is known after the store was opened again.
pub(super) async fn l5_a_repetition_is_told_after_reopening(h: &mut dyn Harness) {
    let store = h.store();
    let append = Append::to(stream("account-1"), ExpectedVersion::NoStream, events(2));
    let first = appended(&store, append.clone()).await;
    write(&store, "account-1", 1).await;
    drop(store);
    h.reopen(Limits::default()).await;
    let again = appended(&h.store(), append.clone()).await;
    assert!(again.repeated);
    assert_eq!(again.events, first.events);
    let (to, event) = &append.events()[1];
    let second = Append::new().event(to.clone(), event.clone());
    assert_id_conflict(&h.store(), second, event.id, Position::new(2), "a later event after reopening").await;
}

/// The same append sent many times at once is written once.
pub(super) async fn l5_the_same_append_at_once_is_written_once(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    for round in 0..5 {
        let append = to(&format!("account-{round}"), events(2)).event(stream("bank-1"), event("Counted"));
        let answers = race(16, |n| {
            let (store, append) = (handles[n % 2].clone(), append.clone());
            async move { appended(&store, append).await }
        });
        let answers = answers.await;
        assert_eq!(answers.iter().filter(|answer| !answer.repeated).count(), 1, "one is written, all others repeat it");
        for answer in &answers {
            assert_eq!(answer.events, answers[0].events, "all are answered alike");
        }
        assert_eq!(head(&handles[0]).await.get(), 3 * (round + 1));
    }
}

/// Different appends that claim one id at once: one is written, all others are refused.
pub(super) async fn l5_one_id_is_won_once(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    for _ in 0..5 {
        let id = EventId::new();
        let outcomes = race(16, |n| {
            let (store, append) = (handles[n % 2].clone(), to(&format!("account-{n}"), [event("Won").with_id(id)]));
            async move {
                match store.append(append).await {
                    Ok(crate::AppendOutcome::Appended(answer)) => !answer.repeated,
                    Err(StoreError::IdConflict { id: taken, .. }) if taken == id => false,
                    other => panic!("must be written or an id conflict, got {other:?}"),
                }
            }
        });
        assert_eq!(outcomes.await.into_iter().filter(|won| *won).count(), 1, "an id is recorded once");
    }
}

/// Anything that the list says (ids, order, streams, types, data, tags, metadata) makes it another append.
pub(super) async fn l5_another_append_under_a_known_id_is_refused(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "other-1", 1).await;
    let mut first = tagged("Deposited", &["a", "b"]);
    first.metadata = Metadata::new().with("actor", "ada").unwrap();
    let second = event("Deposited");
    let with = |change: fn(&mut NewEvent)| {
        let mut changed = first.clone();
        change(&mut changed);
        to("account-1", [changed, second.clone()])
    };
    appended(&store, with(|_| ())).await;
    let changed = [
        ("another type", with(|event| event.event_type = EventType::from_static("Withdrawn"))),
        ("another schema version", with(|event| event.schema_version = 2)),
        ("another content type", with(|event| event.content_type = ContentType::BINCODE)),
        ("other data", with(|event| event.data = r#"{"by":"another"}"#.into())),
        ("no data", with(|event| event.data = "".into())),
        ("another tag", with(|event| event.tags[1] = tag("c"))),
        ("tags in another order", with(|event| event.tags.reverse())),
        ("a tag less", with(|event| event.tags.truncate(1))),
        ("other metadata", with(|event| event.metadata.insert("actor", "bob").unwrap())),
        ("more metadata", with(|event| event.metadata.insert("channel", "branch").unwrap())),
        ("another stream", to("account-2", [first.clone(), second.clone()])),
        ("another stream for one", to("account-1", [first.clone()]).event(stream("account-2"), second.clone())),
        ("an event more", to("account-1", [first.clone(), second.clone(), event("Deposited")])),
        ("another second event", to("account-1", [first.clone(), event("Deposited")])),
        ("a prefix", to("account-1", [first.clone()])),
    ];
    for (why, append) in changed {
        assert_id_conflict(&store, append, first.id, Position::new(2), why).await;
    }
    let suffix = to("account-1", [second.clone()]);
    assert_id_conflict(&store, suffix, second.id, Position::new(3), "a suffix").await;
    let swapped = to("account-1", [second.clone(), first.clone()]);
    assert_id_conflict(&store, swapped, second.id, Position::new(3), "another order").await;
    let later = to("account-1", [event("New"), event("New"), second.clone()]);
    assert_id_conflict(&store, later, second.id, Position::new(3), "a later id that is known").await;
    assert!(appended(&store, with(|_| ())).await.repeated, "the append itself is still known");
}

/// Two appends that follow each other are not one, though their events stand side by side.
pub(super) async fn l5_two_appends_are_not_one(h: &mut dyn Harness) {
    let store = h.store();
    let both = events(2);
    for event in &both {
        appended(&store, to("account-1", [event.clone()])).await;
    }
    assert_id_conflict(&store, to("account-1", both.clone()), both[0].id, Position::new(1), "two appends as one").await;
}

/// Where a command comes from is not what it says: a retry under another correlation or cause is the same append.
pub(super) async fn l5_correlation_and_causation_make_no_other_append(h: &mut dyn Harness) {
    let store = h.store();
    let mut retried = event("Deposited");
    retried.correlation_id = Some(CorrelationId::new());
    let first = appended(&store, to("account-1", [retried.clone()])).await;
    retried.correlation_id = Some(CorrelationId::new());
    retried.causation_id = Some(EventId::new().into());
    let again = appended(&store, to("account-1", [retried])).await;
    assert!(again.repeated);
    assert_eq!(again.events, first.events, "the answer is what is recorded");
}

/// A stream's last append is answered again like any other, though the stream is closed.
pub(super) async fn l5_an_append_that_closed_a_stream_is_repeated(h: &mut dyn Harness) {
    let store = h.store();
    let append = to("account-1", events(2)).close(stream("account-1"));
    let first = appended(&store, append.clone()).await;
    let again = appended(&store, append).await;
    assert!(again.repeated);
    assert_eq!(again.events, first.events);
}

/// An append whose caller went away is sent again: it is in the log once.
pub(super) async fn l5_an_append_that_was_dropped_is_written_once(h: &mut dyn Harness) {
    let store = h.store();
    for n in 0..20 {
        let append = to(&format!("account-{n}"), events(3));
        let mut dropped = Box::pin(store.append(append.clone()));
        let _whether_it_is_through = futures::poll!(&mut dropped);
        drop(dropped);
        appended(&store, append).await;
        assert_eq!(versions(&read_stream(&store, &format!("account-{n}")).await), [1, 2, 3]);
    }
}
