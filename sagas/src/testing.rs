//! Given / when / then for sagas: no store, no clock, no runtime. And [crashes](crash_everywhere) at every point of a plan,
//! in a world that answers by a script.
//!
//! What is written and what effects are goes through its encoding on the way, so that what would not come back from the log
//! fails its test too. Effects are compared and shown: derive `Debug` and `PartialEq` for them.
//!
//! The tests of [the trip](crate):
//!
//! ```
//! # use indelible_sagas::{Outcome, Past, Plan, Retry, Saga, Step};
//! use indelible_sagas::testing::{Answer, Scenario, Script, crash_everywhere, given};
//! # use serde::{Deserialize, Serialize};
//! # use serde_json::json;
//! # use std::time::Duration;
//! # #[derive(Clone, Serialize, Deserialize)]
//! # struct Trip {
//! #     to: String,
//! # }
//! #
//! # #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! # enum Effect {
//! #     Book { what: String, to: String },
//! #     Cancel { what: String },
//! #     Charge { cents: u64 },
//! #     Refund,
//! # }
//! #
//! # impl Saga for Trip {
//! #     const NAME: &'static str = "trip";
//! #     type Effect = Effect;
//! #
//! #     fn plan(&self, past: &Past) -> Plan<Effect> {
//! #         let book = |what: &'static str| {
//! #             let effect = Effect::Book { what: what.into(), to: self.to.clone() };
//! #             Step::new(what, effect).undo(Effect::Cancel { what: what.into() })
//! #         };
//! #         let price = |what| past.result::<u64>(what).unwrap_or_default();
//! #         let cents = ["flight", "hotel", "car"].map(price).iter().sum();
//! #         Plan::new()
//! #             .step(book("flight").retry(Retry { attempts_max: 10, ..Retry::DEFAULT }))
//! #             .side_by_side([book("hotel").retry(Retry::FOREVER).timeout(Duration::from_secs(60)), book("car")])
//! #             .pivot(Step::new("pay", Effect::Charge { cents }).undo(Effect::Refund))
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let rome = || Trip { to: "Rome".into() };
//! let book = |what| (what, Effect::Book { what: String::from(what), to: "Rome".into() });
//! let cancel = |what| (what, Effect::Cancel { what: String::from(what) });
//!
//! // All goes well.
//! let flown = || given(rome()).then_does([book("flight")]).when_done("flight", 300);
//! flown()
//!     .then_does([book("hotel"), book("car")])
//!     .when_done("hotel", 200)
//!     .when_done("car", 50)
//!     .then_does([("pay", Effect::Charge { cents: 550 })])
//!     .when_done("pay", ())
//!     .then_ends(Outcome::Completed);
//!
//! // What was refused is not undone; but for where an attempt before may have succeeded.
//! given(rome()).when_refused("flight", "full").then_ends(Outcome::Compensated);
//! given(rome()).when_unsure("flight", "no answer").when_refused("flight", "full").then_undoes([cancel("flight")]);
//!
//! // Without a car the rest is undone, once it is known what there is to undo: last begun, first undone.
//! flown()
//!     .when_refused("car", "none there")
//!     .then_does([book("hotel")])
//!     .when_done("hotel", 200)
//!     .then_undoes([cancel("hotel")])
//!     .when_undone("hotel")
//!     .then_undoes([cancel("flight")])
//!     .when_undone("flight")
//!     .then_ends(Outcome::Compensated);
//!
//! // A hotel that doesn't answer in time may have been booked.
//! flown()
//!     .when_done("car", 50)
//!     .when_unsure("hotel", "no answer")
//!     .when_timed_out("hotel")
//!     .when_unsure("hotel", "no answer")
//!     .then_undoes([cancel("car")])
//!     .when_undone("car")
//!     .then_undoes([cancel("hotel")]);
//!
//! // Wherever its processes die, it comes to the same. The script answers in the performer's place.
//! let price = || [Answer::Done(json!(100))];
//! let booked = || Script::new().answers("flight", price()).answers("hotel", price()).answers("car", price());
//! let fails = [("flight", Answer::Lost), ("hotel", Answer::Silent), ("car", Answer::Refused), ("pay", Answer::Refused)];
//! for (step, answer) in fails {
//!     let scenario = Scenario::new(rome()).with_script(booked().answers(step, [answer]));
//!     let crashes = crash_everywhere(&scenario, 20).await;
//!     assert!(crashes.faults.is_empty(), "{crashes}: {:#?}", crashes.faults);
//! }
//! # }
//! ```
//!
//! Performers are tested by a worker on a [`MemoryStore`](indelible_core::store::memory::MemoryStore), as the trip is run;
//! time is skipped by [`MemoryStore::skip`](indelible_core::store::memory::MemoryStore::skip), when that is the worker's
//! [clock](crate::SagaWorker::with_clock) too; and a [`call`] that comes late is handed to them.

mod crash;
mod given;
pub mod killed;
mod outside;
pub mod random;
mod recorded;
mod scenario;
mod store;

use crate::{Act, Call, Saga, Sagas};

pub use crash::{Crashes, crash_everywhere, crash_everywhere_on};
pub use given::{Given, given};
pub use outside::{Answer, Outside, Script};
pub use recorded::{Divergence, check_recorded};
pub use scenario::Scenario;

/// A call as it comes to a performer, at the first attempt: one that was thought lost and comes behind its own undoing, say.
///
/// ```
/// # use indelible_sagas::{Act, Call, Failure, Past, Perform, Plan, Saga, Step, testing::call};
/// # use serde::{Deserialize, Serialize};
/// # use serde_json::Value;
/// # use std::{collections::BTreeSet, sync::Mutex};
/// # #[derive(Clone, Serialize, Deserialize)] struct Stay;
/// # impl Saga for Stay {
/// #     const NAME: &'static str = "stay";
/// #     type Effect = ();
/// #     fn plan(&self, _: &Past) -> Plan<()> { Plan::new().step(Step::new("room", ()).undo(())) }
/// # }
/// # #[derive(Default)] struct Hotel { undone: Mutex<BTreeSet<String>> }
/// # impl Perform<Stay> for Hotel {
/// #     async fn perform(&self, (): (), call: &Call) -> Result<Value, Failure> {
/// #         let mut undone = self.undone.lock().unwrap();
/// #         match call.act() {
/// #             Act::Do if undone.contains(call.key()) => Err(Failure::refused("it was cancelled")),
/// #             Act::Do => Ok(Value::Null),
/// #             Act::Undo => Ok(undone.insert(call.step_key().into()).into()),
/// #         }
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let (hotel, book, cancel) = (Hotel::default(), call::<Stay>("7", "room", Act::Do), call::<Stay>("7", "room", Act::Undo));
/// assert_eq!((book.key(), cancel.key()), ("stay-7/room", "stay-7/room/undo"));
/// hotel.perform((), &cancel).await.unwrap();
/// assert!(matches!(hotel.perform((), &book).await, Err(Failure::Refused(_))));
/// # }
/// ```
pub fn call<S: Saga>(saga: &str, step: &str, act: Act) -> Call {
    let (key, saga, step) = (Sagas::<S>::key(saga, step, act), saga.to_owned(), step.to_owned());
    Call { saga, step, act, attempt: 1, key, correlation: None, cause: None }
}
