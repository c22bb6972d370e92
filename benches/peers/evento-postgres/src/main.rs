//! evento on PostgreSQL (sqlx), by its executor: a look at the stream's last version, unless it is new, then one statement
//! that inserts. The log is read in its cursor's order, by pages.

use std::sync::Arc;

use anyhow::Result;
use evento_core::{
    Event, EventFilter, Executor as _, TenantFilter,
    cursor::{Args, Value},
    metadata::Metadata,
};
use evento_sql::Postgres;
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, Subject},
};
use sqlx::postgres::PgPoolOptions;
use sqlx_migrator::{Migrate as _, Plan};
use ulid::Ulid;

const CONNECTIONS_MAX: u32 = 32;
const ACCOUNT: &str = "bench/account";
const PAGE: u16 = 5_000;

struct Evento(Postgres);

impl Evento {
    async fn find(&self, filter: EventFilter) -> Result<Found> {
        let (mut found, mut after): (_, Option<Value>) = (Found::default(), None);
        let filters: Arc<[_]> = Arc::from([filter]);
        loop {
            let args = Args::forward(PAGE, after.take());
            let tenant = TenantFilter::Only(String::new());
            let page = self.0.read(Some(Arc::clone(&filters)), None, tenant, args, None).await?;
            page.edges.iter().for_each(|edge| found.add(&edge.node.data));
            after = page.page_info.end_cursor;
            if !page.page_info.has_next_page {
                return Ok(found);
            }
        }
    }
}

impl Subject for Evento {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        let connections = PgPoolOptions::new().max_connections(callers.min(CONNECTIONS_MAX)).test_before_acquire(false);
        let pool = connections.connect(place.database()?).await?;
        let migrator = evento_sql_migrator::new::<sqlx::Postgres>()?;
        migrator.run(&mut *pool.acquire().await?, &Plan::apply_all()).await?;
        Ok(Self(pool.into()))
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        let event = |(version, data)| {
            Ok(Event {
                id: Ulid::generate(),
                aggregate_id: stream.to_string(),
                aggregate_type: ACCOUNT.into(),
                version: u16::try_from(version)?,
                name: "Transferred".into(),
                routing_key: None,
                tenant: String::new(),
                data,
                metadata: Metadata::default(),
                timestamp: 0,
                timestamp_subsec: 0,
            })
        };
        let events = (expected + 1..).zip(events).map(event).collect::<Result<_>>()?;
        Ok(self.0.write(events).await?)
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        self.find(EventFilter::by_id_raw(ACCOUNT, stream.to_string())).await
    }

    async fn read(&self) -> Result<Found> {
        self.find(EventFilter::by_type_raw(ACCOUNT)).await
    }

    async fn close(self) -> Result<()> {
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Evento>()
}
