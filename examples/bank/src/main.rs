//! A bank on the command line: the shortest honest way to use Indelible.
//!
//! The domain is in `account`, what it keeps beside the log in `views`; what event sourcing gives is shown by `demo`.

mod demo;
mod report;

use std::{
    env,
    fmt::Display,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bank::{
    Bank, Teller,
    account::{Deposit, Open, Withdraw},
    money::Cents,
    views::{AccountsOf, StatementOf, TotalsByDay},
};
use clap::{Parser, Subcommand, ValueEnum};
use indelible::{
    Answer, AsOf, MemoryModel, MemoryStore, PostgresModel, Question, ReadModel, RocksModel, RocksStore, Timestamp,
    Waited, postgres::ModelOptions,
};

/// How long the views may take to catch up, and a worker to stop.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
#[command(about = "A bank that remembers everything")]
struct Cli {
    /// Where events and views are kept; in memory, they end with the command
    #[arg(long, value_enum, default_value_t = StoreKind::Rocksdb, global = true)]
    store: StoreKind,
    /// The directory of the bank, or its schema in the database at $DATABASE_URL
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
    /// What is in an account, or was at a time such as 2026-01-31T12:00:00Z
    Balance {
        account: String,
        #[arg(long)]
        at: Option<Timestamp>,
    },
    /// Everything that happened to an account, from the log
    History { account: String },
    /// The accounts of an owner, from the views
    Accounts { owner: String },
    /// What came and went in an account, from the views
    Statement {
        account: String,
        /// Only what came after this version
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// So many lines at the most
        #[arg(long, default_value_t = 100)]
        lines: usize,
    },
    /// What came and went in all accounts, day by day, from the views
    Totals,
    /// Empty the views and build them anew, from the log
    Rebuild,
    /// Hundreds of commands at once, and what event sourcing makes of them; in a store of its own
    Demo,
}

// The choice of a store and a read model. Nothing else depends on it.

async fn in_memory(_: &Path) -> Result<Bank<MemoryModel>> {
    Ok(Bank::new(&MemoryStore::new(), &MemoryModel::new()))
}

async fn on_rocksdb(data: &Path) -> Result<Bank<RocksModel>> {
    Ok(Bank::new(&RocksStore::open(data.join("log"))?, &RocksModel::open(data.join("views"))?))
}

async fn in_postgres(data: &Path) -> Result<Bank<PostgresModel>> {
    let url = env::var("DATABASE_URL").context("DATABASE_URL says which database, and is not set")?;
    let name = data.file_name().unwrap_or(data.as_os_str()).to_string_lossy();
    Bank::in_database(&url, &name, ModelOptions::new()).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.store {
        StoreKind::Memory => run(cli, in_memory).await,
        StoreKind::Rocksdb => run(cli, on_rocksdb).await,
        StoreKind::Postgres => run(cli, in_postgres).await,
    }
}

async fn run<M: ReadModel>(cli: Cli, open: impl AsyncFn(&Path) -> Result<Bank<M>>) -> Result<()>
where
    Bank<M>: Teller,
{
    if let Command::Demo = cli.command {
        return demo::run(open, cli.store != StoreKind::Memory).await;
    }
    let bank = open(&cli.data).await?;
    let accounts = &bank.accounts;
    let done = match cli.command {
        Command::Open { account, owner } => accounts.execute(account, Open { owner }).await?,
        Command::Deposit { account, amount } => accounts.execute(account, Deposit { amount }).await?,
        Command::Withdraw { account, amount } => accounts.execute(account, Withdraw { amount }).await?,
        Command::Transfer { from, to, amount } => {
            accounts.execute(from, Withdraw { amount }).and(accounts.execute(to, Deposit { amount })).await?
        }
        Command::Balance { account, at } => {
            let account = match at {
                Some(time) => accounts.load_as_of(account, AsOf::Time(time)).await?,
                None => accounts.load(account).await?,
            };
            return print(account.balance);
        }
        Command::History { account } => return print(report::history(accounts, &account).await?),
        Command::Accounts { owner } => return print(report::accounts(&ask(&bank, AccountsOf { owner }).await?)),
        Command::Statement { account, after, lines } => {
            return print(report::statement(&ask(&bank, StatementOf { account, after, lines }).await?));
        }
        Command::Totals => return print(report::totals(&ask(&bank, TotalsByDay).await?)),
        Command::Rebuild => {
            let running = bank.worker().start().await?;
            bank.rebuild(&running).await?;
            running.drain(PATIENCE).await;
            return print("all views are built anew");
        }
        Command::Demo => unreachable!("it has a store of its own"),
    };
    for event in done.events() {
        println!("{} {}, now at version {}", event.stream.id(), event.event_type, event.version);
    }
    Ok(())
}

fn print(answer: impl Display) -> Result<()> {
    println!("{answer}");
    Ok(())
}

/// Asks the views, once they have seen all that has happened: this process keeps them for as long as that takes.
async fn ask<M: ReadModel, Q: Question>(bank: &Bank<M>, question: Q) -> Result<Q::Answer>
where
    Bank<M>: Teller + Answer<Q>,
{
    let running = bank.worker().start().await?;
    let waited = running.wait_for(&bank.store().head().await?, PATIENCE).await?;
    ensure!(waited == Waited::Reached, "the views don't come to the end of the log: {waited:?}");
    let answer = bank.ask(question).await?;
    running.drain(PATIENCE).await;
    Ok(answer)
}
