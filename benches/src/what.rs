//! What can be measured, and the rounds that each consists of.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use indelible_bench::job::{self, Cache, Ids, Others, Stop, Times, Work, Write};

#[derive(Clone, Subcommand)]
pub enum What {
    /// Durable appends of 256-byte events to 10,000 streams, each with its stream's expected version
    Append(Append),
    /// Filling a log by a thousand callers, and what it takes on the disk when the engine has come to rest
    Fill,
    /// One caller loads streams of 100 events: those in the cache, and from the disk
    Load,
    /// The whole log, to decoded events
    Read,
    /// A tag that 100 events have: reading them, and conditions on it
    Tags,
    /// Opening after a clean stop, and after a kill in the middle of appends
    Open,
    /// Appends by 256 callers in one process, and by as many in each of two [PostgreSQL]
    Processes,
    /// A caller that appends alone, and beside another process with 256 callers [PostgreSQL]
    Lone,
    /// Appends while an old snapshot is open in another database of the server, and in the same [PostgreSQL]
    Snapshot(Snapshot),
    /// The whole log into a read model, beside the same rows written by hand
    Project,
    /// How long after its acknowledgement an event is in a read model, at 1,000 events a second
    Lag,
    /// A read model is built anew beside the one in use, while 1,000 events a second come in
    Rebuild,
    /// These three
    Projections,
    /// Thousands of sagas of five commands, and the same commands by hand
    Sagas,
    /// Commands while a million timers are pending, and on a log of the same sagas without timers
    Timers,
    /// All of these but those of read models, sagas and timers that the subjects can do, on logs of one and of twenty million events
    All(Append),
}

#[derive(Args, Clone)]
pub struct Append {
    /// How many callers append at the same time, each waiting for its own acknowledgement [default: 1, 16, 256 and
    /// 1024, on PostgreSQL also 64; with many events an append 16]
    #[arg(long, value_delimiter = ',')]
    callers: Vec<u32>,
    /// How many events one append has
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    events_per_append: Vec<u32>,
    /// Draws the rate of single-event appends against the callers here, as SVG
    #[arg(long)]
    pub plot: Option<PathBuf>,
    /// Counts the syncs of one more round by `strace`, which slows that round down; of a server it can't
    #[arg(long)]
    pub syncs: bool,
}

#[derive(Args, Clone)]
pub struct Snapshot {
    /// How old it is then; until then one caller appends, as often as 256 would have their events written
    #[arg(long, value_name = "SECONDS", value_parser = job::seconds, default_value = "10")]
    age: Duration,
}

/// A kind of workload, and the logs that it is measured on.
pub struct Part {
    pub what: What,
    pub sizes: &'static [u64],
    /// Where it is not for the whole run to say.
    pub ids: Option<Ids>,
}

/// What is measured at one time.
pub struct Round {
    pub work: Work,
    pub company: Company,
    /// The workload's name where the work's own doesn't tell it.
    pub name: Option<&'static str>,
}

/// What goes on at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Company {
    Nobody,
    /// Another process appends; both together are measured
    Twin,
    /// Another process appends with so many callers, and is measured under this name
    Neighbour(u32, &'static str),
    /// Snapshots of this age are open, in another database or in the same; both are measured, and then without them
    Snapshots(Duration),
}

impl From<Work> for Round {
    fn from(work: Work) -> Self {
        Self { work, company: Company::Nobody, name: None }
    }
}

/// Callers that keep a processor busy.
const MANY: u32 = 256;
/// What comes in while a read model is watched.
const LIVE_EVENTS_PER_S: u32 = 1_000;

