//! Orders through stock, payment and shipping, on the embedded store: `cargo run -p orders -- ./data`, with
//! `--choreographed` for the form without a coordinator. Kill it, and run it again: it goes on.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Result;
use clap::Parser;
use indelible::{
    CommandContext, Dependency, Executor, Reactor, Repository, RocksModel, RocksStore, SagaWorker, Sagas, Worker,
    sagas::SagaOptions,
};
use orders::{
    choreographed::{OnOrders, OnStock},
    domain::{Order, OrderEvent, Receive, Stock},
    orchestrated::{Fulfilment, Shop},
    proof::{ITEMS, is_settled, order, prove, way},
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
    let provider = Arc::new(Provider::new(&cli.dir, cli.seed, &executor));
    tokio::spawn(watch(provider.dependency.clone()));

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
    println!("at work");

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
    let (journals, mut luck) = (Sagas::<Fulfilment>::new(&store), BTreeMap::<_, u64>::new());
    for (id, item, _) in (0..cli.count).map(order) {
        while !is_settled(&executor, &id).await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if !cli.choreographed {
            journals.ended(&id, Duration::from_secs(60)).await?;
        }
        let (way, calls) = (way(&executor, &id).await?, provider.calls(&id)?.concat());
        let calls: Vec<_> = calls.into_iter().map(|(luck, _)| luck).collect();
        println!("{id} for {item}: {}; payment {calls:?}", way.join(", "));
        if !cli.choreographed && way.contains(&"released".into()) {
            print!("{}", journals.history(&id).await?);
        }
        calls.into_iter().for_each(|call| *luck.entry(call).or_default() += 1);
    }

    if let Some(sagas) = sagas {
        sagas.drain(Duration::from_secs(10)).await;
    }
    if let Some(reactors) = reactors {
        reactors.wait_for(&executor.store().head().await?, Duration::from_secs(60)).await?;
        reactors.drain(Duration::from_secs(10)).await;
    }
    let proof = prove(&executor, &provider, cli.count).await?;
    println!("the calls to the provider went {luck:?}, its circuit is {:?}", provider.dependency.circuit());
    println!("money, stock and shipments agree: {proof:?}");
    Ok(())
}

/// Says what becomes of a circuit.
async fn watch(dependency: Dependency) {
    let mut circuit = dependency.circuit();
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = dependency.circuit();
        if std::mem::replace(&mut circuit, now) != now {
            println!("the provider's circuit is {now:?}");
        }
    }
}
