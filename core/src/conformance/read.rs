//! L6: streams and the log, in both directions and by every filter; events by id; streams and categories by pages.

use super::{Harness, fixture::*};
use crate::{
    AnyStore, Append, EventId, Filter, Limits, NewEvent, PAGE_EVENTS_MAX, Position, Query, QueryItem, ReadLog,
    ReadStream, RecordedEvent, StoreError, StreamHead, Token, Version,
};

/// A log of several categories, types and tags; positions 1 to 10.
async fn write_library(store: &AnyStore) -> Vec<RecordedEvent> {
    let append = Append::new()
        .event(stream("book-1"), tagged("Added", &["isbn:1", "shelf:a"]))
        .event(stream("book-2"), tagged("Added", &["isbn:2", "shelf:a"]))
        .event(stream("member-1"), tagged("Added", &["member:1"]))
        .event(stream("book-1"), tagged("Lent", &["isbn:1", "member:1"]))
        .event(stream("book-10"), tagged("Added", &["isbn:10"]))
        .event(stream("booklet-1"), event("Added"))
        .event(stream("book-1"), tagged("Returned", &["isbn:1", "member:1"]))
        .event(stream("book-2"), tagged("Lent", &["isbn:2", "member:2"]))
        .event(stream("book-1"), tagged("Lent", &["isbn:1", "member:2"]))
        .event(stream("member-1"), event("Left"));
    appended(store, append).await.events
}

/// Reads the log by a filter both ways, from and to each place, and with limits; all must be parts of what is expected.
async fn assert_reads(store: &AnyStore, filter: impl Into<Filter>, expected: &[u64]) {
    let filter = filter.into();
    let read_log = || ReadLog::matching(filter.clone());
    let backwards: Vec<u64> = expected.iter().rev().copied().collect();
    assert_eq!(positions(&read(store, read_log()).await), expected, "forwards by {filter:?}");
    assert_eq!(positions(&read(store, read_log().backwards()).await), backwards, "backwards by {filter:?}");
    for place in [0, 1, 4, 7, 10, 11, u64::MAX >> 1] {
        let at = Position::new(place);
        let from: Vec<u64> = expected.iter().filter(|p| **p >= place).copied().collect();
        let upto: Vec<u64> = expected.iter().filter(|p| **p <= place).copied().collect();
        let (from_back, upto_back) = (from.iter().rev().copied(), upto.iter().rev().copied());
        assert_eq!(positions(&read(store, read_log().from(at)).await), from, "from {place} by {filter:?}");
        assert_eq!(positions(&read(store, read_log().to(at)).await), upto, "to {place} by {filter:?}");
        let back = read(store, read_log().backwards().from(at)).await;
        assert_eq!(positions(&back), upto_back.collect::<Vec<_>>(), "backwards from {place} by {filter:?}");
        let back = read(store, read_log().backwards().to(at)).await;
        assert_eq!(positions(&back), from_back.collect::<Vec<_>>(), "backwards to {place} by {filter:?}");
    }
    for limit in [1, 2, expected.len() + 1] {
        let some = &expected[..limit.min(expected.len())];
        assert_eq!(positions(&read(store, read_log().limit(limit)).await), some, "{limit} by {filter:?}");
        let some = &backwards[..limit.min(expected.len())];
        let back = read(store, read_log().backwards().limit(limit)).await;
        assert_eq!(positions(&back), some, "{limit} backwards by {filter:?}");
    }
}

/// The whole log.
pub(super) async fn l6_the_log_is_read_both_ways(h: &mut dyn Harness) {
    let store = h.store();
    let written = write_library(&store).await;
    assert_eq!(log(&store).await, written);
    assert_reads(&store, Filter::all(), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).await;
    let within = ReadLog::all().from(Position::new(3)).to(Position::new(5));
    assert_eq!(positions(&read(&store, within).await), [3, 4, 5]);
    let within = ReadLog::all().backwards().from(Position::new(5)).to(Position::new(3));
    assert_eq!(positions(&read(&store, within).await), [5, 4, 3]);
    let nothing = ReadLog::all().from(Position::new(5)).to(Position::new(4));
    assert!(read(&store, nothing).await.is_empty());
}

