//! What an overview says of sagas whose steps are side by side.

use std::time::Duration;

use indelible_core::{CommandContext, EventStore, store::memory::MemoryStore};
use indelible_projections::{ReadTables, Running, Waited, Worker, memory::MemoryModel};
use indelible_sagas::{
    Act, Failure, Outcome, Past, Plan, Saga, SagaEvent, Sagas, Step, Tell,
    overview::{COUNTS, Count, Overview, STANDINGS},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Serialize, Deserialize)]
struct House;
impl Saga for House {
    const NAME: &'static str = "house";
    type Effect = String;
    fn plan(&self, _: &Past) -> Plan<String> {
        let build = |what: &'static str| Step::new(what, what.into()).undo(format!("tear down {what}"));
        Plan::new().side_by_side([build("walls"), build("roof"), Step::signal("permit")])
    }
}

/// What is done by hand here, a worker does otherwise.
struct Site {
    store: MemoryStore,
    houses: Sagas<House>,
    model: MemoryModel,
    running: Running,
}

impl Site {
    async fn does(&self, id: &str, step: &str, act: Act, attempt: u32, result: Result<Value, Failure>) {
        let tell = Tell::Outcome { step: step.into(), act, attempt, result };
        self.houses.tell(CommandContext::new(), id, tell).await.unwrap();
    }

    /// All counts, without durations.
    async fn counts(&self) -> Vec<(String, u64)> {
        let head = self.store.head().await.unwrap();
        assert_eq!(self.running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
        let rows = self.model.query::<Overview<House>>().unwrap().scan(&COUNTS, .., 100).unwrap();
        rows.into_iter().map(|((doing, step), count)| (format!("{doing} {step}"), count.sagas)).collect()
    }
}

fn counted(counts: &[(&str, u64)]) -> Vec<(String, u64)> {
    counts.iter().map(|(place, sagas)| (place.to_string(), *sagas)).collect()
}

#[tokio::test]
async fn steps_side_by_side_count_each() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = Worker::new(&store).add(&model, Overview::<House>::new()).start().await.unwrap();
    let site = Site { houses: Sagas::new(&store), store, model, running };
    let (ok, no) = (|| Ok(Value::Null), || Err(Failure::refused("no")));
    site.houses.start("1", House).await.unwrap();
    site.houses.start("2", House).await.unwrap();
    let both = counted(&[("running ", 2), ("running roof", 2), ("running walls", 2), ("waiting permit", 2)]);
    assert_eq!(site.counts().await, both);

    // The one that began last is done, and the others are still there.
    site.houses.signal("1", "permit", &()).await.unwrap();
    site.does("1", "roof", Act::Do, 1, ok()).await;
    let through = [("done permit", 1), ("done roof", 1)];
    let left = [("running ", 2), ("running roof", 1), ("running walls", 2), ("waiting permit", 1)];
    assert_eq!(site.counts().await, counted(&[&through[..], &left].concat()));
    // Each since it began.
    let journal = site.houses.journal("1").await.unwrap();
    let began =
        journal.iter().find(|(_, event)| matches!(event, SagaEvent::StepStarted { step, .. } if step == "walls"));
    let view = site.model.query::<Overview<House>>().unwrap();
    let walls = view.get(&STANDINGS, &("1".into(), "walls".into())).unwrap().unwrap();
    assert_eq!(walls.since, began.unwrap().0.recorded_at);
    assert_eq!(view.get(&STANDINGS, &("1".into(), "roof".into())).unwrap(), None);
    site.does("1", "walls", Act::Do, 1, ok()).await;
    let through = [through[0], through[1], ("done walls", 1)];
    let left = [("running ", 1), ("running roof", 1), ("running walls", 1), ("waiting permit", 1)];
    assert_eq!(site.counts().await, counted(&[&[("completed ", 1)], &through[..], &left].concat()));

    // The other is undone, but for its walls, which need someone.
    site.does("2", "walls", Act::Do, 1, ok()).await;
    site.does("2", "roof", Act::Do, 1, no()).await;
    let through = [through[0], through[1], ("done walls", 2)];
    let undone = [&[("compensating ", 1), ("compensating walls", 1), ("completed ", 1)], &through[..]].concat();
    assert_eq!(site.counts().await, counted(&undone));
    site.does("2", "walls", Act::Undo, 1, no()).await;
    let stuck = [&[("completed ", 1)], &through[..], &[("stuck ", 1), ("stuck walls", 1)]].concat();
    assert_eq!(site.counts().await, counted(&stuck));
    site.houses.retry("2").await.unwrap();
    assert_eq!(site.counts().await, counted(&undone));
    site.does("2", "walls", Act::Undo, 2, ok()).await;
    let ended = [&[("compensated ", 1), ("completed ", 1)], &through[..], &[("undone walls", 1)]].concat();
    assert_eq!(site.counts().await, counted(&ended));

