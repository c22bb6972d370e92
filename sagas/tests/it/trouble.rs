//! What stands in the way of sagas that run: clocks, answers, panics, and each other.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use indelible_core::{Aggregate, Timestamp, store::memory::MemoryStore};
use indelible_projections::{Partition, memory::MemoryModel};
use indelible_sagas::{
    Call, Clock, Failure, Journal, Outcome, Past, Perform, Plan, Retry, Saga, SagaError, SagaEvent, SagaOptions,
    SagaWorker, Sagas, Standing, Step,
    testing::{Answer, Outside, Script},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::trip::{Agency, Trip};

const SOON: Duration = Duration::from_secs(20);

/// A clock that was set back by an hour.
struct SetBack;
impl Clock for SetBack {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().as_micros() - 3_600_000_000).unwrap()
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_stops_nothing() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let trips = Sagas::<Trip>::new(&store);
    trips.start("before", Trip { traveller: "ada".into() }).await.unwrap();
    let running = SagaWorker::new(&store).with_clock(SetBack).add(&model, Agency).start().await.unwrap();
    trips.start("after", Trip { traveller: "ada".into() }).await.unwrap();
    for id in ["before", "after"] {
        assert_eq!(trips.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
    }
    assert!(running.drain(SOON).await);
}

/// Nor is it waited for by what begins afterwards and takes its time, while nothing else is written to the log.
#[tokio::test]
async fn a_clock_that_was_set_back_is_not_waited_for() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Nap;
    impl Saga for Nap {
        const NAME: &'static str = "nap";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            let ms = Duration::from_millis;
            let again = Retry { attempts_max: 2, pause_first: ms(50), pause_max: ms(50) };
            Plan::new()
                .step(Step::sleep("rest", ms(50)))
                .step(Step::new("wake", ()).retry(again))
                .step(Step::signal("never").timeout(ms(50)))
        }
    }
    let outside = Outside::new(Script::new().answers("wake", [Answer::Lost, Answer::Done(Value::Null)]));
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let worker = SagaWorker::new(&store).with_clock(SetBack).add::<Nap, _>(&model, outside.clone());
    let (running, naps) = (worker.start().await.unwrap(), Sagas::<Nap>::new(&store));
    naps.start("1", Nap).await.unwrap();
    assert_eq!(naps.ended("1", SOON).await.unwrap(), Some(Outcome::Compensated));
    let journal = naps.journal("1").await.unwrap();
    let rested = journal.iter().find(|(_, event)| matches!(event, SagaEvent::StepDone { .. })).unwrap().0.recorded_at;
    assert!(rested.since(journal[0].0.recorded_at) >= Duration::from_millis(50), "nor is it too soon");
    assert!(running.drain(SOON).await);
}

/// A moment has come when the clock says so, though the log is an hour ahead of it.
#[tokio::test]
async fn a_moment_is_the_clock_s() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Alarm {
        at: Timestamp,
    }
    impl Saga for Alarm {
        const NAME: &'static str = "alarm";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            let ms = Duration::from_millis(50);
            Plan::new().step(Step::until("moment", self.at)).step(Step::sleep("rest", ms)).step(Step::new("ring", ()))
        }
    }
    struct Ring;
    impl Perform<Alarm> for Ring {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            Ok(json!(SetBack.now()))
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let worker = SagaWorker::new(&store).with_clock(SetBack).add(&model, Ring);
    let (running, alarms) = (worker.start().await.unwrap(), Sagas::<Alarm>::new(&store));
    let moments = [("gone", Timestamp::from_micros(0).unwrap()), ("soon", SetBack.now() + Duration::from_millis(300))];
    for (id, at) in moments {
        alarms.start(id, Alarm { at }).await.unwrap();
    }
    for (id, at) in moments {
        assert_eq!(alarms.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
        let rang = alarms.load(id).await.unwrap().past().result::<Timestamp>("ring").unwrap();
        assert!(rang >= at + Duration::from_millis(50), "{id} was for {at}, and rang at {rang}");
    }
    assert!(running.drain(SOON).await);
}

/// What a saga's work comes to.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Trouble {
    /// Its answer is larger than an event can be.
    HugeAnswer,
    /// So is its error.
    HugeError,
    /// Its answer makes the plan contradict itself.
    Contradicts,
    /// Or panic, until the code is mended.
    Panics,
    /// It is put off for ever.
    PutOff,
    None,
}

