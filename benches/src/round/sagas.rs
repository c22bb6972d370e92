//! Sagas of five commands, of which the last is refused in one of twenty, beside the same commands sent by hand.

use std::{convert::Infallible, time::Instant};

use anyhow::{Result, bail, ensure};
use indelible_core::{Aggregate, Apply, AsStore, Context, Event, Events, Handle, Repository, Timestamp};
use indelible_postgres::{PostgresModel, PostgresStore};
use indelible_rocksdb::{RocksModel, RocksStore};
use indelible_sagas::{
    AgendaModel, Call, Failure, Outcome, Past, Perform, Plan, Saga, SagaEvent, SagaWorker, Sagas, Step,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{PATIENCE, Recorder, Seen, histogram, join, nanos, share};
use crate::{
    job::{Job, Measured},
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
    fails: bool,
}
impl Saga for Five {
    const NAME: &'static str = "five";
    type Effect = bool;
    fn plan(&self, _: &Past) -> Plan<bool> {
        let step = |name| Step::new(name, !(self.fails && name == STEPS[4])).undo(true);
        STEPS.into_iter().fold(Plan::new(), |plan, name| plan.step(step(name)))
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

pub async fn run(job: &Job, count: u32, at_once: u32) -> Result<Vec<Measured>> {
    match job.subject {
        Kind::IndelibleRocksdb => both::<RocksStore, RocksModel>(job, count, at_once).await,
        Kind::IndeliblePostgres => both::<PostgresStore, PostgresModel>(job, count, at_once).await,
        other => bail!("{other} has no sagas"),
    }
}

async fn both<S: Store + AsStore, M: Model + AgendaModel>(
    job: &Job,
    count: u32,
    at_once: u32,
) -> Result<Vec<Measured>> {
    let (store, model) = (S::at(&job.place).await?, M::at(&job.place).await?);
    let by_hand = by_hand(&store, count, at_once).await?;
    let steps = steps(&store, &model, count, at_once).await?;
    store.end().await?;
    let measured = |seen: Seen, name| seen.measured_as("fdatasync", job, name, at_once, 1);
    Ok(vec![measured(by_hand, "sagas-commands-by-hand"), measured(steps, "sagas-steps")])
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
            let (id, fails) = (n.to_string(), n % 20 == 7);
            sagas.start(&id, Five { fails }).await?;
            let ended = sagas.ended(&id, PATIENCE).await?;
            let expected = if fails { Outcome::Compensated } else { Outcome::Completed };
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
