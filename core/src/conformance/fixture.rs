//! What the cases are written with: short names for making events and appends, and for asking for one outcome.

use std::{panic, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::Barrier;

use crate::{
    AnyStore, Append, AppendOutcome, Appended, Category, ContentType, EventStoreExt, EventStream, EventType,
    ExpectedVersion, FailedCondition, InvalidInput, NewEvent, Position, QualifiedType, Query, QueryItem, ReadLog,
    ReadStream, RecordedEvent, StoreError, StreamId, Tag, Version,
};

/// How long a case waits for what must happen by itself.
pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) fn stream(name: &str) -> StreamId {
    name.parse().expect("a stream's name")
}

pub(super) fn category(name: &str) -> Category {
    Category::new(name).expect("a category")
}

pub(super) fn tag(text: &str) -> Tag {
    Tag::new(text).expect("a tag")
}

pub(super) fn event(event_type: &str) -> NewEvent {
    NewEvent::new(EventType::new(event_type).expect("an event type"), ContentType::JSON, r#"{"by":"the suite"}"#)
}

pub(super) fn tagged(event_type: &str, tags: &[&str]) -> NewEvent {
    event(event_type).with_tags(tags.iter().map(|text| tag(text)))
}

/// Events of the type `Happened`.
pub(super) fn events(count: usize) -> Vec<NewEvent> {
    (0..count).map(|_| event("Happened")).collect()
}

/// An append to one stream, whatever it is like.
pub(super) fn to(name: &str, events: impl IntoIterator<Item = NewEvent>) -> Append {
    Append::to(stream(name), ExpectedVersion::Any, events)
}

pub(super) fn exact(version: u64) -> ExpectedVersion {
    ExpectedVersion::Exact(Version::new(version))
}

pub(super) fn of_type(category_name: &str, event_type: &str) -> QualifiedType {
    let event_type = EventType::new(event_type).expect("an event type");
    QualifiedType { category: category(category_name), event_type }
}

/// The events that carry all of these tags.
pub(super) fn with_tags(tags: &[&str]) -> Query {
    Query::new([QueryItem::tags(tags.iter().map(|text| tag(text)))])
}

/// The events of any of these types.
pub(super) fn with_types(types: &[(&str, &str)]) -> Query {
    Query::new([QueryItem::types(types.iter().map(|(category, name)| of_type(category, name)))])
}

/// The answer to an append that must be written, or have been.
pub(super) async fn appended(store: &AnyStore, append: Append) -> Appended {
    match store.append(append.clone()).await {
        Ok(AppendOutcome::Appended(appended)) => appended,
        other => panic!("must be written, got {other:?} for {append:?}"),
    }
}

/// Writes so many events to a stream, whatever it is like.
pub(super) async fn write(store: &AnyStore, name: &str, count: usize) -> Vec<RecordedEvent> {
    appended(store, to(name, events(count))).await.events
}

/// What an append failed for that must fail.
pub(super) async fn conflict(store: &AnyStore, append: Append) -> Vec<FailedCondition> {
    match store.append(append.clone()).await {
        Ok(AppendOutcome::Conflict(failed)) => failed,
        other => panic!("must conflict, got {other:?} for {append:?}"),
    }
}

/// What is wrong with an append that must be refused.
pub(super) async fn invalid(store: &AnyStore, append: Append) -> InvalidInput {
    match store.append(append).await {
        Err(StoreError::Invalid(invalid)) => invalid,
        other => panic!("must be refused as invalid, got {other:?}"),
    }
}

/// The events that a read of the log gives, page by page.
pub(super) async fn read(store: &AnyStore, read: ReadLog) -> Vec<RecordedEvent> {
    collect(store.log(read)).await
}

/// The events that a read of a stream gives, page by page.
pub(super) async fn stream_of(store: &AnyStore, read: ReadStream) -> Vec<RecordedEvent> {
    collect(store.stream(read)).await
}

/// Reads all that comes. No case writes so much that it may not end here.
async fn collect(events: EventStream<'_>) -> Vec<RecordedEvent> {
    const EVENTS_MAX: usize = 100_000;
    let events: Vec<_> = events.take(EVENTS_MAX).try_collect().await.expect("the store can be read");
    assert!(events.len() < EVENTS_MAX, "a read has no end");
    events
}

/// The whole log.
pub(super) async fn log(store: &AnyStore) -> Vec<RecordedEvent> {
    read(store, ReadLog::all()).await
}

/// A whole stream.
pub(super) async fn read_stream(store: &AnyStore, name: &str) -> Vec<RecordedEvent> {
    stream_of(store, ReadStream::new(stream(name))).await
}

pub(super) async fn head(store: &AnyStore) -> Position {
    store.head().await.expect("the head can be read").position
}

pub(super) fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position.get()).collect()
}

pub(super) fn versions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.version.get()).collect()
}

/// Sets tasks off at the same moment, and waits for all of them.
pub(super) async fn race<T, F>(racers: usize, racer: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(racers));
    let at_once = |n| {
        let (start, racer) = (Arc::clone(&start), racer(n));
        tokio::spawn(async move {
            start.wait().await;
            racer.await
        })
    };
    let tasks: Vec<_> = (0..racers).map(at_once).collect();
    let mut results = Vec::with_capacity(racers);
    for task in tasks {
        results.push(task.await.unwrap_or_else(|error| panic::resume_unwind(error.into_panic())));
    }
    results
}
