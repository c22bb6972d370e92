//! Publishing: what happened here becomes known elsewhere, and what happened elsewhere becomes commands here.
//!
//! The log is the outbox. A [`Publisher`] reads it, as a projection does, and hands what others are to know to a
//! [`Broker`], in words that are meant for them; its checkpoint follows behind the broker's acknowledgements. On the other
//! side an [`Inbox`] reads a [`Feed`] of messages, and lets a [`Receive`] turn each into a command.
//!
//! A shop tells the warehouse of its orders. The two have a store each, and nothing in common but a broker: in production
//! that is NATS [JetStream](nats), here one in memory.
//!
//! ```
//! # use indelible_core::store::memory::MemoryStore;
//! use indelible_core::{Aggregate, Apply, Cause, CommandContext, Context, Event, Events, Handle, Repository};
//! use indelible_projections::{Envelope, Wants, Worker, memory::MemoryModel};
//! use indelible_publishing::{
//!     Inbox, IntegrationEvent, Message, Publish, Publisher, Receive, testing::MemoryBroker,
//! };
//! use indelible_sagas::Failure;
//! use serde::{Deserialize, Serialize};
//! # use std::{convert::Infallible, time::Duration};
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
//! # enum OrderEvent { Placed { item: String, internal_note: String } }
//! # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! # #[aggregate(category = "order")]
//! # struct Order {}
//! # impl Apply for Order { type Event = OrderEvent; fn apply(&mut self, _: &OrderEvent) {} }
//! # struct Place(&'static str);
//! # impl Handle<Place> for Order {
//! #     type Error = Infallible;
//! #     fn handle(&self, place: &Place, _: &Context<Self>) -> Result<Events<OrderEvent>, Infallible> {
//! #         Ok(OrderEvent::Placed { item: place.0.into(), internal_note: "is always late".into() }.into())
//! #     }
//! # }
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
//! # enum StockEvent { Reserved { order: String } }
//! # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! # #[aggregate(category = "stock")]
//! # struct Stock { reserved: Vec<String> }
//! # impl Apply for Stock {
//! #     type Event = StockEvent;
//! #     fn apply(&mut self, StockEvent::Reserved { order }: &StockEvent) { self.reserved.push(order.clone()) }
//! # }
//! # struct Reserve { order: String }
//! # impl Handle<Reserve> for Stock {
//! #     type Error = Infallible;
//! #     fn handle(&self, reserve: &Reserve, _: &Context<Self>) -> Result<Events<StockEvent>, Infallible> {
//! #         Ok(StockEvent::Reserved { order: reserve.order.clone() }.into())
//! #     }
//! # }
//!
//! /// What others are told of orders. The domain's events may change without it.
//! #[derive(Serialize, Deserialize)]
//! struct OrderPlaced {
//!     order: String,
//!     item: String,
//! }
//!
//! struct Orders;
//! impl Publish for Orders {
//!     const NAME: &'static str = "orders";
//!     type Event = OrderEvent;
//!     fn wants() -> Wants<OrderEvent> {
//!         Wants::of::<Order>()
//!     }
//!     fn map(&self, envelope: &Envelope<OrderEvent>) -> Result<Option<IntegrationEvent>, Cause> {
//!         let OrderEvent::Placed { item, .. } = &envelope.event;
//!         let placed = OrderPlaced { order: envelope.recorded.stream.id().into(), item: item.clone() };
//!         Ok(Some(IntegrationEvent::new("com.example.order.placed", 1, &placed)?))
//!     }
//! }
//!
//! struct Warehouse {
//!     stock: Repository<Stock>,
//! }
//! impl Receive for Warehouse {
//!     const NAME: &'static str = "warehouse";
//!     const KNOWS: &'static [(&'static str, u32)] = &[("com.example.order.placed", 1)];
//!     async fn receive(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
//!         let placed: OrderPlaced = message.data()?;
//!         // Its events are there once, by the context's key: however often the message comes.
//!         self.stock.execute(placed.item, Reserve { order: placed.order }).with(context).await?;
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (shop, warehouse, broker) = (MemoryStore::new(), MemoryStore::new(), MemoryBroker::new());
//! let publisher = Publisher::new(&shop, broker.clone(), Orders);
//! let publishing = Worker::new(&shop).add(&MemoryModel::new(), publisher).start().await?;
//! let stock = Repository::<Stock>::new(&warehouse);
//! let mut inbox = Inbox::new(&warehouse, broker, Warehouse { stock: stock.clone() }).start()?;
//!
//! Repository::<Order>::new(&shop).execute("7", Place("tea")).await?;
//! inbox.until(|status| status.received == 1, Duration::from_secs(5)).await.ok_or("nothing came")?;
//! assert_eq!(stock.load("tea").await?.reserved, ["7"]);
//! # publishing.drain(Duration::from_secs(5)).await;
//! # Ok(()) }
//! ```
//!
//! # What goes out
//!
//! CloudEvents 1.0 in JSON. `type` and `data` are the [`IntegrationEvent`]'s; `id` is the event's, `source` the store and
//! the publisher, `subject` the stream. Extensions have its position and version there (`position`, `streamversion`), the
//! schema version (`schemaversion`), and what it belongs to and was caused by (`correlationid`, `causationid`). Tags and
//! metadata stay inside.
//!
//! # Once, and in order
//!
//! - Each event goes out *at least once*; those of a stream come in order for the first time, and what comes again is a
//!   repetition of one that is there. For that, the next of a stream goes out when the one before it is acknowledged, and
//!   a checkpoint is written when all before it are. A stream that is written to without pause is published at one
//!   message a round trip; streams go side by side.
//! - An inbox takes the messages of a subject in order, and remembers by itself how far. What comes twice writes its events
//!   once, by the command's key, for as long as the log lasts: a broker's own deduplication ends after minutes. A command
//!   that was rejected, or wrote nothing, is decided anew; a refusal that is to count must be an event.
//!
//! # What can't be handled
//!
//! A publisher stops or parks as other projections do: with an event that can't be mapped, or one that the broker refuses.
//! An outage of the broker is held against no event.
//!
//! An inbox passes over types that it doesn't [know](Receive::KNOWS), and counts them. It parks a message that is no
//! CloudEvent, is of a newer version, or can't be received, with all that come after it under its subject; or it stops, where
//! [it says so](Receive::ON_FAILURE). [`RunningInbox::letters`] lists what is parked, and why. It stops, too, where its feed
//! has lost messages that were not taken, or may have ([`FeedError::Lost`]). A message that is too large for an event of the
//! inbox's store can't be parked, and stops it. While the commands' store is away the inbox waits, and holds that against
//! no message.
//!
//! # Metrics
//!
//! Through the [`metrics`] facade: counters `indelible_published_total` (label `publisher`), repetitions among them, and
//! `indelible_inbox_messages_total` (labels `inbox`, `result`: received, passed, parked); gauges `indelible_inbox_parked`
//! and `indelible_inbox_stopped` (label `inbox`). Position, lag and retries of publishers stand with the projections.

mod broker;
#[cfg(feature = "bugs")]
pub mod bugs;
mod inbox;
mod message;
#[cfg(feature = "nats")]
pub mod nats;
mod publisher;
#[cfg(feature = "testing")]
pub mod testing;

pub use broker::{Broker, Delivery, Feed, FeedError, Outgoing, Place};
pub use inbox::{Inbox, InboxState, InboxStatus, Letter, Receive, RunningInbox};
pub use message::{IntegrationEvent, Message};
pub use publisher::{Publish, Publisher};
