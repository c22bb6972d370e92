//! Readers beside the process that writes.
//!
//! The faults: SIGKILL of the writing process again and again (`INDELIBLE_READER_CYCLES`, 4), its restarts, tables that it
//! deletes and moves, an index that it makes anew, a log that is replaced by an older copy or loses what was not synced, all of it under an open reader.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, CheckpointStore, ContentType, Delivery, EventStore, EventStoreExt, EventType,
    ExpectedVersion, Filter, NewEvent, Position, Query, QueryItem, ReadLog, ReadStream, RecordedEvent, SnapshotStore,
    StartFrom, StoreError, StreamId, Subscription, Tag, Token,
    conformance::fault::{Line, Work},
};
use indelible_rocksdb::{Durability, OpenError, RocksReader, RocksStore};

use crate::{
    campaign::number,
    child::{Running, writer},
    conformance::copy_files,
    damage::write_ahead_log,
    export::{log, write_all_forms},
    verification::prove,
};

const FAULT: &str = "reader beside a writer";

/// By when a reader is to see what is written.
const PROMPTLY: Duration = Duration::from_secs(30);

fn open(dir: &Path) -> RocksReader {
    RocksStore::options().segment_bytes(20_000).open_read_only(dir).unwrap()
}

async fn append(store: &RocksStore, events: usize) -> Token {
    let mut token = None;
    for n in 0..events {
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
        let event = event.with_tags([Tag::of("n", n % 3).unwrap()]);
        let append = Append::to(format!("s-{}", n % 7).parse().unwrap(), ExpectedVersion::Any, [event]);
        let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("a conflict") };
        token = Some(done.token);
    }
    token.unwrap()
}

async fn come_to(reader: &RocksReader, head: Position) {
    let mut published = reader.published();
    let come = tokio::time::timeout(PROMPTLY, published.wait_for(|seen| *seen >= head)).await;
    come.unwrap_or_else(|_| panic!("it came to {} only, not to {head}", *reader.published().borrow())).unwrap();
}

/// It waits for what is on its way; where the machine is slow, that may take longer than its patience.
async fn check(reader: &RocksReader, token: &Token) {
    if reader.check(token).await.is_err() {
        come_to(reader, token.position).await;
        reader.check(token).await.unwrap();
    }
}

/// Compares what is to be read in all ways with the log itself.
async fn agrees(reader: &RocksReader, events: &[RecordedEvent]) {
    let found: Vec<_> = reader.log(ReadLog::all()).try_collect().await.unwrap();
    assert_eq!(found.len(), events.len());
    assert!(found == events, "the log differs");
    let mut streams: HashMap<&StreamId, Vec<RecordedEvent>> = HashMap::new();
    let mut tags: HashMap<&Tag, Vec<RecordedEvent>> = HashMap::new();
    for event in events {
        streams.entry(&event.stream).or_default().push(event.clone());
        event.tags.iter().for_each(|tag| tags.entry(tag).or_default().push(event.clone()));
    }
    for (stream, events) in streams {
        let found: Vec<_> = reader.stream(ReadStream::new(stream.clone())).try_collect().await.unwrap();
        assert!(found == events, "{stream} differs");
        let found: Vec<_> = reader.stream(ReadStream::new(stream.clone()).backwards()).try_collect().await.unwrap();
        assert!(found.iter().rev().eq(&events), "{stream} differs backwards");
        assert_eq!(reader.stream_head(stream).await.unwrap().version, events.last().unwrap().version);
    }
    for (tag, events) in tags {
        let filter = Query::new([QueryItem::tags([tag.clone()])]);
        let found: Vec<_> = reader.log(ReadLog::matching(filter)).try_collect().await.unwrap();
        assert!(found == events, "{tag} differs");
    }
    for event in events.iter().step_by(events.len() / 50 + 1) {
        assert_eq!(reader.event(event.id).await.unwrap().as_ref(), Some(event));
    }
}

/// How far the log certainly goes, as `FORMAT.md` says it.
pub(crate) fn anchor(dir: &Path) -> u64 {
    let bytes = fs::read(dir.join("anchor")).unwrap();
    bytes.chunks(4096).map(|slot| u64::from_le_bytes(slot[29..37].try_into().unwrap())).max().unwrap()
}

