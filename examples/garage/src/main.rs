//! A parking garage: a fee by the time from the context, and a car's visits to all garages, found by tag.
//!
//! The rules are in `garage`.

mod garage;

use anyhow::{Result, ensure};
use clap::Parser;
use futures::TryStreamExt;
use indelible::{
    CommandContext, CommandError, EventStoreExt, InvalidInput, Query, ReadLog, Repository, RocksStore, Tag,
};

use garage::{Enter, Garage, GarageError, GarageEvent, Leave};

#[derive(Parser)]
#[command(about = "A garage that knows what you owe")]
enum Cli {
    /// A morning in two garages, in a store of its own
    Demo,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse() {
        Cli::Demo => demo().await,
    }
}

/// A command is decided at the clock's time, unless its context says another.
fn at(time: &str) -> Result<CommandContext, InvalidInput> {
    Ok(CommandContext::new().with_time(format!("2026-03-01T{time}:00Z").parse()?))
}

async fn demo() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = RocksStore::open(directory.path())?;
    let garages = Repository::<Garage>::new(&store);
    let [north, south, ada, bob, cleo] = ["north", "south", "ADA 1", "BOB 2", "CLEO 3"];

    garages.execute(north, Enter(ada.into())).with(at("08:00")?).await?;
    garages.execute(north, Enter(bob.into())).with(at("08:15")?).await?;
    let full = garages.execute(north, Enter(cleo.into())).with(at("08:30")?).await;
    ensure!(matches!(full, Err(CommandError::Rejected(GarageError::Full))), "a third car came into a garage of two");
    println!("08:30  {cleo} has to wait, {north} is full");
    garages.execute(north, Leave(bob.into())).with(at("09:00")?).await?;
    garages.execute(north, Enter(cleo.into())).with(at("09:05")?).await?;
    println!("09:05  {cleo} is in");
    garages.execute(north, Leave(ada.into())).with(at("09:30")?).await?;
    garages.execute(south, Enter(ada.into())).with(at("10:00")?).await?;
    garages.execute(south, Leave(ada.into())).with(at("10:20")?).await?;

    println!("\nThe visits of {ada}, whatever the garage:");
    let visits = Query::types::<Garage>([GarageEvent::LEFT]).tagged(Tag::of("plate", ada)?);
    let mut events = store.log(ReadLog::matching(visits));
    let mut paid = Vec::new();
    while let Some(recorded) = events.try_next().await? {
        if let GarageEvent::Left { minutes, euros, .. } = recorded.decode()? {
            println!("{}  {minutes:>3} min  {euros:>2} €", recorded.stream.id());
            paid.push(euros);
        }
    }
    ensure!(paid == [6, 3], "90 and 20 minutes cost 6 and 3 €, not {paid:?}");
    Ok(())
}
