//! What the tests write with.

use std::time::Duration;

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, Appended, ContentType, EventStore, EventStoreExt, EventType, ExpectedVersion, NewEvent,
    ReadLog, RecordedEvent, StoreError, StreamId, Version,
};
use indelible_postgres::{Options, PostgresStore};
use tokio_postgres::{Client, NoTls};

/// How long a test waits for what must happen by itself.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// With its statements prepared; but behind a pooler, which is told nothing of those.
pub(crate) fn prepared(options: Options) -> Options {
    if std::env::var_os("INDELIBLE_POOLED").is_some() { options } else { options.prepared() }
}

pub(crate) fn stream(name: &str) -> StreamId {
    name.parse().unwrap()
}

pub(crate) fn event(event_type: &'static str) -> NewEvent {
    NewEvent::new(EventType::from_static(event_type), ContentType::JSON, r#"{"by":"a test"}"#)
}

pub(crate) fn append(name: &str, version: u64) -> Append {
    Append::to(stream(name), ExpectedVersion::Exact(Version::new(version)), [event("Written")])
}

/// Sends an append until it is answered: as one does where the outcome is unknown.
pub(crate) async fn appended(store: &PostgresStore, append: Append) -> Appended {
    let mut append = append;
    loop {
        match store.append(append.clone()).await {
            Ok(AppendOutcome::Appended(done)) => return done,
            Err(StoreError::OutcomeUnknown { append: same, .. }) => append = *same,
            Err(error) if error.is_retryable() => {}
            other => panic!("must be written, got {other:?}"),
        }
    }
}

pub(crate) async fn log(store: &PostgresStore) -> Vec<RecordedEvent> {
    store.log(ReadLog::all()).try_collect().await.unwrap()
}

/// A connection beside the store's, as anybody may have one.
pub(crate) async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