/// Some work.
#[derive(Clone, Serialize, Deserialize)]
struct Work(Trouble);
static PLANS: AtomicUsize = AtomicUsize::new(0);
static MENDED: AtomicBool = AtomicBool::new(false);

impl Saga for Work {
    const NAME: &'static str = "work";
    const PARTITIONS: u32 = 1;
    type Effect = Trouble;
    fn plan(&self, past: &Past) -> Plan<Trouble> {
        let retry = Retry { attempts_max: 3, pause_first: Duration::from_millis(1), ..Retry::DEFAULT };
        let plan = Plan::new().step(Step::new("work", self.0).retry(retry));
        match self.0 {
            Trouble::Contradicts if past.is_done("work") => {
                PLANS.fetch_add(1, SeqCst);
                plan.step(Step::new("work", self.0))
            }
            Trouble::Panics if past.is_done("work") && !MENDED.load(SeqCst) => panic!("a bug in the plan"),
            _ => plan,
        }
    }
}

#[derive(Clone, Default)]
struct Worker(Arc<AtomicUsize>);
impl Perform<Work> for Worker {
    async fn perform(&self, trouble: Trouble, _: &Call) -> Result<Value, Failure> {
        self.0.fetch_add(1, SeqCst);
        match trouble {
            Trouble::HugeAnswer => Ok(json!("x".repeat(2 << 20))),
            Trouble::HugeError => Err(Failure::unsure("é".repeat(1 << 20))),
            Trouble::PutOff => Err(Failure::NotNow(Duration::MAX)),
            Trouble::Contradicts | Trouble::Panics | Trouble::None => Ok(Value::Null),
        }
    }
}

#[tokio::test]
async fn an_answer_that_no_event_holds_is_an_attempt_as_any_other() {
    for trouble in [Trouble::HugeAnswer, Trouble::HugeError] {
        let (store, model, worker) = (MemoryStore::new(), MemoryModel::new(), Worker::default());
        let running = SagaWorker::new(&store).add(&model, worker.clone()).start().await.unwrap();
        let works = Sagas::<Work>::new(&store);
        works.start("1", Work(trouble)).await.unwrap();
        assert_eq!(works.ended("1", SOON).await.unwrap(), Some(Outcome::Compensated));
        assert_eq!(worker.0.load(SeqCst), 3);
        let journal = works.journal("1").await.unwrap();
        let failed = |(_, event): &(_, SagaEvent)| matches!(event, SagaEvent::StepFailed { maybe: true, .. });
        assert!(journal.iter().any(failed), "nobody knows what came of it");
        assert!(running.drain(SOON).await);
    }
}

