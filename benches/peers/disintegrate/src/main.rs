//! disintegrate on PostgreSQL, by its event store: an append is a serializable transaction that looks for events of the
//! account after the last one that the caller knows. Transactions that the database could not order are tried again, as its
//! documentation has it: that is part of the append's time.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use anyhow::{Context as _, Result, bail};
use disintegrate::{Event, EventStore as _, StreamItem, StreamQuery, query, serde::json::Json};
use disintegrate_postgres::{Error, PgEventId, PgEventStore};
use futures::TryStreamExt as _;
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, Subject},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// More of them were in one another's way, and slower.
const CONNECTIONS_MAX: u32 = 4;
const TRIES_MAX: u32 = 1_000;

/// One of its functions has a hexadecimal number, which PostgreSQL takes from 16 on only.
const MENDED: &str = "
DO $$ BEGIN EXECUTE
    replace(pg_get_functiondef('event_store_begin_epoch'::regproc), '0xFFFFFFFF', '4294967295');
END $$";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum AccountEvent {
    Transferred {
        #[id]
        account: i64,
        data: Value,
    },
}

struct Disintegrate {
    store: PgEventStore<AccountEvent, Json<AccountEvent>>,
    /// By stream.
    last_ids: Vec<AtomicI64>,
}

/// It says `Concurrency` where an event was in the way, or where the commit failed to be ordered; an earlier statement that
/// fails so comes as the database has put it.
fn is_to_be_tried_again(error: &Error) -> bool {
    match error {
        Error::Concurrency => true,
        Error::Database(error) => error.as_database_error().and_then(|error| error.code()).as_deref() == Some("40001"),
        _ => false,
    }
}

impl Disintegrate {
    async fn find(&self, query: &StreamQuery<PgEventId, AccountEvent>) -> Result<(Found, PgEventId)> {
        let (mut found, mut end) = (Found::default(), 0);
        let mut items = self.store.stream(query);
        while let Some(item) = items.try_next().await? {
            match item {
                StreamItem::Event(event) => {
                    let AccountEvent::Transferred { data, .. } = &*event;
                    found.add_json(data)?;
                }
                StreamItem::End(id) => end = id,
            }
        }
        Ok((found, end))
    }
}

impl Subject for Disintegrate {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, log: Log, callers: u32) -> Result<Self> {
        let connections = PgPoolOptions::new().max_connections(callers.min(CONNECTIONS_MAX)).test_before_acquire(false);
        let options: PgConnectOptions = place.database()?.parse()?;
        let pool = connections.connect_with(options.options([("check_function_bodies", "off")])).await?;
        let store = PgEventStore::try_new(pool.clone(), Json::default()).await?;
        sqlx::raw_sql(MENDED).execute(&pool).await?;
        let mut subject = Self { store, last_ids: Vec::new() };
        // Of a log that was filled before, all that is known is where it ends.
        let (_, head) = subject.find(&query!(AccountEvent; account == -1_i64)).await?;
        subject.last_ids = (0..log.streams()).map(|_| AtomicI64::new(head)).collect();
        Ok(subject)
    }

    async fn append(&self, Append { stream, events, .. }: Append) -> Result<()> {
        let account = i64::from(stream);
        let event = |data: &Vec<u8>| Ok(AccountEvent::Transferred { account, data: serde_json::from_slice(data)? });
        let events = events.iter().map(event).collect::<Result<Vec<_>>>()?;
        let last = &self.last_ids[stream as usize];
        for _ in 0..TRIES_MAX {
            let query = query!(AccountEvent; account == account);
            match self.store.append(events.clone(), query, last.load(Relaxed)).await {
                Ok(written) => {
                    last.store(written.last().context("nothing was written")?.id(), Relaxed);
                    return Ok(());
                }
                Err(error) if is_to_be_tried_again(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no order was found for it in {TRIES_MAX} tries")
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let account = i64::from(stream);
        Ok(self.find(&query!(AccountEvent; account == account)).await?.0)
    }

    async fn read(&self) -> Result<Found> {
        Ok(self.find(&query!(AccountEvent)).await?.0)
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Disintegrate>()
}
