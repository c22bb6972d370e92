//! mire on PostgreSQL, by its event store: an append is one statement, which updates the stream's row and inserts. The log
//! is read in its subscriptions' order, by transaction id and position, and no further than the oldest transaction that is
//! under way in the cluster.

use anyhow::Result;
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, Subject},
};
use mire::{Event, EventData, EventStore, ExpectedVersion};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;

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

struct Mire(EventStore);

impl Subject for Mire {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        let connections = PgPoolOptions::new().max_connections(callers.min(CONNECTIONS_MAX)).test_before_acquire(false);
        let pool = connections.connect(place.database()?).await?;
        let store = EventStore::new(pool);
        store.migrate().await?;
        Ok(Self(store))
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        let expected = match i64::try_from(expected)? {
            0 => ExpectedVersion::NoStream,
            version => ExpectedVersion::Exact(version),
        };
        let event = |data: &Vec<u8>| Ok(Event::new(Transferred(serde_json::from_slice(data)?)));
        let events = events.iter().map(event).collect::<Result<Vec<_>>>()?;
        self.0.append(&format!("{CATEGORY}-{stream}"), CATEGORY, expected, &events).await?;
        Ok(())
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let mut found = Found::default();
        for event in self.0.read_stream_all(&format!("{CATEGORY}-{stream}"), 1).await? {
            found.add_json(&event.data)?;
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let (mut found, mut transaction, mut position) = (Found::default(), 0, 0);
        loop {
            let page = self.0.read_all_after(transaction, position, PAGE).await?;
            let Some(last) = page.last() else { return Ok(found) };
            (transaction, position) = (last.transaction_id, last.global_position);
            for event in &page {
                found.add_json(&event.data)?;
            }
        }
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Mire>()
}
