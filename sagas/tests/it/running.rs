//! Sagas that run, on stores and read models in memory.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use indelible_core::{Aggregate, EventStore, Position, Repository, store::memory::MemoryStore};
use indelible_projections::{
    Envelope, OnFailure, Order, Partition, ProjectionId, ReadModel, Retry, Wants, Worker, memory::MemoryModel,
};
use indelible_sagas::{
    Act, Call, Circuit, CircuitOptions, Dependency, Failure, Journal, Outcome, Past, Perform, Plan, React, Reactor,
    Saga, SagaEvent, SagaWorker, Sagas, Standing, Step,
    testing::{Answer, Outside, Script},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::{
    bell::{Bell, BellEvent, Ring},
    trip::{Agency, Trip},
};

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn trips_are_booked() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = SagaWorker::new(&store).add(&model, Agency).start().await.unwrap();
    let trips = Sagas::<Trip>::new(&store);
    for n in 0..100 {
        trips.start(&n.to_string(), Trip { traveller: "ada".into() }).await.unwrap();
    }
    for n in 0..100 {
        assert_eq!(trips.ended(&n.to_string(), SOON).await.unwrap(), Some(Outcome::Completed));
    }
    let history = trips.history("7").await.unwrap();
    assert!(history.contains("StepDone hotel result=\"hotel of 7\""), "{history}");
    assert!(running.drain(SOON).await);
}

/// What is to be tried again in days has its time up before, and is undone, as it may have happened.
#[tokio::test]
async fn a_step_whose_time_is_up_says_so() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Stay;
    impl Saga for Stay {
        const NAME: &'static str = "stay";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            let day = Duration::from_secs(24 * 3600);
            let rarely = Retry { attempts_max: 9, pause_first: 9 * day, pause_max: 9 * day };
            Plan::new().step(Step::new("hotel", ()).undo(()).retry(rarely).timeout(day))
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let outside = Outside::new(Script::new().answers("hotel", [Answer::Lost]));
    let worker = SagaWorker::new(&store).with_clock(store.clone()).add::<Stay, _>(&model, outside.clone());
    let running = worker.start().await.unwrap();
    let stays = Sagas::<Stay>::new(&store);
    stays.start("1", Stay).await.unwrap();
    assert_eq!(stays.ended("1", Duration::from_millis(300)).await.unwrap(), None);
    store.skip(Duration::from_secs(24 * 3600));
    assert_eq!(stays.ended("1", SOON).await.unwrap(), Some(Outcome::Compensated));
    let history = stays.history("1").await.unwrap();
    assert!(history.contains("hotel failed: its time is up"), "{history}");
    assert_eq!(outside.calls(), [("stay-1/hotel".into(), 1), ("stay-1/hotel/undo".into(), 1)]);
    assert!(running.drain(SOON).await);
}

/// A timer of days, and a restart in the middle of it.
#[tokio::test]
async fn timers_outlive_their_process_and_can_be_skipped() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let worker = || SagaWorker::new(&store).with_clock(store.clone()).add(&model, Reminder);
    let running = worker().start().await.unwrap();
    let reminders = Sagas::<Remind>::new(&store);
    reminders.start("ada", Remind).await.unwrap();
    assert_eq!(reminders.ended("ada", Duration::from_millis(300)).await.unwrap(), None);
    drop(running);
    let running = worker().start().await.unwrap();
    store.skip(Duration::from_secs(3 * 24 * 3600 - 60));
    assert_eq!(reminders.ended("ada", Duration::from_millis(700)).await.unwrap(), None);
    store.skip(Duration::from_secs(60));
    assert_eq!(reminders.ended("ada", SOON).await.unwrap(), Some(Outcome::Completed));
    assert!(running.drain(SOON).await);
}

