//! Read models of the embedded kind beside bare RocksDB, which writes the same rows in the same batches and reads no log.
//!
//! Each round has a directory of its own, and projects the whole of a log that was filled before.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, stream};
use indelible_core::{
    Aggregate, Append, AppendOutcome, Apply, Cause, ContentType, Event, EventStore as _, NewEvent, codec::Json,
};
use indelible_projections::{
    Envelope, Key as _, Order, Project, Projection, ReadTables as _, Running, Table, Waited, Wants, Worker,
    WriteTables as _,
};
use indelible_rocksdb::{RocksModel, RocksStore, RocksTx};
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, WriteBatch};
use serde::{Deserialize, Serialize};

const ACCOUNTS: u64 = 10_000;
/// As the runner has them by default.
const BATCH_EVENTS: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum AccountEvent {
    Deposited { cents: u64 },
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
struct Account {}
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

/// One row an event, read before it is written: what an account has.
struct Balances<const PARTITIONS: u32>;
const BALANCES: Table<String, u64> = Table::new("balances");

impl<const PARTITIONS: u32> Projection for Balances<PARTITIONS> {
    const NAME: &'static str = "balances";
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}
impl<const PARTITIONS: u32> Project<RocksModel> for Balances<PARTITIONS> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        let AccountEvent::Deposited { cents } = envelope.event;
        let account = envelope.recorded.stream.id().to_owned();
        let balance = tx.get(&BALANCES, &account)?.unwrap_or(0);
        Ok(tx.put(&BALANCES, &account, &(balance + cents))?)
    }
}

/// One row an event, that is never written again: what happened to an account.
struct Ledger<const PARTITIONS: u32>;
const LEDGER: Table<(String, u64), u64> = Table::new("ledger");

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
        let AccountEvent::Deposited { cents } = envelope.event;
        let key = (envelope.recorded.stream.id().to_owned(), envelope.recorded.version.get());
        Ok(tx.put(&LEDGER, &key, &cents)?)
    }
}

/// Something that is measured in a directory of its own.
type Measure<'a> = &'a dyn Fn(&Path) -> Result<Duration>;

/// Measures all of it and prints the medians, in thousands of events a second.
pub fn run(dir: &Path, events: u64, rounds: u32) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let temporary = tempfile::tempdir_in(dir)?;
    let log = temporary.path().join("log");
    runtime.block_on(fill(&log, events))?;
    let mut table: Vec<(&str, Vec<f64>)> = Vec::new();
    for _ in 0..rounds {
        let new = || tempfile::tempdir_in(temporary.path());
        let subjects: [(&str, Measure<'_>); 7] = [
            ("the log, read and decoded", &|_| runtime.block_on(read(&log))),
            ("balances: bare RocksDB", &|dir| bare(dir, events, |n| (account(n).to_bytes(), vec![251, 200, 3]))),
            ("balances: 1 partition", &|dir| runtime.block_on(project(&log, dir, Balances::<1>))),
            ("balances: 4 partitions", &|dir| runtime.block_on(project(&log, dir, Balances::<4>))),
            ("ledger: bare RocksDB", &|dir| bare(dir, events, |n| ((account(n), n / ACCOUNTS).to_bytes(), vec![7]))),
            ("ledger: 1 partition", &|dir| runtime.block_on(project(&log, dir, Ledger::<1>))),
            ("ledger: 4 partitions", &|dir| runtime.block_on(project(&log, dir, Ledger::<4>))),
        ];
        for (at, (name, measure)) in subjects.into_iter().enumerate() {
            let rate = events as f64 / measure(new()?.path())?.as_secs_f64();
            match table.get_mut(at) {
                Some((_, rates)) => rates.push(rate),
                None => table.push((name, vec![rate])),
            }
        }
    }
    println!("{events} events of {ACCOUNTS} streams into a read model, {rounds} rounds in turn, medians:");
    for (name, mut rates) in table {
        rates.sort_by(f64::total_cmp);
        println!("{name:<28} {:>8.0} events/s", rates[rates.len() / 2]);
    }
    Ok(())
}

/// In no order, as accounts come.
fn account(n: u64) -> String {
    format!("{:06}", (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % ACCOUNTS)
}

async fn fill(dir: &Path, events: u64) -> Result<()> {
    let store = RocksStore::open(dir)?;
    let mut appends = stream::iter(0..events / 100)
        .map(|part| {
            let store = &store;
            async move {
                let mut append = Append::new();
                for n in part * 100..part * 100 + 100 {
                    let event = AccountEvent::Deposited { cents: n };
                    let event = NewEvent::new(event.event_type(), ContentType::JSON, event.encode(&Json)?);
                    append = append.event(format!("account-{}", account(n)).parse()?, event);
                }
                ensure!(matches!(store.append(append).await?, AppendOutcome::Appended(_)), "a conflict");
                Ok(())
            }
        })
        .buffered(16);
    while let Some(done) = appends.next().await {
        done?;
    }
    drop(appends);
    Ok(store.close().await?)
}

async fn read(log: &Path) -> Result<Duration> {
    use indelible_core::{Delivery, Filter, StartFrom, Subscription};
    let store = RocksStore::open(log)?;
    let started = Instant::now();
    let mut events = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await?;
    let mut cents = 0;
    loop {
        match events.next().await? {
            Delivery::Event(event) => {
                let AccountEvent::Deposited { cents: more } = event.decode()?;
                cents += more;
            }
            Delivery::CaughtUp(_) => break,
            Delivery::Progress(_) => {}
        }
    }
    std::hint::black_box(cents);
    let took = started.elapsed();
    store.close().await?;
    Ok(took)
}

/// From the start of the worker to the last event in the read model.
async fn project<P: Project<RocksModel>>(log: &Path, dir: &Path, projection: P) -> Result<Duration> {
    let store = RocksStore::open(log)?;
    let model = RocksModel::open(dir)?;
    let head = store.head().await?;
    let started = Instant::now();
    let running: Running = Worker::new(&store).add(&model, projection).start().await?;
    ensure!(running.wait_for(&head, PATIENCE).await? == Waited::Reached, "the projection has stopped");
    let took = started.elapsed();
    ensure!(running.drain(PATIENCE).await, "the worker does not end");
    store.close().await?;
    Ok(took)
}

/// The same rows in the same batches with a checkpoint, set up as the read model is.
fn bare(dir: &Path, events: u64, row: impl Fn(u64) -> (Vec<u8>, Vec<u8>)) -> Result<Duration> {
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
    let db = DB::open(&options, dir).context("opening bare RocksDB")?;
    let prefix = [b'r', 0, 0, 0, 0, 8, b'b', b'a', b'l', b'a', b'n', b'c', b'e', b's'];
    let started = Instant::now();
    for first in (0..events).step_by(BATCH_EVENTS as usize) {
        let mut batch = WriteBatch::default();
        for n in first..events.min(first + BATCH_EVENTS) {
            let (key, value) = row(n);
            batch.put([&prefix[..], &key].concat(), value);
        }
        batch.put("checkpoint", [7; 80]);
        db.write(batch)?;
    }
    Ok(started.elapsed())
}