/// A call that takes too long, or panics, may have had its effect: it is tried again under the same key.
#[tokio::test]
async fn a_call_that_hangs_or_panics_is_an_attempt_as_any_other() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Hangs {
        panics: bool,
    }
    impl Saga for Hangs {
        const NAME: &'static str = "hangs";
        type Effect = bool;
        fn plan(&self, _: &Past) -> Plan<bool> {
            let retry = Retry { attempts_max: 2, pause_first: Duration::from_millis(1), ..Retry::DEFAULT };
            Plan::new().step(Step::new("work", self.panics).deadline(Duration::from_millis(300)).retry(retry))
        }
    }
    #[derive(Clone, Default)]
    struct AtFirst(Arc<Mutex<Vec<String>>>);
    impl Perform<Hangs> for AtFirst {
        async fn perform(&self, panics: bool, call: &Call) -> Result<Value, Failure> {
            self.0.lock().unwrap().push(call.key().to_owned());
            match (call.attempt(), panics) {
                (1, true) => panic!("a bug"),
                (1, false) => std::future::pending().await,
                _ => Ok(Value::Null),
            }
        }
    }
    let (store, model, calls) = (MemoryStore::new(), MemoryModel::new(), AtFirst::default());
    let running = SagaWorker::new(&store).add(&model, calls.clone()).start().await.unwrap();
    let hangs = Sagas::<Hangs>::new(&store);
    for (id, panics, why) in [("1", true, "the call panicked: a bug"), ("2", false, "no answer within 300ms")] {
        hangs.start(id, Hangs { panics }).await.unwrap();
        assert_eq!(hangs.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
        let journal = hangs.journal(id).await.unwrap();
        let failed =
            |(_, event): &(_, SagaEvent)| matches!(event, SagaEvent::AttemptFailed { error, .. } if error == why);
        assert_eq!(journal.iter().filter(|event| failed(event)).count(), 1, "{why}");
    }
    assert_eq!(*calls.0.lock().unwrap(), ["hangs-1/work", "hangs-1/work", "hangs-2/work", "hangs-2/work"]);
    assert!(running.drain(SOON).await);
}

/// New code plans an old saga as it was planned, by the version that this was started with.
#[tokio::test]
async fn a_saga_keeps_the_version_that_it_was_started_with() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Old;
    impl Saga for Old {
        const NAME: &'static str = "versioned";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().step(Step::signal("go")).step(Step::new("old", ()))
        }
    }
    #[derive(Clone, Serialize, Deserialize)]
    struct New;
    impl Saga for New {
        const NAME: &'static str = "versioned";
        const VERSION: u32 = 2;
        type Effect = ();
        fn plan(&self, past: &Past) -> Plan<()> {
            let step = if past.version() < 2 { "old" } else { "new" };
            Plan::new().step(Step::signal("go")).step(Step::new(step, ()))
        }
    }
    let (store, model, outside) = (MemoryStore::new(), MemoryModel::new(), Outside::new(Script::new()));
    Sagas::<Old>::new(&store).start("1", Old).await.unwrap();
    let running = SagaWorker::new(&store).add::<New, _>(&model, outside.clone()).start().await.unwrap();
    let sagas = Sagas::<New>::new(&store);
    sagas.start("2", New).await.unwrap();
    for (id, step) in [("1", "old"), ("2", "new")] {
        sagas.signal(id, "go", &()).await.unwrap();
        assert_eq!(sagas.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
        assert!(sagas.load(id).await.unwrap().past().is_done(step), "{step}");
    }
    assert_eq!(outside.calls().len(), 2);
    assert!(running.drain(SOON).await);
}

