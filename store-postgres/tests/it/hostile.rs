//! Names and data that mean something elsewhere: nothing is interpreted, each comes back as it went in.

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, Category, CheckpointStore, Condition, ContentType, EventId, EventStore, EventStoreExt,
    EventType, ExpectedVersion, Filter, Fingerprint, Metadata, NewEvent, Position, QualifiedType, Query, QueryItem,
    ReadLog, RecordedEvent, Snapshot, SnapshotStore, StreamId, Tag, Timestamp, Version,
};
use indelible_postgres::PostgresStore;

use crate::{
    cluster::{Cluster, fresh_schema, shared_url},
    writing::client,
};

fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "'; DROP TABLE log; --",
        "\"quoted\"",
        "$1",
        "$$",
        "%",
        "_",
        "a%b_c",
        "\\",
        "\\n",
        "E'\\x00'",
        "{a,b}",
        "{\"a\",NULL}",
        "NULL",
        "(a,\"b\")",
        "a,b",
        " ",
        " a ",
        "\u{202e}txt.exe",
        "\u{200f}rtl",
        "e\u{301}",
        "\u{e9}",
        "🦀👩‍👩‍👧",
        "\u{feff}bom",
        "\u{2028}\u{2029}",
        "\u{ffff}\u{10ffff}",
        "/../../etc",
        "<script>",
        "İıſ",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("x".repeat(250));
    names.push("🦀".repeat(62));
    names
}

#[tokio::test]
async fn whatever_is_written_comes_back() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let mut written = Vec::new();
    for name in names() {
        let category = Category::new(name.replace('-', "~")).unwrap();
        let stream = StreamId::new(&Category::new("c").unwrap(), &name).unwrap();
        let of_category: StreamId = format!("{category}-1").parse().unwrap();
        let event = |data: &[u8]| {
            let mut event =
                NewEvent::new(EventType::new(&name).unwrap(), ContentType::new(&name).unwrap(), data.to_vec());
            event.tags = vec![Tag::new(&name).unwrap(), Tag::new("of all").unwrap()];
            event.metadata = Metadata::new().with(&name, format!("{name}{name}")).unwrap();
            event
        };
        let append = Append::new()
            .write(stream.clone(), ExpectedVersion::NoStream, [event(b"\0\xff'"), event(br#"{"a":1,"a":1e2}"#)])
            .write(of_category.clone(), ExpectedVersion::Any, [event(name.as_bytes())]);
        let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("{name:?}") };

        let head = store.stream_head(&stream).await.unwrap();
        assert_eq!(head.version.get(), 2, "{name:?}");
        let tag = Tag::new(&name).unwrap();
        let found = read_log(&store, ReadLog::matching(tag.clone())).await;
        assert_eq!(found, done.events, "by tag: {name:?}");
        let item = QueryItem::types([done.events[2].qualified_type()]).and_tag(tag.clone());
        let found = read_log(&store, ReadLog::matching(Query::new([item]))).await;
        assert_eq!(found, done.events[2..], "by type and tag: {name:?}");
        let found = read_log(&store, ReadLog::matching(Filter::categories([category]))).await;
        assert_eq!(found, done.events[2..], "by category: {name:?}");
        let found = read_log(&store, ReadLog::matching(Filter::stream_prefix(stream.as_str()).unwrap())).await;
        assert!(found.starts_with(&done.events[..2]), "by prefix: {name:?}");
        let free = Condition::none_after(tag.into(), Position::START);
        let again = Append::to(stream, ExpectedVersion::Any, [event(b"")]).require(free);
        let told = store.append(again).await.unwrap();
        assert!(matches!(told, AppendOutcome::Conflict(_)), "{name:?}: {told:?}");
        written.extend(done.events);
    }
    assert_eq!(read_log(&store, ReadLog::all()).await, written);
    // The view shows each, whatever it holds.
    let count = format!("SELECT count(*), count(data) FROM {schema}.events");
    let row = client(&url).await.query_one(&count, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), written.len() as i64);
}

