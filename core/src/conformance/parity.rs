//! The memory store is the reference: the same calls in the same order get the same answers from a store, over any number
//! of openings. Two stores that answer as the memory store does, from the same numbers, answer alike.
//!
//! One call after the other, or some appends at a time where a store judges those in the order of their calls: what
//! callers at the same time are answered is judged in [`history`](super::history). Few streams, types, tags and ids make
//! appends meet: conflicts, failed conditions, repetitions, taken ids, closed streams. Some appends are large, so that
//! short sequences cross whatever the store collects before it writes. A sequence is a list of rounds, each of which follows
//! from a number and from what came before, so that one that shows a difference can be made shorter.

use std::collections::BTreeMap;

use futures::{TryStreamExt, future::join_all};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{Harness, hostile};
use crate::{
    AnyStore, Append, AppendOutcome, Category, CheckpointStore, Condition, ContentType, Delivery, EventId, EventStore,
    EventStoreExt, EventType, ExpectedVersion, Filter, Fingerprint, Limits, Metadata, NewEvent, Position,
    QualifiedType, Query, QueryItem, ReadLog, ReadStream, RecordedEvent, Snapshot, SnapshotStore, StartFrom,
    StoreError, StreamId, Subscription, Tag, Timestamp, Token, Version, store::memory::MemoryStore,
};

/// The rounds of a long sequence.
pub fn rounds(seed: u64) -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..60).map(|_| random.random()).collect()
}

/// How often appends were answered how.
pub type Answers = BTreeMap<&'static str, u64>;

fn kind(outcome: &Result<AppendOutcome, StoreError>) -> &'static str {
    match outcome {
        Ok(AppendOutcome::Appended(done)) if done.repeated => "repeated",
        Ok(AppendOutcome::Appended(_)) => "appended",
        Ok(AppendOutcome::Conflict(_)) => "conflict",
        Err(StoreError::IdConflict { .. }) => "id conflict",
        Err(StoreError::Invalid(_)) => "invalid",
        Err(_) => "failed",
    }
}

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

/// Mostly small; never twice the same, so that another's would be noticed.
fn data(random: &mut StdRng) -> Vec<u8> {
    let bytes = if random.random_bool(0.1) { random.random_range(0..5_000) } else { random.random_range(0..80) };
    (0..bytes).map(|_| random.random()).collect()
}

fn metadata(random: &mut StdRng) -> Metadata {
    (0..random.random_range(0..3)).fold(Metadata::new(), |metadata, n| {
        metadata.with(format!("key {n}"), random.random::<u16>().to_string()).unwrap()
    })
}

