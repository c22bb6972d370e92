//! esrs, by its PostgreSQL store: the events of an aggregate state at a known version are persisted in one transaction, with
//! a statement for each. Event ids ascend with time (V7), which its indexes like better than its default. The log is read
//! as it streams it, by time and version.

use std::convert::Infallible;

use anyhow::Result;
use esrs::{
    Aggregate, AggregateState,
    store::{
        EventStore as _,
        postgres::{PgStore, PgStoreBuilder, UuidFormat},
    },
};
use futures::TryStreamExt as _;
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, Subject},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

const CONNECTIONS_MAX: u32 = 32;

#[derive(Serialize, Deserialize)]
struct Transferred(Value);

struct Account;

impl Aggregate for Account {
    const NAME: &'static str = "account";
    type State = ();
    type Command = ();
    type Event = Transferred;
    type Error = Infallible;

    fn handle_command((): &(), (): ()) -> Result<Vec<Transferred>, Infallible> {
        Ok(Vec::new())
    }

    fn apply_event((): (), _: Transferred) {}
}

struct Esrs {
    store: PgStore<Account>,
    pool: PgPool,
}

/// Spread, as ids of aggregates are.
fn id(stream: u32) -> Uuid {
    Uuid::from_u64_pair(u64::from(stream).wrapping_mul(0x9E37_79B9_7F4A_7C15), u64::from(stream))
}

impl Subject for Esrs {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        let connections = PgPoolOptions::new().max_connections(callers.min(CONNECTIONS_MAX)).test_before_acquire(false);
        let pool = connections.connect(place.database()?).await?;
        let store = PgStoreBuilder::new(pool.clone()).with_event_id_format(UuidFormat::V7).try_build().await?;
        Ok(Self { store, pool })
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        let mut state = AggregateState::with_id(id(stream));
        for _ in 0..expected {
            state.next_sequence_number();
        }
        let events = events.iter().map(|data| Ok(Transferred(serde_json::from_slice(data)?))).collect::<Result<_>>()?;
        self.store.persist(&mut state, events).await?;
        Ok(())
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let mut found = Found::default();
        for event in self.store.by_aggregate_id(id(stream)).await? {
            found.add_json(&event.payload)?;
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let mut found = Found::default();
        let mut events = self.store.stream_events(&self.pool);
        while let Some(event) = events.try_next().await? {
            found.add_json(&event.payload)?;
        }
        Ok(found)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Esrs>()
}
