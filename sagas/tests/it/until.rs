//! Steps that wait for a moment in time.

use std::time::Duration;

use indelible_core::{Timestamp, store::memory::MemoryStore};
use indelible_projections::memory::MemoryModel;
use indelible_sagas::{
    Call, Failure, Outcome, Past, Perform, Plan, Saga, SagaWorker, Sagas, Step,
    testing::{Scenario, crash_everywhere, given},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A meeting, of which one is reminded when it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Meeting {
    begins: Timestamp,
}
impl Saga for Meeting {
    const NAME: &'static str = "meeting";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::until("begin", self.begins)).step(Step::new("remind", ()))
    }
}
struct Reminder;
impl Perform<Meeting> for Reminder {
    async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// Whatever its process does, a step waits until then, and no longer; and not at all for what has been.
#[tokio::test]
async fn a_step_waits_until_then() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let worker = || SagaWorker::new(&store).with_clock(store.clone()).add(&model, Reminder);
    let (running, meetings) = (worker().start().await.unwrap(), Sagas::<Meeting>::new(&store));
    meetings.start("gone", Meeting { begins: Timestamp::from_micros(0).unwrap() }).await.unwrap();
    assert_eq!(meetings.ended("gone", SOON).await.unwrap(), Some(Outcome::Completed));
    meetings.start("1", Meeting { begins: store.now() + 3 * DAY }).await.unwrap();
    assert_eq!(meetings.ended("1", Duration::from_millis(200)).await.unwrap(), None);
    drop(running);
    let running = worker().start().await.unwrap();
    store.skip(3 * DAY - Duration::from_secs(60));
    assert_eq!(meetings.ended("1", Duration::from_millis(700)).await.unwrap(), None);
    store.skip(Duration::from_secs(60));
    assert_eq!(meetings.ended("1", SOON).await.unwrap(), Some(Outcome::Completed));
    assert!(running.drain(SOON).await);
}

/// A night, after which one goes on.
#[derive(Clone, Serialize, Deserialize)]
struct Night;
impl Saga for Night {
    const NAME: &'static str = "night";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::sleep("sleep", DAY / 3)).step(Step::new("wake", ()))
    }
}
struct Alarm;
impl Perform<Night> for Alarm {
    async fn perform(&self, (): (), _: &Call) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// What begins when time was skipped waits as long as what began before.
#[tokio::test]
async fn what_begins_when_time_was_skipped_waits_as_long_as_ever() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = SagaWorker::new(&store).with_clock(store.clone()).add(&model, Alarm);
    let (running, nights) = (running.start().await.unwrap(), Sagas::<Night>::new(&store));
    for id in ["first", "second"] {
        nights.start(id, Night).await.unwrap();
        store.skip(DAY / 4);
        assert_eq!(nights.ended(id, Duration::from_millis(500)).await.unwrap(), None, "{id}");
        store.skip(DAY / 4);
        assert_eq!(nights.ended(id, SOON).await.unwrap(), Some(Outcome::Completed), "{id}");
    }
    assert!(running.drain(SOON).await);
}

#[tokio::test]
async fn what_is_waited_for_survives_crashes() {
    let meeting = Meeting { begins: Timestamp::from_micros(0).unwrap() + 3 * DAY };
    given(meeting.clone()).then_waits(["begin"]).when_waited("begin").then_does([("remind", ())]);
    let report = crash_everywhere(&Scenario::new(meeting), usize::MAX).await;
    assert!(report.faults.is_empty() && report.seen["timer"] == 1, "{report}:\n{}", report.faults.join("\n"));
}
