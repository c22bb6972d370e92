//! What journals, keys and timeouts come to, on stores and read models in memory.

use std::time::Duration;

use indelible_core::{
    Append, AppendOutcome, Category, CommandError, ContentType, EventStore, EventType, ExpectedVersion, NewEvent,
    StoreError, StreamId, store::memory::MemoryStore,
};
use indelible_projections::{Partition, Waited, Worker, memory::MemoryModel};
use indelible_sagas::{
    Act, AgendaModel, Call, Failure, Outcome, Past, Perform, Plan, Saga, SagaWorker, Sagas, Standing, Step, Work,
    overview::Overview,
    testing::{Answer, Outside, Script},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::trip::Trip;

const SOON: Duration = Duration::from_secs(20);

/// Of what was under way when a saga was given up nothing stays in the agenda.
#[tokio::test]
async fn what_is_given_up_leaves_nothing_due() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Patient;
    impl Saga for Patient {
        const NAME: &'static str = "patient";
        const PARTITIONS: u32 = 1;
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            let day = Duration::from_secs(24 * 3600);
            Plan::new().side_by_side([Step::signal("letter").timeout(day), Step::sleep("rest", day)])
        }
    }
    struct Nobody;
    impl Perform<Patient> for Nobody {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            Ok(Value::Null)
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = SagaWorker::new(&store).add(&model, Nobody).start().await.unwrap();
    let sagas = Sagas::<Patient>::new(&store);
    let due = async |count| {
        let until = Instant::now() + SOON;
        let at_all = async || model.earliest::<Patient>(Partition(0), Work::Timer, None, 9).await.unwrap().0;
        while at_all().await.len() != count {
            assert!(Instant::now() < until, "{:?}", at_all().await);
            sleep(Duration::from_millis(10)).await;
        }
    };
    sagas.start("ada", Patient).await.unwrap();
    due(2).await;
    sagas.give_up("ada", "moved away").await.unwrap();
    due(0).await;
    assert!(running.drain(SOON).await);
}

/// An operator's retry gives a step its whole time, and no more.
#[tokio::test]
async fn a_step_that_is_tried_again_has_its_timeout_again() {
    const HOUR: Duration = Duration::from_secs(3600);
    #[derive(Clone, Serialize, Deserialize)]
    struct Paid;
    impl Saga for Paid {
        const NAME: &'static str = "paid";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().pivot(Step::new("pay", ())).step(Step::signal("receipt").timeout(HOUR))
        }
    }
    struct Bank;
    impl Perform<Paid> for Bank {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            Ok(Value::Null)
        }
    }
    // The worker's clock is one of its own, as a database's is.
    let (store, model, clock) = (MemoryStore::new(), MemoryModel::new(), MemoryStore::new());
    let running = SagaWorker::new(&store).with_clock(clock.clone()).add(&model, Bank).start().await.unwrap();
    let paid = Sagas::<Paid>::new(&store);
    let stuck = async || {
        let receipt = Standing::NeedsIntervention { step: "receipt".into(), act: Act::Do };
        let is_stuck = paid.until("ada", SOON, |paid| paid.standing() == receipt).await.unwrap();
        assert!(is_stuck, "{}", paid.history("ada").await.unwrap());
    };
    paid.start("ada", Paid).await.unwrap();
    assert!(paid.until("ada", SOON, |paid| paid.past().is_done("pay")).await.unwrap());
    clock.skip(HOUR);
    stuck().await;
    // The retry is recorded at the store's time, an hour before the worker's.
    clock.skip(HOUR);
    paid.retry("ada").await.unwrap();
    stuck().await;
    assert!(running.drain(SOON).await);
}

/// A journal that can't be read, by whatever fault, stops no other saga of its partition.
#[tokio::test]
async fn an_unreadable_journal_stops_no_other() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Alone;
    impl Saga for Alone {
        const NAME: &'static str = "alone";
        const PARTITIONS: u32 = 1;
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().step(Step::new("work", ()))
        }
    }
    struct Works;
    impl Perform<Alone> for Works {
        async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
            Ok(Value::Null)
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let stream = StreamId::new(&Category::from_static("alone"), "bad").unwrap();
    let bad = NewEvent::new(EventType::new("Signalled").unwrap(), ContentType::JSON, "[");
    store.append(Append::to(stream, ExpectedVersion::Any, [bad])).await.unwrap();
    let sagas = Sagas::<Alone>::new(&store);
    let started = sagas.start("good", Alone).await.unwrap();
    let running = SagaWorker::new(&store).add(&model, Works).start().await.unwrap();
    let seen = Worker::new(&store).add(&model, Overview::<Alone>::new()).start().await.unwrap();
    assert_eq!(sagas.ended("good", SOON).await.unwrap(), Some(Outcome::Completed));
    assert_eq!(seen.wait_for(&started.token(), SOON).await.unwrap(), Waited::Reached);
    assert!(running.drain(SOON).await && seen.drain(SOON).await);
}

/// One event may both start a saga and tell it something, each once.
#[tokio::test]
async fn an_event_tells_a_saga_each_thing_once() {
    let store = MemoryStore::new();
    let stream = StreamId::new(&Category::from_static("order"), "7").unwrap();
    let event = NewEvent::new(EventType::new("Ordered").unwrap(), ContentType::JSON, "{}");
    let appended = store.append(Append::to(stream, ExpectedVersion::Any, [event])).await.unwrap();
    let AppendOutcome::Appended(appended) = appended else { panic!("{appended:?}") };
    let trips = Sagas::<Trip>::new(&store);
    let because = || Sagas::<Trip>::because(&appended.events[0]).unwrap();
    for again in [false, true] {
        assert_eq!(
            trips.start_in(because(), "7", Trip { traveller: "ada".into() }).await.unwrap().is_repeated(),
            again
        );
        for name in ["a", "b"] {
            assert_eq!(trips.signal_in(because(), "7", name, &1).await.unwrap().is_repeated(), again, "{name}");
        }
    }
    assert_eq!(trips.load("7").await.unwrap().past().signalled::<u8>("b"), Some(1));
}

/// What is done about different things has different keys, whatever they are called.
#[tokio::test]
async fn keys_are_told_apart() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Named(String);
    impl Saga for Named {
        const NAME: &'static str = "named";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().step(Step::new(self.0.clone(), ()).undo(())).step(Step::new("fail", ()))
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let outside = Outside::new(Script::new().answers("fail", [Answer::Refused]));
    let running = SagaWorker::new(&store).add::<Named, _>(&model, outside.clone()).start().await.unwrap();
    let sagas = Sagas::<Named>::new(&store);
    for (id, step) in [("1", "pay"), ("1/pay", "undo"), ("1%2Fpay", "undo")] {
        sagas.start(id, Named(step.into())).await.unwrap();
        assert_eq!(sagas.ended(id, SOON).await.unwrap(), Some(Outcome::Compensated));
    }
    assert!(running.drain(SOON).await);
    assert_eq!(outside.happened().len(), 6, "{:?}", outside.happened());
    assert!(outside.happened().contains("named-1/pay/undo"));
}

/// A store that has no room, or is away, has done nothing, so no attempt is counted.
#[test]
fn a_store_that_has_written_nothing_is_tried_later() {
    for error in [StoreError::Overloaded { what: "the queue".into() }, StoreError::unavailable("a test", "it is away")]
    {
        let failure = Failure::from(CommandError::<std::convert::Infallible>::Store(error));
        assert_eq!(failure, Failure::NotNow(Duration::from_secs(1)));
    }
}
