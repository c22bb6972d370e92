//! Measures the embedded store beside what the machine offers: a plain file with group `fdatasync`, and bare RocksDB; the
//! shared store beside plain SQL on the same server; and both beside other people's stores, where those in `peers/` were
//! built.
//!
//! Rounds are run in turn, each subject in a process and a directory of its own: this program starts itself again with a
//! job, and reads what that has measured.

mod logs;
mod plot;
mod report;
mod server;
mod shared;
mod syncs;
mod what;

use std::{
    ffi::OsString,
    fs::File,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser};
use indelible_bench::{
    answer, answer_read_model,
    job::{Ids, Job, Log, Measured, Place, Stop, Times, Work},
    machine,
    subject::{
        Kind, file,
        indelible::{Embedded, Shared},
        postgres::{Autocommit, Batched},
        rocksdb::Bare,
    },
};

use logs::Logs;
use report::Report;
use server::Server;
use what::{Company, Part, Round, What};

#[derive(Parser)]
#[command(
    name = "./dev bench",
    bin_name = "./dev bench",
    about = "Measures the embedded store beside a plain file, bare RocksDB and other stores; `./dev bench postgres …` \
             measures the shared store beside plain SQL and other stores, on a server that is started for it"
)]
struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// What is measured [default: what can do it]
    #[arg(long, global = true, value_delimiter = ',', value_enum)]
    subjects: Vec<Kind>,
    /// How many events are in the log before; several sizes are measured in turn [default: 0 for appends, else 1000000]
    #[arg(long, visible_alias = "events", global = true, value_delimiter = ',')]
    preload: Vec<u64>,
    /// The ids of events, where a subject has ids
    #[arg(long, global = true, value_enum, default_value_t)]
    ids: Ids,
    /// How often everything is measured; the median is reported
    #[arg(long, global = true, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    times: Times,
    /// Where directories for the data are made, and removed
    #[arg(long, global = true, default_value = ".", overrides_with = "dir")]
    dir: PathBuf,
    /// Keeps filled logs here, and uses those that are there already
    #[arg(long, global = true)]
    logs: Option<PathBuf>,
    /// Measures what is on PostgreSQL, by the URL of any database of a server: databases are made there, and removed but
    /// for filled ones, which are used again (`./dev bench postgres` starts a server)
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// Also measures other people's stores, whose programs are in this directory (`./dev bench` builds them)
    #[arg(long, global = true, value_name = "DIRECTORY")]
    peers: Option<PathBuf>,
    /// Also writes one line of JSON a round and subject here
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    if let Some(job) = indelible_bench::job()? {
        return match job.subject {
            _ if job.work.is_of_read_model() => answer_read_model(&job),
            Kind::File => answer::<file::Growing>(&job),
            Kind::FilePreallocated => answer::<file::Preallocated>(&job),
            Kind::Rocksdb => answer::<Bare>(&job),
            Kind::RocksdbFamilies => answer::<Bare<true>>(&job),
            Kind::IndelibleRocksdb => answer::<Embedded>(&job),
            Kind::IndeliblePostgres => answer::<Shared>(&job),
            Kind::PgAutocommit => answer::<Autocommit>(&job),
            Kind::PgBatched => answer::<Batched>(&job),
            Kind::PgByHand => bail!("{} appends nothing", job.subject),
            peer => bail!("{peer} has a program of its own"),
        };
    }
    let Cli { what, how } = Cli::parse();
    Bench::new(how)?.run(what)
}

const PEERS_LOG_MAX: u64 = 1_000_000;

/// A run of the program: what is measured goes to the report and to the JSON lines.
struct Bench {
    how: How,
    dir: PathBuf,
    logs: Logs,
    server: Option<Server>,
    json: Option<File>,
    report: Report,
}

impl Bench {
    fn new(how: How) -> Result<Self> {
        ensure!(how.rounds > 0, "at least one round");
        let dir = how.dir.canonicalize().with_context(|| format!("no directory {}", how.dir.display()))?;
        let json = how.json.as_ref().map(File::create).transpose().context("cannot write the JSON lines")?;
        let logs = Logs::new(&dir, how.logs.as_deref())?;
        let server = how.server.as_deref().map(Server::connect).transpose()?;
        Ok(Self { how, dir, logs, server, json, report: Report::default() })
    }

