//! A worker process of the kind one deploys: it keeps the bank's views in step with its log, both in PostgreSQL. Started
//! several times it shares the work; `demo` shows that.
//!
//! `GET /live` says whether another start would help, `GET /ready` whether it does its work, and `GET /metrics` what
//! Prometheus asks for. Under `/views` an operator pauses, restarts and redrives, at any one for all of them: [`operator`]
//! has the routes. At SIGTERM it commits what is under way, hands its partitions over, and ends.

mod config;
mod demo;
mod operator;
mod web;

use std::{future::IntoFuture, io, time::Duration};

use anyhow::{Context, Result, ensure};
use bank::{Bank, Teller};
use clap::{Parser, Subcommand};
use indelible::{postgres::ModelOptions, projections::WorkerId};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tracing_subscriber::EnvFilter;

use config::Config;
use web::{Stage, Web};

#[derive(Parser)]
#[command(about = "Keeps the bank's views in step with its log; started several times, it shares the work")]
struct Cli {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Three workers of a bank of their own: they share its views, one is stopped, one is killed, and nothing is lost
    Demo,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Cli { config, command } = Cli::parse();
    match command {
        Some(Command::Demo) => demo::run(&config.database_url).await,
        None => work(config).await,
    }
}

async fn work(config: Config) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    let mut stop = Stop::new()?;

    // Probes are answered from the start, also while the database lets it wait.
    let web = Web::new(recorder()?);
    let listener = TcpListener::bind(config.worker_listen).await;
    let listener = listener.with_context(|| format!("can't listen at {}", config.worker_listen))?;
    println!("listening at {}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, web.router()).into_future());

    let views = ModelOptions::new().lease(config.worker_lease_seconds);
    let running = async {
        let bank = Bank::in_database(&config.database_url, &config.bank_data, views).await?;
        let worker = match config.worker_name {
            Some(name) => bank.worker().with_id(WorkerId(name)),
            None => bank.worker(),
        };
        web.enter(Stage::Working { store: bank.store().clone(), running: worker.start().await?.into() });
        anyhow::Ok(())
    };
    tokio::select! {
        started = running => started?,
        () = stop.told() => return Ok(()),
    }
    stop.told().await;
    if let Stage::Working { running, .. } = web.enter(Stage::Draining) {
        let drained = web::drain(running, config.worker_drain_seconds).await;
        ensure!(drained, "not all was committed and handed over in time: others do it when the leases have run out");
    }
    Ok(())
}

/// Collects what the crates tell of themselves through the `metrics` facade.
fn recorder() -> Result<PrometheusHandle> {
    let seconds = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];
    let metrics = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &seconds)?
        .set_buckets_for_metric(Matcher::Suffix("_events".into()), &[1.0, 10.0, 100.0, 1_000.0])?
        .install_recorder()?;
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(metrics)
}

/// SIGTERM, or Ctrl-C in a terminal.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
