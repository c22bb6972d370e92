//! One job, done in this process, and what was seen of it. Here is what reads; what writes is in `append`, what is done to
//! read models in `read_model`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use rand::{SeedableRng as _, rngs::StdRng, seq::index};
use tokio::task::JoinSet;

use crate::{
    job::{Cache, Job, Measured, TAGGED, Times, Work, Write},
    machine,
    subject::{Found, Probe, Subject},
};

mod append;
#[cfg(feature = "stores")]
mod read_model;
#[cfg(feature = "stores")]
mod sagas;

/// Whatever hangs ends the round.
#[cfg(feature = "stores")]
const PATIENCE: Duration = Duration::from_secs(1_800);
/// Streams that a warm load goes round: their blocks fit a cache of 48 MiB, however scattered.
const WARM_STREAMS: usize = 10;
/// Streams that a cold load reads at most, so that hardly two of them share a block.
const COLD_STREAMS: usize = 100;

/// Does the job on a runtime of its own.
///
/// # Errors
/// Whatever the subject could not do.
pub fn run<S: Subject>(job: &Job) -> Result<Vec<Measured>> {
    block_on(job, async {
        match &job.work {
            Work::Fill => append::fill::<S>(job).await,
            Work::Append { callers, others, events_per_append, times } => {
                append::append::<S>(job, *callers, *others, *events_per_append, *times).await
            }
            Work::Age { time } => append::age::<S>(job, *time).await,
            Work::Crash { after } => append::crash::<S>(job, *after).await,
            Work::Load { cache, times } => load::<S>(job, *cache, *times).await,
            Work::Read => read::<S>(job).await,
            Work::Tags { times } => tags::<S>(job, *times).await,
            Work::Open { .. } => open::<S>(job).await,
            Work::Project { write: Write::Upsert, partitions: 1 } => project::<S>(job).await,
            _ => bail!("{} has no read model", job.subject),
        }
    })
}

/// The same, of a job that takes a read model.
///
/// # Errors
/// As [`run`].
#[cfg(feature = "stores")]
pub fn run_read_model(job: &Job) -> Result<Vec<Measured>> {
    block_on(job, async {
        match job.work {
            Work::Sagas { .. } | Work::Timers { .. } => sagas::run(job).await,
            _ => read_model::run(job).await,
        }
    })
}

