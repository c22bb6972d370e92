//! All that can be set: by the environment, or by arguments of the same names. What makes no sense is refused before
//! anything is opened, by its name.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};

#[derive(Args)]
pub struct Config {
    /// The database of the log and of the views: postgresql://…
    #[arg(long, env, hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub database_url: String,
    /// Which bank in it, as `bank --data` says
    #[arg(long, env, default_value = "bank-data", value_parser = NonEmptyStringValueParser::new())]
    pub bank_data: String,
    /// Where probes and metrics are answered; with port 0 at any that is free
    #[arg(long, env, default_value = "127.0.0.1:9464")]
    pub worker_listen: SocketAddr,
    /// What it is called, unlike any other; it finds a name itself
    #[arg(long, env, value_parser = NonEmptyStringValueParser::new())]
    pub worker_name: Option<String>,
    /// After how long others take over when nothing is heard of it
    #[arg(long, env, default_value = "10", value_parser = seconds)]
    pub worker_lease_seconds: Duration,
    /// How long it may take to commit what is under way when it is told to stop
    #[arg(long, env, default_value = "20", value_parser = seconds)]
    pub worker_drain_seconds: Duration,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(seconds @ 1..=3_600) => Ok(Duration::from_secs(seconds)),
        _ => Err("not a whole number of seconds from 1 to 3600"),
    }
}
