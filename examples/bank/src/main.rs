//! A bank on the command line: the shortest honest way to use Indelible.
//!
//! The domain is in `account`, what event sourcing gives is shown by `demo`.

mod account;
mod demo;
mod money;
mod report;

use std::{env, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use indelible::{AnyStore, AsOf, MemoryStore, PostgresStore, Repository, RocksStore, Timestamp};

use account::{Account, Deposit, Open, Withdraw};
use money::Cents;

#[derive(Parser)]
#[command(about = "A bank that remembers everything")]
struct Cli {
    /// Where events are kept; in memory, they end with the command
    #[arg(long, value_enum, default_value_t = StoreKind::Rocksdb, global = true)]
    store: StoreKind,
    /// The directory of the store, or its schema in the database at $DATABASE_URL
    #[arg(long, default_value = "bank-data", global = true)]
    data: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum StoreKind {
    Memory,
    Rocksdb,
    Postgres,
}

#[derive(Subcommand)]
enum Command {
    /// Open an account
    Open { account: String, owner: String },
    /// Pay in
    Deposit { account: String, amount: Cents },
    /// Take out
    Withdraw { account: String, amount: Cents },
    /// Move money; never half of it
    Transfer { from: String, to: String, amount: Cents },
    /// What is in an account
    Balance { account: String },
    /// Everything that happened to an account
    History { account: String },
    /// What was in an account at a time, such as 2026-01-31T12:00:00Z
    Statement { account: String, time: Timestamp },
    /// Hundreds of commands at once, and what event sourcing makes of them; in a store of its own
    Demo,
}

async fn open(store: StoreKind, data: &std::path::Path) -> Result<AnyStore> {
    Ok(match store {
        StoreKind::Memory => Arc::new(MemoryStore::new()),
        StoreKind::Rocksdb => Arc::new(RocksStore::open(data)?),
        StoreKind::Postgres => {
            let url = env::var("DATABASE_URL").context("DATABASE_URL says which database, and is not set")?;
            let schema = data.file_name().unwrap_or(data.as_os_str()).to_string_lossy();
            Arc::new(PostgresStore::options().schema(schema).open(&url).await?)
        }
    })
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let accounts = async || anyhow::Ok(Repository::<Account>::new(&open(cli.store, &cli.data).await?));
    let done = match cli.command {
        Command::Open { account, owner } => accounts().await?.execute(account, Open { owner }).await?,
        Command::Deposit { account, amount } => accounts().await?.execute(account, Deposit { amount }).await?,
        Command::Withdraw { account, amount } => accounts().await?.execute(account, Withdraw { amount }).await?,
        Command::Transfer { from, to, amount } => {
            let accounts = accounts().await?;
            accounts.execute(from, Withdraw { amount }).and(accounts.execute(to, Deposit { amount })).await?
        }
        Command::Balance { account } => {
            println!("{}", accounts().await?.load(account).await?.balance);
            return Ok(());
        }
        Command::History { account } => {
            println!("{}", report::history(&accounts().await?, &account).await?);
            return Ok(());
        }
        Command::Statement { account, time } => {
            println!("{}", accounts().await?.load_as_of(account, AsOf::Time(time)).await?.balance);
            return Ok(());
        }
        Command::Demo => return demo::run(cli.store).await,
    };
    for event in done.events() {
        println!("{} {}, now at version {}", event.stream.id(), event.event_type, event.version);
    }
    Ok(())
}
