//! The memory store is the reference: the same appends get the same answers, and the same reads the same events.
//!
//! Appends are handed over several at a time, so that many are judged inside one commit group, on what that has added so
//! far. Few streams, types, tags and ids make them meet: conflicts, failed conditions, repetitions, taken ids, closed
//! streams. `INDELIBLE_MEMORY_SEED` says from which numbers.

use futures::{TryStreamExt, future::join_all};
use indelible_core::{
    Append, AppendOutcome, Category, Condition, ContentType, EventStore, EventStoreExt, EventType, ExpectedVersion,
    Filter, NewEvent, Position, QualifiedType, Query, QueryItem, ReadLog, ReadStream, RecordedEvent, StoreError,
    StreamId, Tag, Version, store::memory::MemoryStore,
};
use indelible_rocksdb::RocksStore;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

const ROUNDS: usize = 150;

fn event_type(random: &mut StdRng) -> EventType {
    EventType::from_static(["A", "AB", "B"].choose(random).unwrap())
}

fn tag(random: &mut StdRng) -> Tag {
    Tag::new(["t", "t:", "u:1", "u:10"].choose(random).unwrap()).unwrap()
}

fn stream(random: &mut StdRng) -> StreamId {
    let categories = ["a", "ab", "é"];
    format!("{}-{}", categories.choose(random).unwrap(), random.random_range(0..40)).parse().unwrap()
}

fn query(random: &mut StdRng) -> Query {
    Query::new((0..random.random_range(1..4)).map(|_| {
        let types = (0..random.random_range(0..3))
            .map(|_| QualifiedType { category: stream(random).category(), event_type: event_type(random) });
        let mut item = QueryItem::types(types.collect::<Vec<_>>());
        let tags_min = usize::from(item.any_type().is_empty());
        for _ in 0..random.random_range(tags_min..3) {
            item = item.and_tag(tag(random));
        }
        item
    }))
}

fn append(random: &mut StdRng, head: u64) -> Append {
    let mut append = Append::new();
    for _ in 0..random.random_range(1..4) {
        let mut tags = vec![tag(random), tag(random)];
        tags.dedup();
        tags.truncate(random.random_range(0..3));
        let event = NewEvent::new(event_type(random), ContentType::JSON, "{}").with_tags(tags);
        append = append.event(stream(random), event);
    }
    let first = append.events()[0].0.clone();
    if random.random_bool(0.3) {
        let expected = match random.random_range(0..4) {
            0 => ExpectedVersion::NoStream,
            1 => ExpectedVersion::Exists,
            _ => ExpectedVersion::Exact(Version::new(random.random_range(0..8))),
        };
        append = append.check(first.clone(), expected);
    }
    if random.random_bool(0.02) {
        append = append.close(first);
    }
    if random.random_bool(0.4) {
        let after = (head + 9).saturating_sub(random.random_range(0..20));
        append = append.require(Condition::none_after(query(random), Position::new(after)));
    }
    append
}

/// What was sent before, again: as it was, with other demands, or not all of it.
fn again(random: &mut StdRng, before: &Append) -> Append {
    match random.random_range(0..4) {
        0 => before
            .events()
            .iter()
            .skip(1)
            .fold(Append::new(), |append, (stream, event)| append.event(stream.clone(), event.clone())),
        1 => before.clone().event(stream(random), NewEvent::new(event_type(random), ContentType::JSON, "")),
        2 => before.clone().require(Condition::none_after(query(random), Position::START)),
        _ => before.clone(),
    }
}

fn essence(event: &RecordedEvent) -> String {
    let RecordedEvent { position, stream, version, id, closes_stream, ends_append, .. } = event;
    format!("{position} {stream} {version} {id} {closes_stream} {ends_append}")
}

fn told(outcome: Result<AppendOutcome, StoreError>) -> String {
    match outcome {
        Ok(AppendOutcome::Appended(done)) => {
            let events: Vec<_> = done.events.iter().map(essence).collect();
            format!("repeated {} up to {}: {events:?}", done.repeated, done.token.position)
        }
        other => format!("{other:?}"),
    }
}

fn filter(random: &mut StdRng) -> Filter {
    let filter = match random.random_range(0..4) {
        0 => Filter::all(),
        1 => Filter::categories((0..random.random_range(1..3)).map(|_| stream(random).category())),
        _ => Filter::stream_prefix(*["", "a", "a-", "a-1", "ab-", "b", "é", "-", "é-12"].choose(random).unwrap())
            .unwrap(),
    };
    if random.random_bool(0.5) { filter.and_query(query(random)) } else { filter }
}