/// One category, and several.
pub(super) async fn l6_the_log_is_read_by_category(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    let of = |names: &[&str]| Filter::categories(names.iter().map(|name| category(name)));
    assert_reads(&store, of(&["book"]), &[1, 2, 4, 5, 7, 8, 9]).await;
    assert_reads(&store, of(&["booklet"]), &[6]).await;
    assert_reads(&store, of(&["member", "booklet"]), &[3, 6, 10]).await;
    assert_reads(&store, of(&["book", "book"]), &[1, 2, 4, 5, 7, 8, 9]).await;
    assert_reads(&store, of(&["boo"]), &[]).await;
}

/// Streams whose name starts so.
pub(super) async fn l6_the_log_is_read_by_prefix(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    let starting = |prefix: &str| Filter::stream_prefix(prefix).unwrap();
    assert_reads(&store, starting("book-1"), &[1, 4, 5, 7, 9]).await;
    assert_reads(&store, starting("book"), &[1, 2, 4, 5, 6, 7, 8, 9]).await;
    assert_reads(&store, starting("book-10"), &[5]).await;
    assert_reads(&store, starting("ook"), &[]).await;
    assert_reads(&store, starting(""), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).await;
}

/// Types, each in its category: one name in two categories is two types.
pub(super) async fn l6_the_log_is_read_by_type(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    assert_reads(&store, with_types(&[("book", "Added")]), &[1, 2, 5]).await;
    assert_reads(&store, with_types(&[("member", "Added")]), &[3]).await;
    assert_reads(&store, with_types(&[("member", "Added"), ("booklet", "Added")]), &[3, 6]).await;
    assert_reads(&store, with_types(&[("book", "Lent"), ("book", "Returned")]), &[4, 7, 8, 9]).await;
    assert_reads(&store, with_types(&[("member", "Lent")]), &[]).await;
    assert_reads(&store, with_types(&[("book", "Len")]), &[]).await;
}

/// Tags, all of which are needed.
pub(super) async fn l6_the_log_is_read_by_tag(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    assert_reads(&store, with_tags(&["isbn:1"]), &[1, 4, 7, 9]).await;
    assert_reads(&store, with_tags(&["isbn:1", "member:1"]), &[4, 7]).await;
    assert_reads(&store, with_tags(&["member:1"]), &[3, 4, 7]).await;
    assert_reads(&store, with_tags(&["isbn:10", "member:1"]), &[]).await;
    assert_reads(&store, with_tags(&["isbn"]), &[]).await;
}

/// A query's items are alternatives, and an event that matches several of them comes once.
pub(super) async fn l6_the_log_is_read_by_alternatives(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    let lent = || QueryItem::types([of_type("book", "Lent")]);
    assert_reads(&store, with_tags(&["isbn:1"]).or(with_tags(&["member:1"])), &[1, 3, 4, 7, 9]).await;
    assert_reads(&store, with_tags(&["isbn:2"]).or(Query::new([lent()])), &[2, 4, 8, 9]).await;
    assert_reads(&store, Query::new([lent().and_tag(tag("member:2"))]), &[8, 9]).await;
    assert_reads(&store, Query::new([lent(), lent(), lent().and_tag(tag("isbn:1"))]), &[4, 8, 9]).await;
    let hundred = (0..100).map(|n| QueryItem::tags([tag(&format!("isbn:{n}"))]));
    assert_reads(&store, Query::new(hundred), &[1, 2, 4, 5, 7, 8, 9]).await;
}

/// Categories, prefix and query together: all must hold.
pub(super) async fn l6_the_log_is_read_by_all_at_once(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    let of = |name: &str| Filter::categories([category(name)]);
    let starting = |prefix: &str| Filter::stream_prefix(prefix).unwrap();
    assert_reads(&store, of("book").with_query(with_tags(&["member:1"])), &[4, 7]).await;
    assert_reads(&store, of("member").with_query(with_types(&[("book", "Added")])), &[]).await;
    assert_reads(&store, starting("book-1").and_categories([category("book")]), &[1, 4, 5, 7, 9]).await;
    assert_reads(&store, starting("book").and_categories([category("booklet")]), &[6]).await;
    let lent = starting("book-1").with_query(with_types(&[("book", "Lent"), ("member", "Left")]));
    assert_reads(&store, lent, &[4, 9]).await;
}

