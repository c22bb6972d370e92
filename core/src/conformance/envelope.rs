//! L8: what an event carries comes back as it was given, byte for byte.

use uuid::Uuid;

use super::{Harness, fixture::*};
use crate::{
    Append, CloudEvent, ContentType, CorrelationId, EventId, EventType, Limits, Metadata, NewEvent, ReadLog,
    ReadStream, RecordedEvent, StreamId, Timestamp,
};

/// Text that gets mangled where bytes are not left alone.
const TEXTS: [&str; 8] = [
    "plain",
    "emoji 🦀🏳️‍🌈",
    "right to left: שלום مرحبا",
    r#"quotes ' " ` \ / {} [] $1 %s ;--"#,
    " spaces at both ends ",
    "e\u{301} is not \u{e9}, Å is not \u{212b}",
    "null NULL true 0 -1 1e5 \u{feff}\u{200b}",
    "\u{10ffff}\u{fffd}\u{e000}",
];

/// Events that between them carry all that an event can.
fn all_kinds() -> Vec<(StreamId, NewEvent)> {
    let long = |start: &str| format!("{start}{}", "ß".repeat((255 - start.len()) / 2));
    let mut kinds: Vec<NewEvent> = Vec::new();
    for data in
        [&b""[..], b"{}", b" {\"a\": 1, \"a\": 1.0e2 } ", b"\0", &[0xff, 0xfe, 0x80], "\u{feff}\"ü\"".as_bytes()]
    {
        kinds.push(NewEvent { data: data.to_vec().into(), ..event("Happened") });
    }
    kinds.push(NewEvent { data: (0..=255).cycle().take(70_000).collect::<Vec<u8>>().into(), ..event("Large") });
    for text in TEXTS {
        let metadata = Metadata::new().with(text, text).unwrap().with("empty", "").unwrap();
        kinds.push(tagged(text, &[text]).with_metadata(metadata));
    }
    kinds.push(tagged("Ordered", &["b", "a", "c", "B", "a "]));
    kinds.push(tagged("Tagged", &[]).with_tags((0..64).rev().map(|n| tag(&long(&n.to_string())))));
    let mut metadata = Metadata::new().with(long("key"), "v".repeat(40_000)).unwrap();
    for n in 0..1_000 {
        metadata.insert(format!("k{n}"), n.to_string()).unwrap();
    }
    kinds.push(event(&long("Type")).with_metadata(metadata));
    for content_type in [ContentType::BINCODE, ContentType::new(long("application/")).unwrap()] {
        kinds.push(NewEvent { content_type, ..event("Encoded") });
    }
    for schema_version in [2, u32::MAX] {
        kinds.push(NewEvent { schema_version, ..event("Versioned") });
    }
    for id in [Uuid::from_u128(1), Uuid::max(), Uuid::new_v5(&Uuid::NAMESPACE_OID, b"key"), Uuid::new_v4()] {
        let mut given = event("Identified").with_id(EventId::from_uuid(id));
        given.correlation_id = Some(CorrelationId::from_uuid(Uuid::from_u128(!id.as_u128())));
        kinds.push(given.clone().with_id(EventId::new()));
        given.correlation_id = None;
        given.causation_id = Some(EventId::from_uuid(id).into());
        kinds.push(given);
    }
    let names = TEXTS.map(|text| format!("{}-{text}", text.replace('-', "_")));
    let names = names.into_iter().chain([long("category-"), format!("{}-1", "c".repeat(253)), "a--b-".into()]);
    let streams: Vec<StreamId> = names.map(|name| stream(&name)).collect();
    let count = kinds.len().max(streams.len());
    (0..count).map(|n| (streams[n % streams.len()].clone(), kinds[n % kinds.len()].clone())).collect()
}

fn assert_same(recorded: &RecordedEvent, (stream, new): &(StreamId, NewEvent)) {
    assert_eq!(recorded.id, new.id);
    assert_eq!(recorded.stream, *stream);
    assert_eq!(recorded.event_type, new.event_type);
    assert_eq!(recorded.schema_version, new.schema_version);
    assert_eq!(recorded.content_type, new.content_type);
    assert_eq!(recorded.tags, new.tags);
    assert_eq!(recorded.metadata, new.metadata);
    assert_eq!(recorded.correlation_id, new.correlation_id);
    assert_eq!(recorded.causation_id, new.causation_id);
    assert!(recorded.data == new.data, "the data of {} came back changed", new.event_type);
}