#[tokio::test]
async fn a_reader_sees_all_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = RocksStore::options().open_read_only(dir.path());
    assert!(matches!(missing, Err(OpenError::NotAStore { .. })), "{missing:?}");
    let store = RocksStore::open(dir.path()).unwrap();
    let reader = open(dir.path());
    assert_eq!((reader.id(), reader.head().await.unwrap()), (store.id(), Token::start(store.id())));
    write_all_forms(&store, 100, 100_000).await;
    let head = store.head().await.unwrap();
    store.save_checkpoint("reader", head).await.unwrap();
    check(&reader, &head).await;
    assert_eq!(log(&reader).await, log(&store).await);
    let events: Vec<_> = store.log(ReadLog::all()).try_collect().await.unwrap();
    agrees(&reader, &events).await;
    assert_eq!(reader.streams(None, None, 99).await.unwrap(), store.streams(None, None, 99).await.unwrap());
    assert_eq!(reader.categories(None, 99).await.unwrap(), store.categories(None, 99).await.unwrap());
    assert_eq!(reader.load_checkpoint("reader").await.unwrap(), Some(head));
    // No event comes with it.
    store.save_checkpoint("later", head).await.unwrap();
    assert_eq!(reader.load_checkpoint("later").await.unwrap(), Some(head));

    let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
    let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, [event]);
    for refused in [
        reader.append(append).await.map(drop),
        reader.save_checkpoint("reader", head).await,
        reader.delete_snapshot(&"s-1".parse().unwrap()).await,
    ] {
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    store.close().await.unwrap();
    agrees(&reader, &events).await;
    let other = open(dir.path());
    agrees(&other, &events).await;
    let mut published = other.published();
    other.close().await;
    assert!(matches!(other.head().await, Err(StoreError::Stopped { .. })));
    assert!(published.changed().await.is_err(), "subscriptions end");
    RocksStore::open(dir.path()).expect("a reader locks nothing").close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_a_writer_that_is_killed_again_and_again() {
    let cycles = number("INDELIBLE_READER_CYCLES").unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    RocksStore::open(dir.path()).unwrap().close().await.unwrap();
    let reader = open(dir.path());
    let path = dir.path().to_owned();
    let mut subscription = Subscription::new(reader.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<u64>();
    let follower = tokio::spawn(async move {
        let mut seen = Vec::new();
        let mut end = None;
        while end.is_none_or(|end| (seen.len() as u64) < end) {
            tokio::select! {
                delivery = subscription.next() => if let Some(event) = delivery.unwrap().into_event() {
                    assert!(event.position.get() <= anchor(&path), "{} is not certainly durable", event.position);
                    seen.push(event);
                },
                head = &mut stopped, if end.is_none() => end = Some(head.unwrap()),
            }
        }
        seen
    });
    let mut seen_while_writing = 0;
    for cycle in 0..cycles {
        let work = Work { cycle, writers: 8, appends: u64::MAX, weakly: false, again: Vec::new() };
        let command = writer(&work, None, dir.path(), &[]);
        let before = reader.head().await.unwrap().position;
        // It writes until the reader has seen something of it, for a while, and is killed in the middle of it.
        let published = reader.published();
        seen_while_writing += tokio::task::spawn_blocking(move || {
            let mut writer = Running::start(command);
            let started = Instant::now();
            let mut seen = 0;
            while writer.line().is_some() {
                seen = u64::from(*published.borrow() > before);
                if started.elapsed() > Duration::from_secs(2) && seen > 0 || started.elapsed() > PROMPTLY * 2 {
                    writer.kill();
                }
            }
            seen
        })
        .await
        .unwrap();
    }
    let store = RocksStore::open(dir.path()).unwrap();
    let head = store.head().await.unwrap().position;
    let events: Vec<_> = store.log(ReadLog::all()).try_collect().await.unwrap();
    let started = Instant::now();
    come_to(&reader, head).await;
    let late = started.elapsed();
    stop.send(head.get()).unwrap();
    let seen = tokio::time::timeout(PROMPTLY, follower).await.expect("the subscription comes to the head").unwrap();
    assert!(seen == events, "in order, none missing, none that is not there");
    assert_eq!(seen_while_writing, cycles, "it followed while the writer was at work");
    let tables = fs::read_dir(dir.path().join("index"))
        .unwrap()
        .filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "sst"));
    println!(
        "{cycles} kills, {} events, {} tables in the index, at the head after {late:.1?}",
        events.len(),
        tables.count()
    );
    agrees(&reader, &events).await;
    agrees(&open(dir.path()), &events).await;
    prove(&store).await;
    let controls = format!("each event was anchored when it was seen; at the head {late:.1?} later");
    Line::clean(FAULT, cycles, seen_while_writing, events.len() as u64, &controls).print();
}

