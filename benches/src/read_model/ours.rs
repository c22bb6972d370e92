//! Projections into our own read models, opened as an application opens them.

use anyhow::{Context as _, Result, bail};
use indelible_core::Cause;
use indelible_postgres::{PostgresModel, PostgresTx};
use indelible_projections::{
    Envelope, Order, Project, Projection, ReadModel, ReadTables as _, Table, Wants, Worker, WriteTables as _,
};
use indelible_rocksdb::{RocksModel, RocksTx};

use super::{Account, AccountEvent, BALANCES_SQL, UPSERT_SET_SQL, UPSERT_SQL};
use crate::job::{Place, Write};

/// What the accounts have, one row each, and by how many events.
pub struct Balances<const PARTITIONS: u32, const VERSION: u32>;
const BALANCES: Table<String, (u64, u64)> = Table::new("balances");

impl<const PARTITIONS: u32, const VERSION: u32> Projection for Balances<PARTITIONS, VERSION> {
    const NAME: &'static str = "balances";
    const VERSION: u32 = VERSION;
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}

impl<const PARTITIONS: u32, const VERSION: u32> Project<RocksModel> for Balances<PARTITIONS, VERSION> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        let AccountEvent::Transferred { cents, .. } = envelope.event;
        let account = envelope.recorded.stream.id().to_owned();
        let (has, events) = tx.get(&BALANCES, &account)?.unwrap_or_default();
        Ok(tx.put(&BALANCES, &account, &(has + cents, events + 1))?)
    }
}

impl<const PARTITIONS: u32, const VERSION: u32> Project<PostgresModel> for Balances<PARTITIONS, VERSION> {
    const SETUP: &'static str = BALANCES_SQL;

    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let AccountEvent::Transferred { cents, .. } = envelope.event;
        Ok(tx.execute(UPSERT_SQL, (envelope.recorded.stream.id(), cents as i64)).await?)
    }
}

/// The same, of all events of a batch at once.
struct BalancesOfSets<const PARTITIONS: u32>;

impl<const PARTITIONS: u32> Projection for BalancesOfSets<PARTITIONS> {
    const NAME: &'static str = "balances";
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}

impl<const PARTITIONS: u32> Project<PostgresModel> for BalancesOfSets<PARTITIONS> {
    const SETUP: &'static str = BALANCES_SQL;

    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        self.apply_batch(std::slice::from_ref(envelope), tx).await
    }

    async fn apply_batch(&self, envelopes: &[Envelope<AccountEvent>], tx: &mut PostgresTx) -> Result<(), Cause> {
        let row = |envelope: &Envelope<AccountEvent>| {
            let AccountEvent::Transferred { cents, .. } = envelope.event;
            (envelope.recorded.stream.id().to_owned(), cents as i64)
        };
        let rows: (Vec<String>, Vec<i64>) = envelopes.iter().map(row).unzip();
        Ok(tx.execute(UPSERT_SET_SQL, rows).await?)
    }
}

/// What happened to the accounts: one row an event, that is never written again.
struct Ledger<const PARTITIONS: u32>;
pub(super) const LEDGER: Table<(String, u64), u64> = Table::new("ledger");

impl<const PARTITIONS: u32> Projection for Ledger<PARTITIONS> {
    const NAME: &'static str = "ledger";
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}

impl<const PARTITIONS: u32> Project<RocksModel> for Ledger<PARTITIONS> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        let AccountEvent::Transferred { cents, .. } = envelope.event;
        let key = (envelope.recorded.stream.id().to_owned(), envelope.recorded.version.get());
        Ok(tx.put(&LEDGER, &key, &cents)?)
    }
}

/// A read model, and what is asked of it.
pub trait Model: ReadModel {
    /// What a commit stands for.
    const DURABILITY: &str;

    fn at(place: &Place) -> impl Future<Output = Result<Self>> + Send;

