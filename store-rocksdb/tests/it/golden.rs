//! Directories that earlier versions wrote, and this one: each still opens, with all that was in it, and goes on from there.
//! Damaged, each is refused.
//!
//! `golden/v1/NAME/` is a store in format 1, `NAME.json` is what it holds. A directory that was released is never written
//! again; `./dev golden` writes those that are missing. Where the index in one is of an earlier version than this one's, it
//! is made anew, and the snapshots in it, a cache, are gone.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use indelible_core::conformance::fault::Line;
use indelible_core::{
    Append, AppendOutcome, CheckpointStore, ContentType, EventId, EventStore, EventStoreExt, EventType,
    ExpectedVersion, Filter, Fingerprint, NewEvent, Position, QualifiedType, Query, QueryItem, ReadLog, ReadStream,
    Snapshot, SnapshotStore, StreamId, Tag, Timestamp, Version,
};
use indelible_rocksdb::{OpenError, RocksStore};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    conformance::copy_files,
    damage::write_ahead_log,
    export::{in_json, log, write_all_forms},
    verification::prove,
};

const FAULT: &str = "golden directories";

/// What this version writes.
const CURRENT: &str = "v1";
const KINDS: [&str; 5] = ["closed", "killed", "torn", "kept", "kept-2"];
/// Those that have an index of version 1.
const OLDER_INDEX: [&str; 2] = ["closed", "kept"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A copy of a directory to work in, and what it holds.
fn copy_of(path: &Path) -> (TempDir, Value) {
    let dir = tempfile::tempdir().unwrap();
    copy_files(path, dir.path());
    (dir, serde_json::from_slice(&fs::read(path.with_extension("json")).unwrap()).unwrap())
}

#[tokio::test]
async fn every_directory_that_was_written_is_read() {
    if env::var_os("INDELIBLE_GOLDEN").is_some_and(|wish| wish == "write") {
        write_missing().await;
    }
    let (mut read, mut events) = (0, 0);
    for version in fs::read_dir(golden()).unwrap() {
        for entry in fs::read_dir(version.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let (dir, mut expected) = copy_of(&path);
                println!("{}", path.display());
                let reader = RocksStore::options().open_read_only(dir.path()).unwrap();
                let seen = log(&reader).await;
                assert!(!seen.is_empty() && expected["events"].as_array().unwrap().starts_with(&seen));
                drop(reader);
                let index = fs::read_to_string(dir.path().join("index/IDENTITY")).unwrap();
                let is_older = OLDER_INDEX.iter().any(|kind| path.ends_with(kind));
                if is_older {
                    expected["snapshots"] = json!([]);
                }
                reads_and_goes_on(dir.path(), &mut expected).await;
                let is_made_anew = fs::read_to_string(dir.path().join("index/IDENTITY")).unwrap() != index;
                assert_eq!(is_made_anew, is_older);
                // The index is derived: without it there is the same to be read.
                fs::remove_dir_all(dir.path().join("index")).unwrap();
                expected["snapshots"] = json!([]);
                reads_and_goes_on(dir.path(), &mut expected).await;
                read += 1;
                events += seen.len() as u64;
            }
        }
    }
    assert!(read >= KINDS.len() as u64, "directories are missing: ./dev golden writes them");
    Line::clean(FAULT, read, read, events, "damaged and newer ones are refused").print();
}

/// Compares all that can be read, appends, and compares again after a restart.
async fn reads_and_goes_on(dir: &Path, expected: &mut Value) {
    let store = RocksStore::open(dir).unwrap();
    compare(&store, expected).await;
    let event = NewEvent::new(EventType::from_static("Continued"), ContentType::JSON, "{}");
    let append = Append::to("continued-1".parse().unwrap(), ExpectedVersion::Any, [event]);
    let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("a conflict") };
    expected["events"].as_array_mut().unwrap().push(in_json(&done.events[0]));
    store.close().await.unwrap();
    let store = RocksStore::open(dir).unwrap();
    compare(&store, expected).await;
    prove(&store).await;
    store.close().await.unwrap();
}