/// A query item that names nothing is refused, and no answer.
pub(super) async fn l6_a_filter_that_asks_for_nothing_is_refused(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    for query in [Query::new([QueryItem::default()]), with_tags(&["isbn:1"]).or(Query::new([QueryItem::tags([])]))] {
        let result = store.read_log(&ReadLog::matching(query)).await;
        assert!(matches!(result, Err(StoreError::Invalid(_))), "must be refused, got {result:?}");
    }
}

/// A stream forwards and backwards, from a version and with a limit.
pub(super) async fn l6_a_stream_is_read_both_ways(h: &mut dyn Harness) {
    let store = h.store();
    for n in 0..5 {
        write(&store, "account-1", 1 + n % 2).await;
        write(&store, "account-10", 1).await;
    }
    let whole = || ReadStream::new(stream("account-1"));
    let all: Vec<RecordedEvent> = log(&store).await.into_iter().filter(|e| e.stream.as_str() == "account-1").collect();
    assert_eq!(stream_of(&store, whole()).await, all, "a stream holds its events, and no other's");
    let read_versions = async |read| versions(&stream_of(&store, read).await);
    assert_eq!(read_versions(whole()).await, [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(read_versions(whole().backwards()).await, [7, 6, 5, 4, 3, 2, 1]);
    for from in 0..9 {
        let at = Version::new(from);
        let forwards = read_versions(whole().from(at)).await;
        assert_eq!(forwards, (from.max(1)..=7).collect::<Vec<_>>(), "forwards from version {from}");
        let backwards = read_versions(whole().backwards().from(at)).await;
        assert_eq!(backwards, (1..=from.min(7)).rev().collect::<Vec<_>>(), "backwards from version {from}");
    }
    assert_eq!(read_versions(whole().limit(3)).await, [1, 2, 3]);
    assert_eq!(read_versions(whole().from(Version::new(6)).limit(1)).await, [6]);
    assert_eq!(read_versions(whole().backwards().limit(2)).await, [7, 6]);
    assert_eq!(read_versions(whole().backwards().from(Version::new(3)).limit(2)).await, [3, 2]);
}

/// A page says where the next begins, and that there is none; it never has more events than asked for.
pub(super) async fn l6_pages_follow_each_other(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    for filter in [Filter::all(), with_tags(&["isbn:1"]).into(), Filter::categories([category("book")])] {
        let whole = positions(&read(&store, ReadLog::matching(filter.clone())).await);
        for backwards in [false, true] {
            let read = ReadLog::matching(filter.clone());
            let mut read = if backwards { read.backwards() } else { read }.limit(2);
            let mut paged = Vec::new();
            loop {
                let page = store.read_log(&read).await.unwrap();
                assert!(page.events.len() <= 2, "a page of at most 2 has {}", page.events.len());
                paged.extend(positions(&page.events));
                let Some(next) = page.next else { break };
                let goes_on = if backwards { next < read.from } else { next > read.from };
                assert!(goes_on, "the page after {} goes on at {next}", read.from);
                read = read.from(next);
            }
            if backwards {
                paged.reverse();
            }
            assert_eq!(paged, whole, "page by page, backwards: {backwards}");
        }
    }
}

/// More events than a page holds: all come, in pages that keep their limit.
pub(super) async fn l6_many_events_come_in_pages(h: &mut dyn Harness) {
    const EVENTS: usize = 2 * PAGE_EVENTS_MAX + 500;
    let store = h.store();
    let many = (0..EVENTS).map(|n| tagged("Counted", &[["even", "odd"][n % 2]]));
    appended(&store, to("counter-1", many)).await;
    let page = store.read_log(&ReadLog::all()).await.unwrap();
    assert!(page.events.len() <= PAGE_EVENTS_MAX && page.next.is_some(), "a page has {} events", page.events.len());
    let page = store.read_stream(&ReadStream::new(stream("counter-1"))).await.unwrap();
    assert!(page.events.len() <= PAGE_EVENTS_MAX && page.next.is_some(), "a page has {} events", page.events.len());
    let all: Vec<u64> = (1..=EVENTS as u64).collect();
    let reversed: Vec<u64> = all.iter().rev().copied().collect();
    let whole = || ReadStream::new(stream("counter-1"));
    assert_eq!(positions(&read(&store, ReadLog::all()).await), all);
    assert_eq!(positions(&read(&store, ReadLog::all().backwards()).await), reversed);
    assert_eq!(versions(&stream_of(&store, whole()).await), all);
    assert_eq!(versions(&stream_of(&store, whole().backwards()).await), reversed);
    let odd: Vec<u64> = all.iter().filter(|n| *n % 2 == 0).copied().collect();
    assert_eq!(positions(&read(&store, ReadLog::matching(with_tags(&["odd"]))).await), odd);
    assert_eq!(stream_of(&store, whole().limit(PAGE_EVENTS_MAX + 1)).await.len(), PAGE_EVENTS_MAX + 1);
}

/// More bytes than a page holds: pages stay small, and all come.
pub(super) async fn l6_large_events_come_in_pages(h: &mut dyn Harness) {
    const EVENTS: u64 = 12;
    let store = h.store();
    let large = |n: u64| {
        let mut event: NewEvent = tagged("Stored", &["large"]);
        event.data = vec![n as u8; 1_000_000].into();
        event
    };
    appended(&store, to("blob-1", (1..=EVENTS).map(large))).await;
    let page = store.read_log(&ReadLog::all()).await.unwrap();
    let count = page.events.len();
    assert!((1..=6).contains(&count) && page.next.is_some(), "a page holds about 4 MiB, this one {count} MB");
    let page = store.read_stream(&ReadStream::new(stream("blob-1")).backwards()).await.unwrap();
    let count = page.events.len();
    assert!((1..=6).contains(&count) && page.next.is_some(), "a page holds about 4 MiB, this one {count} MB");
    for read_log in [ReadLog::all(), ReadLog::matching(with_tags(&["large"]))] {
        let all = read(&store, read_log).await;
        assert_eq!(positions(&all), (1..=EVENTS).collect::<Vec<_>>());
        for event in &all {
            assert!(event.data.iter().all(|byte| u64::from(*byte) == event.position.get()), "data got mixed up");
        }
    }
    let backwards = stream_of(&store, ReadStream::new(stream("blob-1")).backwards()).await;
    assert_eq!(versions(&backwards), (1..=EVENTS).rev().collect::<Vec<_>>());
}

/// Any event is found by its id, and no other.
pub(super) async fn l6_events_are_found_by_id(h: &mut dyn Harness) {
    let store = h.store();
    for event in write_library(&store).await {
        assert_eq!(store.event(event.id).await.unwrap(), Some(event));
    }
    assert_eq!(store.event(EventId::new()).await.unwrap(), None);
    assert_eq!(store.event(EventId::NIL).await.unwrap(), None);
}

/// A stream's head tells its version and position.
pub(super) async fn l6_heads_of_streams_are_told(h: &mut dyn Harness) {
    let store = h.store();
    write_library(&store).await;
    for (name, version, position) in [("book-1", 4, 9), ("book-2", 2, 8), ("book-10", 1, 5), ("member-1", 2, 10)] {
        let head = store.stream_head(&stream(name)).await.unwrap();
        assert_eq!((head.version.get(), head.position.get(), head.closed), (version, position, false), "{name}");
    }
    assert_eq!(store.stream_head(&stream("book-100")).await.unwrap(), StreamHead::default());
}

/// Streams by name, in pages, of all categories and of one.
pub(super) async fn l6_streams_come_in_pages(h: &mut dyn Harness) {
    let store = h.store();
    let names = ["a-1", "a-10", "a-2", "aa-1", "b-1", "b-é", "b-\u{1f600}"];
    for name in names.iter().rev() {
        write(&store, name, 2).await;
    }
    for limit in [1, 2, 3, 7, 100] {
        for (of, expected) in [(None, &names[..]), (Some("a"), &names[..3]), (Some("b"), &names[4..]), (Some("c"), &[])]
        {
            let of = of.map(category);
            let mut all = Vec::new();
            loop {
                let page = store.streams(of.as_ref(), all.last(), limit).await.unwrap();
                assert!(page.len() <= limit, "a page of at most {limit} has {}", page.len());
                if page.is_empty() {
                    break;
                }
                all.extend(page);
                assert!(all.len() <= names.len(), "{limit} at a time come for ever: {all:?}");
            }
            assert_eq!(all, expected.iter().map(|name| stream(name)).collect::<Vec<_>>(), "{limit} at a time, {of:?}");
        }
    }
    assert_eq!(store.streams(None, Some(&stream("a-3")), 1).await.unwrap(), [stream("aa-1")], "after one not there");
}

/// Categories by name, in pages.
pub(super) async fn l6_categories_come_in_pages(h: &mut dyn Harness) {
    let store = h.store();
    // A space sorts before the `-` that ends a category, a dot behind it.
    let names = ["a", "a b", "a.b", "aa", "b", "\u{e9}"];
    for name in names.iter().rev() {
        for id in 0..3 {
            write(&store, &format!("{name}-{id}"), 1).await;
        }
    }
    for limit in [1, 2, 5, 100] {
        let mut all = Vec::new();
        loop {
            let page = store.categories(all.last(), limit).await.unwrap();
            assert!(page.len() <= limit, "a page of at most {limit} has {}", page.len());
            if page.is_empty() {
                break;
            }
            all.extend(page);
            assert!(all.len() <= names.len(), "{limit} at a time come for ever: {all:?}");
        }
        assert_eq!(all, names.map(category), "{limit} at a time");
    }
}

/// An empty log answers everything.
pub(super) async fn l6_an_empty_log_can_be_read(h: &mut dyn Harness) {
    let store = h.store();
    assert_eq!(store.head().await.unwrap(), Token::start(store.id()));
    assert_eq!(store.token(Position::START).await.unwrap(), Token::start(store.id()));
    for read_log in [ReadLog::all(), ReadLog::all().backwards(), ReadLog::matching(with_tags(&["a"]))] {
        let page = store.read_log(&read_log).await.unwrap();
        assert_eq!((page.events, page.next), (Vec::new(), None), "{read_log:?}");
    }
    for read_stream in [ReadStream::new(stream("a-1")), ReadStream::new(stream("a-1")).backwards()] {
        let page = store.read_stream(&read_stream).await.unwrap();
        assert_eq!((page.events, page.next), (Vec::new(), None), "{read_stream:?}");
    }
    assert_eq!(store.stream_head(&stream("a-1")).await.unwrap(), StreamHead::default());
    assert_eq!(store.streams(None, None, 10).await.unwrap(), []);
    assert_eq!(store.categories(None, 10).await.unwrap(), []);
}

/// All reads give the same after the store was opened again.
pub(super) async fn l6_reads_are_the_same_after_reopening(h: &mut dyn Harness) {
    let store = h.store();
    let written = write_library(&store).await;
    write(&store, "filler-1", 1).await;
    drop(store);
    h.reopen(Limits::default()).await;
    let store = h.store();
    assert_eq!(read(&store, ReadLog::all().to(Position::new(10))).await, written);
    let by_tag = read(&store, ReadLog::matching(with_tags(&["isbn:1"]))).await;
    assert_eq!(positions(&by_tag), [1, 4, 7, 9]);
    let by_type = read(&store, ReadLog::matching(with_types(&[("book", "Added")]))).await;
    assert_eq!(positions(&by_type), [1, 2, 5]);
    let by_category = read(&store, ReadLog::matching(Filter::categories([category("member")]))).await;
    assert_eq!(positions(&by_category), [3, 10]);
    assert_eq!(positions(&read_stream(&store, "book-1").await), [1, 4, 7, 9]);
    assert_eq!(store.event(written[4].id).await.unwrap().as_ref(), Some(&written[4]));
}