/// What the code stands in the way of is tried again ever more rarely, and its effect is not brought about again. An
/// operator has a way out.
#[tokio::test(start_paused = true)]
async fn an_outcome_that_cant_be_written_is_kept() {
    let (store, model, worker) = (MemoryStore::new(), MemoryModel::new(), Worker::default());
    let running = SagaWorker::new(&store).add(&model, worker.clone()).start().await.unwrap();
    let works = Sagas::<Work>::new(&store);
    works.start("1", Work(Trouble::Contradicts)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(works.load("1").await.unwrap().standing(), Standing::Running);
    assert_eq!(worker.0.load(SeqCst), 1, "its answer is known");
    let plans = PLANS.load(SeqCst);
    assert!((5..40).contains(&plans), "{plans} plans in 10 minutes");
    works.give_up("1", "the code won't be mended").await.unwrap();
    assert!(matches!(works.load("1").await.unwrap().standing(), Standing::Ended(Outcome::GivenUp { .. })));
    let again = works.give_up("1", "twice").await.unwrap_err();
    assert_eq!(again.rejection(), Some(&SagaError::Ended));
    assert!(running.drain(SOON).await);
}

#[tokio::test]
async fn a_plan_that_panics_is_tried_again() {
    let (store, model, worker) = (MemoryStore::new(), MemoryModel::new(), Worker::default());
    let running = SagaWorker::new(&store).add(&model, worker.clone()).start().await.unwrap();
    let works = Sagas::<Work>::new(&store);
    works.start("1", Work(Trouble::Panics)).await.unwrap();
    assert_eq!(works.ended("1", Duration::from_millis(200)).await.unwrap(), None);
    MENDED.store(true, SeqCst);
    assert_eq!(works.ended("1", SOON).await.unwrap(), Some(Outcome::Completed));
    assert_eq!(worker.0.load(SeqCst), 1, "its answer was known");
    assert!(running.is_alive() && running.drain(SOON).await);
}

/// An answer that could not be written is known to its process alone. When that dies, the same attempt is made again, under
/// the same key.
#[tokio::test]
async fn an_answer_that_dies_with_its_process_is_asked_for_again() {
    static MENDED: AtomicBool = AtomicBool::new(false);
    #[derive(Clone, Serialize, Deserialize)]
    struct Halts;
    impl Saga for Halts {
        const NAME: &'static str = "halts";
        type Effect = ();
        fn plan(&self, past: &Past) -> Plan<()> {
            let twice = past.is_done("work") && !MENDED.load(SeqCst);
            Plan::new().step(Step::new("work", ())).step(Step::new(if twice { "work" } else { "rest" }, ()))
        }
    }
    let outside = Outside::new(Script::new().answers("work", [Answer::Done(json!("W1"))]));
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let worker = || SagaWorker::new(&store).add::<Halts, _>(&model, outside.clone());
    let (running, halts) = (worker().start().await.unwrap(), Sagas::<Halts>::new(&store));
    halts.start("1", Halts).await.unwrap();
    let calls = || outside.calls().len();
    while calls() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The answer can't be written, and isn't asked for again while somebody knows it.
    assert_eq!(halts.ended("1", Duration::from_millis(1_500)).await.unwrap(), None);
    assert_eq!((calls(), halts.journal("1").await.unwrap().len()), (1, 2));
    drop(running);
    MENDED.store(true, SeqCst);
    let running = worker().start().await.unwrap();
    assert_eq!(halts.ended("1", SOON).await.unwrap(), Some(Outcome::Completed));
    assert_eq!(outside.calls()[..2], [("halts-1/work".to_owned(), 1), ("halts-1/work".to_owned(), 1)]);
    assert_eq!((outside.happened().len(), outside.faults()), (2, Vec::new()));
    let past = halts.load("1").await.unwrap().past().result::<String>("work");
    assert_eq!(past.as_deref(), Some("W1"));
    assert!(running.drain(SOON).await);
}

/// However slow the calls are, timers wait for none of them.
#[tokio::test]
async fn timers_do_not_wait_for_calls() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Mixed {
        calls: bool,
    }
    impl Saga for Mixed {
        const NAME: &'static str = "mixed";
        const PARTITIONS: u32 = 1;
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            let ms = Duration::from_millis;
            match self.calls {
                true => Plan::new().step(Step::new("call", ()).deadline(Duration::from_secs(3600))),
                false => Plan::new().step(Step::sleep("rest", ms(1))).step(Step::signal("never").timeout(ms(1))),
            }
        }
    }
    struct Slow(Arc<Semaphore>);
    impl Perform<Mixed> for Slow {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            self.0.acquire().await.map_err(Failure::unsure)?.forget();
            Ok(Value::Null)
        }
    }
    let (store, model, slow) = (MemoryStore::new(), MemoryModel::new(), Arc::new(Semaphore::new(0)));
    let options = SagaOptions::default().with_calls_max(2);
    let worker = SagaWorker::new(&store).with_options(options).add(&model, Slow(slow.clone()));
    let (running, mixed) = (worker.start().await.unwrap(), Sagas::<Mixed>::new(&store));
    let calls: Vec<String> = (0..5).map(|n| format!("call{n}")).collect();
    for id in &calls {
        mixed.start(id, Mixed { calls: true }).await.unwrap();
    }
    for n in 0..200 {
        mixed.start(&n.to_string(), Mixed { calls: false }).await.unwrap();
    }
    for n in 0..200 {
        assert_eq!(mixed.ended(&n.to_string(), SOON).await.unwrap(), Some(Outcome::Compensated));
    }
    slow.add_permits(5);
    for id in &calls {
        assert_eq!(mixed.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
    }
    assert!(running.drain(SOON).await);
}

