//! A saga among aggregates and other sagas: how events find it, and what its history tells of them.

use std::{convert::Infallible, time::Duration};

use futures::TryStreamExt;
use indelible_core::{
    Aggregate, Apply, CommandContext, Context, Event, Events, Handle, Repository, store::memory::MemoryStore,
};
use indelible_projections::{Envelope, Wants, Worker, memory::MemoryModel};
use indelible_sagas::{
    Act, Call, Failure, Outcome, Past, Perform, Plan, React, Reactor, Saga, SagaWorker, Sagas, Step,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(20);

/// Something is done in a place: aggregates of three kinds that know nothing of each other, or of sagas.
macro_rules! place {
    ($place:ident, $event:ident::$done:ident, $category:literal) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
        enum $event {
            $done,
        }
        #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
        #[aggregate(category = $category)]
        struct $place {}
        impl Apply for $place {
            type Event = $event;
            fn apply(&mut self, _: &$event) {}
        }
        impl Handle<u32> for $place {
            type Error = Infallible;
            fn handle(&self, times: &u32, _: &Context<Self>) -> Result<Events<$event>, Infallible> {
                Ok(Events::from(vec![$event::$done; *times as usize]))
            }
        }
    };
}
place!(Order, OrderEvent::Placed, "order");
place!(Stock, StockEvent::Reserved, "stock");
place!(Picking, PickingEvent::Picked, "picking");

/// What an order leads to: a reservation, the picking that follows from that, and a permit, which is a saga of its own.
#[derive(Clone, Serialize, Deserialize)]
struct Fulfilment {
    permit: bool,
}
impl Saga for Fulfilment {
    const NAME: &'static str = "fulfilment";
    type Effect = bool;
    fn plan(&self, _: &Past) -> Plan<bool> {
        let plan = Plan::new().step(Step::new("reserve", false)).step(Step::signal("picked"));
        if self.permit { plan.step(Step::new("permit", true)) } else { plan }
    }
}
#[derive(Clone, Serialize, Deserialize)]
struct Permit;
impl Saga for Permit {
    const NAME: &'static str = "permit";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::new("stamp", ()).undo(())).step(Step::new("post", ()))
    }
}

struct Office {
    stock: Repository<Stock>,
    permits: Sagas<Permit>,
}
impl Perform<Fulfilment> for Office {
    async fn perform(&self, is_permit: bool, call: &Call) -> Result<Value, Failure> {
        match is_permit {
            true => self.permits.child(call, "of-7", Permit).await,
            false => {
                let done = self.stock.execute("tea", 2).with(call.command()?).await?;
                Ok(json!(done.events().len()))
            }
        }
    }
}
impl Perform<Permit> for Office {
    async fn perform(&self, (): (), call: &Call) -> Result<Value, Failure> {
        match (call.step(), call.act()) {
            ("post", _) => Err(Failure::refused("on strike")),
            (_, act) => {
                let shelf = if act == Act::Do { "paper" } else { "bin" };
                self.stock.execute(shelf, 1).with(call.command()?).await?;
                Ok(Value::Null)
            }
        }
    }
}