/// Every field, whichever way the event is read.
pub(super) async fn l8_every_field_comes_back(h: &mut dyn Harness) {
    let store = h.store();
    let given = all_kinds();
    let append = given.iter().fold(Append::new(), |append, (stream, new)| append.event(stream.clone(), new.clone()));
    let answer = appended(&store, append).await;
    assert_eq!(answer.events.len(), given.len());
    let log = log(&store).await;
    for ((answered, read), given) in answer.events.iter().zip(&log).zip(&given) {
        assert_same(answered, given);
        assert_same(read, given);
        assert_same(&store.event(given.1.id).await.unwrap().unwrap(), given);
        let in_stream = ReadStream::new(given.0.clone()).from(read.version).limit(1);
        assert_same(&store.read_stream(&in_stream).await.unwrap().events[0], given);
        for tag in given.1.tags.iter().take(3) {
            let by_tag = ReadLog::matching(with_tags(&[tag.as_str()])).from(read.position).limit(1);
            assert_same(&store.read_log(&by_tag).await.unwrap().events[0], given);
        }
    }
}

/// Every field, after the store was opened again.
pub(super) async fn l8_every_field_is_kept(h: &mut dyn Harness) {
    let store = h.store();
    let given = all_kinds();
    for (stream, new) in &given {
        appended(&store, Append::new().event(stream.clone(), new.clone())).await;
    }
    let before = log(&store).await;
    write(&store, "filler-1", 1).await;
    drop(store);
    h.reopen(Limits::default()).await;
    let after = log(&h.store()).await;
    for ((before, after), given) in before.iter().zip(&after).zip(&given) {
        assert_same(after, given);
        assert_eq!(before, after);
    }
}

/// What is recorded becomes a CloudEvent, and is the same when it comes back.
pub(super) async fn l8_events_become_cloud_events_and_back(h: &mut dyn Harness) {
    let store = h.store();
    for (stream, new) in all_kinds() {
        appended(&store, Append::new().event(stream, new)).await;
    }
    for event in log(&store).await {
        let json = serde_json::to_string(&CloudEvent::new(&event, store.id())).unwrap();
        let back: CloudEvent = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error} in {json}"));
        assert!(back.into_recorded().unwrap() == event, "another event came back from {json}");
    }
}

/// An event says when it was recorded: about now, and never before the one in front of it.
pub(super) async fn l8_recorded_at_never_goes_back(h: &mut dyn Harness) {
    let handles = [h.store(), h.another().await];
    let before = Timestamp::now();
    race(8, |n| {
        let store = handles[n % 2].clone();
        async move {
            for append in 0..20 {
                write(&store, &format!("a-{n}"), 1 + append % 2).await;
            }
        }
    })
    .await;
    let after = Timestamp::now();
    let times: Vec<Timestamp> = log(&handles[0]).await.iter().map(|event| event.recorded_at).collect();
    assert!(times.is_sorted(), "an event was recorded before its predecessor");
    let slack = std::time::Duration::from_secs(5);
    let (first, last) = (times[0], times[times.len() - 1]);
    assert!(
        before.since(first) < slack && last.since(after) < slack,
        "recorded from {first} to {last}, not at {after}"
    );
    drop(handles);
    h.reopen(Limits::default()).await;
    let next = write(&h.store(), "a-1", 1).await;
    assert!(next[0].recorded_at >= last, "an event after reopening was recorded before its predecessor");
}

/// A type is told apart by its stream's category.
pub(super) async fn l8_types_are_told_apart_by_category(h: &mut dyn Harness) {
    let store = h.store();
    let append = Append::new().event(stream("a-1"), event("Opened")).event(stream("b-1-a"), event("Opened"));
    appended(&store, append).await;
    let types: Vec<_> = log(&store).await.iter().map(RecordedEvent::qualified_type).collect();
    assert_eq!(types, [of_type("a", "Opened"), of_type("b", "Opened")]);
    assert_eq!(types[1].event_type, EventType::from_static("Opened"));
}
