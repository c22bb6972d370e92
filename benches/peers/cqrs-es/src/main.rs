//! cqrs-es on PostgreSQL, by its event store: what an aggregate at a known version is given is committed in one
//! transaction, with a statement for each event. Its table has no order over all streams; the log is read as it replays it,
//! by version.

use std::convert::Infallible;

use anyhow::Result;
use cqrs_es::{
    Aggregate, DomainEvent, EventStore as _,
    event_sink::EventSink,
    persist::{EventStoreAggregateContext, PersistedEventRepository as _, PersistedEventStore},
};
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, Subject},
};
use postgres_es::PostgresEventRepository;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;

const CONNECTIONS_MAX: u32 = 32;

/// As its documentation tells its users to make it.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS events (
    aggregate_type text                         NOT NULL,
    aggregate_id   text                         NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text                         NOT NULL,
    event_version  text                         NOT NULL,
    payload        json                         NOT NULL,
    metadata       json                         NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Transferred(Value);

impl DomainEvent for Transferred {
    fn event_type(&self) -> String {
        "Transferred".into()
    }

    fn event_version(&self) -> String {
        "1".into()
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Account;

impl Aggregate for Account {
    const TYPE: &'static str = "account";
    type Command = ();
    type Event = Transferred;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, _: (), _: &(), _: &EventSink<Self>) -> Result<(), Infallible> {
        Ok(())
    }

    fn apply(&mut self, _: Transferred) {}
}

struct Cqrs {
    store: PersistedEventStore<PostgresEventRepository, Account>,
    events: PostgresEventRepository,
}

impl Subject for Cqrs {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        let connections = PgPoolOptions::new().max_connections(callers.min(CONNECTIONS_MAX)).test_before_acquire(false);
        let pool = connections.connect(place.database()?).await?;
        sqlx::raw_sql(TABLE).execute(&pool).await?;
        let events = || PostgresEventRepository::new(pool.clone());
        Ok(Self { store: PersistedEventStore::new_event_store(events()), events: events() })
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        let context = EventStoreAggregateContext {
            aggregate_id: stream.to_string(),
            aggregate: Account,
            current_sequence: usize::try_from(expected)?,
            current_snapshot: None,
        };
        let events = events.iter().map(|data| Ok(Transferred(serde_json::from_slice(data)?))).collect::<Result<_>>()?;
        self.store.commit(events, context, Default::default()).await?;
        Ok(())
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let mut found = Found::default();
        for event in self.store.load_events(&stream.to_string()).await? {
            found.add_json(&event.payload)?;
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let mut found = Found::default();
        let mut events = self.events.stream_all_events::<Account>().await?;
        while let Some(event) = events.next::<Account>(&[]).await {
            found.add_json(&event?.payload)?;
        }
        Ok(found)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Cqrs>()
}