    fn run(mut self, what: What) -> Result<()> {
        let wants_syncs = matches!(&what, What::Append(append) | What::All(append) if append.syncs);
        ensure!(self.server.is_none() || !wants_syncs, "a server syncs, and strace watches its clients");
        println!("{}", machine::describe(&self.dir)?);
        println!(
            "one thread, one write of 256 bytes and one fdatasync at a time: {:.0}/s",
            machine::sync_rate(&self.dir)?
        );
        if let Some(server) = &self.server {
            println!("{}", server.describe()?);
        }
        let Times { seconds, warm_up } = self.how.times;
        println!("each measurement {seconds:?} after {warm_up:?} of warm-up; {} rounds in turn\n", self.how.rounds);
        for &peer in self.how.subjects.iter().chain(self.kinds().1).filter(|kind| kind.is_peer()) {
            if self.how.peers.is_some() && !self.program(peer)?.exists() {
                self.report.missing(format!("{peer}: missing, it was not built"));
            }
        }
        self.measure(&what)?;
        println!("{}", self.report);
        if let What::Append(append) | What::All(append) = &what {
            if let Some(path) = &append.plot {
                plot::draw(path, &self.report.rates_by_callers())?;
            }
            if append.syncs {
                println!("{}", syncs::count(&self, append)?);
            }
        }
        println!("fdatasync again, at the end: {:.0}/s", machine::sync_rate(&self.dir)?);
        Ok(())
    }

    fn measure(&mut self, what: &What) -> Result<()> {
        let on_server = self.server.is_some();
        for Part { what, sizes, ids } in what.parts(on_server) {
            let asked = &self.how.preload;
            let sizes = if asked.is_empty() || what.needs_no_log() { sizes.to_vec() } else { asked.clone() };
            let ids = ids.unwrap_or(self.how.ids);
            let logs: Vec<_> = sizes.into_iter().map(|events| Log { events, ids }).collect();
            self.rounds(&what.rounds(self.how.times, on_server), &logs)?;
        }
        Ok(())
    }

    fn rounds(&mut self, rounds: &[Round], logs: &[Log]) -> Result<()> {
        let is_alone = rounds.iter().all(|round| round.company == Company::Nobody);
        ensure!(is_alone || self.server.is_some(), "the embedded store is one process's: ./dev bench postgres …");
        for number in 1..=self.how.rounds {
            for &log in logs {
                if self.how.peers.is_some() && self.how.subjects.is_empty() && log.events > PEERS_LOG_MAX {
                    let what = format!(
                        "peers: missing on logs of more than {PEERS_LOG_MAX} events, unless --subjects names them"
                    );
                    self.report.missing(what);
                }
                for round in rounds {
                    let peers =
                        self.kinds().1.iter().filter(|peer| self.how.peers.is_some() && !peer.does(&round.work));
                    for peer in peers {
                        self.report.missing(format!(
                            "{peer}: missing in {}, its program here does not do that",
                            round.work.name()
                        ));
                    }
                    for subject in self.subjects(&round.work, log)? {
                        let place = Place::Directory(self.dir.clone());
                        let job = Job { subject, place, log, work: round.work.clone() };
                        let name = round.name.map(|name| format!("{name}: ")).unwrap_or_default();
                        eprint!("round {number}, {name}{job}: ");
                        let measured = match &self.server {
                            None => self.in_directory(job),
                            Some(server) => self.on_server(server, round, job),
                        };
                        let measured = match measured {
                            // Theirs to mend; the others are measured all the same.
                            Err(error) if subject.is_peer() => {
                                eprintln!("{error:#}");
                                self.report.missing(format!(
                                    "{subject}: missing in some rounds of {}: {error:#}",
                                    round.work.name()
                                ));
                                continue;
                            }
                            measured => measured?,
                        };
                        for measured in measured {
                            eprint!("{:.0} ", measured.rate().unwrap_or(0.0));
                            self.add(measured)?;
                        }
                        eprintln!("a second");
                    }
                }
            }
        }
        Ok(())
    }

    /// Our own subjects, and other people's.
    fn kinds(&self) -> (&'static [Kind], &'static [Kind]) {
        match self.server {
            None => (&Kind::EMBEDDED, &Kind::EMBEDDED_PEERS),
            Some(_) => (&Kind::SHARED, &Kind::SHARED_PEERS),
        }
    }