fn block_on<T>(job: &Job, work: impl Future<Output = Result<T>>) -> Result<T> {
    ensure!(job.log.is_even(), "{} events cannot be shared out among {} streams", job.log.events, job.log.streams());
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// What the callers saw.
struct Seen {
    /// Of all operations that were over while the clock ran.
    times_ns: Histogram<u64>,
    /// How long it ran.
    took: Duration,
    rss_mib: f64,
    rss_end_mib: f64,
}

impl Seen {
    fn new(times_ns: Histogram<u64>, took: Duration) -> Result<Self> {
        ensure!(!times_ns.is_empty(), "nothing was done while the clock ran");
        Ok(Self { times_ns, took, rss_mib: machine::peak_memory_mib()?, rss_end_mib: machine::memory_mib()? })
    }

    fn measured<S: Subject>(&self, job: &Job, workload: &str, callers: u32, events_each: u64) -> Measured {
        self.measured_as(S::DURABILITY, job, workload, callers, events_each)
    }

    fn measured_as(&self, durability: &str, job: &Job, workload: &str, callers: u32, events_each: u64) -> Measured {
        // A handful of times has a middle, but no tail to speak of.
        let quantile_us = |quantile| {
            let is_known = quantile <= 0.5 || self.times_ns.len() >= 100;
            is_known.then(|| self.times_ns.value_at_quantile(quantile) as f64 / 1_000.0)
        };
        Measured {
            subject: job.subject,
            workload: workload.into(),
            callers,
            events_per_append: events_each,
            durability: durability.into(),
            events_per_s: (events_each > 0)
                .then(|| (self.times_ns.len() * events_each) as f64 / self.took.as_secs_f64()),
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            p999_us: quantile_us(0.999),
            rss_mib: self.rss_mib,
            rss_end_mib: self.rss_end_mib,
            bytes_per_event: None,
            bytes_per_event_closed: None,
            bytes_per_event_of_indexes: None,
            written_per_event: None,
            preload: job.log.events,
            ids: job.log.ids,
            operations: self.times_ns.len(),
        }
    }
}

/// Times of many callers. They share some histograms, so that a thousand of them need no thousand.
#[derive(Clone)]
struct Recorder(Arc<[Mutex<Histogram<u64>>]>);

impl Recorder {
    fn new() -> Self {
        Self((0..16).map(|_| Mutex::new(histogram())).collect())
    }

    fn record(&self, caller: u32, time: Duration) {
        let shard = &self.0[caller as usize % self.0.len()];
        shard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos(time));
    }

    fn sum(&self) -> Result<Histogram<u64>> {
        let mut sum = histogram();
        for shard in self.0.iter() {
            sum.add(&*shard.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        Ok(sum)
    }
}

/// Of times up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What one of some callers has to do of so much: it is dealt out one by one, so that no two ever want the same.
fn share(of: u32, caller: u32, callers: u32) -> impl ExactSizeIterator<Item = u32> + Clone {
    (0..(of - caller).div_ceil(callers)).map(move |mine| caller + mine * callers)
}

async fn join(mut callers: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = callers.join_next().await {
        ended?.context("a caller failed")?;
    }
    Ok(())
}

async fn load<S: Subject>(job: &Job, cache: Cache, times: Times) -> Result<Vec<Measured>> {
    let mut rng = StdRng::seed_from_u64(1);
    let count = if cache == Cache::Warm { WARM_STREAMS } else { COLD_STREAMS };
    let streams = index::sample(&mut rng, job.log.streams() as usize, count).into_vec();
    if cache == Cache::Cold {
        machine::forget(job.place.directory()?)?;
    }
    let subject = S::open(&job.place, job.log).await?;
    let load = async |stream: usize| {
        let found = subject.load(u32::try_from(stream)?).await?;
        ensure!(found.events == job.log.versions(), "{} events in stream {stream}", found.events);
        Ok(())
    };
    if cache == Cache::Warm {
        for stream in streams.repeat(2) {
            load(stream).await?;
        }
    }
    let mut seen = histogram();
    let begin = Instant::now();
    for stream in streams.iter().cycle().take(if cache == Cache::Warm { usize::MAX } else { streams.len() }) {
        let started = Instant::now();
        if started - begin >= times.seconds {
            break;
        }
        load(*stream).await?;
        seen.saturating_record(nanos(started.elapsed()));
    }
    let seen = Seen::new(seen, begin.elapsed())?;
    subject.close().await?;
    Ok(vec![seen.measured::<S>(job, job.work.name(), 1, job.log.versions())])
}

/// Twice, so that the second reading finds in the machine's memory what fits there.
async fn read<S: Subject>(job: &Job) -> Result<Vec<Measured>> {
    let subject = S::open(&job.place, job.log).await?;
    let mut took = Duration::ZERO;
    for _ in 0..2 {
        let started = Instant::now();
        let Found { events, bytes } = subject.read().await?;
        took = started.elapsed();
        ensure!(events == job.log.events, "{events} events of {}", job.log.events);
        ensure!(bytes == events * crate::event::BYTES as u64, "{bytes} bytes of data in {events} events");
    }
    let mut times = histogram();
    times.saturating_record(nanos(took));
    let seen = Seen::new(times, took)?;
    subject.close().await?;
    let times =
        Measured { p50_us: None, p99_us: None, p999_us: None, ..seen.measured::<S>(job, "read", 1, job.log.events) };
    Ok(vec![Measured { events_per_append: 1, ..times }])
}

/// A whole log at once has one time, which is told as a rate.
fn at_once(job: &Job, durability: &str, took: Duration) -> Result<Measured> {
    let mut times = histogram();
    times.saturating_record(nanos(took));
    let seen = Seen::new(times, took)?;
    let measured = seen.measured_as(durability, job, job.work.name(), 1, job.log.events);
    Ok(Measured { p50_us: None, events_per_append: 1, ..measured })
}

/// As our own projections are measured: from the start of who runs it to the last event in the read model.
async fn project<S: Subject>(job: &Job) -> Result<Vec<Measured>> {
    // Who runs it reads, writes and holds its lease at the same time.
    let subject = S::open_for(&job.place, job.log, 4).await?;
    let started = Instant::now();
    subject.project(job.log.events).await?;
    let measured = at_once(job, S::DURABILITY, started.elapsed())?;
    subject.close().await?;
    Ok(vec![measured])
}

async fn tags<S: Subject>(job: &Job, times: Times) -> Result<Vec<Measured>> {
    let subject = S::open(&job.place, job.log).await?;
    let mut version = job.log.versions();
    let mut measured = Vec::new();
    let kinds = [
        ("tag-read", None),
        ("tag-append-refused-by-version", Some(Probe::Stale)),
        ("tag-append-refused-by-tag", Some(Probe::Matched)),
        ("tag-append-unconditional", Some(Probe::Plain)),
        ("tag-append-conditional", Some(Probe::Unmatched)),
    ];
    for (name, probe) in kinds {
        let mut seen = histogram();
        let begin = Instant::now() + times.warm_up;
        let end = begin + times.seconds;
        loop {
            let started = Instant::now();
            if started >= end {
                break;
            }
            match probe {
                None => {
                    let found = subject.rare().await?;
                    ensure!(found.events == u64::from(TAGGED), "{} events carry the rare tag", found.events);
                }
                Some(probe) => subject.probe(probe, version).await?,
            }
            if started >= begin {
                seen.saturating_record(nanos(started.elapsed()));
            }
            version += u64::from(matches!(probe, Some(Probe::Plain | Probe::Unmatched)));
        }
        let each = if probe.is_none() { TAGGED.into() } else { 0 };
        measured.push(Seen::new(seen, times.seconds)?.measured::<S>(job, name, 1, each));
    }
    subject.close().await?;
    Ok(measured)
}

async fn open<S: Subject>(job: &Job) -> Result<Vec<Measured>> {
    let mut times = histogram();
    let started = Instant::now();
    let subject = S::open(&job.place, job.log).await?;
    times.saturating_record(nanos(started.elapsed()));
    let seen = Seen::new(times, started.elapsed())?;
    subject.close().await?;
    Ok(vec![seen.measured::<S>(job, job.work.name(), 1, 0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::{Ids, Log, Others, Place, Stop},
        subject::{Append, Kind},
    };

    /// Acknowledges all that it is given, after ten milliseconds, and wants a version more of streams in `wrong/`.
    struct Slow(Mutex<Vec<u64>>);

    impl Subject for Slow {
        const DURABILITY: &str = "none";

        async fn open(place: &Place, log: Log) -> Result<Self> {
            let version = log.versions() + u64::from(place.directory()?.ends_with("wrong"));
            Ok(Self(Mutex::new(vec![version; log.streams() as usize])))
        }

        async fn append(&self, append: Append) -> Result<()> {
            {
                let mut versions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let version = &mut versions[append.stream as usize];
                ensure!(*version == append.expected, "{version} is not {}", append.expected);
                *version += append.events.len() as u64;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(())
        }

        async fn load(&self, _stream: u32) -> Result<Found> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Ok(Found { events: 5, bytes: 0 })
        }

        async fn close(self) -> Result<()> {
            Ok(())
        }
    }

    fn times() -> Times {
        Times { seconds: Duration::from_millis(600), warm_up: Duration::from_millis(100) }
    }

    fn job(events: u64, work: Work) -> (tempfile::TempDir, Job) {
        let dir = tempfile::tempdir().expect("a directory");
        let log = Log { events, ids: Ids::V7 };
        let job = Job { subject: Kind::File, place: Place::Directory(dir.path().into()), log, work };
        (dir, job)
    }

    fn append(callers: u32, events_per_append: u32) -> Work {
        Work::Append { callers, others: Others::default(), events_per_append, times: times() }
    }

    #[test]
    fn each_caller_waits_for_its_own_acknowledgement_and_knows_its_streams() {
        let (_dir, job) = job(20_000, append(7, 3));
        let measured = run::<Slow>(&job).expect("a measurement").remove(0);
        assert!(measured.events_per_s.is_some_and(|rate| rate <= 7.0 * 3.0 * 105.0 && rate > 0.0), "{measured:?}");
        assert!(measured.p50_us.is_some_and(|time| time >= 9_990.0));
        assert_eq!((measured.durability.as_str(), measured.preload), ("none", 20_000));
    }

    #[test]
    fn an_append_that_fails_ends_the_round() {
        let (dir, mut job) = job(0, append(2, 1));
        let wrong = dir.path().join("wrong");
        std::fs::create_dir(&wrong).expect("a directory");
        job.place = Place::Directory(wrong);
        let failed = run::<Slow>(&job);
        assert!(failed.is_err_and(|error| format!("{error:#}") == "a caller failed: 1 is not 0"));
    }

    #[test]
    fn a_stream_that_is_not_whole_ends_the_round() {
        let work = |cache| Work::Load { cache, times: times() };
        let (_dir, whole) = job(50_000, work(Cache::Warm));
        // Five events in ten milliseconds, where the machine doesn't stand still meanwhile.
        let rate = || run::<Slow>(&whole).expect("a measurement").remove(0).events_per_s.expect("a rate");
        let rates: Vec<f64> = (0..5).map(|_| rate()).collect();
        assert!(rates.iter().all(|rate| *rate <= 505.0) && rates.iter().any(|rate| *rate >= 100.0), "{rates:?}");
        let (_dir, lost) = job(60_000, work(Cache::Cold));
        assert!(run::<Slow>(&lost).is_err_and(|error| error.to_string().starts_with("5 events in stream")));
    }

    /// Each subject as it is: what it acknowledged is there when it is opened again, and reads back.
    #[cfg(feature = "stores")]
    #[test]
    fn every_subject_keeps_what_it_acknowledged_and_reads_it_back() {
        use crate::subject::{file, indelible::Embedded, rocksdb::Bare};
        fn rounds<S: Subject>(works: &[Work]) {
            let (_dir, mut job) = job(10_000, Work::Fill);
            let filled = run::<S>(&job).expect("a log").remove(0);
            assert!(filled.bytes_per_event.is_some_and(|bytes| bytes >= 100.0), "{filled:?}");
            for work in works {
                job.work = work.clone();
                let measured = run::<S>(&job).unwrap_or_else(|error| panic!("{work:?}: {error:#}"));
                assert!(measured.iter().all(|measured| measured.rate().is_some_and(|rate| rate > 0.0)), "{measured:?}");
            }
        }
        let load = |cache| Work::Load { cache, times: times() };
        let open = Work::Open { after: Stop::Clean };
        rounds::<file::Growing>(&[Work::Read, append(3, 10)]);
        rounds::<file::Preallocated>(&[Work::Read, append(3, 10)]);
        let reads = [Work::Read, load(Cache::Warm), load(Cache::Cold), open];
        rounds::<Bare>(&[&reads[..], &[append(3, 10)]].concat());
        rounds::<Embedded>(&[&reads[..], &[Work::Tags { times: times() }]].concat());
    }

    #[cfg(feature = "stores")]
    #[test]
    fn sagas_are_measured_beside_their_commands() {
        let (_dir, job) = job(0, Work::Sagas { count: 40, at_once: 8 });
        let measured = run_read_model(&Job { subject: Kind::IndelibleRocksdb, ..job }).expect("a measurement");
        let seen: Vec<_> = measured.iter().map(|one| (one.workload.as_str(), one.operations)).collect();
        // Seven fail, at the first to the fifth step.
        assert_eq!(seen, [("sagas-commands-by-hand", 200), ("sagas-steps", 181)]);
    }

    #[cfg(feature = "stores")]
    #[test]
    fn commands_are_measured_beside_pending_timers_and_without() {
        for (are_timers, name) in [(true, "timers-pending"), (false, "timers-none")] {
            let work = Work::Timers { pending: 300, are_timers, callers: 4, times: times() };
            let (_dir, job) = job(0, work);
            let measured = run_read_model(&Job { subject: Kind::IndelibleRocksdb, ..job }).expect("a measurement");
            let [measured] = &measured[..] else { panic!("{measured:?}") };
            assert_eq!((measured.workload.as_str(), measured.callers), (name, 4));
            assert!(measured.events_per_s.is_some_and(|rate| rate > 0.0), "{measured:?}");
        }
    }

    /// Each round itself looks whether all events are in the read model, once.
    #[cfg(feature = "stores")]
    #[test]
    fn read_models_are_measured_as_projections_and_by_hand() {
        use crate::{job::Write, subject::indelible::Embedded};
        let (dir, mut job) = job(10_000, Work::Fill);
        job.subject = Kind::IndelibleRocksdb;
        run::<Embedded>(&job).expect("a log");
        let project = |write, partitions| Work::Project { write, partitions };
        let lag = Work::Lag { write: Write::Upsert, events_per_s: 200, times: times() };
        let puts =
            [project(Write::Put, 1), project(Write::Put, 4), project(Write::Upsert, 1), project(Write::Upsert, 4)];
        for work in [&puts[..], &[Work::Rebuild { events_per_s: 100 }]].concat() {
            for subject in [Kind::Rocksdb, Kind::IndelibleRocksdb].into_iter().filter(|kind| kind.does(&work)) {
                let views = dir.path().join("views");
                let measured = run_read_model(&Job { subject, work: work.clone(), ..job.clone() });
                let measured = measured.unwrap_or_else(|error| panic!("{subject}, {work:?}: {error:#}")).remove(0);
                assert!(measured.events_per_s.is_some_and(|rate| rate > 0.0), "{measured:?}");
                std::fs::remove_dir_all(views).expect("a read model");
            }
        }
        for subject in [Kind::Rocksdb, Kind::IndelibleRocksdb] {
            let (_dir, job) = self::job(0, lag.clone());
            let measured = run_read_model(&Job { subject, ..job }).expect("a measurement").remove(0);
            assert!(measured.p50_us.is_some_and(|lag| lag > 0.0) && measured.operations >= 10, "{measured:?}");
        }
    }
}
