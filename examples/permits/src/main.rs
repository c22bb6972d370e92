//! A real event log, line by line: what happens to permit applications, how long it takes, and in which order.
//!
//! The rules of the log are in `case`; `lines` reads it, and `import` appends it. The projections are in `views`.

mod case;
mod demo;
mod facts;
mod generated;
mod import;
mod lines;
mod progress;
#[cfg(test)]
mod tests;
mod views;

use std::{
    env,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use indelible::{AnyStore, MemoryModel, MemoryStore, PostgresModel, PostgresStore, RocksModel, RocksStore, Waited};
use tokio::time::interval;

use facts::Facts;
use import::{Imported, import};
use progress::Progress;
use views::{Ask, Views};

#[derive(Parser)]
#[command(about = "What an event log says of its cases", arg_required_else_help = true)]
struct Cli {
    /// The log: CloudEvents 1.0 in JSON, one a line; each is a step (`type`) in a case (`subject`)
    log: Option<PathBuf>,
    /// Print the answers as one JSON object
    #[arg(long)]
    json: bool,
    /// Where events and answers are kept; by default in memory, or on RocksDB where a directory is given
    #[arg(long, value_enum, global = true)]
    store: Option<StoreKind>,
    /// The directory that keeps them, or the schema in the database at $DATABASE_URL; without it, each run starts anew
    #[arg(long, global = true)]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum StoreKind {
    Memory,
    Rocksdb,
    Postgres,
}

#[derive(Subcommand)]
enum Command {
    /// A log that is made for it, with answers that are known
    Demo,
}

/// How long another process that was killed is thought to be alive.
const LEASE: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let anew = tempfile::Builder::new().prefix("permits-").tempdir()?;
    let data = cli.data.as_deref().unwrap_or(anew.path());
    let lasts = cli.data.is_some() || cli.command.is_some();
    match cli.store.unwrap_or(if lasts { StoreKind::Rocksdb } else { StoreKind::Memory }) {
        StoreKind::Memory => run(&cli, Arc::new(MemoryStore::new()), Ask(MemoryModel::new())).await,
        StoreKind::Rocksdb => {
            let store = RocksStore::open(data.join("log"))?;
            run(&cli, Arc::new(store), Ask(RocksModel::open(data.join("views"))?)).await
        }
        StoreKind::Postgres => {
            let url = env::var("DATABASE_URL").context("DATABASE_URL says which database, and is not set")?;
            let schema = data.file_name().unwrap_or(data.as_os_str()).to_string_lossy();
            let store = PostgresStore::options().schema(&*schema).open(&url).await?;
            let views = PostgresModel::options().schema(format!("{schema}_views")).lease(LEASE).open(&url).await?;
            run(&cli, Arc::new(store), Ask(views)).await
        }
    }
}

async fn run(cli: &Cli, store: AnyStore, views: impl Views) -> Result<()> {
    let Some(path) = &cli.log else { return demo::run(&store, &views).await };
    let (log, bytes) = open(path).with_context(|| format!("{} can't be opened", path.display()))?;
    let taken_in = take_in(&store, &views, log, bytes).await;
    let (imported, facts) = taken_in.with_context(|| format!("{} can't be taken in", path.display()))?;
    eprintln!("{imported}");
    match cli.json {
        true => println!("{}", facts.to_json()?),
        false => print!("{facts}"),
    }
    Ok(())
}

/// With its size, where it has one that is known.
fn open(path: &Path) -> io::Result<(impl BufRead + Send + 'static, Option<u64>)> {
    let log = File::open(path)?;
    let metadata = log.metadata()?;
    Ok((BufReader::with_capacity(1 << 20, log), metadata.is_file().then_some(metadata.len())))
}

/// Takes a log into the store, while a worker keeps the views; and says what they say in the end.
async fn take_in(
    store: &AnyStore,
    views: &impl Views,
    log: impl BufRead + Send + 'static,
    bytes: Option<u64>,
) -> Result<(Imported, Facts)> {
    let running = views.worker(store).start().await?;
    let progress = Mutex::new(Progress::new(bytes));
    let progress = || progress.lock().unwrap_or_else(PoisonError::into_inner);
    let imported = {
        let mut work = std::pin::pin!(async {
            let imported = import(store, log, |imported, broken| progress().imported(imported, broken)).await?;
            loop {
                match running.wait_for(&store.head().await?, Duration::from_secs(60)).await? {
                    Waited::Reached => return Ok(imported),
                    Waited::TimedOut => {}
                    Waited::Stopped(why) => bail!("a view has stopped: {why}"),
                    Waited::Parked(case) => bail!("{case} is parked"),
                }
            }
        });
        let mut tick = interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                done = &mut work => break done?,
                _ = tick.tick() => progress().show(&running),
            }
        }
    };
    let facts = views.facts().await?;
    running.drain(Duration::from_secs(10)).await;
    Ok((imported, facts))
}
