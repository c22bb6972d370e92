//! What sagas cost: beside the same commands sent by hand, and with timers pending. Prints rates, on stores in memory, and
//! asserts what does not hang on the machine.
//!
//! `INDELIBLE_SAGA_LOAD` says how many sagas (300), `INDELIBLE_SAGA_TIMERS` how many timers (2,000).

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use indelible_core::{
    Aggregate, Apply, Context, Event, Events, Handle, Repository, Timestamp, store::memory::MemoryStore,
};
use indelible_projections::memory::MemoryModel;
use indelible_sagas::{
    Act, Call, Failure, Outcome, Past, Perform, Plan, RunningSagas, Saga, SagaEvent, SagaWorker, Sagas, Step,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(600);
const AT_ONCE: usize = 64;
const APPENDS: u32 = 2_000;
const TURNS: u32 = 5;

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

/// Five commands, of which the last is refused in one of twenty.
#[derive(Clone, Serialize, Deserialize)]
struct Five {
    fails: bool,
}
impl Saga for Five {
    const NAME: &'static str = "five";
    type Effect = bool;
    fn plan(&self, _: &Past) -> Plan<bool> {
        ["1", "2", "3", "4", "5"]
            .into_iter()
            .fold(Plan::new(), |plan, name| plan.step(Step::new(name, !(self.fails && name == "5")).undo(true)))
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

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_beside_the_same_commands_by_hand() {
    let count = number("INDELIBLE_SAGA_LOAD", 300);
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let counters = Repository::<Counter>::new(&store);

    let by_hand = (0..count).map(|n| {
        let counters = counters.clone();
        async move {
            let mut times = Vec::new();
            for step in 1..=5 {
                let began = Instant::now();
                counters.execute(format!("hand{n}.{step}"), Count).await.unwrap();
                times.push(began.elapsed());
            }
            times
        }
    });
    let began = Instant::now();
    let times: Vec<Vec<Duration>> = stream::iter(by_hand).buffer_unordered(AT_ONCE).collect().await;
    let (hand_took, hand_p99) = (began.elapsed(), p99(times.concat()));

    let running = SagaWorker::new(&store).add(&model, Counters(counters)).start().await.unwrap();
    let sagas = Sagas::<Five>::new(&store);
    let run = (0..count).map(|n| {
        let sagas = sagas.clone();
        async move {
            let id = n.to_string();
            sagas.start(&id, Five { fails: n % 20 == 7 }).await.unwrap();
            let ended = sagas.ended(&id, SOON).await.unwrap();
            assert_eq!(ended, Some(if n % 20 == 7 { Outcome::Compensated } else { Outcome::Completed }));
        }
    });
    let began = Instant::now();
    stream::iter(run).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    let took = began.elapsed();
    assert!(running.drain(SOON).await);

    let mut steps = Vec::new();
    for n in 0..count {
        let mut began: Option<Timestamp> = None;
        for (recorded, event) in sagas.journal(&n.to_string()).await.unwrap() {
            match (event, began) {
                (SagaEvent::StepStarted { .. }, _) => began = Some(recorded.recorded_at),
                (SagaEvent::StepDone { .. }, Some(since)) => steps.push(recorded.recorded_at.since(since)),
                (SagaEvent::AttemptFailed { act: Act::Do, .. }, _) => panic!("no attempt fails here"),
                _ => {}
            }
        }
    }
    let rate = |took: Duration| count as f64 / took.as_secs_f64();
    println!(
        "{count} sagas of five steps, {AT_ONCE} at once: {:.0}/s, p99 of a step {:?}; by hand {:.0}/s, {:?}",
        rate(took),
        p99(steps),
        rate(hand_took),
        hand_p99
    );
}

/// Waits for a day, or for a signal that never comes: the same events, with a timer or without.
#[derive(Clone, Serialize, Deserialize)]
struct Wait {
    timer: bool,
}
impl Saga for Wait {
    const NAME: &'static str = "wait";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        let day = Duration::from_secs(24 * 3600);
        Plan::new().step(if self.timer { Step::sleep("a day", day) } else { Step::signal("a day") })
    }
}
struct Nobody;
impl Perform<Wait> for Nobody {
    async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// A store with so many sagas that wait, and a worker that runs them.
async fn waiting(count: u64, timer: bool) -> (Repository<Counter>, RunningSagas) {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = SagaWorker::new(&store).add(&model, Nobody).start().await.unwrap();
    let waits = Sagas::<Wait>::new(&store);
    let start = (0..count).map(|n| {
        let waits = waits.clone();
        async move { drop(waits.start(&n.to_string(), Wait { timer }).await.unwrap()) }
    });
    stream::iter(start).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
    let head = indelible_core::EventStore::head(&store).await.unwrap();
    running.agendas().wait_for(&head, SOON).await.unwrap();
    (Repository::new(&store), running)
}

/// Appends beside pending timers, against a log of the same events without timers: turn by turn, the best of each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_timers_cost_appends_nothing() {
    let timers = number("INDELIBLE_SAGA_TIMERS", 2_000);
    let (with, without) = (waiting(timers, true).await, waiting(timers, false).await);
    let append = async |(counters, _): &(Repository<Counter>, RunningSagas), turn: u32| {
        let began = Instant::now();
        let all = (0..APPENDS).map(|n| counters.execute(format!("{turn}.{n}"), Count).into_future());
        stream::iter(all).buffer_unordered(AT_ONCE).for_each(|done| async { drop(done.unwrap()) }).await;
        f64::from(APPENDS) / began.elapsed().as_secs_f64()
    };
    let (mut best_with, mut best_without) = (0.0_f64, 0.0_f64);
    for turn in 0..TURNS {
        best_with = best_with.max(append(&with, turn).await);
        best_without = best_without.max(append(&without, turn).await);
    }
    let ratio = best_with / best_without;
    println!("{timers} timers pending: {best_with:.0} appends/s, {best_without:.0} without, {ratio:.2} of it");
    assert!(with.1.drain(SOON).await && without.1.drain(SOON).await);
}
