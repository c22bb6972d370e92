//! Rounds of read models: how fast a log is taken in, how far behind one is, and building one anew.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use indelible_core::{Append, AppendOutcome, AsStore, ContentType, EventType, NewEvent, StreamId, Token};
use indelible_postgres::{PostgresModel, PostgresStore};
use indelible_projections::{Projection as _, Running, VersionState, Waited, Worker};
use indelible_rocksdb::{RocksModel, RocksStore};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

use super::{PATIENCE, Seen, at_once, histogram, nanos};
use crate::{
    event::Events,
    job::{Job, Log, Measured, Times, Work, Write},
    read_model::{
        BATCH_EVENTS, Row,
        by_hand::{Bare, ByHand, Sql},
        ours::{Balances, Model},
    },
    subject::{
        Kind,
        indelible::{CATEGORY, Store},
    },
};

/// How often is looked where a projection is.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// How often a query asks for an account while a read model is built anew.
const ASK_EVERY: Duration = Duration::from_millis(2);

pub async fn run(job: &Job) -> Result<Vec<Measured>> {
    let measured = match job.subject {
        Kind::IndelibleRocksdb => ours::<RocksStore, RocksModel>(job).await,
        Kind::IndeliblePostgres => ours::<PostgresStore, PostgresModel>(job).await,
        Kind::Rocksdb => by_hand::<Bare>(job).await,
        Kind::PgByHand => by_hand::<Sql>(job).await,
        other => bail!("{other} has no read model"),
    };
    Ok(vec![measured?])
}

async fn ours<S: Store + AsStore, M: Model>(job: &Job) -> Result<Measured> {
    let (store, model) = (S::at(&job.place).await?, M::at(&job.place).await?);
    let measured = match job.work {
        Work::Project { write, partitions } => project::<_, M>(job, &store, &model, write, partitions).await,
        Work::Lag { write, events_per_s, times } => lag(job, &store, &model, write, events_per_s, times).await,
        Work::Rebuild { events_per_s } => rebuild(job, &store, &model, events_per_s).await,
        _ => bail!("{} is not done to a read model", job.work.name()),
    }?;
    store.end().await?;
    Ok(measured)
}

async fn by_hand<H: ByHand>(job: &Job) -> Result<Measured> {
    match job.work {
        Work::Project { write, .. } => project_by_hand::<H>(job, write).await,
        Work::Lag { write, events_per_s, times } => lag_by_hand::<H>(job, write, events_per_s, times).await,
        _ => bail!("{} is not done by hand", job.work.name()),
    }
}

/// From the start of the worker to the last event in the read model.
async fn project<S: Store + AsStore, M: Model>(
    job: &Job,
    store: &S,
    model: &M,
    write: Write,
    partitions: u32,
) -> Result<Measured> {
    let head = store.head().await?;
    let started = Instant::now();
    let running = model.add(Worker::new(store), write, partitions, 1)?.start().await?;
    reach(&running, &head).await?;
    let measured = at_once(job, M::DURABILITY, started.elapsed())?;
    end(running).await?;
    let events = model.events(write).await?;
    ensure!(events == job.log.events, "{events} events in the read model, of {}", job.log.events);
    Ok(measured)
}

async fn project_by_hand<H: ByHand>(job: &Job, write: Write) -> Result<Measured> {
    let mut by_hand = H::open(&job.place, write).await?;
    let mut rng = StdRng::seed_from_u64(1);
    let started = Instant::now();
    for first in (0..job.log.events).step_by(BATCH_EVENTS) {
        let to = job.log.events.min(first + BATCH_EVENTS as u64);
        let rows = (first..to).map(|n| Row::nth(n, job.log, &mut rng)).collect::<Result<Vec<_>>>()?;
        by_hand.write(&rows, to).await?;
    }
    let measured = at_once(job, H::DURABILITY, started.elapsed())?;
    let events = by_hand.events().await?;
    ensure!(events == job.log.events, "{events} events in the read model, of {}", job.log.events);
    Ok(measured)
}