    // How long the walls took, by the journals of both; and the sagas.
    let mut walls = Count { sagas: 2, took_ms: 0 };
    for id in ["1", "2"] {
        let journal = site.houses.journal(id).await.unwrap();
        let at = |is: fn(&SagaEvent) -> bool| journal.iter().find(|(_, event)| is(event)).unwrap().0.recorded_at;
        let began = at(|event| matches!(event, SagaEvent::StepStarted { step, .. } if step == "walls"));
        let done = at(|event| matches!(event, SagaEvent::StepDone { step, .. } if step == "walls"));
        walls.took_ms += done.since(began).as_millis() as u64;
    }
    let view = site.model.query::<Overview<House>>().unwrap();
    assert_eq!(view.get(&COUNTS, &("done".into(), "walls".into())).unwrap(), Some(walls));
    for (id, outcome, doing) in [("1", Outcome::Completed, "completed"), ("2", Outcome::Compensated, "compensated")] {
        let journal = site.houses.journal(id).await.unwrap();
        let ((first, _), (last, event)) = (journal.first().unwrap(), journal.last().unwrap());
        assert_eq!(*event, SagaEvent::Ended { outcome });
        let took_ms = last.recorded_at.since(first.recorded_at).as_millis() as u64;
        let view = site.model.query::<Overview<House>>().unwrap();
        let count = view.get(&COUNTS, &(doing.into(), String::new())).unwrap();
        assert_eq!(count, Some(Count { sagas: 1, took_ms }));
        assert_eq!(view.scan(&STANDINGS, .., 9).unwrap(), []);
    }
}

/// Where an operator has it undone, skipped or given up, nothing of it stays behind.
#[tokio::test]
async fn what_an_operator_decides_leaves_nobody_stuck() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Move;
    impl Saga for Move {
        const NAME: &'static str = "move";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().pivot(Step::new("sell", ()).undo(())).side_by_side([Step::new("buy", ()), Step::signal("keys")])
        }
    }
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let running = Worker::new(&store).add(&model, Overview::<Move>::new()).start().await.unwrap();
    let moves = Sagas::<Move>::new(&store);
    let tell = async |id: &str, step: &str, result| {
        let tell = Tell::Outcome { step: step.into(), act: Act::Do, attempt: 1, result };
        moves.tell(CommandContext::new(), id, tell).await.unwrap();
    };
    let counts = async || {
        running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
        let rows = model.query::<Overview<Move>>().unwrap().scan(&COUNTS, .., 100).unwrap();
        rows.into_iter().map(|((doing, step), count)| (format!("{doing} {step}"), count.sagas)).collect::<Vec<_>>()
    };
    for id in ["skipped", "undone", "given up"] {
        moves.start(id, Move).await.unwrap();
        tell(id, "sell", Ok(Value::Null)).await;
        tell(id, "buy", Err(Failure::refused("sold"))).await;
        let counts = counts().await;
        assert!(
            counts.contains(&("failed buy".into(), 1)) && counts.contains(&("waiting keys".into(), 1)),
            "{counts:?}"
        );
        moves.signal(id, "keys", &()).await.unwrap();
    }
    let through = [("done keys", 3), ("done sell", 3)];
    assert_eq!(counts().await, counted(&[&through[..], &[("stuck ", 3), ("stuck buy", 3)]].concat()));
    let (journal, view) = (moves.journal("skipped").await.unwrap(), model.query::<Overview<Move>>().unwrap());
    let came = journal.iter().find(|(_, event)| matches!(event, SagaEvent::StepStarted { step, .. } if step == "buy"));
    let stuck = view.get(&STANDINGS, &("skipped".into(), "buy".into())).unwrap().unwrap();
    assert_eq!(stuck.started, came.unwrap().0.recorded_at);
    moves.skip("skipped", "rented").await.unwrap();
    moves.compensate("undone", "not worth it").await.unwrap();
    moves.give_up("given up", "stays").await.unwrap();
    let left = [("compensating ", 1), ("compensating sell", 1), ("completed ", 1)];
    assert_eq!(counts().await, counted(&[&left, &through[..], &[("given up ", 1)]].concat()));
}