async fn compare(store: &RocksStore, expected: &Value) {
    assert_eq!(expected["store"], store.id().to_string());
    let events = expected["events"].as_array().unwrap();
    assert_eq!(store.head().await.unwrap().position.get(), events.len() as u64);
    let found = log(store).await;
    for (found, expected) in found.iter().zip(events) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), events.len());

    for event in events {
        let text = |field: &str| event[field].as_str().unwrap();
        let id: EventId = text("id").parse().unwrap();
        assert_eq!(in_json(&store.event(id).await.unwrap().unwrap()), *event, "by its id");
        let stream: StreamId = text("stream").parse().unwrap();
        let same = |field: &str| events.iter().filter(|other| other[field] == event[field]).collect::<Vec<_>>();
        let in_stream = same("stream");
        if in_stream[0] == event {
            let head = store.stream_head(&stream).await.unwrap();
            let last = in_stream.last().unwrap();
            assert_eq!(
                (json!(head.version.get()), json!(head.position.get()), json!(head.closed)),
                (last["version"].clone(), last["position"].clone(), last["closes_stream"].clone())
            );
            let found: Vec<_> = store.stream(ReadStream::new(stream.clone())).try_collect().await.unwrap();
            assert_eq!(found.iter().map(in_json).collect::<Vec<_>>().iter().collect::<Vec<_>>(), in_stream);
        }
        let event_type = EventType::new(text("type")).unwrap();
        let typed = QueryItem::types([QualifiedType { category: stream.category(), event_type }]);
        let tags = event["tags"].as_array().unwrap().iter().map(|tag| Tag::new(tag.as_str().unwrap()).unwrap());
        let tagged = tags.take(3).map(|tag| Filter::from(Query::new([QueryItem::tags([tag])])));
        for filter in [Filter::categories([stream.category()]), Query::new([typed]).into()].into_iter().chain(tagged) {
            let position = Position::new(event["position"].as_u64().unwrap());
            let read = ReadLog::matching(filter).from(position).limit(1);
            let page = store.read_log(&read).await.unwrap();
            assert_eq!(page.events.first().map(in_json).as_ref(), Some(event), "{read:?}");
        }
    }

    for (reader, token) in expected["checkpoints"].as_object().unwrap() {
        let found = store.load_checkpoint(reader).await.unwrap();
        assert_eq!(found.map(|token| token.to_string()).as_deref(), token.as_str());
    }
    for snapshot in expected["snapshots"].as_array().unwrap() {
        let stream = snapshot["stream"].as_str().unwrap().parse().unwrap();
        assert_eq!(&snapshot_in_json(&store.load_snapshot(&stream).await.unwrap().unwrap()), snapshot);
    }
}

fn snapshot_in_json(snapshot: &Snapshot) -> Value {
    json!({
        "stream": snapshot.stream.as_str(),
        "version": snapshot.version.get(),
        "event_id": snapshot.event_id.as_uuid().to_string(),
        "fingerprint": snapshot.fingerprint.as_uuid().to_string(),
        "taken_at": snapshot.taken_at.as_micros(),
        "content_type": snapshot.content_type.as_str(),
        "data": String::from_utf8_lossy(&snapshot.data),
    })
}

