//! The same rows without a log to read, events to decode, or a projection: batches of them, each with a checkpoint in the
//! same transaction. The limit.

use std::pin::Pin;

use anyhow::{Context as _, Result, ensure};
use futures::FutureExt as _;
use indelible_postgres::PostgresStore;
use indelible_projections::Key as _;
use indelible_rocksdb::RocksStore;
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch};
use serde::Serialize;
use tokio_postgres::{Client, Statement};

use super::{BALANCES_SQL, Row, UPSERT_SET_SQL, UPSERT_SQL};
use crate::{
    job::{Place, Write},
    subject::{indelible, postgres::connect},
};

pub trait ByHand: Sized + Send + 'static {
    const DURABILITY: &str;
    /// Where events are appended that come live.
    type Store: indelible::Store;

    fn open(place: &Place, write: Write) -> impl Future<Output = Result<Self>> + Send;

    /// A batch, up to a position of the log. Returns when it is committed.
    fn write(&mut self, rows: &[Row], to: u64) -> impl Future<Output = Result<()>> + Send;

    /// How many events are in the rows.
    fn events(&self) -> impl Future<Output = Result<u64>> + Send;
}

/// Bare RocksDB, set up as the read model is. It reads no row before it writes it.
pub struct Bare {
    db: DB,
    write: Write,
}

impl ByHand for Bare {
    const DURABILITY: &str = "written";
    type Store = RocksStore;

    async fn open(place: &Place, write: Write) -> Result<Self> {
        let db = DB::open(&options(), place.directory()?.join("views")).context("opening bare RocksDB")?;
        Ok(Self { db, write })
    }

    async fn write(&mut self, rows: &[Row], to: u64) -> Result<()> {
        let mut batch = WriteBatch::default();
        for row in rows {
            match self.write {
                Write::Put => batch.put(key(b"ledger", &(row.account(), row.version).to_bytes()), value(row.cents)?),
                _ => batch.put(key(b"balances", &row.account().to_bytes()), value((row.cents, row.version))?),
            }
        }
        // As many bytes as the read model's.
        batch.put(b"p\x06ledger\0\0\0\x01\0\0\0\0", [&to.to_be_bytes()[..], &[7; 80]].concat());
        Ok(self.db.write(batch)?)
    }

    async fn events(&self) -> Result<u64> {
        let mut events = 0;
        for row in self.db.iterator(IteratorMode::From(b"r", Direction::Forward)) {
            events += match self.write {
                Write::Put => 1,
                _ => bincode::serde::decode_from_slice::<(u64, u64), _>(&row?.1, BINCODE)?.0.1,
            };
        }
        Ok(events)
    }
}

/// As the read model has its rows' keys.
fn key(table: &[u8], key: &[u8]) -> Vec<u8> {
    [&b"r\0\0\0\0"[..], &[table.len() as u8], table, key].concat()
}

/// As the read model has its values.
fn value(value: impl Serialize) -> Result<Vec<u8>> {
    Ok(bincode::serde::encode_to_vec(value, BINCODE)?)
}
const BINCODE: bincode::config::Configuration = bincode::config::standard();

fn options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_bloom_filter(10.0, false);
    tables.set_block_size(16 * 1024);
    tables.set_format_version(6);
    tables.set_block_cache(&Cache::new_lru_cache(48 * 1024 * 1024));
    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.create_if_missing(true);
    options.set_write_buffer_size(64 * 1024 * 1024);
    options.set_max_write_buffer_number(3);
    let [young, old] = [DBCompressionType::None, DBCompressionType::Zstd];
    options.set_compression_per_level(&[young, young, old, old, old, old, old]);
    options
}

/// Plain SQL: statements sent one behind the other, as the read model does it, and nothing waits before the commit.
pub struct Sql {
    client: Client,
    write: Write,
    upsert: Statement,
    set: Statement,
    advance: Statement,
}

const CHECKPOINT_SQL: &str = "
    CREATE TABLE checkpoints (projection text PRIMARY KEY, position bigint NOT NULL);
    INSERT INTO checkpoints VALUES ('balances', 0)";

impl ByHand for Sql {
    const DURABILITY: &str = "fdatasync";
    type Store = PostgresStore;

    async fn open(place: &Place, write: Write) -> Result<Self> {
        let client = connect(place).await?;
        client.batch_execute(&format!("{BALANCES_SQL}; {CHECKPOINT_SQL}")).await?;
        let advance = "UPDATE checkpoints SET position = $1 WHERE projection = 'balances' AND position <= $1";
        let (upsert, set) = (client.prepare(UPSERT_SQL).await?, client.prepare(UPSERT_SET_SQL).await?);
        Ok(Self { upsert, set, advance: client.prepare(advance).await?, client, write })
    }

    async fn write(&mut self, rows: &[Row], to: u64) -> Result<()> {
        let Self { client, upsert, set, advance, .. } = &*self;
        let mut sent = Vec::with_capacity(rows.len() + 3);
        send(&mut sent, async { Ok(client.batch_execute("BEGIN").await.map(|()| 1)?) });
        send(&mut sent, async { Ok(client.execute(advance, &[&i64::try_from(to)?]).await?) });
        if self.write == Write::Set {
            let (accounts, cents): (Vec<_>, Vec<_>) = rows.iter().map(|row| (row.account(), row.cents as i64)).unzip();
            send(&mut sent, async move { Ok(client.execute(set, &[&accounts, &cents]).await?) });
        } else {
            for row in rows {
                let (account, cents) = (row.account(), row.cents as i64);
                send(&mut sent, async move { Ok(client.execute(upsert, &[&account, &cents]).await?) });
            }
        }
        send(&mut sent, async { Ok(client.batch_execute("COMMIT").await.map(|()| 1)?) });
        for answer in sent {
            ensure!(answer.await? > 0, "a statement changed nothing");
        }
        Ok(())
    }

    async fn events(&self) -> Result<u64> {
        let row = self.client.query_one("SELECT coalesce(sum(events), 0)::bigint FROM balances", &[]).await?;
        Ok(u64::try_from(row.get::<_, i64>(0))?)
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<u64>> + Send + 'a>>;

/// Sends a statement, behind all that was sent: that happens when it is first asked how it does.
fn send<'a>(sent: &mut Vec<Answer<'a>>, statement: impl Future<Output = Result<u64>> + Send + 'a) {
    let mut answer: Answer<'a> = Box::pin(statement);
    match (&mut answer).now_or_never() {
        Some(answered) => sent.push(Box::pin(async { answered })),
        None => sent.push(answer),
    }
}