fn append(random: &mut StdRng, head: u64) -> Append {
    let mut append = Append::new();
    for _ in 0..random.random_range(1..4) {
        let mut tags = vec![tag(random), tag(random)];
        tags.dedup();
        tags.truncate(random.random_range(0..3));
        let event = NewEvent::new(event_type(random), ContentType::JSON, data(random)).with_tags(tags);
        append = append.event(stream(random), event.with_metadata(metadata(random)));
    }
    if random.random_bool(0.02) {
        let stream = stream(random);
        for _ in 0..random.random_range(1..400) {
            append =
                append.event(stream.clone(), NewEvent::new(event_type(random), ContentType::BINCODE, data(random)));
        }
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

/// All that is recorded, but for the time.
fn essence(event: &RecordedEvent) -> RecordedEvent {
    let mut event = event.clone();
    event.recorded_at = Timestamp::from_micros(0).unwrap();
    event
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

/// An error as far as both stores must agree on it.
fn refused(error: StoreError) -> String {
    match error {
        StoreError::Invalid(_) | StoreError::IdConflict { .. } => error.to_string(),
        StoreError::Diverged { token, found } => format!("diverged at {}, found {}", token.position, found.position),
        error => panic!("no reference answers so: {error}"),
    }
}

fn filter(random: &mut StdRng) -> Filter {
    let filter = match random.random_range(0..4) {
        0 => Filter::all(),
        1 => Filter::categories((0..random.random_range(1..3)).map(|_| stream(random).category())),
        _ => Filter::stream_prefix(*["", "a", "a-", "a-1", "ab-", "b", "é", "-", "é-12"].choose(random).unwrap())
            .unwrap(),
    };
    if random.random_bool(0.5) { filter.with_query(query(random)) } else { filter }
}

fn position(random: &mut StdRng, head: u64) -> u64 {
    match random.random_range(0..8) {
        0 => 0,
        1 => u64::MAX,
        _ => random.random_range(0..head + 3),
    }
}

/// One of each: by id, by position, snapshots, checkpoints, and a subscription from a place.
async fn compare_lookups(random: &mut StdRng, store: &AnyStore, memory: &MemoryStore, sent: &[Append]) {
    let head = memory.head().await.unwrap().position.get();
    for append in sent.choose_multiple(random, 10) {
        let Some((_, event)) = append.events().last() else { continue };
        let found = [store.event(event.id).await.unwrap(), memory.event(event.id).await.unwrap()];
        let [found, wanted] = found.map(|event| event.as_ref().map(essence));
        assert_eq!(found, wanted);
    }
    assert_eq!(store.event(EventId::new()).await.unwrap(), None);
    for position in [0, head, head + 1, u64::MAX, position(random, head)].map(Position::new) {
        let told = |token: Result<Token, StoreError>| token.map(|t| (t.position, t.event)).map_err(refused);
        assert_eq!(told(store.token(position).await), told(memory.token(position).await), "{position}");

        // A token of each store's own, right or wrong.
        let reader = ["reader", "other", "", "a\nb"][random.random_range(0..4)];
        let event = match random.random_bool(0.8) {
            true => memory.token(position).await.map_or(EventId::NIL, |token| token.event),
            false => EventId::new(),
        };
        let token = |of| Token { store: of, position, event };
        let saved = store.save_checkpoint(reader, token(store.id())).await.map_err(refused);
        assert_eq!(saved, memory.save_checkpoint(reader, token(memory.id())).await.map_err(refused), "{reader:?}");
        let loaded = |token: Result<Option<Token>, StoreError>| {
            token.map(|token| token.map(|t| (t.position, t.event))).map_err(refused)
        };
        assert_eq!(loaded(store.load_checkpoint(reader).await), loaded(memory.load_checkpoint(reader).await));
    }
    let stream = stream(random);
    let snapshot = Snapshot {
        stream: stream.clone(),
        version: Version::new(random.random_range(0..9)),
        event_id: EventId::new(),
        fingerprint: Fingerprint::of(["state"]),
        taken_at: Timestamp::now(),
        content_type: ContentType::BINCODE,
        data: data(random).into(),
    };
    match random.random_range(0..3) {
        0 => {
            store.delete_snapshot(&stream).await.unwrap();
            memory.delete_snapshot(&stream).await.unwrap();
        }
        1 => {
            store.save_snapshot(snapshot.clone()).await.unwrap();
            memory.save_snapshot(snapshot).await.unwrap();
        }
        _ => {}
    }
    assert_eq!(store.load_snapshot(&stream).await.unwrap(), memory.load_snapshot(&stream).await.unwrap());

    let (filter, place) = (filter(random), Position::new(random.random_range(0..=head)));
    let [found, wanted] = [
        followed(store.clone(), filter.clone(), store.token(place).await.unwrap()).await,
        followed(std::sync::Arc::new(memory.clone()), filter.clone(), memory.token(place).await.unwrap()).await,
    ];
    assert_eq!(found, wanted, "{filter:?} after {place}");
}

/// What a subscription brings until it has caught up.
async fn followed(store: AnyStore, filter: Filter, from: Token) -> Vec<RecordedEvent> {
    let mut subscription = Subscription::shared(store, filter, StartFrom::After(from)).await.unwrap();
    let mut events = Vec::new();
    loop {
        match subscription.next().await.unwrap() {
            Delivery::Event(event) => events.push(essence(&event)),
            Delivery::Progress(_) => {}
            Delivery::CaughtUp(_) => return events,
        }
    }
}

async fn compare_reads(random: &mut StdRng, store: &AnyStore, memory: &MemoryStore) {
    let head = memory.head().await.unwrap().position.get();
    assert_eq!(store.head().await.unwrap().position.get(), head);
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
        let found = store.log(log.clone()).try_collect().await.map(essences).unwrap();
        assert_eq!(found, memory.log(log.clone()).try_collect().await.map(essences).unwrap(), "{log:?}");
        let found = store.stream(versions.clone()).try_collect().await.map(essences).unwrap();
        assert_eq!(found, memory.stream(versions.clone()).try_collect().await.map(essences).unwrap(), "{versions:?}");
        assert_eq!(store.stream_head(&stream).await.unwrap(), memory.stream_head(&stream).await.unwrap());

        let category = Some(stream.category()).filter(|_| random.random_bool(0.7));
        let after = Some(self::stream(random)).filter(|_| random.random_bool(0.7));
        let (category, after, limit) = (category.as_ref(), after.as_ref(), random.random_range(0..30));
        assert_eq!(
            store.streams(category, after, limit).await.unwrap(),
            memory.streams(category, after, limit).await.unwrap()
        );
        let after: Option<Category> = after.map(StreamId::category);
        assert_eq!(
            store.categories(after.as_ref(), limit).await.unwrap(),
            memory.categories(after.as_ref(), limit).await.unwrap()
        );
    }
}

/// One sequence of random calls, some appends and reads a round, and what it was answered. Some appends at a time are handed over `together`: for stores
/// that judge them in that order.
///
/// # Panics
/// Where the store answers otherwise than the memory store.
pub async fn compare_sequence(h: &mut dyn Harness, rounds: &[u64], together: bool) -> Answers {
    let random = &mut StdRng::seed_from_u64(0);
    let mut store = h.store();
    let memory = MemoryStore::new();
    let mut answers = Answers::new();
    let mut sent: Vec<Append> = Vec::new();
    for (number, round) in rounds.iter().enumerate() {
        *random = StdRng::seed_from_u64(*round);
        let head = memory.head().await.unwrap().position.get();
        let from = sent.len();
        for _ in 0..random.random_range(1..12) {
            let append = match sent[sent.len().saturating_sub(20)..].choose(random) {
                Some(before) if random.random_bool(0.2) => again(random, &before.clone()),
                _ => append(random, head),
            };
            sent.push(append);
        }
        let appends = sent[from..].iter().map(|append| store.append(append.clone()));
        let outcomes = match together {
            // Each is handed over when it is polled first, which is in this order.
            true => join_all(appends).await,
            false => {
                let mut outcomes = Vec::new();
                for append in appends {
                    outcomes.push(append.await);
                }
                outcomes
            }
        };
        for (append, outcome) in sent[from..].iter().zip(outcomes) {
            *answers.entry(kind(&outcome)).or_default() += 1;
            let wanted = told(memory.append(append.clone()).await);
            assert_eq!(told(outcome), wanted, "round {number}: {append:?}");
        }
        compare_lookups(random, &store, &memory, &sent).await;
        if random.random_bool(0.1) {
            compare_reads(random, &store, &memory).await;
        }
        if random.random_bool(0.08) {
            drop(store);
            h.reopen(Limits::default()).await;
            store = h.store();
            compare_reads(random, &store, &memory).await;
        }
    }
    compare_reads(random, &store, &memory).await;
    answers
}

/// Hostile input at random: the store answers as the memory store does, neither panics, and what is refused leaves nothing.
///
/// # Panics
/// Where the store answers otherwise than the memory store.
pub async fn compare_hostile(h: &mut dyn Harness, seed: u64, cases: u64) -> Answers {
    let random = &mut StdRng::seed_from_u64(seed);
    let (store, memory) = (h.store(), MemoryStore::new());
    let mut answers = Answers::new();
    for case in 0..cases {
        let head = memory.head().await.unwrap().position;
        let append = hostile::append(random, head.get());
        let wanted = memory.append(append.clone()).await;
        *answers.entry(kind(&wanted)).or_default() += 1;
        let added = if kind(&wanted) == "appended" { append.events().len() as u64 } else { 0 };
        let found = store.append(append.clone()).await;
        assert_eq!(told(found), told(wanted), "seed {seed}, case {case}: {append:?}");
        assert_eq!(store.head().await.unwrap().position, Position::new(head.get() + added), "seed {seed}, case {case}");

        let (log, stream) = (hostile::read_log(random, head.get()), hostile::read_stream(random, head.get()));
        // The last of the numbers is no reason to read megabytes each time.
        let (log, stream) = (log.clone().limit(log.limit.min(20)), stream.clone().limit(stream.limit.min(20)));
        let essences = |events: Vec<RecordedEvent>| events.iter().map(essence).collect::<Vec<_>>();
        let found = store.log(log.clone()).try_collect().await.map(essences).unwrap();
        assert_eq!(found, memory.log(log.clone()).try_collect().await.map(essences).unwrap(), "seed {seed}: {log:?}");
        let found = store.stream(stream.clone()).try_collect().await.map(essences).unwrap();
        let wanted = memory.stream(stream.clone()).try_collect().await.map(essences).unwrap();
        assert_eq!(found, wanted, "seed {seed}: {stream:?}");
    }
    answers
}
