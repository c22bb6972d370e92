//! Circuit breakers: what opens and closes them, what an operator says, what is told of them, what may be done instead.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::store::memory::MemoryStore;
use indelible_projections::memory::MemoryModel;
use indelible_sagas::{
    Call, Circuit, CircuitOptions, Dependency, Failure, Outcome, Past, Perform, Plan, Saga, SagaWorker, Sagas, Step,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(10);

async fn fail(api: &Dependency) {
    let answer = api.call(async { Err::<(), _>(Failure::unsure("down")) }).await;
    assert_eq!(answer, Err(Failure::unsure("down")));
}

async fn succeed(api: &Dependency) {
    assert_eq!(api.call(async { Ok(()) }).await, Ok(()));
}

/// An answer that takes so long.
async fn slow(api: &Dependency, time: Duration) -> Result<(), Failure> {
    let answer = async {
        sleep(time).await;
        Ok(())
    };
    api.call(answer).await
}

async fn is_blocked(api: &Dependency) -> bool {
    matches!(api.call(async { Ok(()) }).await, Err(Failure::NotNow(_)))
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_opens_it_when_there_are_calls_enough() {
    let mut options = CircuitOptions::default().after_failures(u32::MAX);
    (options.window, options.calls_min, options.failure_rate_max) = (10, 6, 0.5);
    let api = || Dependency::new("api", 1, options);
    let few = api();
    for _ in 0..5 {
        fail(&few).await;
    }
    assert_eq!(few.circuit(), Circuit::Closed, "five calls say nothing");
    fail(&few).await;
    assert_eq!(few.circuit(), Circuit::Open);

    let third = api();
    for _ in 0..30 {
        fail(&third).await;
        succeed(&third).await;
        succeed(&third).await;
    }
    assert_eq!(third.circuit(), Circuit::Closed, "a third is less than half");

    // Of a hundred calls that went well all but the last are forgotten.
    let old = api();
    for _ in 0..100 {
        succeed(&old).await;
    }
    for _ in 0..4 {
        fail(&old).await;
    }
    assert_eq!(old.circuit(), Circuit::Closed);
    fail(&old).await;
    assert_eq!(old.circuit(), Circuit::Open, "half of the last ten");
}

#[tokio::test(start_paused = true)]
async fn slow_calls_open_it_whatever_they_answer() {
    let mut options = CircuitOptions::default().after_failures(2);
    options.slow_after = SECOND;
    let api = Dependency::new("api", 1, options);
    for time in [SECOND + MOMENT, SECOND - MOMENT, SECOND + MOMENT] {
        assert_eq!(slow(&api, time).await, Ok(()));
    }
    assert_eq!(api.circuit(), Circuit::Closed, "the one between was quick enough");
    assert_eq!(slow(&api, SECOND + MOMENT).await, Ok(()));
    assert_eq!(api.circuit(), Circuit::Open);
}

#[tokio::test(start_paused = true)]
async fn as_many_probe_it_as_it_says() {
    let mut options = CircuitOptions::default().after_failures(1);
    options.probes = 2;
    let api = Dependency::new("api", 9, options);
    fail(&api).await;
    sleep(SECOND).await;
    assert_eq!(api.circuit(), Circuit::HalfOpen);
    let (one, two, three) = tokio::join!(slow(&api, MOMENT), slow(&api, MOMENT), slow(&api, MOMENT));
    assert!(one.is_ok() && two.is_ok() && matches!(three, Err(Failure::NotNow(_))), "{three:?}");
    assert_eq!(api.circuit(), Circuit::Closed);
    // One that goes well is not enough, and one that fails opens it again.
    fail(&api).await;
    sleep(SECOND).await;
    succeed(&api).await;
    assert_eq!(api.circuit(), Circuit::HalfOpen);
    fail(&api).await;
    assert_eq!(api.circuit(), Circuit::Open);
}

#[tokio::test(start_paused = true)]
async fn it_stays_open_longer_each_time_up_to_a_limit() {
    let mut options = CircuitOptions::default().after_failures(1);
    (options.open_max, options.probes) = (3 * SECOND, 1);
    let api = Dependency::new("api", 1, options);
    let opens_for = async || {
        fail(&api).await;
        let began = Instant::now();
        while api.circuit() == Circuit::Open {
            assert!(is_blocked(&api).await);
            sleep(MOMENT).await;
        }
        began.elapsed()
    };
    for time in [1, 2, 3, 3] {
        assert_eq!(opens_for().await, time * SECOND);
    }
    succeed(&api).await;
    assert_eq!(opens_for().await, SECOND, "it had been closed");
}

#[tokio::test(start_paused = true)]
async fn an_operator_holds_it_open_or_closed() {
    let api = Dependency::new("api", 9, CircuitOptions::default().after_failures(1));
    api.force(Some(Circuit::Open));
    assert!(is_blocked(&api).await);
    sleep(3600 * SECOND).await;
    assert!(is_blocked(&api).await, "it doesn't probe");
    api.force(Some(Circuit::Closed));
    for _ in 0..9 {
        fail(&api).await;
    }
    assert_eq!(api.circuit(), Circuit::Closed);
    api.force(None);
    succeed(&api).await;
    // What it was when it was forced it is again.
    fail(&api).await;
    api.force(Some(Circuit::Closed));
    succeed(&api).await;
    api.force(None);
    assert!(is_blocked(&api).await);
    sleep(SECOND).await;
    assert_eq!(api.circuit(), Circuit::HalfOpen);
}

/// Keeps counters and gauges, by name and labels.
#[derive(Default)]
struct Told(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Told {
    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().entry(name).or_default().clone()
    }

    fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).map_or(0, |number| number.load(SeqCst))
    }
}

