//! What PostgreSQL offers without a store around it, on the very tables that the shared store makes: plain inserts, which
//! nothing but a unique constraint checks, at positions that a sequence gives; and plain reads.

use anyhow::{Context as _, Result, anyhow};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use indelible_postgres::PostgresStore;
use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinHandle},
};
use tokio_postgres::{Client, Config, NoTls, Row, Statement, types::ToSql};
use uuid::Uuid;

use super::{Append, Found, Subject, indelible::CATEGORY};
use crate::job::{Log, Place};

/// Made once, where several processes may want to at the same time.
const PREPARE: &str = "
    SELECT pg_advisory_xact_lock(1);
    INSERT INTO indelible.kinds VALUES (1, 'account', 'Transferred', 1, 'application/json') ON CONFLICT DO NOTHING;
    DO $$ BEGIN
        IF to_regclass('indelible.plain_position') IS NULL THEN
            CREATE SEQUENCE indelible.plain_position;
            PERFORM setval('indelible.plain_position', coalesce(max(position), 0) + 1, false) FROM indelible.log;
        END IF;
    END $$";
const INSERT_ONE: &str = "
    INSERT INTO indelible.log
        (position, version, recorded_at, id, kind, closes_stream, ends_append, stream, data)
    VALUES (nextval('indelible.plain_position'), $2, clock_timestamp(), $3, 1, false, true, $1, $4)";
const INSERT_MANY: &str = "
    INSERT INTO indelible.log
        (position, version, recorded_at, id, kind, closes_stream, ends_append, stream, data)
    SELECT nextval('indelible.plain_position'), version, clock_timestamp(), id, 1, false, true, stream, data
    FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::bytea[]) event (stream, version, id, data)";
const STREAM: &str = "
    SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream,
        tags, metadata::text, data
    FROM indelible.log WHERE stream = $1 ORDER BY version";
const PAGE: &str = "
    SELECT position, version, recorded_at, id, correlation_id, causation_id, kind, closes_stream, ends_append, stream,
        tags, metadata::text, data
    FROM indelible.log WHERE position > $1 ORDER BY position LIMIT 5000";
const PAGE_EVENTS: usize = 5_000;

/// The connections of one process: two of them leave some of a server's default hundred.
const CONNECTIONS_MAX: u32 = 40;
/// Appends of a batch: all that wait, unless an unlikely number of callers does.
const BATCH_APPENDS_MAX: usize = 4_096;

pub(crate) async fn connect(place: &Place) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(place.database()?, NoTls).await?;
    // What ends it is told to those who ask.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Has the store make its tables, or find them there.
async fn make_tables(place: &Place) -> Result<()> {
    PostgresStore::open(place.database()?).await?.close().await?;
    Ok(connect(place).await?.batch_execute(PREPARE).await?)
}

fn name(stream: u32) -> String {
    format!("{CATEGORY}-{stream}")
}

/// The columns that differ from event to event, of one append or of many.
#[derive(Default)]
struct Rows {
    streams: Vec<String>,
    versions: Vec<i64>,
    ids: Vec<Uuid>,
    data: Vec<Vec<u8>>,
}

impl Rows {
    fn add(&mut self, append: Append) -> Result<()> {
        for (version, event) in (append.expected + 1..).zip(append.events) {
            self.streams.push(name(append.stream));
            self.versions.push(i64::try_from(version)?);
            self.ids.push(Uuid::now_v7());
            self.data.push(event);
        }
        Ok(())
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.streams, &self.versions, &self.ids, &self.data]
    }
}

/// Each append is a transaction of its own, on a connection of its caller's as long as there are so many.
pub struct Autocommit(Pool);

impl Subject for Autocommit {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        make_tables(place).await?;
        let config: Config = place.database()?.parse()?;
        let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        Ok(Self(Pool::builder(manager).max_size(callers.min(CONNECTIONS_MAX) as usize).build()?))
    }

    async fn append(&self, append: Append) -> Result<()> {
        let mut rows = Rows::default();
        rows.add(append)?;
        let client = self.0.get().await?;
        if let ([stream], [version], [id], [data]) =
            (&rows.streams[..], &rows.versions[..], &rows.ids[..], &rows.data[..])
        {
            let statement = client.prepare_cached(INSERT_ONE).await?;
            client.execute(&statement, &[stream, version, id, data]).await?;
        } else {
            let statement = client.prepare_cached(INSERT_MANY).await?;
            client.execute(&statement, &rows.params()).await?;
        }
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}

/// One task inserts all that waits with one statement, and nothing is checked.
pub struct Batched {
    queue: mpsc::UnboundedSender<Waiting>,
    writer: JoinHandle<()>,
    client: Client,
    stream: Statement,
    page: Statement,
}

type Waiting = (Append, oneshot::Sender<Result<(), String>>);

async fn serve(client: Client, insert: Statement, mut queue: mpsc::UnboundedReceiver<Waiting>) {
    while let Some(first) = queue.recv().await {
        let mut group = vec![first];
        // Those who were answered just now often have the next append at hand: they get their turn.
        loop {
            task::yield_now().await;
            let before = group.len();
            while group.len() < BATCH_APPENDS_MAX
                && let Ok(next) = queue.try_recv()
            {
                group.push(next);
            }
            if group.len() == before {
                break;
            }
        }
        let (appends, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let written = write(&client, &insert, appends).await.map_err(|error| format!("{error:#}"));
        // Sending fails where the caller has gone away.
        answers.into_iter().for_each(|answer| drop(answer.send(written.clone())));
    }
}

async fn write(client: &Client, insert: &Statement, appends: Vec<Append>) -> Result<()> {
    let mut rows = Rows::default();
    appends.into_iter().try_for_each(|append| rows.add(append))?;
    client.execute(insert, &rows.params()).await.context("an insert")?;
    Ok(())
}

fn count(rows: &[Row], found: &mut Found) {
    rows.iter().for_each(|row| found.add(row.get("data")));
}

impl Subject for Batched {
    async fn open(place: &Place, _log: Log) -> Result<Self> {
        make_tables(place).await?;
        let (writing, client) = (connect(place).await?, connect(place).await?);
        let insert = writing.prepare(INSERT_MANY).await?;
        let (stream, page) = (client.prepare(STREAM).await?, client.prepare(PAGE).await?);
        let (queue, waiting) = mpsc::unbounded_channel();
        Ok(Self { queue, writer: tokio::spawn(serve(writing, insert, waiting)), client, stream, page })
    }

    async fn append(&self, append: Append) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.queue.send((append, answer)).map_err(|_| anyhow!("the writer has ended"))?;
        answered.await.context("the writer has ended")?.map_err(|error| anyhow!(error))
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let mut found = Found::default();
        count(&self.client.query(&self.stream, &[&name(stream)]).await?, &mut found);
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let (mut found, mut last) = (Found::default(), 0_i64);
        loop {
            let rows = self.client.query(&self.page, &[&last]).await?;
            count(&rows, &mut found);
            match rows.last() {
                Some(row) if rows.len() == PAGE_EVENTS => last = row.get("position"),
                _ => return Ok(found),
            }
        }
    }

    async fn close(self) -> Result<()> {
        drop(self.queue);
        Ok(self.writer.await?)
    }
}
