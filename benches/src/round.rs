//! One round of one subject: its callers at work, and what they saw.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    Load, Times,
    event::{Events, STREAMS},
    machine,
    subject::{Append, Kind, Subject, file::PlainFile, indelible::Embedded, rocksdb::Bare},
};

/// What a round has measured, and a line of the JSON output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub subject: Kind,
    pub workload: String,
    pub callers: u32,
    pub events_per_append: u32,
    /// What an acknowledgement stands for.
    pub durability: String,
    /// Of appends that were acknowledged while the clock ran.
    pub events_per_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The most that the process had in memory, with its callers and their events.
    pub rss_mib: f64,
    /// The lengths of all files after closing, over all events that were written.
    pub bytes_per_event: f64,
}

pub fn run(kind: Kind, load: Load, times: Times, dir: &Path) -> Result<Measured> {
    ensure!((1..=STREAMS).contains(&load.callers), "between 1 and {STREAMS} callers");
    ensure!((1..=1_000).contains(&load.events_per_append), "between 1 and 1,000 events an append");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let seen = match kind {
        Kind::File => runtime.block_on(measure(PlainFile::create(dir)?, load, times)),
        Kind::Rocks => runtime.block_on(measure(Bare::create(dir)?, load, times)),
        Kind::Indelible => runtime.block_on(measure(Embedded::create(dir)?, load, times)),
    }?;
    ensure!(!seen.latencies_ns.is_empty(), "nothing was acknowledged while the clock ran");
    let quantile_us = |quantile| seen.latencies_ns.value_at_quantile(quantile) as f64 / 1_000.0;
    let events = |appends| (appends * u64::from(load.events_per_append)) as f64;
    Ok(Measured {
        subject: kind,
        workload: "append".into(),
        callers: load.callers,
        events_per_append: load.events_per_append,
        durability: "fdatasync".into(),
        events_per_s: events(seen.latencies_ns.len()) / times.seconds.as_secs_f64(),
        p50_us: quantile_us(0.5),
        p99_us: quantile_us(0.99),
        rss_mib: machine::peak_memory_mib()?,
        bytes_per_event: machine::bytes_in(dir)? as f64 / events(seen.appends),
    })
}

/// What the callers saw.
struct Seen {
    /// Of all appends that were acknowledged while the clock ran.
    latencies_ns: Histogram<u64>,
    /// All appends that were acknowledged, also before and after.
    appends: u64,
}

/// Callers share these, so that a thousand of them need no thousand histograms.
const SHARDS: u32 = 16;

async fn measure<S: Subject>(subject: S, load: Load, times: Times) -> Result<Seen> {
    let subject = Arc::new(subject);
    let events = Arc::new(Events::new(0));
    let shards: Arc<[Mutex<Histogram<u64>>]> = (0..SHARDS).map(|_| Mutex::new(histogram())).collect();
    let appends = Arc::new(AtomicU64::new(0));
    let begin = Instant::now() + times.warm_up;
    let end = begin + times.seconds;

    let mut callers = JoinSet::new();
    for caller in 0..load.callers {
        let (subject, events) = (Arc::clone(&subject), Arc::clone(&events));
        let (shards, appends) = (Arc::clone(&shards), Arc::clone(&appends));
        callers.spawn(async move {
            let mut rng = StdRng::seed_from_u64(u64::from(caller) + 1);
            // Streams are dealt out one by one: no two callers ever want the same.
            let mut versions = vec![0; (STREAMS - caller).div_ceil(load.callers) as usize];
            loop {
                let mine = rng.random_range(0..versions.len());
                let stream = caller + mine as u32 * load.callers;
                let data = (0..load.events_per_append).map(|_| events.pick(&mut rng)).collect();
                let started = Instant::now();
                if started >= end {
                    return anyhow::Ok(());
                }
                subject.append(Append { stream, expected: versions[mine], events: data }).await?;
                let acknowledged = Instant::now();
                versions[mine] += u64::from(load.events_per_append);
                appends.fetch_add(1, Relaxed);
                if (begin..end).contains(&acknowledged) {
                    let nanos = u64::try_from((acknowledged - started).as_nanos())?;
                    let shard = &shards[(caller % SHARDS) as usize];
                    shard.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(nanos);
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended?.context("an append failed")?;
    }
    Arc::into_inner(subject).context("a caller is still there")?.close().await?;

    let mut latencies_ns = histogram();
    for shard in shards.iter() {
        latencies_ns.add(&*shard.lock().unwrap_or_else(PoisonError::into_inner))?;
    }
    Ok(Seen { latencies_ns, appends: appends.load(Relaxed) })
}

/// Of times up to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Acknowledges all that it is given, after a time.
    struct Slow(Duration, Mutex<Vec<u64>>);

    impl Subject for Slow {
        async fn append(&self, append: Append) -> Result<()> {
            {
                let mut versions = self.1.lock().unwrap_or_else(PoisonError::into_inner);
                let version = &mut versions[append.stream as usize];
                ensure!(*version == append.expected, "{version} is not {}", append.expected);
                *version += append.events.len() as u64;
            }
            tokio::time::sleep(self.0).await;
            Ok(())
        }

        async fn close(self) -> Result<()> {
            Ok(())
        }
    }

    fn times() -> Times {
        Times { seconds: Duration::from_millis(200), warm_up: Duration::from_millis(100) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_caller_waits_for_its_own_acknowledgement_and_knows_its_streams() {
        let slow = Slow(Duration::from_millis(10), Mutex::new(vec![0; STREAMS as usize]));
        let seen = measure(slow, Load { callers: 7, events_per_append: 3 }, times()).await.expect("a measurement");
        let counted = seen.latencies_ns.len();
        assert!((1..=7 * 21).contains(&counted), "{counted} acknowledgements of 10 ms to 7 callers in 200 ms");
        assert!(seen.appends > counted, "the warm-up is not counted");
        assert!(seen.latencies_ns.value_at_quantile(0.5) >= 9_990_000);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_append_that_fails_ends_the_round() {
        let wrong = Slow(Duration::ZERO, Mutex::new(vec![1; STREAMS as usize]));
        let failed = measure(wrong, Load { callers: 2, events_per_append: 1 }, times()).await;
        assert!(failed.is_err_and(|error| format!("{error:#}") == "an append failed: 1 is not 0"));
    }

    /// Each subject as it is, with callers of unequal shares and many events an append.
    #[test]
    fn every_subject_runs_and_keeps_what_it_acknowledged() {
        for kind in Kind::ALL {
            let dir = tempfile::tempdir().expect("a directory");
            let load = Load { callers: 3, events_per_append: 10 };
            let measured = run(kind, load, times(), dir.path()).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
            assert!(measured.events_per_s > 0.0 && measured.p50_us <= measured.p99_us, "{measured:?}");
            assert!(measured.bytes_per_event >= 100.0, "{measured:?}");
        }
    }
}