impl Recorder for Told {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.number(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.number(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[test]
fn its_state_its_changes_and_who_was_blocked_are_metrics() {
    let told = Told::default();
    let state = || f64::from_bits(told.count("indelible_circuit_state{dependency=api}"));
    let changes = |to| told.count(&format!("indelible_circuit_transitions_total{{dependency=api,to={to}}}"));
    let blocked = || told.count("indelible_circuit_blocked_total{dependency=api}");
    let play = async {
        let api = Dependency::new("api", 1, CircuitOptions::default().after_failures(2));
        fail(&api).await;
        assert_eq!((state(), changes("Open"), blocked()), (0.0, 0, 0));
        fail(&api).await;
        assert!(is_blocked(&api).await && is_blocked(&api).await);
        assert_eq!((state(), changes("Open"), blocked()), (2.0, 1, 2));
        sleep(SECOND).await;
        succeed(&api).await;
        assert_eq!((state(), changes("HalfOpen")), (1.0, 1));
        succeed(&api).await;
        assert_eq!((state(), changes("Closed")), (0.0, 1));
        // So are those for which there was no room, and what an operator says.
        let (_, full) = tokio::join!(slow(&api, MOMENT), is_blocked(&api));
        api.force(Some(Circuit::Open));
        assert_eq!((full, state(), changes("Open"), blocked()), (true, 2.0, 2, 3));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&told, || runtime.block_on(play));
}

/// A performer that has something else to answer with where it isn't let through.
#[tokio::test]
async fn a_step_falls_back_while_its_circuit_is_open() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Quote;
    impl Saga for Quote {
        const NAME: &'static str = "quote";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().step(Step::new("rate", ()))
        }
    }
    struct Rates(Dependency);
    impl Perform<Quote> for Rates {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            match self.0.call(async { Ok(json!("today's")) }).await {
                Err(Failure::NotNow(_)) => Ok(json!("yesterday's")),
                answered => answered,
            }
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let rates = Dependency::new("rates", 9, CircuitOptions::default());
    let running = SagaWorker::new(&store).add(&model, Rates(rates.clone())).start().await.unwrap();
    let quotes = Sagas::<Quote>::new(&store);
    for (id, circuit, rate) in [("1", Circuit::Open, "yesterday's"), ("2", Circuit::Closed, "today's")] {
        rates.force(Some(circuit));
        quotes.start(id, Quote).await.unwrap();
        assert_eq!(quotes.ended(id, 20 * SECOND).await.unwrap(), Some(Outcome::Completed));
        assert_eq!(quotes.load(id).await.unwrap().past().result::<String>("rate").as_deref(), Some(rate));
    }
    assert!(running.drain(20 * SECOND).await);
}
