//! Sagas: processes over several aggregates and the world outside, which happen as a whole or are undone.
//!
//! The booking of a trip. Its plan is a pure function of what the trip is about and of what has become of its steps; its
//! effects are data.
//!
//! ```
//! use indelible_core::store::memory::MemoryStore;
//! use indelible_projections::memory::MemoryModel;
//! use indelible_sagas::{Call, Failure, Outcome, Past, Perform, Plan, Retry, Saga, SagaWorker, Sagas, Step};
//! use serde::{Deserialize, Serialize};
//! use serde_json::{Value, json};
//! use std::{collections::BTreeMap, sync::{Arc, Mutex}, time::Duration};
//!
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Trip {
//!     to: String,
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Effect {
//!     Book { what: String, to: String },
//!     Cancel { what: String },
//!     Charge { cents: u64 },
//!     Refund,
//! }
//!
//! impl Saga for Trip {
//!     const NAME: &'static str = "trip";
//!     type Effect = Effect;
//!
//!     fn plan(&self, past: &Past) -> Plan<Effect> {
//!         let book = |what: &'static str| {
//!             let effect = Effect::Book { what: what.into(), to: self.to.clone() };
//!             Step::new(what, effect).undo(Effect::Cancel { what: what.into() })
//!         };
//!         let price = |what| past.result::<u64>(what).unwrap_or_default();
//!         let cents = ["flight", "hotel", "car"].map(price).iter().sum();
//!         Plan::new()
//!             .step(book("flight").retry(Retry { attempts_max: 10, ..Retry::DEFAULT }))
//!             .side_by_side([book("hotel").retry(Retry::FOREVER).timeout(Duration::from_secs(60)), book("car")])
//!             .pivot(Step::new("pay", Effect::Charge { cents }).undo(Effect::Refund))
//!     }
//! }
//!
//! /// Brings the effects about outside, where bookings are kept by their keys, and whether they stand: one that is repeated
//! /// counts once. One is cancelled by the key that it was made under, since its answer may have been lost, or may come yet:
//! /// then it is refused.
//! #[derive(Clone, Default)]
//! struct Agency {
//!     bookings: Arc<Mutex<BTreeMap<String, bool>>>,
//! }
//!
//! impl Perform<Trip> for Agency {
//!     async fn perform(&self, effect: Effect, call: &Call) -> Result<Value, Failure> {
//!         let mut bookings = self.bookings.lock().unwrap();
//!         match effect {
//!             Effect::Book { what, to } if what == "car" && to == "Venice" => Err(Failure::refused("no cars there")),
//!             Effect::Book { .. } => match bookings.entry(call.key().into()).or_insert(true) {
//!                 true => Ok(json!(10_000)), // its price
//!                 false => Err(Failure::refused("it was cancelled")),
//!             },
//!             Effect::Cancel { .. } => Ok(json!(bookings.insert(call.step_key().into(), false))),
//!             Effect::Charge { .. } | Effect::Refund => Ok(Value::Null),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (store, model, agency) = (MemoryStore::new(), MemoryModel::new(), Agency::default());
//! let running = SagaWorker::new(&store).add(&model, agency.clone()).start().await?;
//! let trips = Sagas::<Trip>::new(&store);
//! trips.start("1", Trip { to: "Rome".into() }).await?;
//! trips.start("2", Trip { to: "Venice".into() }).await?;
//! assert_eq!(trips.ended("1", Duration::from_secs(5)).await?, Some(Outcome::Completed));
//! assert_eq!(trips.ended("2", Duration::from_secs(5)).await?, Some(Outcome::Compensated));
//! assert_eq!(agency.bookings.lock().unwrap().values().filter(|stands| **stands).count(), 3); // those of the first
//! println!("{}", trips.history("2").await?);
//! # running.drain(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! Its tests need none of that: given / when / then, and crashes at every point, in `testing`, with the feature of that name.
//! An effect may be [a command](Perform) to an aggregate, too. The crate `indelible` has all of this as `indelible::sagas`, with
//! its feature `sagas`, and what is used most at its root.
//!
//! # How it survives
//!
//! A saga's journal is a stream, and the only truth about it. What it is told (an answer, a signal, that a time has come)
//! and all that follows is one append, on the condition that the journal is as it was. What is due because of it, an effect
//! now or a timer in three days, is read off the journals into the [agenda](Agenda), a projection like any other, which
//! [workers](SagaWorker) have done. So
//!
//! - what was decided is done, after any crash: *at least once*, under the same key, so that it counts once outside;
//! - what comes twice, too late, or from a worker that was thought dead, finds that nobody waits for it, and changes
//!   nothing;
//! - a saga that fails undoes in reverse order what may have happened: what was done, and what nobody knows the outcome of.
//!   What was [refused](Failure::Refused) at once did not happen;
//! - what can be neither done nor undone [needs intervention](Standing::NeedsIntervention), by [`Sagas::retry`],
//!   [`skip`](Sagas::skip), [`compensate`](Sagas::compensate) or [`give_up`](Sagas::give_up).
//!
//! A call that was under way when its process was lost, or its partition went to another worker, may reach the outside later
//! than its compensation. Who keeps keys there should refuse one that was undone before it was done.
//!
//! # How an event finds its saga
//!
//! By the saga's id, which is up to whoever starts it: someone [by hand](Sagas::start), or a [reactor](React) that turns
//! events into [`start_in`](Sagas::start_in) and [`signal_in`](Sagas::signal_in), in the context that [`Sagas::because`]
//! makes of an event. So the id is something that later events can tell:
//!
//! - what the process is about, where they name it, as the stream of the order does [there](React);
//! - the *correlation id*, where they don't. A saga belongs to what started it, and every event of the commands that it
//!   sends carries that id, and what others do because of those, as long as they pass it on, as
//!   [`caused_by`](indelible_core::CommandContext::caused_by) does. Started by
//!   `start_in(because, &because.correlation_id().to_string(), …)`, it is found by any such event, of whatever aggregate:
//!   `signal_in(because, &because.correlation_id().to_string(), "picked", …)`.
//!
//! However often an event comes, it starts a saga once, and is one signal of a name. Signals of another correlation are as
//! good: the saga keeps its own.
//!
//! # Time
//!
//! What is due after a time is due by the log's: when that took the event which says so, and so much later. Whether that has
//! come, the system's clock says with an embedded store, and with an agenda in PostgreSQL the database's, whatever the hosts'
//! clocks say. A restart changes none of it.
//!
//! What a clock that jumps ahead passes over is due at once. When it is set back, the log's time does not follow, and
//! [goes on all the same](indelible_core::LogTime) by the time that passes, a twentieth slower: what waits, and what begins
//! to, takes as long as it should, or up to 5 % longer. So the log is ahead of the clock until that has caught up, by 3
//! minutes an hour, and by all the time in which no process has the store open: that is not counted then. With a shared
//! store, what passes is counted by each process that writes, from what it has seen of the log; one that saw nothing of a
//! clock that was ahead for a while goes by that as soon as it writes. A worker counts from the last event that it has heard
//! of: while the log is ahead and nothing is written, what waits begins anew from there when the worker is started again.
//!
//! What waits [until](Step::until) a moment is due when the clock says that it has come, whatever the log's time is.
//!
//! # A timer alone
//!
//! A reminder is a saga that waits, and then does one thing: [started](Sagas::start) it is scheduled, [cancelled](Sagas::cancel)
//! it is not done. There may be millions.
//!
//! ```
//! # use indelible_core::store::memory::MemoryStore;
//! # use indelible_projections::memory::MemoryModel;
//! # use indelible_sagas::*;
//! # use serde::{Deserialize, Serialize};
//! # use serde_json::Value;
//! # use std::{sync::{Arc, Mutex}, time::Duration};
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Reminder {
//!     invoice: String,
//! }
//!
//! impl Saga for Reminder {
//!     const NAME: &'static str = "reminder";
//!     type Effect = String;
//!     fn plan(&self, _: &Past) -> Plan<String> {
//!         let three_days = Duration::from_secs(3 * 24 * 3600);
//!         Plan::new().step(Step::sleep("not due yet", three_days)).step(Step::new("remind", self.invoice.clone()))
//!     }
//! }
//! # #[derive(Clone, Default)] struct Mail(Arc<Mutex<Vec<String>>>);
//! # impl Perform<Reminder> for Mail {
//! #     async fn perform(&self, invoice: String, _: &Call) -> Result<Value, Failure> {
//! #         self.0.lock().unwrap().push(invoice);
//! #         Ok(Value::Null)
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, model, mail) = (MemoryStore::new(), MemoryModel::new(), Mail::default());
//!
//! let reminders = Sagas::<Reminder>::new(&store);
//! reminders.start("invoice 7", Reminder { invoice: "7".into() }).await?;
//! reminders.start("invoice 8", Reminder { invoice: "8".into() }).await?;
//! reminders.cancel("invoice 7", "it was paid").await?;
//!
//! // In a test, which skips the log's time, and has the worker go by it; else three days go by.
//! let running = SagaWorker::new(&store).with_clock(store.clone()).add(&model, mail.clone()).start().await?;
//! store.skip(Duration::from_secs(3 * 24 * 3600));
//! assert_eq!(reminders.ended("invoice 8", Duration::from_secs(5)).await?, Some(Outcome::Completed));
//! assert_eq!(*mail.0.lock().unwrap(), ["8"]);
//! # assert_eq!(reminders.ended("invoice 7", Duration::from_secs(5)).await?, Some(Outcome::Compensated));
//! # running.drain(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! One that goes off while another saga waits is of this kind too. A step [beside](Plan::side_by_side) the wait starts it,
//! and when its time has come it looks whether that saga still [waits](Past::waits_for):
//!
//! ```
//! # use indelible_core::store::memory::MemoryStore;
//! # use indelible_projections::memory::MemoryModel;
//! # use indelible_sagas::*;
//! # use serde::{Deserialize, Serialize};
//! # use serde_json::Value;
//! # use std::{sync::{Arc, Mutex}, time::Duration};
//! # const HOUR: Duration = Duration::from_secs(3600);
//! # #[derive(Clone, Serialize, Deserialize)] struct Offer;
//! # #[derive(Clone, Serialize, Deserialize)] struct Nudge { offer: String }
//! impl Saga for Offer {
//! #   const NAME: &'static str = "offer";
//! #   type Effect = ();
//!     fn plan(&self, _: &Past) -> Plan<()> {
//!         let later = Step::new("nudge later", ()).retry(Retry::FOREVER); // no offer fails for want of a nudge
//!         Plan::new().side_by_side([Step::signal("accepted").timeout(24 * HOUR), later])
//!     }
//! }
//!
//! impl Saga for Nudge {
//! #   const NAME: &'static str = "nudge";
//! #   type Effect = String;
//!     fn plan(&self, _: &Past) -> Plan<String> {
//!         Plan::new().step(Step::sleep("not yet", 12 * HOUR)).step(Step::new("nudge", self.offer.clone()))
//!     }
//! }
//!
//! struct Sales {
//!     nudges: Sagas<Nudge>,
//! }
//!
//! impl Perform<Offer> for Sales {
//!     async fn perform(&self, (): (), call: &Call) -> Result<Value, Failure> {
//!         let offer = call.saga().to_owned();
//!         self.nudges.start_in(call.command()?, call.saga(), Nudge { offer }).await?;
//!         Ok(Value::Null)
//!     }
//! }
//!
//! struct Mail {
//!     offers: Sagas<Offer>,
//! #   sent: Arc<Mutex<Vec<String>>>,
//! }
//!
//! impl Perform<Nudge> for Mail {
//!     async fn perform(&self, offer: String, _: &Call) -> Result<Value, Failure> {
//!         if self.offers.load(&offer).await.map_err(Failure::unsure)?.past().waits_for("accepted") {
//!             // … send it
//! #           self.sent.lock().unwrap().push(offer);
//!         }
//!         Ok(Value::Null)
//!     }
//! }
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, model, sent) = (MemoryStore::new(), MemoryModel::new(), Arc::<Mutex<Vec<String>>>::default());
//! # let (offers, nudges) = (Sagas::<Offer>::new(&store), Sagas::<Nudge>::new(&store));
//! # let running = SagaWorker::new(&store)
//! #     .with_clock(store.clone())
//! #     .add(&model, Sales { nudges: nudges.clone() })
//! #     .add(&model, Mail { offers: offers.clone(), sent: sent.clone() })
//! #     .start()
//! #     .await?;
//! # for id in ["open", "accepted", "cancelled"] {
//! #     offers.start(id, Offer).await?;
//! #     assert!(offers.until(id, Duration::from_secs(5), |offer| offer.past().is_done("nudge later")).await?);
//! # }
//! # offers.signal("accepted", "accepted", &true).await?;
//! # offers.cancel("cancelled", "no longer for sale").await?;
//! # store.skip(12 * HOUR);
//! # for id in ["open", "accepted", "cancelled"] {
//! #     assert_eq!(nudges.ended(id, Duration::from_secs(5)).await?, Some(Outcome::Completed));
//! # }
//! # assert_eq!(*sent.lock().unwrap(), ["open"]);
//! # store.skip(12 * HOUR);
//! # assert_eq!(offers.ended("open", Duration::from_secs(5)).await?, Some(Outcome::Compensated));
//! # running.drain(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! Its twelve hours run from its own start. It can also be [cancelled](Sagas::cancel_in), by a step behind the wait. A test
//! that skips time waits before it does until what is to wait [waits](Sagas::until), and behind it for what comes of that.
//!
//! # With a coordinator, or without
//!
//! A process can also be left to its participants: [reactors](React) that turn an event of one aggregate into a command to
//! the next.
//!
//! ```
//! # use indelible_core::{*, store::memory::MemoryStore};
//! # use indelible_projections::{Envelope, Wants, Worker, memory::MemoryModel};
//! # use indelible_sagas::*;
//! # use serde::{Deserialize, Serialize};
//! # use std::{convert::Infallible, time::Duration};
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
//! # enum OrderEvent { Placed { item: String }, Accepted, Refused }
//! # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! # #[aggregate(category = "order")]
//! # struct Order { told: Option<bool> }
//! # impl Apply for Order {
//! #     type Event = OrderEvent;
//! #     fn apply(&mut self, event: &OrderEvent) {
//! #         match event {
//! #             OrderEvent::Placed { .. } => {}
//! #             OrderEvent::Accepted => self.told = Some(true),
//! #             OrderEvent::Refused => self.told = Some(false),
//! #         }
//! #     }
//! # }
//! # impl Handle<OrderEvent> for Order {
//! #     type Error = Infallible;
//! #     fn handle(&self, event: &OrderEvent, _: &Context<Self>) -> Result<Events<OrderEvent>, Infallible> { Ok(event.clone().into()) }
//! # }
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
//! # enum StockEvent { Reserved { order: String }, Lacked { order: String } }
//! # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! # #[aggregate(category = "stock")]
//! # struct Stock { is_out: bool }
//! # impl Apply for Stock { type Event = StockEvent; fn apply(&mut self, _: &StockEvent) { self.is_out = true } }
//! # struct Reserve { order: String }
//! # impl Handle<Reserve> for Stock {
//! #     type Error = Infallible;
//! #     fn handle(&self, Reserve { order }: &Reserve, _: &Context<Self>) -> Result<Events<StockEvent>, Infallible> {
//! #         let order = order.clone();
//! #         Ok(if self.is_out { StockEvent::Lacked { order } } else { StockEvent::Reserved { order } }.into())
//! #     }
//! # }
//! /// What is done because of an event is done once, however often that comes.
//! fn because<E>(envelope: &Envelope<E>, key: &str) -> Result<CommandContext, InvalidInput> {
//!     CommandContext::caused_by(&envelope.recorded).with_idempotency_key(key)
//! }
//!
//! /// An order that is placed reserves a piece …
//! struct OnOrders(Repository<Stock>);
//!
//! impl React for OnOrders {
//!     const NAME: &'static str = "on_orders";
//!     type Event = OrderEvent;
//!     fn wants() -> Wants<OrderEvent> {
//!         Wants::of::<Order>()
//!     }
//!     async fn react(&self, envelope: &Envelope<OrderEvent>, key: &str) -> Result<(), Failure> {
//!         if let OrderEvent::Placed { item } = &envelope.event {
//!             let order = envelope.recorded.stream.id().to_owned();
//!             self.0.execute(item, Reserve { order }).with(because(envelope, key)?).await?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! /// … and is told whether there was one.
//! struct OnStock(Repository<Order>);
//!
//! impl React for OnStock {
//!     const NAME: &'static str = "on_stock";
//!     type Event = StockEvent;
//!     fn wants() -> Wants<StockEvent> {
//!         Wants::of::<Stock>()
//!     }
//!     async fn react(&self, envelope: &Envelope<StockEvent>, key: &str) -> Result<(), Failure> {
//!         let (order, told) = match &envelope.event {
//!             StockEvent::Reserved { order } => (order, OrderEvent::Accepted),
//!             StockEvent::Lacked { order } => (order, OrderEvent::Refused),
//!         };
//!         self.0.execute(order, told).with(because(envelope, key)?).await?;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (store, model) = (MemoryStore::new(), MemoryModel::new());
//! let (orders, stock) = (Repository::<Order>::new(&store), Repository::<Stock>::new(&store));
//! let running = Worker::new(&store)
//!     .add(&model, Reactor(OnOrders(stock)))
//!     .add(&model, Reactor(OnStock(orders.clone())))
//!     .start()
//!     .await?;
//! # for (order, is_first) in [("1", true), ("2", false)] {
//! #     orders.execute(order, OrderEvent::Placed { item: "tea".into() }).await?;
//! #     let mut told = None;
//! #     for _ in 0..500 {
//! #         tokio::time::sleep(Duration::from_millis(10)).await;
//! #         told = orders.load(order).await?.told;
//! #         if told.is_some() { break }
//! #     }
//! #     assert_eq!(told, Some(is_first), "order {order}");
//! # }
//! # running.drain(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! `examples/orders` has one process in both forms, [choreographed] by two reactors and [orchestrated] by a saga:
//! an order reserves a piece, is paid for, and is shipped; where the card is declined the piece is released. They come to
//! the same, and cost, where nothing goes wrong on the way:
//!
//! | an order | choreographed | orchestrated |
//! |---|---|---|
//! | events, when it is shipped | 4 | 16, of them 12 in the journal |
//! | appends | 4 | 10, of them 6 to the journal |
//! | appends one after the other, until it is shipped | 4 | 7 |
//! | events, when it is declined | 4 | 17, of them 13 in the journal |
//! | who reads what | each reactor all events that it wants | the agenda all journals |
//! | at work at once | an order of each item: those of an item wait for each payment, and for those of items in the same partition | all orders |
//!
//! Without a coordinator nobody says where an order stands, what is undone when is spread over the reactors, and what times
//! out must be remembered by somebody. Two or three steps that can hardly fail are well left so; what must be undone, waited
//! for, or explained is a saga.
//!
//! [choreographed]: https://github.com/indelible-rs/indelible/blob/main/examples/orders/src/choreographed.rs
//! [orchestrated]: https://github.com/indelible-rs/indelible/blob/main/examples/orders/src/orchestrated.rs
//!
//! # Seeing
//!
//! [`Sagas::load`] says where one stands, [`Sagas::history`] how it came there, with what led to it and what came of it in
//! other streams, by correlation and causation. [`overview::Overview`] says how many there are at which step, since when,
//! and how many ended how.
//!
//! # Metrics
//!
//! Through the [`metrics`] facade, with the label `saga`: counters `indelible_saga_calls_total` (labels `step`, `act`,
//! `result`: done, refused, unsure, not_now) and `indelible_saga_ended_total` (label `outcome`); histogram
//! `indelible_saga_call_seconds` (label `step`). Those of [dependencies](Dependency) stand there, those of the agendas with
//! the projections.

mod saga;

mod agenda;
mod breaker;
#[cfg(feature = "bugs")]
pub mod bugs;
mod clock;
mod desk;
mod event;
mod history;
mod journal;
pub mod overview;
mod past;
mod perform;
mod reactor;
mod sagas;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

pub use agenda::{Agenda, AgendaModel, Entry, Item, Work, due_in_tables, put_in_tables, remove_from_tables};
pub use breaker::{Circuit, CircuitOptions, Dependency};
pub use clock::{Clock, SystemClock};
pub use event::{Act, Outcome, SagaEvent, Task};
pub use indelible_projections::Retry;
pub use journal::{Journal, SagaError, Standing, Tell};
pub use past::Past;
pub use perform::{Call, Failure, Perform};
pub use reactor::{React, Reactor};
pub use saga::{Plan, Saga, Step};
pub use sagas::Sagas;
pub use worker::{RunningSagas, SagaOptions, SagaWorker};
