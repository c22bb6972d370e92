//! Sagas of five commands, each of which is refused to one in twenty of those that come to it, beside the same commands sent
//! by hand; and commands while sagas wait.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use indelible_core::{Aggregate, Apply, AsStore, Context, Event, Events, Handle, Repository, Timestamp};
use indelible_postgres::{PostgresModel, PostgresStore};
use indelible_projections::Waited;
use indelible_rocksdb::{RocksModel, RocksStore};
use indelible_sagas::{
    AgendaModel, Call, Failure, Outcome, Past, Perform, Plan, Saga, SagaEvent, SagaWorker, Sagas, Step,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{PATIENCE, Recorder, Seen, histogram, join, nanos, share};
use crate::{
    job::{Job, Measured, Times, Work},
    read_model::ours::Model,
    subject::{Kind, indelible::Store},
};

const STEPS: [&str; 5] = ["1", "2", "3", "4", "5"];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum CounterEvent {
    Counted,
}
#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "counter")]
struct Counter(u64);
impl Apply for Counter {
    type Event = CounterEvent;
    fn apply(&mut self, _: &CounterEvent) {
        self.0 += 1;
    }
}
struct Count;
impl Handle<Count> for Counter {
    type Error = Infallible;
    fn handle(&self, _: &Count, _: &Context<Self>) -> Result<Events<CounterEvent>, Infallible> {
        Ok(CounterEvent::Counted.into())
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Five {
    /// At which step.
    fails: Option<usize>,
}
impl Five {
    /// That of a number: of those that come to a step, one in twenty fails there.
    fn numbered(n: u32) -> Self {
        let is_refused = |step: &usize| {
            let mixed = (u64::from(n) * 5 + *step as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32 < (1 << 32) / 20
        };
        Self { fails: (0..STEPS.len()).find(is_refused) }
    }
}
impl Saga for Five {
    const NAME: &'static str = "five";
    type Effect = bool;
    fn plan(&self, _: &Past) -> Plan<bool> {
        let steps = STEPS.into_iter().enumerate();
        let steps = steps.map(|(at, name)| Step::new(name, self.fails != Some(at)).undo(true));
        steps.fold(Plan::new(), Plan::step)
    }
}
struct Counters(Repository<Counter>);
impl Perform<Five> for Counters {
    async fn perform(&self, allowed: bool, call: &Call) -> Result<Value, Failure> {
        if !allowed {
            return Err(Failure::refused("no"));
        }
        self.0.execute(format!("{}.{}", call.saga(), call.step()), Count).with(call.command()?).await?;
        Ok(Value::Null)
    }
}

pub async fn run(job: &Job) -> Result<Vec<Measured>> {
    match job.subject {
        Kind::IndelibleRocksdb => run_on::<RocksStore, RocksModel>(job).await,
        Kind::IndeliblePostgres => run_on::<PostgresStore, PostgresModel>(job).await,
        other => bail!("{other} has no sagas"),
    }
}

async fn run_on<S: Store + AsStore, M: Model + AgendaModel>(job: &Job) -> Result<Vec<Measured>> {
    let (store, model) = (S::at(&job.place).await?, M::at(&job.place).await?);
    let measured = |seen: Seen, name, callers| seen.measured_as("fdatasync", job, name, callers, 1);
    let all = match job.work {
        Work::Sagas { count, at_once } => {
            let by_hand = by_hand(&store, count, at_once).await?;
            let steps = steps(&store, &model, count, at_once).await?;
            vec![measured(by_hand, "sagas-commands-by-hand", at_once), measured(steps, "sagas-steps", at_once)]
        }
        Work::Timers { pending, are_timers, callers, times } => {
            let seen = beside_waiting(&store, &model, pending, are_timers, callers, times).await?;
            vec![measured(seen, job.work.name(), callers)]
        }
        ref other => bail!("{} is not about sagas", other.name()),
    };
    store.end().await?;
    Ok(all)
}

/// Does something with each number, so many at once, each of which is a task.
async fn each<F: Future<Output = Result<()>> + Send>(
    count: u32,
    at_once: u32,
    does: impl Fn(u32) -> F + Clone + Send + 'static,
) -> Result<()> {
    let mut callers = JoinSet::new();
    for caller in 0..at_once {
        let does = does.clone();
        callers.spawn(async move {
            for n in share(count, caller, at_once) {
                does(n).await?;
            }
            anyhow::Ok(())
        });
    }
    join(callers).await
}

/// How long each command takes.
async fn by_hand<S: Store + AsStore>(store: &S, count: u32, at_once: u32) -> Result<Seen> {
    let (counters, recorder) = (Repository::<Counter>::new(store), Recorder::new());
    let began = Instant::now();
    let recorded = recorder.clone();
    let commands = move |n: u32| {
        let (counters, recorder) = (counters.clone(), recorded.clone());
        async move {
            for step in STEPS {
                let started = Instant::now();
                counters.execute(format!("hand{n}.{step}"), Count).await?;
                recorder.record(n, started.elapsed());
            }
            Ok(())
        }
    };
    each(count, at_once, commands).await?;
    Seen::new(recorder.sum()?, began.elapsed())
}

/// How long each step takes by the journal, from when it was started to when it is known to be done, and the next one is
/// started in the same append: so that the syncs of both are in it, and that of the command.
async fn steps<S: Store + AsStore, M: AgendaModel>(store: &S, model: &M, count: u32, at_once: u32) -> Result<Seen> {
    let running = SagaWorker::new(store).add(model, Counters(Repository::new(store))).start().await?;
    let sagas = Sagas::<Five>::new(store);
    let began = Instant::now();
    let started = sagas.clone();
    let saga = move |n: u32| {
        let sagas = started.clone();
        async move {
            let (id, five) = (n.to_string(), Five::numbered(n));
            let expected = if five.fails.is_some() { Outcome::Compensated } else { Outcome::Completed };
            sagas.start(&id, five).await?;
            let ended = sagas.ended(&id, PATIENCE).await?;
            ensure!(ended == Some(expected), "saga {id} has come to {ended:?}");
            Ok(())
        }
    };
    each(count, at_once, saga).await?;
    let took = began.elapsed();
    let mut times = histogram();
    for n in 0..count {
        let mut began: Option<Timestamp> = None;
        for (recorded, event) in sagas.journal(&n.to_string()).await? {
            match (event, began) {
                (SagaEvent::StepStarted { .. }, _) => began = Some(recorded.recorded_at),
                (SagaEvent::StepDone { .. }, Some(since)) => {
                    times.saturating_record(nanos(recorded.recorded_at.since(since)).max(1));
                }
                _ => {}
            }
        }
    }
    let seen = Seen::new(times, took)?;
    ensure!(running.drain(PATIENCE).await, "the worker does not end");
    Ok(seen)
}

/// Waits for a day, or for a signal that never comes: the same events, with a timer or without.
#[derive(Clone, Serialize, Deserialize)]
struct Wait {
    is_timer: bool,
}
impl Saga for Wait {
    const NAME: &'static str = "wait";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        let day = Duration::from_secs(24 * 3_600);
        Plan::new().step(if self.is_timer { Step::sleep("a day", day) } else { Step::signal("a day") })
    }
}
struct Nobody;
impl Perform<Wait> for Nobody {
    async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// Callers that start what waits.
const STARTERS: u32 = 256;
/// The aggregates of a caller.
const COUNTERS: u32 = 100;

/// Commands while so many sagas wait, all of which the worker knows of.
async fn beside_waiting<S: Store + AsStore, M: AgendaModel>(
    store: &S,
    model: &M,
    count: u32,
    are_timers: bool,
    callers: u32,
    times: Times,
) -> Result<Seen> {
    let running = SagaWorker::new(store).add(model, Nobody).start().await?;
    let waits = Sagas::<Wait>::new(store);
    let start = move |n: u32| {
        let waits = waits.clone();
        async move {
            waits.start(&n.to_string(), Wait { is_timer: are_timers }).await?;
            Ok(())
        }
    };
    each(count, STARTERS.min(count), start).await?;
    let waited = running.agendas().wait_for(&store.head().await?, PATIENCE).await?;
    ensure!(waited == Waited::Reached, "the agenda has come to {waited:?}");

    let (counters, recorder) = (Repository::<Counter>::new(store), Recorder::new());
    let begin = Instant::now() + times.warm_up;
    let end = begin + times.seconds;
    let recorded = recorder.clone();
    let commands = move |caller: u32| {
        let (counters, recorder) = (counters.clone(), recorded.clone());
        async move {
            for n in 0_u32.. {
                let started = Instant::now();
                if started >= end {
                    break;
                }
                counters.execute(format!("{caller}.{}", n % COUNTERS), Count).await?;
                let acknowledged = Instant::now();
                if (begin..end).contains(&acknowledged) {
                    recorder.record(caller, acknowledged - started);
                }
            }
            Ok(())
        }
    };
    each(callers, callers, commands).await?;
    let seen = Seen::new(recorder.sum()?, times.seconds)?;
    ensure!(running.drain(PATIENCE).await, "the worker does not end");
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_twenty_fails_at_each_step() {
        let mut come = 100_000;
        let all: Vec<_> = (0..come).filter_map(|n| Five::numbered(n).fails).collect();
        for step in 0..STEPS.len() {
            let fail = all.iter().filter(|at| **at == step).count() as u32;
            assert!((18..=22).contains(&(come / fail)), "{fail} of {come} at {step}");
            come -= fail;
        }
    }
}