/// Damage to what was synced and anchored is refused as what it is, and nothing is changed.
#[tokio::test]
async fn damaged_directories_are_refused() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, &str); 5] = [
        ("killed", |dir| flip(&write_ahead_log(dir), 100), "the write-ahead log"),
        ("killed", |dir| fs::remove_file(dir.join("anchor")).unwrap(), "the anchor is missing"),
        (
            "killed",
            |dir| {
                flip(&dir.join("anchor"), 40);
                flip(&dir.join("anchor"), 4096 + 40);
            },
            "the anchor",
        ),
        ("killed", |dir| shorten(&write_ahead_log(dir), 2), "has lost its events up to position"),
        ("closed", |dir| shorten(&table(dir), 2), "log"),
    ];
    for (kind, damage, what) in damages {
        let (dir, _) = copy_of(&golden().join(CURRENT).join(kind));
        damage(dir.path());
        match RocksStore::open(dir.path()) {
            Err(OpenError::Corrupted { what: found, .. }) if found.contains(what) => {}
            other => panic!("{kind}, {what}: {other:?}"),
        }
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Leaves one of so many parts.
fn shorten(file: &Path, parts: u64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    file.set_len(file.metadata().unwrap().len() / parts).unwrap();
}

fn table(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("log")).unwrap().map(|file| file.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .unwrap()
}

async fn write_missing() {
    for kind in KINDS {
        let to = golden().join(CURRENT).join(kind);
        if !to.exists() {
            let dir = tempfile::tempdir().unwrap();
            let expected = write(kind, dir.path(), &to).await;
            fs::write(to.with_extension("json"), expected.to_string() + "\n").unwrap();
        }
    }
}

/// Writes a store of a kind, keeps its files, and says what it holds.
async fn write(kind: &str, dir: &Path, to: &Path) -> Value {
    let anchored = || tokio::time::sleep(Duration::from_millis(1_500));
    let store = RocksStore::open(dir).unwrap();
    let mut expected = json!({ "store": store.id().to_string(), "checkpoints": {}, "snapshots": [] });
    write_all_forms(&store, 20, if kind == "closed" { 17_000 } else { 100 }).await;
    match kind {
        "closed" => {
            expected["events"] = log(&store).await.into();
            store.close().await.unwrap();
            keep(dir, to);
        }
        "killed" => {
            anchored().await;
            append(&store, 3).await;
            expected["events"] = log(&store).await.into();
            keep(dir, to);
        }
        "torn" => {
            anchored().await;
            append(&store, 3).await;
            expected["events"] = log(&store).await.into();
            append(&store, 1).await;
            keep(dir, to);
            let log = write_ahead_log(to);
            let log = fs::File::options().write(true).open(log).unwrap();
            log.set_len(log.metadata().unwrap().len() - 10).unwrap();
        }
        // Tables with checkpoints, snapshots and closed streams in them, and the same once more in a write-ahead log.
        "kept" | "kept-2" => {
            keep_some(&store, &mut expected, "1").await;
            store.close().await.unwrap();
            let store = RocksStore::open(dir).unwrap();
            append(&store, 3).await;
            keep_some(&store, &mut expected, "2").await;
            anchored().await;
            expected["events"] = log(&store).await.into();
            keep(dir, to);
        }
        kind => panic!("{kind}"),
    }
    expected
}

async fn append(store: &RocksStore, count: usize) {
    for n in 0..count {
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, format!("{n}"));
        let event = event.with_tags([Tag::of("n", n).unwrap()]);
        let append = Append::to(format!("more-{n}").parse().unwrap(), ExpectedVersion::Any, [event]);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
}

async fn keep_some(store: &RocksStore, expected: &mut Value, name: &str) {
    let reader = format!("readèr {name}");
    let token = store.head().await.unwrap();
    store.save_checkpoint(&reader, token).await.unwrap();
    expected["checkpoints"][reader] = json!(token.to_string());
    let stream: StreamId = format!("closed-{name}").parse().unwrap();
    let event = NewEvent::new(EventType::from_static("Closed"), ContentType::JSON, "{}");
    let append = Append::to(stream.clone(), ExpectedVersion::NoStream, [event]).close(stream.clone());
    let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("a conflict") };
    let snapshot = Snapshot {
        stream,
        version: Version::FIRST,
        event_id: done.events[0].id,
        fingerprint: Fingerprint::of(["state"]),
        taken_at: Timestamp::now(),
        content_type: ContentType::JSON,
        data: "{}".into(),
    };
    store.save_snapshot(snapshot.clone()).await.unwrap();
    expected["snapshots"].as_array_mut().unwrap().push(snapshot_in_json(&snapshot));
}

/// Copies what a store needs, as a kill would leave it now.
fn keep(dir: &Path, to: &Path) {
    copy_files(dir, to);
    for dir in [to.to_owned(), to.join("log"), to.join("index")] {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy();
            if name.starts_with("LOG") || name.starts_with("OPTIONS") || name == "LOCK" || name == "indelible.lock" {
                fs::remove_file(path).unwrap();
            } else if name == "ingest" {
                fs::remove_dir(path).unwrap();
            }
        }
    }
}
