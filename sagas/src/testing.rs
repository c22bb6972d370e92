//! Given / when / then for sagas: no store, no clock, no runtime. And [crashes](crash_everywhere) at every point.
//!
//! What is written and what effects are goes through its encoding on the way, so that what would not come back from the log
//! fails its test too. Effects are compared and shown: derive `Debug` and `PartialEq` for them.
//!
//! ```
//! # use indelible_sagas::{Outcome, Past, Plan, Saga, Step, testing::given};
//! # use serde::{Deserialize, Serialize};
//! # use serde_json::json;
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Order {
//!     item: String,
//! }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Effect {
//!     Reserve(String),
//!     Release(String),
//!     Pay,
//! }
//!
//! impl Saga for Order {
//!     const NAME: &'static str = "order";
//!     type Effect = Effect;
//!     fn plan(&self, _: &Past) -> Plan<Effect> {
//!         let (reserve, release) = (Effect::Reserve(self.item.clone()), Effect::Release(self.item.clone()));
//!         Plan::new().step(Step::new("stock", reserve).undo(release)).pivot(Step::new("pay", Effect::Pay))
//!     }
//! }
//!
//! given(Order { item: "tea".into() })
//!     .then_does([("stock", Effect::Reserve("tea".into()))])
//!     .when_done("stock", json!("shelf 7"))
//!     .then_does([("pay", Effect::Pay)])
//!     .when_refused("pay", "no money")
//!     .then_undoes([("stock", Effect::Release("tea".into()))])
//!     .when_undone("stock")
//!     .then_ends(Outcome::Compensated);
//! ```

mod crash;
mod given;
pub mod killed;
mod outside;
pub mod random;
mod recorded;
mod scenario;
mod store;

pub use crash::{Crashes, crash_everywhere, crash_everywhere_on};
pub use given::{Given, given};
pub use outside::{Answer, Outside, Script};
pub use recorded::{Divergence, check_recorded};
pub use scenario::Scenario;
