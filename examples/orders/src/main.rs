//! Orders through stock, payment and shipping, on the embedded store: `cargo run -p orders -- ./data`, with
//! `--choreographed` for the form without a coordinator. Kill it, and run it again: it goes on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use clap::Parser;
use indelible::{
    CommandContext, Executor, Reactor, Repository, RocksModel, RocksStore, SagaWorker, Sagas, Worker,
    sagas::SagaOptions,
};
use orders::{
    choreographed::{OnOrders, OnStock},
    domain::{Order, OrderEvent, Receive, Stock},
    orchestrated::{Fulfilment, Shop},
    proof::{ITEMS, is_settled, order, prove},
    provider::Provider,
};

#[derive(Parser)]
#[command(about = "Orders through stock, payment and shipping")]
struct Cli {
    /// Where it keeps its log
    dir: PathBuf,
    /// Reactors instead of a saga
    #[arg(long)]
    choreographed: bool,
    /// How many orders
    #[arg(long, default_value_t = 40)]
    count: u64,
    /// What chance is made of
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let store = RocksStore::open(cli.dir.join("log"))?;
    let model = RocksModel::open(cli.dir.join("views"))?;
    let executor = Executor::new(&store);
    let provider = Arc::new(Provider::new(&cli.dir, cli.seed)?);

    let (on_orders, on_stock) =
        (OnOrders(executor.clone()), OnStock { executor: executor.clone(), provider: provider.clone() });
    let (sagas, reactors) = match cli.choreographed {
        true => {
            let worker = Worker::new(&store).add(&model, Reactor(on_orders)).add(&model, Reactor(on_stock));
            (None, Some(worker.start().await?))
        }
        false => {
            let shop = Shop { executor: executor.clone(), provider: provider.clone() };
            let worker = SagaWorker::new(&store).with_options(SagaOptions::default().with_calls_max(16));
            (Some(worker.add(&model, shop).start().await?), None)
        }
    };

    let once = |key: &str| CommandContext::new().with_idempotency_key(key);
    for (item, pieces) in ITEMS {
        Repository::<Stock>::on(&executor).execute(item, Receive(pieces)).with(once("at first")?).await?;
    }
    for (id, item, cents) in (0..cli.count).map(order) {
        let context = once("placed")?;
        if cli.choreographed {
            let placed = OrderEvent::Placed { item, cents };
            Repository::<Order>::on(&executor).execute(&id, placed).with(context).await?;
        } else {
            Sagas::<Fulfilment>::new(&store).start_in(context, &id, Fulfilment { item, cents }).await?;
        }
    }
    let mut circuit = provider.dependency.circuit();
    for (id, item, _) in (0..cli.count).map(order) {
        while !is_settled(&executor, &id).await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = provider.dependency.circuit();
            if std::mem::replace(&mut circuit, now) != now {
                println!("the provider's circuit is {now:?}");
            }
        }
        let order = Repository::<Order>::on(&executor).load(&id).await?;
        println!("{id} for {item}: {}", order.failed.as_deref().unwrap_or("shipped"));
        if !cli.choreographed {
            Sagas::<Fulfilment>::new(&store).ended(&id, Duration::from_secs(60)).await?;
        }
        if !cli.choreographed && order.failed.is_some() {
            print!("{}", Sagas::<Fulfilment>::new(&store).history(&id).await?);
        }
    }

    if let Some(sagas) = sagas {
        sagas.drain(Duration::from_secs(10)).await;
    }
    if let Some(reactors) = reactors {
        reactors.wait_for(&executor.store().head().await?, Duration::from_secs(60)).await?;
        reactors.drain(Duration::from_secs(10)).await;
    }
    let proof = prove(&executor, &provider, cli.count).await?;
    println!("money, stock and shipments agree: {proof:?}");
    Ok(())
}