async fn lag<S: Store + AsStore, M: Model>(
    job: &Job,
    store: &S,
    model: &M,
    write: Write,
    events_per_s: u32,
    times: Times,
) -> Result<Measured> {
    let running = Arc::new(model.add(Worker::new(store), write, 1, 1)?.start().await?);
    let (live, acknowledged) = Live::start(store.clone(), job.log, events_per_s);
    let watcher = Watcher::start(&running, acknowledged, Instant::now() + times.warm_up);
    tokio::time::sleep(times.warm_up + times.seconds).await;
    let appended = live.stop().await?;
    let seen = Seen::new(watcher.stop().await?, times.seconds)?;
    end(running).await?;
    let events = model.events(write).await?;
    ensure!(events == job.log.events + appended, "{events} events in the read model, {appended} were appended");
    Ok(Measured { events_per_s: None, ..seen.measured_as(M::DURABILITY, job, job.work.name(), 1, 1) })
}

/// What was acknowledged is written with all that waits by then.
async fn lag_by_hand<H: ByHand>(job: &Job, write: Write, events_per_s: u32, times: Times) -> Result<Measured> {
    let store = H::Store::at(&job.place).await?;
    let mut by_hand = H::open(&job.place, write).await?;
    let (live, mut acknowledged) = Live::start(store.clone(), job.log, events_per_s);
    let from = Instant::now() + times.warm_up;
    let writer = tokio::spawn(async move {
        let (mut lags, mut to) = (histogram(), 0);
        while let Some(first) = acknowledged.recv().await {
            let mut all = vec![first];
            while all.len() < BATCH_EVENTS
                && let Ok(next) = acknowledged.try_recv()
            {
                all.push(next);
            }
            let rows: Vec<Row> = all.iter().map(|event| event.row).collect();
            to = all.iter().map(|event| event.position).fold(to, u64::max);
            by_hand.write(&rows, to).await?;
            let now = Instant::now();
            for event in all.iter().filter(|event| event.at >= from) {
                lags.saturating_record(nanos(now - event.at));
            }
        }
        anyhow::Ok(lags)
    });
    tokio::time::sleep(times.warm_up + times.seconds).await;
    live.stop().await?;
    let seen = Seen::new(writer.await??, times.seconds)?;
    store.end().await?;
    Ok(Measured { events_per_s: None, ..seen.measured_as(H::DURABILITY, job, job.work.name(), 1, 1) })
}

/// A second version is built beside the first, which is in use: events come in, and queries see all of the log that there
/// was at first, at any moment. The rate is that of the new version; the times are the lags of the one in use.
async fn rebuild<S: Store + AsStore, M: Model>(job: &Job, store: &S, model: &M, events_per_s: u32) -> Result<Measured> {
    let write = Write::Upsert;
    let head = store.head().await?;
    let running = model.add(Worker::new(store), write, 1, 1)?.start().await?;
    reach(&running, &head).await?;
    end(running).await?;

    let (live, acknowledged) = Live::start(store.clone(), job.log, events_per_s);
    let started = Instant::now();
    let worker = model.add(model.add(Worker::new(store), write, 1, 1)?, write, 1, 2)?;
    let running = Arc::new(worker.start().await?);
    let watcher = Watcher::start(&running, acknowledged, started);
    let mut queries = 0_u64;
    while !has_taken_over(model).await? {
        ensure!(started.elapsed() < PATIENCE, "it does not take over");
        let account = (queries * 7_919 % u64::from(job.log.streams())) as u32;
        let events = model.events_of(account).await?;
        ensure!(events >= job.log.versions(), "a query saw {events} events of account {account}");
        queries += 1;
        tokio::time::sleep(ASK_EVERY).await;
    }
    let (took, built) = (started.elapsed(), *store.published().borrow());
    let appended = live.stop().await?;
    let lags = watcher.stop().await?;
    reach(&running, &store.head().await?).await?;
    end(running).await?;
    let events = model.events(write).await?;
    ensure!(events == job.log.events + appended, "{events} events in the read model, {appended} were appended");
    let seen = Seen::new(lags, took)?;
    let rate = built.get() as f64 / took.as_secs_f64();
    Ok(Measured { events_per_s: Some(rate), ..seen.measured_as(M::DURABILITY, job, job.work.name(), 1, 1) })
}

async fn has_taken_over<M: Model>(model: &M) -> Result<bool> {
    let versions = model.versions(Balances::<1, 2>::NAME).await?;
    Ok(versions.iter().any(|row| row.projection.version == 2 && row.state == VersionState::Current))
}

async fn reach(running: &Running, token: &Token) -> Result<()> {
    ensure!(running.wait_for(token, PATIENCE).await? == Waited::Reached, "a projection has stopped");
    Ok(())
}

