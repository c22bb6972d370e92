//! Exports, read by a script in another language that was written by `FORMAT.md` alone.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    process::{Command, Output},
};

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, CausationId, ContentType, CorrelationId, EventStore, EventStoreExt, EventType,
    ExpectedVersion, Metadata, NewEvent, Position, ReadLog, RecordedEvent, StoreError, Tag,
};
use indelible_rocksdb::RocksStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::child::has_program;

/// Writes events of every form that the format knows, `many` of them in one append, of which one has `large` bytes of data.
pub(crate) async fn write_all_forms(store: &RocksStore, many: usize, large: usize) {
    fn event(event_type: &str, data: &[u8]) -> NewEvent {
        NewEvent::new(EventType::new(event_type).unwrap(), ContentType::JSON, data.to_vec())
    }
    let append = async |append: Append| {
        let outcome = store.append(append).await;
        assert!(matches!(outcome, Ok(AppendOutcome::Appended(_))), "{outcome:?}");
    };
    let to = |stream: &str, events: Vec<NewEvent>| Append::to(stream.parse().unwrap(), ExpectedVersion::Any, events);
    append(to("account-1", vec![event("Opened", br#"{"owner":"Ada"}"#), event("Deposited", br#"{"cents":1}"#)])).await;

    let mut full = event("Größe geändert", &[0, 255, 1, 254]);
    full.content_type = ContentType::BINCODE;
    full.schema_version = 300;
    full.causation_id = Some(CausationId::from_uuid(Uuid::from_u128(1)));
    full.correlation_id = Some(CorrelationId::from_uuid(Uuid::from_u128(u128::MAX)));
    full.tags = ["customer:日本", "☃", "a"].map(|tag| Tag::new(tag).unwrap()).to_vec();
    full.metadata =
        Metadata::new().with("actor", "Zoë").unwrap().with("é", "").unwrap().with("z", "x".repeat(300)).unwrap();
    let mut some = event("T", b"");
    some.correlation_id = Some(CorrelationId::from_uuid(Uuid::from_u128(2)));
    some.schema_version = u32::MAX;
    let mut longest = event(&"t".repeat(255), b"x");
    longest.content_type = ContentType::new("c".repeat(255)).unwrap();
    longest.tags =
        (0..64).map(|n| Tag::new(format!("{n}{}", "t".repeat(if n == 63 { 253 } else { n }))).unwrap()).collect();
    longest.metadata = Metadata::new().with("k".repeat(255), "\u{10ffff}").unwrap();
    append(
        to("größe-a-b-", vec![full])
            .event("no-id".parse().unwrap(), some)
            .event(format!("s-{}", "é".repeat(126)).parse().unwrap(), longest)
            .check("no-id".parse().unwrap(), ExpectedVersion::NoStream),
    )
    .await;
    let mut events: Vec<_> = (0..many).map(|n| event("Counted", format!("{{\"n\":{n}}}").as_bytes())).collect();
    events[many / 2].data = vec![b'x'; large].into();
    append(to("many-1", events)).await;
    append(to("account-1", vec![event("Closed", b"{}")]).close("account-1".parse().unwrap())).await;
    append(to("account-2", vec![event("Opened", b"{}")])).await;
}

pub(crate) async fn log(store: &impl EventStore) -> Vec<Value> {
    let events: Vec<_> = store.log(ReadLog::all()).try_collect().await.unwrap();
    events.iter().map(in_json).collect()
}

/// An event as the script prints it.
pub(crate) fn in_json(event: &RecordedEvent) -> Value {
    json!({
        "position": event.position.get(),
        "version": event.version.get(),
        "stream": event.stream.as_str(),
        "id": event.id.as_uuid().to_string(),
        "type": event.event_type.as_str(),
        "schema_version": event.schema_version,
        "recorded_at": event.recorded_at.as_micros(),
        "causation_id": event.causation_id.map(|id| id.as_uuid().to_string()),
        "correlation_id": event.correlation_id.map(|id| id.as_uuid().to_string()),
        "tags": event.tags.iter().map(Tag::as_str).collect::<Vec<_>>(),
        "metadata": event.metadata.iter().collect::<std::collections::BTreeMap<_, _>>(),
        "content_type": event.content_type.as_str(),
        "data": event.data.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "closes_stream": event.closes_stream,
        "ends_append": event.ends_append,
    })
}

async fn exported(store: &RocksStore, from: u64, dir: &TempDir) -> std::path::PathBuf {
    let path = dir.path().join(format!("export-{from}"));
    let last = store.export(Position::new(from), File::create(&path).unwrap()).await.unwrap();
    assert_eq!(last, store.head().await.unwrap().position);
    path
}

fn script(export: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_log.py");
    Command::new("python3").arg(script).arg(export).env("PYTHONIOENCODING", "utf-8").output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[tokio::test]
async fn a_script_reads_by_the_document_what_the_store_reads() {
    if !has_program("python3", &["--version"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path().join("store")).unwrap();
    assert_eq!(lines(&script(&exported(&store, 1, &dir).await)), Vec::<Value>::new(), "an empty log");
    write_all_forms(&store, 1_000, 300_000).await;
    let expected = log(&store).await;
    let whole = exported(&store, 0, &dir).await;
    let found = lines(&script(&whole));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());

    // From the block on that holds the position.
    let part = lines(&script(&exported(&store, 250, &dir).await));
    let first = part[0]["position"].as_u64().unwrap() as usize;
    assert!(1 < first && first <= 250, "{first}");
    assert_eq!(part, expected[first - 1..]);
    assert_eq!(lines(&script(&exported(&store, 10_000, &dir).await)), Vec::<Value>::new());

    // It finds out what is not whole.
    let bytes = std::fs::read(&whole).unwrap();
    let damaged = dir.path().join("damaged");
    for (at, why) in [(31, None), (300, Some("the checksum of event")), (48, Some("the checksum is wrong"))] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        std::fs::write(&damaged, &bytes).unwrap();
        let output = script(&damaged);
        assert_eq!(output.status.success(), why.is_none(), "byte {at}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why.unwrap_or_default()), "byte {at}");
    }
    std::fs::write(&damaged, &bytes[..bytes.len() - 12]).unwrap();
    assert!(!script(&damaged).status.success(), "without its end it was cut off");
}

/// An export that fails says so, and so does one of a damaged log.
#[tokio::test]
async fn an_export_that_cannot_be_written_fails() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let error = store.export(Position::FIRST, Full).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    store.close().await.unwrap();
    let error = store.export(Position::FIRST, io::sink()).await.unwrap_err();
    assert!(matches!(error, StoreError::Stopped { .. }), "{error:?}");
}