/// Reactors: an order starts a saga; what was reserved is picked; and what was picked is told to whichever saga it belongs
/// to, by what it is correlated with.
struct OnOrders(Sagas<Fulfilment>);
impl React for OnOrders {
    const NAME: &'static str = "on_orders";
    type Event = OrderEvent;
    fn wants() -> Wants<OrderEvent> {
        Wants::of::<Order>()
    }
    async fn react(&self, envelope: &Envelope<OrderEvent>, _: &str) -> Result<(), Failure> {
        let because = Sagas::<Fulfilment>::because(&envelope.recorded)?;
        let id = because.correlation_id().to_string();
        self.0.start_in(because, &id, Fulfilment { permit: false }).await?;
        Ok(())
    }
}
struct OnStock(Repository<Picking>);
impl React for OnStock {
    const NAME: &'static str = "on_stock";
    type Event = StockEvent;
    fn wants() -> Wants<StockEvent> {
        Wants::of::<Stock>()
    }
    async fn react(&self, envelope: &Envelope<StockEvent>, key: &str) -> Result<(), Failure> {
        let because = CommandContext::caused_by(&envelope.recorded).with_idempotency_key(key)?;
        self.0.execute("all", 1).with(because).await?;
        Ok(())
    }
}
struct OnPicking(Sagas<Fulfilment>);
impl React for OnPicking {
    const NAME: &'static str = "on_picking";
    type Event = PickingEvent;
    fn wants() -> Wants<PickingEvent> {
        Wants::of::<Picking>()
    }
    async fn react(&self, envelope: &Envelope<PickingEvent>, _: &str) -> Result<(), Failure> {
        let because = Sagas::<Fulfilment>::because(&envelope.recorded)?;
        let id = because.correlation_id().to_string();
        match self.0.signal_in(because, &id, "picked", &envelope.recorded.version.get()).await {
            Err(error) if error.rejection().is_none() => Err(error.into()),
            // It was told before.
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn events_find_their_saga_by_correlation() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let sagas = Sagas::<Fulfilment>::new(&store);
    let office = Office { stock: Repository::new(&store), permits: Sagas::new(&store) };
    let running = SagaWorker::new(&store).add::<Fulfilment, _>(&model, office).start().await.unwrap();
    let reactors = Worker::new(&store)
        .add(&model, Reactor(OnOrders(sagas.clone())))
        .add(&model, Reactor(OnStock(Repository::new(&store))))
        .add(&model, Reactor(OnPicking(sagas.clone())));
    let reactors = reactors.start().await.unwrap();
    let orders = Repository::<Order>::new(&store);
    let mut ids = Vec::new();
    for n in 0..5 {
        let context = CommandContext::new();
        ids.push(context.correlation_id().to_string());
        orders.execute(n.to_string(), 1).with(context).await.unwrap();
    }
    let mut picked = Vec::new();
    for id in &ids {
        assert_eq!(sagas.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
        let saga = sagas.load(id).await.unwrap();
        assert_eq!(saga.correlation_id().map(|id| id.to_string()).as_ref(), Some(id));
        picked.extend(saga.past().signalled::<u64>("picked"));
    }
    // Each has heard of its own.
    picked.sort_unstable();
    picked.dedup();
    assert_eq!(picked.len(), 5, "{picked:?}");
    assert!(running.drain(SOON).await && reactors.drain(SOON).await);
}

/// What an event of another stream holds is nobody's business, also where it looks like a saga's.
#[tokio::test]
async fn a_history_does_not_tell_what_events_of_others_hold() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    enum ClaimEvent {
        Cancelled { reason: String },
    }
    #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
    #[aggregate(category = "claim")]
    struct Claim {}
    impl Apply for Claim {
        type Event = ClaimEvent;
        fn apply(&mut self, _: &ClaimEvent) {}
    }
    impl Handle<&str> for Claim {
        type Error = Infallible;
        fn handle(&self, reason: &&str, _: &Context<Self>) -> Result<Events<ClaimEvent>, Infallible> {
            Ok(ClaimEvent::Cancelled { reason: (*reason).to_owned() }.into())
        }
    }
    let store = MemoryStore::new();
    let sagas = Sagas::<Fulfilment>::new(&store);
    let started = sagas.start("7", Fulfilment { permit: false }).await.unwrap();
    let because = CommandContext::caused_by(&started.events()[0]);
    Repository::<Claim>::new(&store).execute("1", "he is ill").with(because).await.unwrap();
    let history = sagas.history("7").await.unwrap();
    assert!(history.contains("claim-1 1 Cancelled, by 1\n") && !history.contains("ill"), "{history}");
}

#[tokio::test]
async fn a_history_shows_what_led_to_a_saga_and_what_came_of_it() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let (orders, stock) = (Repository::<Order>::new(&store), Repository::<Stock>::new(&store));
    let office = || Office { stock: stock.clone(), permits: Sagas::new(&store) };
    let worker = SagaWorker::new(&store).add::<Fulfilment, _>(&model, office()).add::<Permit, _>(&model, office());
    let running = worker.start().await.unwrap();
    let sagas = Sagas::<Fulfilment>::new(&store);

    let placed = orders.execute("7", 1).await.unwrap();
    let because = Sagas::<Fulfilment>::because(&placed.events()[0]).unwrap();
    let correlation = because.correlation_id();
    // What has nothing to do with it, before and in between, is not shown.
    stock.execute("tea", 1).await.unwrap();
    sagas.start_in(because, "7", Fulfilment { permit: true }).await.unwrap();
    let until = Instant::now() + SOON;
    while !sagas.load("7").await.unwrap().past().is_done("reserve") {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(5)).await;
    }
    stock.execute("tea", 1).await.unwrap();
    let shelf: Vec<_> = stock.history("tea").unwrap().try_collect().await.unwrap();
    let picked = Repository::<Picking>::new(&store);
    let picked = picked.execute("all", 1).with(CommandContext::caused_by(&shelf[1].0)).await.unwrap();
    // A signal of another correlation, by an event that has no other part in it.
    let other = orders.execute("8", 1).await.unwrap();
    let because = Sagas::<Fulfilment>::because(&other.events()[0]).unwrap();
    sagas.signal_in(because, "7", "picked", &picked.events()[0].version.get()).await.unwrap();
    assert_eq!(sagas.ended("7", SOON).await.unwrap(), Some(Outcome::Compensated));
    assert!(running.drain(SOON).await);

    let history = sagas.history("7").await.unwrap();
    let lines = history.lines().map(|line| {
        let (position, rest) = line.trim_start().split_once(' ').unwrap();
        let (_, text) = rest.trim_start().split_once("  ").unwrap();
        format!("{position} {text}").replace(&correlation.to_string(), "C").replace(r#"correlation="C" "#, "")
    });
    let expected = r#"
1      order-7 1 Placed
3    1 Started about={"permit":true} version=1, by order-7 1
4    2   StepStarted reserve task={"effect":false}
5      stock-tea 2 Reserved, by do reserve
6      stock-tea 3 Reserved, by do reserve
7    3 StepDone reserve result=2
8    4   StepStarted picked task="signal"
10      picking-all 1 Picked, by stock-tea 2
12    5 Signalled name="picked" value=1, by order-8 1
13    6 StepDone picked result=1
14    7   StepStarted permit task={"effect":true}
15      permit-of-7 1 Started version=1, by do permit
16      permit-of-7 2 StepStarted stamp task={"effect":null}, by do permit
17      stock-paper 1 Reserved, by permit-of-7 2
18      permit-of-7 3 StepDone stamp
19      permit-of-7 4 StepStarted post task={"effect":null}
20      permit-of-7 5 StepFailed post error="on strike" maybe=false
21      permit-of-7 6 Compensating reason="post failed: on strike"
22      permit-of-7 7 UndoStarted stamp
23      stock-bin 1 Reserved, by permit-of-7 7
24      permit-of-7 8 Undone stamp
25      permit-of-7 9 Ended outcome="compensated"
26    8 StepFailed permit error="permit-of-7 was compensated" maybe=false
27    9   Compensating reason="permit failed: permit-of-7 was compensated"
28   10   Ended outcome="compensated"
"#;
    assert_eq!(lines.collect::<Vec<_>>().join("\n"), expected.trim(), "{history}");
}