impl What {
    /// What it consists of, and on which logs each is measured where nobody asks for others.
    pub fn parts(&self, on_server: bool) -> Vec<Part> {
        const EMPTY: &[u64] = &[0];
        const LARGE: &[u64] = &[1_000_000, 20_000_000];
        let part = |what, sizes| Part { what, sizes, ids: None };
        match self {
            Self::All(append) => {
                let of_any_size = [Self::Append(append.clone()), Self::Load, Self::Read, Self::Tags];
                let mut parts: Vec<_> = of_any_size.map(|what| part(what, LARGE)).into();
                match on_server {
                    // Filling the log of the last tells what random ids take on the disk.
                    false => parts
                        .extend([part(Self::Open, LARGE), Part { what: Self::Tags, sizes: LARGE, ids: Some(Ids::V4) }]),
                    true => {
                        let snapshot = Self::Snapshot(Snapshot { age: Duration::from_secs(10) });
                        parts.extend([Self::Processes, Self::Lone, snapshot].map(|what| part(what, EMPTY)));
                    }
                }
                parts
            }
            Self::Projections => {
                vec![part(Self::Project, &LARGE[..1]), part(Self::Lag, EMPTY), part(Self::Rebuild, &LARGE[..1])]
            }
            Self::Append(_)
            | Self::Processes
            | Self::Lone
            | Self::Snapshot(_)
            | Self::Lag
            | Self::Sagas
            | Self::Timers => {
                vec![part(self.clone(), EMPTY)]
            }
            _ => vec![part(self.clone(), &LARGE[..1])],
        }
    }

    pub fn rounds(&self, times: Times, on_server: bool) -> Vec<Round> {
        let append = |callers, company, name| {
            let work = Work::Append { callers, others: Others::default(), events_per_append: 1, times };
            Round { work, company, name: Some(name) }
        };
        match self {
            Self::Append(append) => append.works(times, on_server).into_iter().map(Round::from).collect(),
            Self::Fill => vec![Work::Fill.into()],
            Self::Load if on_server => vec![Work::Load { cache: Cache::Warm, times }.into()],
            Self::Load => [Cache::Warm, Cache::Cold].map(|cache| Round::from(Work::Load { cache, times })).into(),
            Self::Read => vec![Work::Read.into()],
            Self::Tags => vec![Work::Tags { times }.into()],
            Self::Open => [Stop::Clean, Stop::Kill].map(|after| Round::from(Work::Open { after })).into(),
            Self::Processes => {
                vec![append(MANY, Company::Nobody, "processes-one"), append(MANY, Company::Twin, "processes-two")]
            }
            Self::Lone => vec![
                append(1, Company::Nobody, "lone-by-itself"),
                append(1, Company::Neighbour(MANY, "lone-its-neighbour"), "lone-with-a-neighbour"),
            ],
            Self::Snapshot(Snapshot { age }) => vec![append(MANY, Company::Snapshots(*age), "snapshot")],
            Self::Project => {
                let writes = if on_server { [Write::Upsert, Write::Set] } else { [Write::Put, Write::Upsert] };
                let project = |write| [1, 4].map(|partitions| Work::Project { write, partitions }.into());
                writes.into_iter().flat_map(project).collect()
            }
            Self::Lag => vec![Work::Lag { write: Write::Upsert, events_per_s: LIVE_EVENTS_PER_S, times }.into()],
            Self::Rebuild => vec![Work::Rebuild { events_per_s: LIVE_EVENTS_PER_S }.into()],
            Self::Sagas => {
                let sagas = |(count, at_once)| Work::Sagas { count, at_once }.into();
                [(1_000, 1), (10_000, 16), (10_000, 64)].map(sagas).into()
            }
            Self::Timers => {
                let timers = |are_timers| Work::Timers { pending: 1_000_000, are_timers, callers: 64, times }.into();
                [true, false].map(timers).into()
            }
            Self::Projections | Self::All(_) => Vec::new(),
        }
    }

    /// Whether it begins with an empty log, of whatever size others are asked for.
    pub fn needs_no_log(&self) -> bool {
        matches!(self, Self::Lag | Self::Sagas | Self::Timers)
    }
}

impl Append {
    pub fn works(&self, times: Times, on_server: bool) -> Vec<Work> {
        let callers = |events_per_append| -> &[u32] {
            match self.callers.as_slice() {
                [] if events_per_append == 1 && on_server => &[1, 16, 64, 256, 1024],
                [] if events_per_append == 1 => &[1, 16, 256, 1024],
                [] => &[16],
                given => given,
            }
        };
        let each = |&events_per_append| {
            let work = move |&callers| Work::Append { callers, others: Others::default(), events_per_append, times };
            callers(events_per_append).iter().map(work)
        };
        self.events_per_append.iter().flat_map(each).collect()
    }
}
