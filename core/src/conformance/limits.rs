//! L10: what is too much is refused with nothing written, and what is just within the limits is not.

use super::{Harness, fixture::*};
use crate::{
    APPEND_EVENTS_MAX, APPEND_STREAMS_MAX, AnyStore, Append, AppendOutcome, Condition, EventId, ExpectedVersion,
    Limits, METADATA_BYTES_MAX, Metadata, NewEvent, Position, QUERY_ITEMS_MAX, QUERY_NAMES_MAX, Query, QueryItem,
    StoreError, TAGS_MAX,
};

const MIB: usize = 1024 * 1024;

/// Asserts that the first append is refused with nothing written, and the second is written.
async fn assert_boundary(store: &AnyStore, over: Append, at: Append, what: &str) {
    let before = store.head().await.unwrap();
    let invalid = invalid(store, over).await;
    assert!(!invalid.to_string().is_empty());
    assert_eq!(store.head().await.unwrap(), before, "{what}: what is over the limit was written");
    let count = at.events().len() as u64;
    let token = appended(store, at).await.token;
    assert_eq!(token.position, before.position.plus(count), "{what}: what is at the limit was not written");
}

/// An event that counts so many bytes in this stream.
fn sized(name: &str, bytes: usize) -> NewEvent {
    let empty = NewEvent { data: "".into(), ..event("Sized") };
    let data = vec![b'x'; bytes - name.len() - empty.size()];
    NewEvent { data: data.into(), ..empty }
}

/// An event's bytes.
pub(super) async fn l10_an_event_has_a_largest_size(h: &mut dyn Harness) {
    let store = h.store();
    let max = store.limits().event_bytes_max();
    assert_eq!(max, MIB, "the suite runs on a store with default limits");
    let of = |bytes| to("a-1", [sized("a-1", bytes)]);
    assert_boundary(&store, of(max + 1), of(max), "an event's bytes").await;
    let small_beside_large = to("a-1", events(1)).event(stream("a-1"), sized("a-1", max + 1));
    assert_boundary(&store, small_beside_large, of(max), "one event of two").await;
}

/// An append's bytes.
pub(super) async fn l10_an_append_has_a_largest_size(h: &mut dyn Harness) {
    let store = h.store();
    let max = store.limits().append_bytes_max();
    let of = |bytes| {
        let half = bytes / 64;
        let events = (0..64).map(|n| sized("a-1", if n == 0 { bytes - 63 * half } else { half }));
        to("a-1", events)
    };
    assert_boundary(&store, of(max + 1), of(max), "an append's bytes").await;
}

/// An append's events.
pub(super) async fn l10_an_append_has_so_many_events(h: &mut dyn Harness) {
    let of = |count| to("a-1", events(count));
    assert_boundary(&h.store(), of(APPEND_EVENTS_MAX + 1), of(APPEND_EVENTS_MAX), "events").await;
}

/// An append's streams, written and checked.
pub(super) async fn l10_an_append_names_so_many_streams(h: &mut dyn Harness) {
    let store = h.store();
    let written =
        |count| (0..count).fold(Append::new(), |append, n| append.event(stream(&format!("a-{n}")), event("Happened")));
    let checked =
        |count| (1..count).fold(to("b-0", events(2)), |append, n| append.check(stream(&format!("b-{n}")), exact(0)));
    assert_boundary(&store, written(APPEND_STREAMS_MAX + 1), written(APPEND_STREAMS_MAX), "written streams").await;
    assert_boundary(&store, checked(APPEND_STREAMS_MAX + 1), checked(APPEND_STREAMS_MAX), "checked streams").await;
}

/// The query items of all conditions of an append together.
pub(super) async fn l10_an_append_has_so_many_query_items(h: &mut dyn Harness) {
    let store = h.store();
    let query = |items| Query::new((0..items).map(|n| QueryItem::tags([tag(&format!("t:{n}"))])));
    let condition = |items| Condition::none_after(query(items), Position::START);
    let one = |items| to("a-1", events(1)).require(condition(items));
    let two = |items| one(items - 40).require(condition(40));
    assert_boundary(&store, one(QUERY_ITEMS_MAX + 1), one(QUERY_ITEMS_MAX), "items of one condition").await;
    assert_boundary(&store, two(QUERY_ITEMS_MAX + 1), two(QUERY_ITEMS_MAX), "items of two conditions").await;
    let named = |tags: usize| {
        let tags = (0..tags).map(|n| crate::Tag::new(n.to_string()).unwrap());
        to("a-1", events(1)).require(Condition::none_after(Query::new([QueryItem::tags(tags)]), Position::START))
    };
    assert_boundary(&store, named(QUERY_NAMES_MAX + 1), named(QUERY_NAMES_MAX), "tags of a condition").await;
    let over = crate::ReadLog::matching(query(QUERY_ITEMS_MAX + 1));
    assert!(matches!(store.read_log(&over).await, Err(StoreError::Invalid(_))), "a filter with too many items");
    store.read_log(&crate::ReadLog::matching(query(QUERY_ITEMS_MAX))).await.unwrap();
}

/// An event's tags and metadata.
pub(super) async fn l10_an_event_has_so_many_tags(h: &mut dyn Harness) {
    let store = h.store();
    let of = |count| to("a-1", [event("Tagged").with_tags((0..count).map(|n| tag(&format!("t:{n}"))))]);
    assert_boundary(&store, of(TAGS_MAX + 1), of(TAGS_MAX), "tags").await;
    let mut metadata = Metadata::new().with("key", "v".repeat(METADATA_BYTES_MAX - 3)).unwrap();
    assert!(metadata.insert("k", "").is_err(), "metadata over the limit can't be made");
    appended(&store, to("a-1", [event("Described").with_metadata(metadata)])).await;
}