    /// Has a worker run a projection.
    fn add(&self, worker: Worker, write: Write, partitions: u32, version: u32) -> Result<Worker>;

    /// How many events are in the rows that queries see.
    fn events(&self, write: Write) -> impl Future<Output = Result<u64>> + Send;

    /// Those of one account, of [`Balances`].
    fn events_of(&self, account: u32) -> impl Future<Output = Result<u64>> + Send;
}

impl Model for RocksModel {
    const DURABILITY: &str = "written";

    async fn at(place: &Place) -> Result<Self> {
        Ok(Self::open(place.directory()?.join("views"))?)
    }

    fn add(&self, worker: Worker, write: Write, partitions: u32, version: u32) -> Result<Worker> {
        Ok(match (write, partitions, version) {
            (Write::Put, 1, 1) => worker.add(self, Ledger::<1>),
            (Write::Put, 4, 1) => worker.add(self, Ledger::<4>),
            (Write::Upsert, 1, 1) => worker.add(self, Balances::<1, 1>),
            (Write::Upsert, 1, 2) => worker.add(self, Balances::<1, 2>),
            (Write::Upsert, 4, 1) => worker.add(self, Balances::<4, 1>),
            _ => bail!("there is no such projection: {write:?}, {partitions} partitions"),
        })
    }

    async fn events(&self, write: Write) -> Result<u64> {
        const PAGE: usize = 10_000;
        let (mut events, mut after) = (0, None);
        if write == Write::Upsert {
            let rows = self.query::<Balances<1, 1>>()?.scan(&BALANCES, .., usize::MAX)?;
            return Ok(rows.iter().map(|(_, (_, events))| events).sum());
        }
        let ledger = self.query::<Ledger<1>>()?;
        loop {
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let rows = ledger.scan(&LEDGER, (from, std::ops::Bound::Unbounded), PAGE)?;
            events += rows.len() as u64;
            match rows.into_iter().nth(PAGE - 1) {
                Some((last, _)) => after = Some(last),
                None => return Ok(events),
            }
        }
    }

    async fn events_of(&self, account: u32) -> Result<u64> {
        let row = self.query::<Balances<1, 1>>()?.get(&BALANCES, &account.to_string())?;
        Ok(row.map_or(0, |(_, events)| events))
    }
}

impl Model for PostgresModel {
    const DURABILITY: &str = "fdatasync";

    async fn at(place: &Place) -> Result<Self> {
        Ok(Self::open(place.database()?).await?)
    }

    fn add(&self, worker: Worker, write: Write, partitions: u32, version: u32) -> Result<Worker> {
        Ok(match (write, partitions, version) {
            (Write::Upsert, 1, 1) => worker.add(self, Balances::<1, 1>),
            (Write::Upsert, 1, 2) => worker.add(self, Balances::<1, 2>),
            (Write::Upsert, 4, 1) => worker.add(self, Balances::<4, 1>),
            (Write::Set, 1, 1) => worker.add(self, BalancesOfSets::<1>),
            (Write::Set, 4, 1) => worker.add(self, BalancesOfSets::<4>),
            _ => bail!("there is no such projection: {write:?}, {partitions} partitions"),
        })
    }

    async fn events(&self, _: Write) -> Result<u64> {
        let mut balances = self.query::<Balances<1, 1>>().await?;
        let row = balances.query_opt("SELECT coalesce(sum(events), 0)::bigint FROM balances", ()).await?;
        Ok(u64::try_from(row.context("no sum")?.get::<_, i64>(0))?)
    }

    async fn events_of(&self, account: u32) -> Result<u64> {
        let mut balances = self.query::<Balances<1, 1>>().await?;
        let row = balances.query_opt("SELECT events FROM balances WHERE account = $1", (account.to_string(),)).await?;
        Ok(row.map_or(Ok(0), |row| u64::try_from(row.get::<_, i64>(0)))?)
    }
}