#[tokio::test]
async fn what_is_put_off_for_ever_ends_nothing_else() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = SagaWorker::new(&store).add(&model, Worker::default()).start().await.unwrap();
    let works = Sagas::<Work>::new(&store);
    works.start("off", Work(Trouble::PutOff)).await.unwrap();
    assert_eq!(works.ended("off", Duration::from_millis(100)).await.unwrap(), None);
    works.start("1", Work(Trouble::None)).await.unwrap();
    assert_eq!(works.ended("1", SOON).await.unwrap(), Some(Outcome::Completed));
    assert!(running.is_alive() && running.drain(SOON).await);
    let options = SagaOptions::default().with_calls_max(0);
    let none = SagaWorker::new(&store).with_options(options).add(&model, Worker::default()).start().await;
    assert!(none.is_err_and(|error| &*error.projection.name == "work_agenda"));
}

/// However many are put off before it, what comes after them is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_off_hides_nothing() {
    let (store, model, worker) = (MemoryStore::new(), MemoryModel::new(), Worker::default());
    let works = Sagas::<Work>::new(&store);
    let put_off = 6_000;
    for n in 0..put_off {
        works.start(&n.to_string(), Work(Trouble::PutOff)).await.unwrap();
    }
    works.start("last", Work(Trouble::None)).await.unwrap();
    let running = SagaWorker::new(&store).add(&model, worker.clone()).start().await.unwrap();
    assert_eq!(works.ended("last", SOON).await.unwrap(), Some(Outcome::Completed));
    // Those that were taken before it are perhaps not called yet.
    let until = Instant::now() + SOON;
    while worker.0.load(SeqCst) <= put_off && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(worker.0.load(SeqCst), put_off + 1, "each once");
    assert!(running.drain(SOON).await);
}

/// A saga of one call, in one of two partitions.
#[derive(Clone, Serialize, Deserialize)]
struct Ride;
impl Saga for Ride {
    const NAME: &'static str = "ride";
    const PARTITIONS: u32 = 2;
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::new("ride", ()))
    }
}
struct Horse;
impl Perform<Ride> for Horse {
    async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(Value::Null)
    }
}

#[tokio::test]
async fn a_partition_with_much_to_do_keeps_none_waiting() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let rides = Sagas::<Ride>::new(&store);
    let partition = |id: &str| Partition::of(&Journal::<Ride>::stream(&id.to_owned()).unwrap(), Ride::PARTITIONS);
    let of = |n: u32| (0..).map(|id| id.to_string()).filter(move |id| partition(id) == Partition(n));
    let (many, one) = (of(0).take(300).collect::<Vec<_>>(), of(1).next().unwrap());
    for id in many.iter().chain([&one]) {
        rides.start(id, Ride).await.unwrap();
    }
    let options = SagaOptions::default().with_calls_max(1);
    let running = SagaWorker::new(&store).with_options(options).add(&model, Horse).start().await.unwrap();
    assert_eq!(rides.ended(&one, SOON).await.unwrap(), Some(Outcome::Completed));
    let last = rides.load(many.last().unwrap()).await.unwrap();
    assert_eq!(last.standing(), Standing::Running, "there is much left to do");
    assert!(running.drain(SOON).await);
}