/// Limits of one's own, smaller and larger; what was written before is not touched by them.
pub(super) async fn l10_limits_are_those_it_was_opened_with(h: &mut dyn Harness) {
    write(&h.store(), "a-1", 1).await;
    appended(&h.store(), to("a-1", [sized("a-1", MIB)])).await;
    for (event_max, append_max) in [(1_000, 5_000), (16 * MIB, 64 * MIB)] {
        h.reopen(Limits::new(event_max, append_max).unwrap()).await;
        let store = h.store();
        let limits = store.limits();
        assert_eq!((limits.event_bytes_max(), limits.append_bytes_max()), (event_max, append_max));
        let of = |bytes| to("a-1", [sized("a-1", bytes)]);
        assert_boundary(&store, of(event_max + 1), of(event_max), "an event's bytes").await;
        let whole =
            |bytes| to("a-1", (0..5).map(|n| sized("a-1", if n == 0 { bytes - 4 * (bytes / 5) } else { bytes / 5 })));
        assert_boundary(&store, whole(append_max + 1), whole(append_max), "an append's bytes").await;
        let first = store.read_stream(&crate::ReadStream::new(stream("a-1")).limit(1)).await.unwrap();
        assert_eq!(first.events.len(), 1, "what was written before can be read");
    }
}

/// Appends that say nothing, or contradict themselves.
pub(super) async fn l10_nonsense_is_refused(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "a-1", 1).await;
    let before = store.head().await.unwrap();
    let twice = event("Happened");
    let none_after = |query| Condition::none_after(query, Position::START);
    let nonsense = [
        ("no events", Append::new()),
        ("checks alone", Append::new().check(stream("a-1"), ExpectedVersion::Any)),
        ("an id twice", to("a-1", [twice.clone(), event("Happened"), twice.clone()])),
        ("an id in two streams", to("a-1", [twice.clone()]).event(stream("b-1"), twice)),
        ("the nil id", to("a-1", [event("Happened").with_id(EventId::NIL)])),
        ("two expectations of a stream", to("a-1", events(1)).check(stream("a-1"), ExpectedVersion::Exists)),
        ("closing twice", to("a-1", events(1)).close(stream("a-1")).close(stream("a-1"))),
        ("closing without an event", to("a-1", events(1)).close(stream("b-1"))),
        ("a query without items", to("a-1", events(1)).require(none_after(Query::default()))),
        ("an item that names nothing", to("a-1", events(1)).require(none_after(Query::new([QueryItem::default()])))),
    ];
    for (what, append) in nonsense {
        match store.append(append).await {
            Err(StoreError::Invalid(_)) => {}
            other => panic!("{what} must be refused, got {other:?}"),
        }
        assert_eq!(store.head().await.unwrap(), before, "{what}: something was written");
    }
}

/// A reader's name is 1 to 255 bytes of text.
pub(super) async fn l10_readers_have_names(h: &mut dyn Harness) {
    let store = h.store();
    let token = store.head().await.unwrap();
    for name in ["", "a\nb", "a\0", &"r".repeat(256)] {
        let saved = store.save_checkpoint(name, token).await;
        assert!(matches!(saved, Err(StoreError::Invalid(_))), "saving as {name:?} must be refused, got {saved:?}");
        let loaded = store.load_checkpoint(name).await;
        assert!(matches!(loaded, Err(StoreError::Invalid(_))), "loading {name:?} must be refused, got {loaded:?}");
    }
    for name in ["r", "🦀 'reader'; --", &"r".repeat(255)] {
        store.save_checkpoint(name, token).await.unwrap();
        assert_eq!(store.load_checkpoint(name).await.unwrap(), Some(token), "{name:?}");
    }
}

/// Many large appends at once: each waits its turn, or is turned away before it was taken.
pub(super) async fn l10_too_much_at_once_waits(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    let written = race(48, |n| {
        let (store, name) = (handles[n % 2].clone(), format!("large-{n}"));
        async move {
            match store.append(to(&name, [sized(&name, 900_000)])).await {
                Ok(AppendOutcome::Appended(_)) => 1,
                Err(error @ StoreError::Overloaded { .. }) if error.is_retryable() => 0,
                other => panic!("must be written or overloaded, got {other:?}"),
            }
        }
    });
    let written: u64 = written.await.into_iter().sum();
    assert!(written > 0, "all were turned away");
    assert_eq!(head(&handles[0]).await.get(), written, "what was turned away was written");
}

/// Callers that go away while they wait: their appends are there as a whole or not at all, and the store goes on.
pub(super) async fn l10_dropping_a_future_tears_nothing(h: &mut dyn Harness) {
    let store = h.store();
    for n in 0..40 {
        let append = to(&format!("dropped-{n}"), events(3));
        if n % 2 == 0 {
            let mut future = Box::pin(store.append(append));
            let _whether_it_is_through = futures::poll!(&mut future);
        } else {
            let task = tokio::spawn({
                let store = store.clone();
                async move { store.append(append).await }
            });
            tokio::time::sleep(std::time::Duration::from_micros(n * 20)).await;
            task.abort();
        }
        tokio::time::timeout(SOON, write(&store, "goes-on", 1)).await.expect("the store goes on");
    }
    let log = log(&store).await;
    for n in 0..40 {
        let name = format!("dropped-{n}");
        let count = log.iter().filter(|event| event.stream.as_str() == name).count();
        assert!(count == 0 || count == 3, "{count} of 3 events of {name} are there");
    }
    assert_eq!(read_stream(&store, "goes-on").await.len(), 40);
}