#[derive(Clone, Serialize, Deserialize)]
struct Remind;
impl Saga for Remind {
    const NAME: &'static str = "remind";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::sleep("three days", Duration::from_secs(3 * 24 * 3600))).step(Step::new("remind", ()))
    }
}
struct Reminder;
impl Perform<Remind> for Reminder {
    async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// While its circuit is open a step waits, and burns no attempt.
#[tokio::test]
async fn a_step_waits_while_its_circuit_is_open() {
    struct Bank(Dependency);
    impl Perform<Remind> for Bank {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            self.0.call(async { Ok(Value::Null) }).await
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let bank = Dependency::new("bank", 1, CircuitOptions::default().open_for(Duration::from_millis(50)));
    bank.force(Some(Circuit::Open));
    let worker = SagaWorker::new(&store).with_clock(store.clone()).add(&model, Bank(bank.clone()));
    let running = worker.start().await.unwrap();
    let reminders = Sagas::<Remind>::new(&store);
    reminders.start("ada", Remind).await.unwrap();
    store.skip(Duration::from_secs(3 * 24 * 3600));
    assert_eq!(reminders.ended("ada", Duration::from_millis(300)).await.unwrap(), None);
    bank.force(None);
    assert_eq!(reminders.ended("ada", SOON).await.unwrap(), Some(Outcome::Completed));
    let journal = reminders.journal("ada").await.unwrap();
    assert!(!journal.iter().any(|(_, event)| matches!(event, SagaEvent::AttemptFailed { .. })));
    assert!(running.drain(SOON).await);
}

#[tokio::test(start_paused = true)]
async fn a_circuit_opens_probes_and_closes() {
    let ten = Duration::from_millis(10);
    let api = Dependency::new("api", 3, CircuitOptions::default().after_failures(3));
    let fail = || api.call(async { Err::<(), _>(Failure::unsure("down")) });
    let fine = || api.call(async { Ok(()) });
    for _ in 0..2 {
        fail().await.unwrap_err();
        fine().await.unwrap();
    }
    // What it says no to is an answer.
    for _ in 0..9 {
        api.call(async { Err::<(), _>(Failure::refused("no")) }).await.unwrap_err();
    }
    assert_eq!(api.circuit(), Circuit::Closed);
    for _ in 0..3 {
        fail().await.unwrap_err();
    }
    assert_eq!(api.circuit(), Circuit::Open);
    assert!(matches!(fine().await, Err(Failure::NotNow(_))));
    tokio::time::sleep(Duration::from_secs(1) + ten).await;
    assert_eq!(api.circuit(), Circuit::HalfOpen);
    fail().await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(1) + ten).await;
    assert_eq!(api.circuit(), Circuit::Open, "twice as long the second time");
    tokio::time::sleep(Duration::from_secs(1)).await;
    fine().await.unwrap();
    assert_eq!(api.circuit(), Circuit::HalfOpen);
    fine().await.unwrap();
    assert_eq!(api.circuit(), Circuit::Closed);
    // One that is given up has failed, and one that is slow.
    for _ in 0..3 {
        let never = api.call(std::future::pending::<Result<(), Failure>>());
        tokio::time::timeout(ten, never).await.unwrap_err();
    }
    assert_eq!(api.circuit(), Circuit::Open);
    api.force(Some(Circuit::Closed));
    fine().await.unwrap();
    // No more at once than it takes.
    let slow = || {
        api.call(async {
            tokio::time::sleep(ten).await;
            Ok(())
        })
    };
    let (a, b, c, d) = tokio::join!(slow(), slow(), slow(), slow());
    assert!(a.is_ok() && b.is_ok() && c.is_ok() && matches!(d, Err(Failure::NotNow(_))));
}

/// Answers to calls from before it opened, and calls that were not tried, say nothing of whether it is up again.
#[tokio::test(start_paused = true)]
async fn a_circuit_closes_by_its_probes_alone() {
    let api = Dependency::new("api", 9, CircuitOptions::default().after_failures(3));
    let old = || {
        api.call(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        })
    };
    let opens = async {
        for _ in 0..3 {
            api.call(async { Err::<(), _>(Failure::unsure("down")) }).await.unwrap_err();
        }
        assert_eq!(api.circuit(), Circuit::Open);
    };
    let (first, second, ()) = tokio::join!(old(), old(), opens);
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(api.circuit(), Circuit::HalfOpen, "nobody has tried");
    for _ in 0..5 {
        let not_now = api.call(async { Err::<(), _>(Failure::NotNow(Duration::from_secs(1))) }).await;
        assert_eq!(not_now, Err(Failure::NotNow(Duration::from_secs(1))));
    }
    assert_eq!(api.circuit(), Circuit::HalfOpen, "nobody got through");
    for _ in 0..2 {
        api.call(async { Ok(()) }).await.unwrap();
    }
    assert_eq!(api.circuit(), Circuit::Closed);
}

