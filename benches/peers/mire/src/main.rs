//! mire on PostgreSQL, by its event store: an append is one statement, which updates the stream's row and inserts. The log
//! is read in its subscriptions' order, by transaction id and position, and no further than the oldest transaction that is
//! under way in the cluster. Its projection has a transaction a batch, in which each event's statement is awaited.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, Subject},
};
use mire::{
    Aggregate, Event, EventData, EventStore, ExpectedVersion, HandledEvent, ProjectionRunner, TransactionalEventHandler,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: u32 = 64;
const CATEGORY: &str = "account";
const PAGE: i64 = 5_000;

#[derive(Serialize, Deserialize)]
struct Transferred(Value);

impl EventData for Transferred {
    fn event_type(&self) -> &'static str {
        "Transferred"
    }
}

#[derive(Default)]
struct Account;

impl Aggregate for Account {
    type Event = Transferred;
    fn stream_category() -> &'static str {
        CATEGORY
    }
    fn apply(&mut self, _: &Transferred) {}
}

struct Balances;

const BALANCES_SQL: &str =
    "CREATE TABLE balances (account text PRIMARY KEY, cents bigint NOT NULL, events bigint NOT NULL)";
const UPSERT_SQL: &str = "INSERT INTO balances VALUES ($1, $2, 1) ON CONFLICT (account) DO UPDATE
    SET cents = balances.cents + excluded.cents, events = balances.events + 1";
const EVENTS_SQL: &str = "SELECT coalesce(sum(events), 0)::bigint FROM balances";
/// As many events a transaction as our own projections take.
const BATCH_EVENTS: i64 = 1_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl TransactionalEventHandler for Balances {
    type Aggregate = Account;

    async fn handle(&self, event: HandledEvent<Transferred>, connection: &mut PgConnection) -> Result<()> {
        let cents = event.event.0["cents"].as_i64().context("an event without cents")?;
        sqlx::query(UPSERT_SQL).bind(event.stream_id()).bind(cents).execute(connection).await?;
        Ok(())
    }
}

struct Mire {
    store: EventStore,
    pool: PgPool,
}

impl Subject for Mire {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        let connections = PgPoolOptions::new().max_connections(callers.min(CONNECTIONS_MAX)).test_before_acquire(false);
        let pool = connections.connect(place.database()?).await?;
        let store = EventStore::new(pool.clone());
        store.migrate().await?;
        Ok(Self { store, pool })
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        let expected = match i64::try_from(expected)? {
            0 => ExpectedVersion::NoStream,
            version => ExpectedVersion::Exact(version),
        };
        let event = |data: &Vec<u8>| Ok(Event::new(Transferred(serde_json::from_slice(data)?)));
        let events = events.iter().map(event).collect::<Result<Vec<_>>>()?;
        self.store.append(&format!("{CATEGORY}-{stream}"), CATEGORY, expected, &events).await?;
        Ok(())
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let mut found = Found::default();
        for event in self.store.read_stream_all(&format!("{CATEGORY}-{stream}"), 1).await? {
            found.add_json(&event.data)?;
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let (mut found, mut transaction, mut position) = (Found::default(), 0, 0);
        loop {
            let page = self.store.read_all_after(transaction, position, PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            (transaction, position) = (last.transaction_id, last.global_position);
            for event in &page {
                found.add_json(&event.data)?;
            }
        }
    }

    async fn project(&self, events: u64) -> Result<()> {
        sqlx::raw_sql(BALANCES_SQL).execute(&self.pool).await?;
        let runner = ProjectionRunner::builder(self.store.clone())
            .batch_size(BATCH_EVENTS)
            .subscribe_transactional("balances", Balances)
            .build();
        let end = CancellationToken::new();
        let mut running = tokio::spawn(runner.run(end.clone()));
        loop {
            let seen: i64 = sqlx::query_scalar(EVENTS_SQL).fetch_one(&self.pool).await?;
            if u64::try_from(seen)? >= events {
                break;
            }
            tokio::select! {
                ended = &mut running => bail!("it ended at {seen} events: {ended:?}"),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        end.cancel();
        running.await?
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Mire>()
}