/// Tables of the log are flushed, moved and deleted, and the index is made anew, under an open reader.
#[tokio::test]
async fn a_reader_outlives_restarts_and_a_new_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    append(&store, 20).await;
    store.close().await.unwrap();
    let reader = open(dir.path());
    for round in 0..8 {
        if round % 3 == 2 {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = RocksStore::options().segment_bytes(2_000).open(dir.path()).unwrap();
        let token = append(&store, 60).await;
        check(&reader, &token).await;
        let events: Vec<_> = store.log(ReadLog::all()).try_collect().await.unwrap();
        agrees(&reader, &events).await;
        store.close().await.unwrap();
        agrees(&open(dir.path()), &events).await;
    }
}

/// What a writer acknowledged and lost, where appends don't wait for the disk, a reader has never seen.
#[tokio::test]
async fn what_was_lost_was_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let buffered = || RocksStore::options().durability(Durability::Buffered);
    let store = buffered().open(dir.path()).unwrap();
    let (anchored, lost, copy) = loop {
        let anchored = append(&store, 10).await;
        let reader = open(dir.path());
        check(&reader, &anchored).await;
        // The last append is acknowledged, and not on the disk yet when the power goes.
        let lost = append(&store, 1).await;
        let copy = tempfile::tempdir().unwrap();
        copy_files(dir.path(), copy.path());
        // Where the machine is slow, it is there by then.
        if anchor(copy.path()) == anchored.position.get() {
            break (anchored, lost, copy);
        }
    };
    drop(store);
    let wal = write_ahead_log(copy.path());
    let file = fs::File::options().write(true).open(&wal).unwrap();
    file.set_len(file.metadata().unwrap().len() - 5).unwrap();

    let reader = open(copy.path());
    let store = buffered().open(copy.path()).unwrap();
    assert_eq!(store.head().await.unwrap(), anchored);
    let waiting = reader.check(&lost).await;
    assert!(matches!(waiting, Err(StoreError::Unavailable { .. })), "{waiting:?}");
    let other = append(&store, 1).await;
    check(&reader, &other).await;
    let diverged = reader.check(&lost).await;
    assert!(matches!(diverged, Err(StoreError::Diverged { found, .. }) if found == other), "{diverged:?}");
    let events: Vec<_> = store.log(ReadLog::all()).try_collect().await.unwrap();
    agrees(&reader, &events).await;
}

/// A log that is not what it was is not followed.
#[tokio::test]
async fn a_reader_of_a_log_that_was_replaced_stops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = RocksStore::open(&path).unwrap();
    append(&store, 5).await;
    store.close().await.unwrap();
    let old = dir.path().join("old");
    copy_files(&path, &old);
    let store = RocksStore::open(&path).unwrap();
    let head = append(&store, 5).await;
    store.close().await.unwrap();
    let reader = open(&path);
    let mut subscription = Subscription::new(reader.clone(), Filter::all(), StartFrom::After(head)).await.unwrap();
    assert!(matches!(subscription.next().await.unwrap(), Delivery::CaughtUp(at) if at == head));
    fs::remove_dir_all(&path).unwrap();
    copy_files(&old, &path);
    let ended = tokio::time::timeout(PROMPTLY, subscription.next()).await.expect("it ends");
    assert!(matches!(ended, Err(StoreError::Stopped { .. })), "{ended:?}");
    let error = reader.head().await.unwrap_err();
    assert!(error.to_string().contains("the log ended at position 10"), "{error}");

    let store = RocksStore::open(&path).unwrap();
    append(&store, 5).await;
    let reader = open(&path);
    let diverged = reader.check(&head).await;
    assert!(matches!(diverged, Err(StoreError::Diverged { token, .. }) if token == head), "{diverged:?}");
}