/// A saga that is a step of another.
#[tokio::test]
async fn a_child_is_a_step_of_its_parent() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Parent(bool);
    impl Saga for Parent {
        const NAME: &'static str = "parent";
        type Effect = bool;
        fn plan(&self, _: &Past) -> Plan<bool> {
            Plan::new().step(Step::new("child", self.0).undo(true))
        }
    }
    #[derive(Clone, Serialize, Deserialize)]
    struct Child(bool);
    impl Saga for Child {
        const NAME: &'static str = "child";
        type Effect = bool;
        fn plan(&self, _: &Past) -> Plan<bool> {
            Plan::new().step(Step::sleep("rest", Duration::from_millis(200))).step(Step::new("work", self.0))
        }
    }
    struct Home(Sagas<Child>);
    impl Perform<Parent> for Home {
        async fn perform(&self, works: bool, call: &Call) -> Result<Value, Failure> {
            let id = format!("of-{}", call.saga());
            match call.act() {
                Act::Do => self.0.child(call, &id, Child(works)).await,
                Act::Undo => self.0.cancel_child(call, &id).await,
            }
        }
    }
    impl Perform<Child> for Home {
        async fn perform(&self, works: bool, _: &Call) -> Result<Value, Failure> {
            if works { Ok(Value::Null) } else { Err(Failure::refused("it doesn't work")) }
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let home = || Home(Sagas::new(&store));
    let worker = SagaWorker::new(&store).add::<Parent, _>(&model, home()).add::<Child, _>(&model, home());
    let running = worker.start().await.unwrap();
    let parents = Sagas::<Parent>::new(&store);
    parents.start("well", Parent(true)).await.unwrap();
    parents.start("badly", Parent(false)).await.unwrap();
    assert_eq!(parents.ended("well", SOON).await.unwrap(), Some(Outcome::Completed));
    assert_eq!(parents.ended("badly", SOON).await.unwrap(), Some(Outcome::Compensated));
    parents.start("cancelled", Parent(true)).await.unwrap();
    let children = Sagas::<Child>::new(&store);
    while children.load("of-cancelled").await.unwrap().standing() == Standing::NotStarted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    parents.cancel("cancelled", "it isn't wanted").await.unwrap();
    assert_eq!(parents.ended("cancelled", SOON).await.unwrap(), Some(Outcome::Compensated));
    assert_eq!(children.load("of-cancelled").await.unwrap().standing(), Standing::Ended(Outcome::Compensated));
    assert!(running.drain(SOON).await);
}

/// One event whose time has not come has few others done again.
#[tokio::test]
async fn a_reactor_that_waits_repeats_little() {
    #[derive(Clone, Default)]
    struct Waits(Arc<Mutex<HashMap<String, u32>>>);
    impl React for Waits {
        const NAME: &'static str = "waits";
        type Event = SagaEvent;
        fn wants() -> Wants<SagaEvent> {
            Wants::of::<Journal<Remind>>()
        }
        async fn react(&self, envelope: &Envelope<SagaEvent>, _: &str) -> Result<(), Failure> {
            let saga = envelope.recorded.stream.id().to_owned();
            let SagaEvent::Started { .. } = envelope.event else { return Ok(()) };
            let mut calls = self.0.lock().unwrap();
            let times = calls.entry(saga.clone()).and_modify(|times| *times += 1).or_insert(1);
            if saga == "20" && *times < 5 { Err(Failure::NotNow(Duration::from_secs(3600))) } else { Ok(()) }
        }
        const ON_HISTORY: bool = true;
    }
    let (store, model, waits) = (MemoryStore::new(), MemoryModel::new(), Waits::default());
    let reminders = Sagas::<Remind>::new(&store);
    let mut last = None;
    for n in 0..100 {
        last = Some(reminders.start(&n.to_string(), Remind).await.unwrap().token());
    }
    let running = Worker::new(&store).add(&model, Reactor(waits.clone())).start().await.unwrap();
    running.wait_for(&last.unwrap(), SOON).await.unwrap();
    let calls = waits.0.lock().unwrap().clone();
    assert_eq!((calls.len(), calls["20"]), (100, 5));
    let others = calls.iter().filter(|(saga, _)| *saga != "20");
    let again: Vec<_> = others.filter(|(_, times)| **times > 1).collect();
    assert!(again.len() < 16 && again.iter().all(|(_, times)| **times == 2), "{again:?}");
    assert!(running.drain(SOON).await);
}

/// A slow call in one partition of a reactor holds up none in another.
#[tokio::test]
async fn a_slow_reaction_holds_up_no_other_partition() {
    #[derive(Clone)]
    struct Waits(Arc<Semaphore>, Arc<Mutex<Vec<String>>>);
    impl React for Waits {
        const NAME: &'static str = "slow";
        const ORDER: Order = Order::PerStream { partitions: 2 };
        const ON_HISTORY: bool = true;
        const DEADLINE: Duration = Duration::from_secs(3600);
        type Event = SagaEvent;
        fn wants() -> Wants<SagaEvent> {
            Wants::types::<Journal<Remind>>([SagaEvent::STARTED])
        }
        async fn react(&self, envelope: &Envelope<SagaEvent>, _: &str) -> Result<(), Failure> {
            if Partition::of(&envelope.recorded.stream, 2) == Partition(0) {
                self.0.acquire().await.map_err(Failure::unsure)?.forget();
            }
            self.1.lock().unwrap().push(envelope.recorded.stream.id().to_owned());
            Ok(())
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let (permits, seen) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let running = Worker::new(&store).add(&model, Reactor(Waits(permits.clone(), seen.clone()))).start().await.unwrap();
    let reminders = Sagas::<Remind>::new(&store);
    let partition = |id: &String| Partition::of(&Journal::<Remind>::stream(id).unwrap(), 2);
    let (slow, quick): (Vec<_>, Vec<_>) = (0..40).map(|n| n.to_string()).partition(|id| partition(id) == Partition(0));
    // Appended one by one, and seen to: the slow one is at work all the time.
    reminders.start(&slow[0], Remind).await.unwrap();
    for (id, behind) in quick.iter().zip(&slow[1..]) {
        reminders.start(id, Remind).await.unwrap();
        reminders.start(behind, Remind).await.unwrap();
        let until = tokio::time::Instant::now() + SOON;
        while !seen.lock().unwrap().contains(id) {
            assert!(tokio::time::Instant::now() < until, "{id} waits behind {}: {:?}", slow[0], seen.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    permits.add_permits(40);
    let head = store.head().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    let mut reacted = seen.lock().unwrap().clone();
    let pairs = quick.len().min(slow.len() - 1);
    let mut expected = [&slow[..=pairs], &quick[..pairs]].concat();
    reacted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(reacted, expected, "each once");
    assert!(running.drain(SOON).await);
}

/// A reactor sees each event of a stream in order, at least once, none of history, and parks what it can't react to.
#[tokio::test]
async fn reactors_react_in_order_and_not_to_history() {
    type Heard = Arc<Mutex<Vec<(String, u64, String)>>>;
    struct Ear(Heard, Dependency);
    impl React for Ear {
        const NAME: &'static str = "ear";
        const ON_FAILURE: OnFailure = OnFailure::PARK;
        const RETRY: Retry = Retry { pause_first: Duration::from_millis(1), ..Retry::DEFAULT };
        type Event = BellEvent;
        fn wants() -> Wants<BellEvent> {
            Wants::of::<Bell>()
        }
        async fn react(&self, envelope: &Envelope<BellEvent>, key: &str) -> Result<(), Failure> {
            let BellEvent::Rung { times } = envelope.event;
            let bell = envelope.recorded.stream.id().to_owned();
            if bell == "cracked" && times == 5 {
                return Err(Failure::refused("it is cracked"));
            }
            let heard = async {
                self.0.lock().unwrap().push((bell, times, key.to_owned()));
                Ok(())
            };
            self.1.call(heard).await
        }
    }
    let (store, model, heard) = (MemoryStore::new(), MemoryModel::new(), Heard::default());
    let bells = Repository::<Bell>::new(&store);
    let names = ["north", "south", "cracked"];
    let ring = async || {
        let mut last = None;
        for name in names.iter().cycle().take(12) {
            last = Some(bells.execute(*name, Ring).await.unwrap().token());
        }
        last.unwrap()
    };
    ring().await;
    let air = Dependency::new("air", 1, CircuitOptions::default());
    air.force(Some(Circuit::Open));
    let running = Worker::new(&store).add(&model, Reactor(Ear(heard.clone(), air.clone()))).start().await.unwrap();
    let end = ring().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(heard.lock().unwrap().len(), 0, "no history, and nothing while the circuit is open");
    air.force(None);
    running.wait_for(&end, SOON).await.unwrap();
    while running.status()[0].1[0].looked_to.position < end.position {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let heard = heard.lock().unwrap().clone();
    for name in ["north", "south"] {
        let mut times: Vec<u64> = heard.iter().filter(|(bell, ..)| bell == name).map(|(_, times, _)| *times).collect();
        times.dedup();
        let first = times.iter().rposition(|times| *times == 5).unwrap();
        assert_eq!(times[first..], [5, 6, 7, 8], "{name}, from its last beginning on");
    }
    assert!(heard.iter().all(|(bell, ..)| bell != "cracked"), "they wait behind the one that can't be reacted to");
    let letters = model.letters(&ProjectionId::of::<Reactor<Ear>>(), None, Position::START, 9).await.unwrap();
    assert_eq!(letters.len(), 4);
    let keys: HashSet<_> = heard.iter().map(|(bell, times, key)| (bell, times, key)).collect();
    assert_eq!(keys.len(), 8, "the same key each time");
    assert!(running.drain(SOON).await);
}