/// Whatever names and data are, no statement has them in its text: the server, which writes down each, shows none.
#[tokio::test]
async fn no_statement_has_input_in_its_text() {
    const CANARY: &str = "canary7f3";
    // What is bound is not written down, what is in the text is.
    let settings = "log_statement = all\nlog_min_duration_statement = 0\nlog_parameter_max_length = 0\n\
                    log_parameter_max_length_on_error = 0\nlog_min_error_statement = info\nlog_min_messages = info";
    let cluster = Cluster::start(settings);
    let url = cluster.url();
    let store = PostgresStore::open(&url).await.unwrap();
    for name in names() {
        let name = format!("{CANARY}{}", name.chars().take(40).collect::<String>());
        let stream = StreamId::new(&Category::new(CANARY).unwrap(), &name).unwrap();
        let tag = Tag::new(&name).unwrap();
        let event_type = EventType::new(&name).unwrap();
        let mut event = NewEvent::new(event_type.clone(), ContentType::new(&name).unwrap(), name.clone());
        event.tags = vec![tag.clone()];
        event.metadata = Metadata::new().with(&name, &name).unwrap();
        let append = Append::to(stream.clone(), ExpectedVersion::NoStream, [event]);
        for _ in 0..2 {
            store.append(append.clone()).await.unwrap();
        }
        let item = QueryItem::types([QualifiedType { category: stream.category(), event_type }]).and_tag(tag.clone());
        let condition = Condition::none_after(Query::new([item.clone()]), Position::START);
        let refused = Append::to(
            stream.clone(),
            ExpectedVersion::NoStream,
            [append.events()[0].1.clone().with_id(EventId::new())],
        );
        assert!(matches!(store.append(refused.require(condition)).await, Ok(AppendOutcome::Conflict(_))));
        for read in [
            ReadLog::matching(tag),
            ReadLog::matching(Query::new([item])),
            ReadLog::matching(Filter::stream_prefix(stream.as_str()).unwrap()),
            ReadLog::matching(Filter::categories([stream.category()])),
        ] {
            assert!(!read_log(&store, read).await.is_empty());
        }
        store.streams(Some(&stream.category()), Some(&stream), 5).await.unwrap();
        store.categories(Some(&stream.category()), 5).await.unwrap();
        store.stream_head(&stream).await.unwrap();
        let head = store.head().await.unwrap();
        store.save_checkpoint(&name, head).await.unwrap();
        assert_eq!(store.load_checkpoint(&name).await.unwrap(), Some(head));
        let snapshot = Snapshot {
            stream: stream.clone(),
            version: Version::FIRST,
            event_id: head.event,
            fingerprint: Fingerprint::of([name.as_str()]),
            taken_at: Timestamp::now(),
            content_type: ContentType::new(&name).unwrap(),
            data: name.into(),
        };
        store.save_snapshot(snapshot.clone()).await.unwrap();
        assert_eq!(store.load_snapshot(&stream).await.unwrap(), Some(snapshot));
        store.delete_snapshot(&stream).await.unwrap();
    }
    store.verify().await.unwrap();
    store.close().await.unwrap();
    let log = cluster.log();
    let statements = log.matches("execute ").count();
    assert!(statements > 500 && log.contains("append("), "{statements} statements were written down");
    let at = log.find(CANARY).unwrap_or_default();
    assert!(!log.contains(CANARY), "{}", &log[at.saturating_sub(500)..(at + 100).min(log.len())]);
    client(&url).await.batch_execute(&format!("SELECT '{CANARY}'")).await.unwrap();
    assert!(cluster.log().contains(CANARY), "the server would not have shown it");
    println!("{statements} statements, none with input in its text");
}

/// The view shows JSON as such, and what PostgreSQL can't take for it as nothing.
#[tokio::test]
async fn the_view_shows_json() {
    let (url, schema) = (shared_url(), fresh_schema());
    let store = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let data: [(&[u8], Option<&str>); 6] = [
        (br#"{"b": 2, "a": "\u00fc"}"#, Some(r#"{"a": "ü", "b": 2}"#)),
        (br#"{"a": "\u0000"}"#, None),
        (br#""\ud800""#, None),
        (b"1e400000", None),
        (b"\xff", None),
        (b"", None),
    ];
    for (bytes, _) in data {
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, bytes.to_vec());
        store.append(Append::to("a-1".parse().unwrap(), ExpectedVersion::Any, [event])).await.unwrap();
    }
    let rows = client(&url)
        .await
        .query(&format!("SELECT data::text, bytes, type, category FROM {schema}.events ORDER BY position"), &[])
        .await
        .unwrap();
    for (row, (bytes, shown)) in rows.iter().zip(data) {
        assert_eq!(row.get::<_, Option<&str>>(0), shown, "{}", bytes.escape_ascii());
        assert_eq!(row.get::<_, &[u8]>(1), bytes);
        assert_eq!((row.get::<_, &str>(2), row.get::<_, &str>(3)), ("Written", "a"));
    }
    assert_eq!(rows.len(), data.len());
}

async fn read_log(store: &PostgresStore, read: ReadLog) -> Vec<RecordedEvent> {
    store.log(read).try_collect().await.unwrap()
}