/// What a power cut leaves of the last group hinders no reader, also where no writer has put it in order yet.
#[tokio::test]
async fn a_torn_last_append_is_not_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let (anchored, whole) = loop {
        let anchored = append(&store, 10).await;
        check(&open(dir.path()), &anchored).await;
        store.save_checkpoint("reader", anchored).await.unwrap();
        append(&store, 1).await;
        let whole = tempfile::tempdir().unwrap();
        copy_files(dir.path(), whole.path());
        // Where the machine is slow, the last one is anchored, too.
        if anchor(whole.path()) == anchored.position.get() {
            break (anchored, whole);
        }
    };
    let tears: [fn(&mut Vec<u8>); 4] = [
        |wal| wal.truncate(wal.len() - 5),
        |wal| wal.iter_mut().rev().take(40).for_each(|byte| *byte = 0),
        |wal| wal.iter_mut().rev().take(40).for_each(|byte| *byte = 0xa5),
        |wal| wal.extend([0; 5_000]),
    ];
    for (n, tear) in tears.iter().enumerate() {
        let copy = tempfile::tempdir().unwrap();
        copy_files(whole.path(), copy.path());
        let log = write_ahead_log(copy.path());
        let mut wal = fs::read(&log).unwrap();
        tear(&mut wal);
        fs::write(&log, &wal).unwrap();
        let reader = RocksStore::options().open_read_only(copy.path()).unwrap_or_else(|error| panic!("{n}: {error:?}"));
        assert_eq!(reader.head().await.unwrap(), anchored);
        assert_eq!(reader.load_checkpoint("reader").await.unwrap(), Some(anchored));
        // And it goes on when a writer has, which need not write events.
        let store = RocksStore::open(copy.path()).unwrap();
        let head = store.head().await.unwrap();
        store.save_checkpoint("another", head).await.unwrap();
        let seen = async {
            while reader.load_checkpoint("another").await.unwrap() != Some(head) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PROMPTLY, seen).await.expect("it sees the checkpoint");
        let token = append(&store, 3).await;
        check(&reader, &token).await;
        let events: Vec<_> = store.log(ReadLog::all()).try_collect().await.unwrap();
        agrees(&reader, &events).await;
    }
}

/// Where the index is gone, what it would hold of a long log is not held in memory instead.
#[tokio::test]
async fn a_reader_makes_no_index_of_a_whole_log() {
    const EVENTS: usize = 4_000;
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    // Of events with many long tags, few take much memory.
    for part in 0..EVENTS / 100 {
        let events = (0..100).map(|n| {
            let tag = |tag| Tag::new(format!("{part} {n} {tag} {}", "long".repeat(50))).unwrap();
            let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
            event.with_tags((0..64).map(tag))
        });
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, events);
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
    store.close().await.unwrap();
    let whole = open(dir.path());
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let refused = RocksStore::options().open_read_only(dir.path());
    assert!(
        matches!(&refused, Err(OpenError::Io { source, .. }) if source.to_string().contains("the index goes to")),
        "{refused:?}"
    );
    assert_eq!(whole.head().await.unwrap().position, Position::new(EVENTS as u64), "what is open is read on");

    let store = RocksStore::open(dir.path()).unwrap();
    let token = append(&store, 1).await;
    check(&whole, &token).await;
    check(&open(dir.path()), &token).await;
}

/// What can't be followed for now is read on as it was, and how old that is can be asked.
#[tokio::test]
async fn a_reader_says_how_old_what_it_sees_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let token = append(&store, 5).await;
    let reader = open(dir.path());
    check(&reader, &token).await;
    let second = Duration::from_secs(1);
    let is_fresh = async || {
        while reader.stale_for() > 3 * second / 2 {
            tokio::time::sleep(second / 10).await;
        }
    };
    tokio::time::timeout(PROMPTLY, is_fresh()).await.expect("it follows");
    let (anchor, elsewhere) = (dir.path().join("anchor"), dir.path().join("elsewhere"));
    fs::rename(&anchor, &elsewhere).unwrap();
    tokio::time::sleep(3 * second).await;
    assert!(reader.stale_for() > 2 * second, "{:?}", reader.stale_for());
    assert_eq!(reader.head().await.unwrap(), token);
    fs::rename(&elsewhere, &anchor).unwrap();
    tokio::time::timeout(PROMPTLY, is_fresh()).await.expect("it follows again");
}

/// Of the anchor's two slots the older one is what is whole while the other is being written: no reason to stop.
#[tokio::test]
async fn a_reader_that_finds_the_anchor_half_written_looks_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::open(dir.path()).unwrap();
    let token = append(&store, 5).await;
    store.close().await.unwrap();
    let mut reader = open(dir.path());
    let anchor = dir.path().join("anchor");
    let whole = fs::read(&anchor).unwrap();
    let newest = whole.chunks(4096).map(|slot| slot[29]).position(|position| position == 5).unwrap();
    let mut torn = whole.clone();
    torn[newest * 4096 + 100] ^= 1;
    let put = |bytes: &[u8]| {
        fs::write(dir.path().join("new"), bytes).unwrap();
        fs::rename(dir.path().join("new"), &anchor).unwrap();
    };
    for _ in 0..20 {
        let began = Instant::now();
        put(&torn);
        tokio::time::sleep(Duration::from_millis(50)).await;
        put(&whole);
        // Longer than any write takes, as on a slow machine, and it stops as it should.
        if began.elapsed() > Duration::from_millis(90) {
            reader = open(dir.path());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(reader.head().await.unwrap(), token);
}