async fn end(running: impl Into<Arc<Running>>) -> Result<()> {
    let running = Arc::into_inner(running.into()).context("somebody looks still")?;
    ensure!(running.drain(PATIENCE).await, "the worker does not end");
    Ok(())
}

/// Events that are appended at a steady rate, each at its time, whatever became of those before.
struct Live {
    stop: Arc<AtomicBool>,
    appends: JoinHandle<Result<u64>>,
}

/// One of them.
struct Acknowledged {
    row: Row,
    position: u64,
    at: Instant,
}

impl Live {
    fn start<S: Store>(store: S, log: Log, events_per_s: u32) -> (Self, mpsc::UnboundedReceiver<Acknowledged>) {
        let stop = Arc::new(AtomicBool::new(false));
        let (tell, told) = mpsc::unbounded_channel();
        // They are made before anybody's clock runs.
        let events = Events::new(7);
        let appends = tokio::spawn(append(store, events, log, events_per_s, tell, stop.clone()));
        (Self { stop, appends }, told)
    }

    /// How many there were.
    async fn stop(self) -> Result<u64> {
        self.stop.store(true, Relaxed);
        self.appends.await?
    }
}

async fn append<S: Store>(
    store: S,
    events: Events,
    log: Log,
    events_per_s: u32,
    tell: mpsc::UnboundedSender<Acknowledged>,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let mut rng = StdRng::seed_from_u64(7);
    let (begin, mut under_way, mut count) = (Instant::now(), JoinSet::new(), 0);
    while !stop.load(Relaxed) {
        let at = begin + Duration::from_secs(1).mul_f64(count as f64 / f64::from(events_per_s));
        tokio::time::sleep_until(at.into()).await;
        let row = Row::nth(log.events + count, log, &mut rng)?;
        let stream: StreamId = format!("{}-{}", CATEGORY, row.account()).parse()?;
        let event = NewEvent::new(EventType::from_static("Transferred"), ContentType::JSON, events.pick(&mut rng));
        let (store, tell) = (store.clone(), tell.clone());
        under_way.spawn(async move {
            let outcome = store.append(Append::new().event(stream, event)).await?;
            let at = Instant::now();
            let AppendOutcome::Appended(appended) = outcome else { bail!("a conflict") };
            // Nobody listens where the round has failed.
            let _ = tell.send(Acknowledged { row, position: appended.token.position.get(), at });
            anyhow::Ok(())
        });
        count += 1;
        while let Some(done) = under_way.try_join_next() {
            done??;
        }
    }
    while let Some(done) = under_way.join_next().await {
        done??;
    }
    Ok(count)
}

/// Looks on a thread of its own how far the first version of a projection is, and how long after its acknowledgement each
/// event is there.
struct Watcher(thread::JoinHandle<Histogram<u64>>);

impl Watcher {
    fn start(running: &Arc<Running>, acknowledged: mpsc::UnboundedReceiver<Acknowledged>, from: Instant) -> Self {
        let running = running.clone();
        Self(thread::spawn(move || watch(&running, acknowledged, from)))
    }

    /// When all are there.
    async fn stop(self) -> Result<Histogram<u64>> {
        tokio::task::spawn_blocking(|| self.0.join()).await?.map_err(|_| anyhow!("who watches the lag has panicked"))
    }
}

fn watch(running: &Running, mut acknowledged: mpsc::UnboundedReceiver<Acknowledged>, from: Instant) -> Histogram<u64> {
    let (mut lags, mut waiting) = (histogram(), BTreeMap::new());
    loop {
        let status = running.status();
        let first = status.iter().find(|(id, _)| id.version == 1);
        let seen = first.and_then(|(_, partitions)| partitions.iter().map(|one| one.looked_to.position.get()).min());
        let now = Instant::now();
        let is_over = loop {
            match acknowledged.try_recv() {
                Ok(event) => drop(waiting.insert(event.position, event.at)),
                Err(error) => break error == mpsc::error::TryRecvError::Disconnected,
            }
        };
        while let Some(event) = waiting.first_entry().filter(|event| Some(*event.key()) <= seen) {
            let at = event.remove();
            if at >= from {
                lags.saturating_record(nanos(now.saturating_duration_since(at)).max(1));
            }
        }
        if is_over && waiting.is_empty() {
            return lags;
        }
        thread::sleep(LOOK_EVERY);
    }
}
