//! Workers that were thought dead, and come back.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use indelible_core::{EventStore, conformance::fault::Line, store::memory::MemoryStore};
use indelible_projections::{Partition, WorkerId, memory::MemoryModel};
use indelible_sagas::{
    AgendaModel, Call, Entry, Failure, Outcome, Past, Perform, Plan, Saga, SagaWorker, Sagas, Step, Work,
    testing::{Outside, Script},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(5);

/// A flight, and then a while in which the saga waits.
#[derive(Clone, Serialize, Deserialize)]
struct Stay;
impl Saga for Stay {
    const NAME: &'static str = "stay";
    const PARTITIONS: u32 = 1;
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        let leave = Step::signal("leave").timeout(Duration::from_secs(24 * 3600));
        Plan::new().step(Step::new("flight", ()).undo(())).step(leave)
    }
}

/// Stands still in a call, with its whole process, until something is heard; or doesn't.
struct Stalls(Outside, Option<Mutex<mpsc::Receiver<()>>>);
impl Perform<Stay> for Stalls {
    async fn perform(&self, (): (), call: &Call) -> Result<Value, Failure> {
        let answer = Perform::<Stay>::perform(&self.0, (), call).await;
        if let Some(goes_on) = &self.1 {
            goes_on.lock().unwrap().recv().unwrap();
        }
        answer
    }
}

/// One that stood still beyond its lease changes nothing, in log, journal or agenda; outside it was a repetition with the
/// same key.
#[tokio::test]
async fn a_zombie_changes_nothing() {
    let outside = Outside::new(Script::new());
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(Duration::from_secs(1)));
    let worker = |name: &str, goes_on| {
        let performer = Stalls(outside.clone(), goes_on);
        SagaWorker::new(&store).with_id(WorkerId(name.into())).add(&model, performer)
    };
    let (go_on, goes_on) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let zombie = worker("zombie", Some(Mutex::new(goes_on)));
    let zombie = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let running = zombie.start().await.unwrap();
            while stopped.try_recv().is_err() {
                sleep(MOMENT).await;
            }
            running.drain(SOON).await
        })
    });
    let (stays, until) = (Sagas::<Stay>::new(&store), Instant::now() + SOON);
    stays.start("ada", Stay).await.unwrap();
    while outside.calls().is_empty() {
        sleep(MOMENT).await;
    }
    let heir = worker("heir", None).start().await.unwrap();
    let due = async || -> Vec<Entry> {
        let due = Work::ALL.map(async |work| model.earliest::<Stay>(Partition(0), work, None, 9).await.unwrap().0);
        futures::future::join_all(due).await.concat()
    };
    // The heir has done it, and the agenda says what is waited for.
    while due().await.iter().map(|entry| entry.item.to_string()).collect::<Vec<_>>() != ["timeout leave"] {
        assert!(Instant::now() < until, "{:?}", due().await);
        sleep(MOMENT).await;
    }
    let stands = async || (store.head().await.unwrap(), stays.journal("ada").await.unwrap(), due().await);
    let before = stands().await;
    go_on.send(()).unwrap();
    stop.send(()).unwrap();
    assert!(zombie.join().unwrap(), "it comes back, and drains");
    assert_eq!(stands().await, before);
    assert_eq!(outside.calls(), [("stay-ada/flight".to_owned(), 1), ("stay-ada/flight".to_owned(), 1)]);
    assert_eq!(outside.happened().len(), 1);
    Line::clean("a worker thought dead comes back amid a call", 1, 1, 1, "log, journal and agenda are as they were")
        .print();
    stays.signal("ada", "leave", &()).await.unwrap();
    assert_eq!(stays.ended("ada", SOON).await.unwrap(), Some(Outcome::Completed));
    assert!(heir.drain(SOON).await);
}
