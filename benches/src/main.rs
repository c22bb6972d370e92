//! Measures the embedded store beside what the machine offers: a plain file with group `fdatasync`, and bare RocksDB.
//!
//! `append` runs its rounds in turn, each subject in a process and a directory of its own: it starts this program again
//! with the hidden command `round`, which prints what it measured as one line of JSON.

mod event;
mod machine;
mod report;
mod round;
mod subject;

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};

use report::Report;
use round::Measured;
use subject::Kind;

#[derive(Parser)]
#[command(
    name = "./dev bench",
    bin_name = "./dev bench",
    about = "Measures the embedded store beside a plain file and bare RocksDB"
)]
struct Cli {
    #[command(subcommand)]
    command: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// Durable appends of 256-byte events to 10,000 streams, each with its stream's expected version
    Append(Append),
    /// One round of one subject, in this process
    #[command(hide = true)]
    Round(Round),
}

#[derive(Args)]
struct Append {
    /// How many callers append at the same time, each waiting for its own acknowledgement
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256, 1024])]
    callers: Vec<u32>,
    /// How many events one append has
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    events_per_append: Vec<u32>,
    /// What is measured
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Kind::ALL)]
    subjects: Vec<Kind>,
    /// How often everything is measured; the median is reported
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    times: Times,
    /// Where directories for the data are made, and removed
    #[arg(long, default_value = ".", overrides_with = "dir")]
    dir: PathBuf,
    /// Also writes one line of JSON a round and subject here
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Round {
    #[arg(long, value_enum)]
    subject: Kind,
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    times: Times,
    #[arg(long)]
    dir: PathBuf,
}

/// What one round asks of its subject.
#[derive(Args, Clone, Copy)]
struct Load {
    #[arg(long)]
    callers: u32,
    #[arg(long)]
    events_per_append: u32,
}

#[derive(Args, Clone, Copy)]
struct Times {
    /// How long one measurement takes
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "3")]
    seconds: Duration,
    /// How long the callers are at work before it begins
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "1")]
    warm_up: Duration,
}

fn seconds(text: &str) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(text.parse()?)?;
    ensure!(!time.is_zero() && time <= Duration::from_secs(3600), "between 0 and 3600 seconds");
    Ok(time)
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Measurement::Append(append) => append.run(),
        Measurement::Round(round) => {
            println!("{}", serde_json::to_string(&round::run(round.subject, round.load, round.times, &round.dir)?)?);
            Ok(())
        }
    }
}

impl Append {
    fn run(self) -> Result<()> {
        ensure!(self.rounds > 0, "at least one round");
        let dir = self.dir.canonicalize().with_context(|| format!("no directory {}", self.dir.display()))?;
        let mut json = self.json.as_ref().map(File::create).transpose().context("cannot write the JSON lines")?;
        println!("{}", machine::describe(&dir)?);
        println!("one thread, one write of 256 bytes and one fdatasync at a time: {:.0}/s", machine::sync_rate(&dir)?);
        println!("{}\n", self.times);

        let mut report = Report::default();
        for round in 1..=self.rounds {
            for load in self.loads() {
                for &subject in &self.subjects {
                    eprint!("round {round}, {load}, {subject}: ");
                    let measured = in_a_process(subject, load, self.times, &dir)?;
                    eprintln!("{:.0} events/s", measured.events_per_s);
                    if let Some(json) = &mut json {
                        writeln!(json, "{}", serde_json::to_string(&measured)?)?;
                    }
                    report.add(measured);
                }
            }
        }
        println!("{report}\n");
        println!("fdatasync again, at the end: {:.0}/s", machine::sync_rate(&dir)?);
        Ok(())
    }

    fn loads(&self) -> impl Iterator<Item = Load> {
        let each = |&events_per_append| self.callers.iter().map(move |&callers| Load { callers, events_per_append });
        self.events_per_append.iter().flat_map(each)
    }
}

/// Measures in a process of its own, so that no subject inherits another's memory, threads or cache.
fn in_a_process(subject: Kind, load: Load, times: Times, dir: &Path) -> Result<Measured> {
    let data = tempfile::Builder::new().prefix("indelible-bench-").tempdir_in(dir)?;
    let output = Command::new(std::env::current_exe()?)
        .args(["round", "--subject", &subject.to_string()])
        .args(["--callers", &load.callers.to_string()])
        .args(["--events-per-append", &load.events_per_append.to_string()])
        .args(["--seconds", &times.seconds.as_secs_f64().to_string()])
        .args(["--warm-up", &times.warm_up.as_secs_f64().to_string()])
        .arg("--dir")
        .arg(data.path())
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{subject}, {load}: {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("what {subject} printed"))
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { callers, events_per_append } = self;
        write!(f, "callers {callers}, events an append {events_per_append}")
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "each measurement {:?} after {:?} of warm-up, from an empty directory", self.seconds, self.warm_up)
    }
}
