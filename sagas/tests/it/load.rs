//! What pending timers cost appends. Prints rates, on stores in memory. (`./dev bench sagas` measures sagas.)
//!
//! `INDELIBLE_SAGA_TIMERS` says how many timers (2,000).

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use indelible_core::{Aggregate, Apply, Context, Event, Events, Handle, Repository, store::memory::MemoryStore};
use indelible_projections::memory::MemoryModel;
use indelible_sagas::{Call, Failure, Past, Perform, Plan, RunningSagas, Saga, SagaWorker, Sagas, Step};
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

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
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
