//! Callers that append: to make a log, to be measured, or to be killed in the middle.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use super::{Recorder, Seen, join, share};
use crate::{
    event::{Events, STREAMS},
    job::{Job, Log, Measured, Others, Place, Times},
    machine,
    subject::{Append, Subject},
};

/// Callers that fill a log.
const FILLERS: u32 = 1_024;

/// Makes the log. The time of an append is that of a thousand callers.
pub(super) async fn fill<S: Subject>(job: &Job) -> Result<Vec<Measured>> {
    let Job { place, log, .. } = job;
    let subject = Arc::new(S::open_for(place, Log { events: 0, ..*log }, FILLERS).await?);
    let (events, recorder) = (Arc::new(Events::new(0)), Recorder::new());
    let begin = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..FILLERS {
        let (subject, events, recorder, log) = (Arc::clone(&subject), Arc::clone(&events), recorder.clone(), *log);
        callers.spawn(async move {
            let mut rng = StdRng::seed_from_u64(u64::from(caller) + 1);
            for expected in 0..log.versions() {
                for stream in share(log.streams(), caller, FILLERS) {
                    let is_rare = log.is_tagged(stream, expected + 1);
                    let append = Append { stream, expected, events: vec![events.pick(&mut rng)], is_rare };
                    let started = Instant::now();
                    subject.append(append).await?;
                    recorder.record(caller, started.elapsed());
                }
            }
            anyhow::Ok(())
        });
    }
    join(callers).await?;
    let seen = Seen::new(recorder.sum()?, begin.elapsed())?;
    Arc::into_inner(subject).context("a caller is still there")?.close().await?;
    let mut measured = seen.measured::<S>(job, job.work.name(), FILLERS, 1);
    if let Place::Directory(dir) = place {
        let per_event = |bytes| Some(bytes as f64 / log.events as f64);
        measured.bytes_per_event_closed = per_event(machine::bytes_in(dir)?);
        measured.bytes_per_event = per_event(settle::<S>(place, dir, *log).await?);
        measured.written_per_event = per_event(machine::written_bytes()?);
    }
    Ok(vec![measured])
}

/// Opens it again and waits until its files no longer change; says how long they are when it is closed.
async fn settle<S: Subject>(place: &Place, dir: &Path, log: Log) -> Result<u64> {
    let subject = S::open(place, log).await?;
    let (mut bytes, mut unchanged, mut patience) = (0, 0, 600);
    while unchanged < 4 && patience > 0 {
        tokio::time::sleep(Duration::from_millis(if cfg!(test) { 50 } else { 1_000 })).await;
        let now = machine::bytes_in(dir)?;
        unchanged = if now == bytes { unchanged + 1 } else { 0 };
        (bytes, patience) = (now, patience - 1);
    }
    subject.close().await?;
    machine::bytes_in(dir)
}

pub(super) async fn append<S: Subject>(
    job: &Job,
    callers: u32,
    others: Others,
    events_each: u32,
    times: Times,
) -> Result<Vec<Measured>> {
    ensure!(callers > 0 && others.all(callers) <= STREAMS, "between 1 and {STREAMS} callers");
    ensure!((1..=1_000).contains(&events_each), "between 1 and 1,000 events an append");
    let bytes = || job.place.directory().ok().map(machine::bytes_in).transpose();
    let before = bytes()?;
    let subject = Arc::new(S::open_for(&job.place, job.log, callers).await?);
    let appends = Arc::new(AtomicU64::new(0));
    let (tasks, recorder) = start(&subject, job.log, callers, others, events_each, times, &appends);
    join(tasks).await?;
    let seen = Seen::new(recorder.sum()?, times.seconds)?;
    Arc::into_inner(subject).context("a caller is still there")?.close().await?;
    let written = bytes()?.zip(before).map(|(after, before)| after.saturating_sub(before));
    let operations = appends.load(Relaxed);
    let events = operations * u64::from(events_each);
    Ok(vec![Measured {
        bytes_per_event: written.filter(|_| job.log.events == 0).map(|written| written as f64 / events as f64),
        operations,
        ..seen.measured::<S>(job, job.work.name(), callers, u64::from(events_each))
    }])
}

/// Callers that append to the first [`STREAMS`] until their time is over, and the times of what they did while the clock
/// ran. All that was acknowledged is counted, also before and after.
fn start<S: Subject>(
    subject: &Arc<S>,
    log: Log,
    callers: u32,
    others: Others,
    events_each: u32,
    times: Times,
    appends: &Arc<AtomicU64>,
) -> (JoinSet<Result<()>>, Recorder) {
    let (events, recorder) = (Arc::new(Events::new(0)), Recorder::new());
    let begin = Instant::now() + times.warm_up;
    let end = begin + times.seconds;
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (subject, events) = (Arc::clone(subject), Arc::clone(&events));
        let (recorder, appends) = (recorder.clone(), Arc::clone(appends));
        tasks.spawn(async move {
            let mut rng = StdRng::seed_from_u64(u64::from(others.before + caller) + 1);
            let mine = share(STREAMS, others.before + caller, others.all(callers));
            let mut streams: Vec<_> = mine.map(|stream| (stream, log.versions())).collect();
            loop {
                let mine = rng.random_range(0..streams.len());
                let (stream, version) = &mut streams[mine];
                let data = (0..events_each).map(|_| events.pick(&mut rng)).collect();
                let started = Instant::now();
                if started >= end {
                    return Ok(());
                }
                subject.append(Append { stream: *stream, expected: *version, events: data, is_rare: false }).await?;
                let acknowledged = Instant::now();
                *version += u64::from(events_each);
                appends.fetch_add(1, Relaxed);
                if (begin..end).contains(&acknowledged) {
                    recorder.record(caller, acknowledged - started);
                }
            }
        });
    }
    (tasks, recorder)
}

/// One caller has its events written as often as 256 have theirs, some 300 times a second, in a stream that nobody else
/// appends to.
pub(super) async fn age<S: Subject>(job: &Job, time: Duration) -> Result<Vec<Measured>> {
    let subject = S::open(&job.place, job.log).await?;
    let (events, mut rng) = (Events::new(0), StdRng::seed_from_u64(1));
    let mut next = tokio::time::interval(Duration::from_micros(3_333));
    let end = Instant::now() + time;
    for expected in 0.. {
        if Instant::now() >= end {
            break;
        }
        next.tick().await;
        let data = vec![events.pick(&mut rng)];
        subject.append(Append { stream: job.log.streams(), expected, events: data, is_rare: false }).await?;
    }
    subject.close().await?;
    Ok(Vec::new())
}

/// Ends as a process does that is killed: in the middle of appends, without a last word.
pub(super) async fn crash<S: Subject>(job: &Job, after: Duration) -> Result<Vec<Measured>> {
    let subject = Arc::new(S::open(&job.place, job.log).await?);
    let times = Times { seconds: after + Duration::from_secs(60), warm_up: after };
    let (tasks, _) = start(&subject, job.log, 256, Others::default(), 1, times, &Arc::default());
    tokio::select! {
        ended = join(tasks) => ended?,
        () = tokio::time::sleep(after) => {}
    }
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    unreachable!("nobody survives this signal")
}