    /// Those asked for, or all that can do it; and of the peers those that were built. Peers that would take hours to fill
    /// a large log do so only where they are asked for.
    fn subjects(&self, work: &Work, log: Log) -> Result<Vec<Kind>> {
        let has_peers = self.how.peers.is_some() && log.events <= PEERS_LOG_MAX;
        let mut subjects = match self.how.subjects.as_slice() {
            [] if has_peers => [self.kinds().0, self.kinds().1].concat(),
            [] => self.kinds().0.to_vec(),
            asked => asked.to_vec(),
        };
        subjects.retain(|kind| kind.does(work) && kind.is_shared() == self.server.is_some());
        subjects.retain(|kind| !kind.is_variant() || log.events == 0);
        for index in (0..subjects.len()).rev() {
            if !self.program(subjects[index])?.exists() {
                subjects.remove(index);
            }
        }
        ensure!(!subjects.is_empty(), "none of these can do {}", work.name());
        Ok(subjects)
    }

    fn add(&mut self, measured: Measured) -> Result<()> {
        if let Some(json) = &mut self.json {
            writeln!(json, "{}", serde_json::to_string(&measured)?)?;
        }
        self.report.add(measured);
        Ok(())
    }

    /// One round on data of its own: a copy of the log, which is made first where it is the first of its kind.
    fn in_directory(&self, mut job: Job) -> Result<Vec<Measured>> {
        let mut measured = Vec::new();
        let data = tempfile::Builder::new().prefix("indelible-bench-").tempdir_in(&self.dir)?;
        job.place = Place::Directory(data.path().into());
        // A file's rate does not depend on what other files hold: it begins a new one. Rows by hand come from no log.
        let is_fresh = matches!(job.work, Work::Fill)
            || (job.subject.is_file() && job.work.name() == "append")
            || (job.subject.is_by_hand() && job.work.is_of_read_model());
        if job.log.events > 0 && !is_fresh {
            measured.extend(self.fill(&job)?);
            self.logs.lend(job.subject, job.log, data.path())?;
        }
        if job.work == (Work::Open { after: Stop::Kill }) {
            let crash = Job { work: Work::Crash { after: Duration::from_secs(2) }, ..job.clone() };
            let output = self.start(&crash, &[])?.wait_with_output()?;
            ensure!(output.status.signal() == Some(9), "{crash}: {}", output.status);
        }
        measured.extend(self.process(&job, &[])?);
        Ok(measured)
    }

    /// Fills a log that is not there yet, and says how that went.
    fn fill(&self, job: &Job) -> Result<Option<Measured>> {
        if self.logs.has(job.subject, job.log) {
            return Ok(None);
        }
        eprint!("(filling a log) ");
        let place = Place::Directory(self.logs.start(job.subject, job.log)?);
        let measured = self.process(&Job { place, work: Work::Fill, ..job.clone() }, &[])?;
        self.logs.finish(job.subject, job.log)?;
        Ok(measured.into_iter().next())
    }

    /// Measures in a process of its own, so that no subject inherits another's memory, threads or cache.
    fn process(&self, job: &Job, under: &[OsString]) -> Result<Vec<Measured>> {
        heard(job, self.start(job, under)?.wait_with_output()?)
    }

    /// The same, of several that work at the same time.
    fn processes(&self, jobs: &[Job]) -> Result<Vec<Vec<Measured>>> {
        let started: Vec<Child> = jobs.iter().map(|job| self.start(job, &[])).collect::<Result<_>>()?;
        let ended: Vec<_> = started.into_iter().map(Child::wait_with_output).collect();
        jobs.iter().zip(ended).map(|(job, output)| heard(job, output?)).collect()
    }

    fn start(&self, job: &Job, under: &[OsString]) -> Result<Child> {
        let program = self.program(job.subject)?;
        let line: Vec<OsString> =
            under.iter().cloned().chain([program.into(), "round".into(), serde_json::to_string(job)?.into()]).collect();
        Ok(Command::new(&line[0]).args(&line[1..]).stdout(Stdio::piped()).spawn()?)
    }

    fn program(&self, subject: Kind) -> Result<PathBuf> {
        match subject.is_peer() {
            false => Ok(std::env::current_exe()?),
            true => {
                let peers = self.how.peers.as_deref().unwrap_or(Path::new(""));
                Ok(peers.join(format!("bench-{subject}")))
            }
        }
    }
}

/// What a process has measured.
fn heard(job: &Job, output: Output) -> Result<Vec<Measured>> {
    ensure!(output.status.success(), "{job}: {}", output.status);
    // Some say more than they were asked.
    let lines = str::from_utf8(&output.stdout)?.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("{job} printed {line}"))).collect()
}