fn position(random: &mut StdRng, head: u64) -> u64 {
    match random.random_range(0..8) {
        0 => 0,
        1 => u64::MAX,
        _ => random.random_range(0..head + 3),
    }
}

async fn compare_reads(random: &mut StdRng, rocks: &RocksStore, memory: &MemoryStore) {
    let head = memory.head().await.unwrap().position.get();
    assert_eq!(rocks.head().await.unwrap().position.get(), head);
    for _ in 0..20 {
        let mut log = ReadLog::matching(filter(random));
        if random.random_bool(0.5) {
            log = log.backwards();
        }
        if random.random_bool(0.7) {
            log = log.from(Position::new(position(random, head))).to(Position::new(position(random, head)));
        }
        let stream = stream(random);
        let mut versions = ReadStream::new(stream.clone());
        if random.random_bool(0.5) {
            versions = versions.backwards();
        }
        if random.random_bool(0.7) {
            versions = versions.from(Version::new(position(random, 8)));
        }
        if random.random_bool(0.5) {
            let limit = random.random_range(1..9);
            (log, versions) = (log.limit(limit), versions.limit(limit));
        }
        let essences = |events: Vec<RecordedEvent>| events.iter().map(essence).collect::<Vec<_>>();
        let found = rocks.log(log.clone()).try_collect().await.map(essences).unwrap();
        assert_eq!(found, memory.log(log.clone()).try_collect().await.map(essences).unwrap(), "{log:?}");
        let found = rocks.stream(versions.clone()).try_collect().await.map(essences).unwrap();
        assert_eq!(found, memory.stream(versions.clone()).try_collect().await.map(essences).unwrap(), "{versions:?}");
        assert_eq!(rocks.stream_head(&stream).await.unwrap(), memory.stream_head(&stream).await.unwrap());

        let category = Some(stream.category()).filter(|_| random.random_bool(0.7));
        let after = Some(self::stream(random)).filter(|_| random.random_bool(0.7));
        let (category, after, limit) = (category.as_ref(), after.as_ref(), random.random_range(0..30));
        assert_eq!(
            rocks.streams(category, after, limit).await.unwrap(),
            memory.streams(category, after, limit).await.unwrap()
        );
        let after: Option<Category> = after.map(StreamId::category);
        assert_eq!(
            rocks.categories(after.as_ref(), limit).await.unwrap(),
            memory.categories(after.as_ref(), limit).await.unwrap()
        );
    }
}

#[tokio::test]
async fn both_stores_answer_alike() {
    let seed = match std::env::var("INDELIBLE_MEMORY_SEED") {
        Ok(seed) => seed.parse().expect("a seed is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut rocks = RocksStore::open(dir.path()).unwrap();
    let memory = MemoryStore::new();
    let mut sent: Vec<Append> = Vec::new();
    let mut answers = std::collections::BTreeMap::<&str, u32>::new();
    for round in 0..ROUNDS {
        let head = memory.head().await.unwrap().position.get();
        let from = sent.len();
        for _ in 0..random.random_range(1..12) {
            let append = match sent[sent.len().saturating_sub(20)..].choose(random) {
                Some(before) if random.random_bool(0.2) => again(random, &before.clone()),
                _ => append(random, head),
            };
            sent.push(append);
        }
        // Each is handed over when it is polled first, which is in this order.
        let outcomes = join_all(sent[from..].iter().map(|append| rocks.append(append.clone()))).await;
        for (append, outcome) in sent[from..].iter().zip(outcomes) {
            let kind = match &outcome {
                Ok(AppendOutcome::Appended(done)) if done.repeated => "repeated",
                Ok(AppendOutcome::Appended(_)) => "appended",
                Ok(AppendOutcome::Conflict(_)) => "conflict",
                Err(StoreError::IdConflict { .. }) => "id conflict",
                Err(StoreError::Invalid(_)) => "invalid",
                Err(_) => "failed",
            };
            *answers.entry(kind).or_default() += 1;
            assert_eq!(
                told(outcome),
                told(memory.append(append.clone()).await),
                "seed {seed}, round {round}: {append:?}"
            );
        }
        if round % 15 == 0 {
            compare_reads(random, &rocks, &memory).await;
            rocks.close().await.unwrap();
            rocks = RocksStore::open(dir.path()).unwrap();
        }
    }
    compare_reads(random, &rocks, &memory).await;
    let statistics = rocks.statistics();
    println!("{answers:?}, since the last opening {statistics:?}");
    assert!(statistics.appends > statistics.groups, "no group had two appends");
    for kind in ["appended", "repeated", "conflict", "id conflict", "invalid"] {
        assert!(answers.get(kind).is_some_and(|times| *times > 5), "too few were {kind}: {answers:?}");
    }
}
