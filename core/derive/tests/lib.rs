//! The derive macros' tests stand in `it/`, what must not compile in `fail/`, with the messages that the macros give.
//!
//! Where types don't fit, the message is the compiler's, and changes with it; that it says no stands here.
//!
//! An event without serde's derives:
//! ```compile_fail
//! use indelible_core::Event;
//!
//! #[derive(Clone, Event)]
//! enum AccountEvent {
//!     Opened,
//! }
//! ```
//!
//! An aggregate that applies nothing:
//! ```compile_fail
//! use indelible_core::Aggregate;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! #[aggregate(category = "account")]
//! struct Account;
//! ```
//!
//! A codec that is none:
//! ```compile_fail
//! use indelible_core::Event;
//! use serde::{Deserialize, Serialize};
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Old;
//! #[derive(Clone, Serialize, Deserialize, Event)]
//! #[event(codec = Old)]
//! enum OldEvent {
//!     A,
//! }
//! ```
//!
//! A tag that can't be printed:
//! ```compile_fail
//! use indelible_core::Event;
//! use serde::{Deserialize, Serialize};
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Old;
//! #[derive(Clone, Serialize, Deserialize, Event)]
//! enum OldEvent {
//!     A {
//!         #[event(tag)]
//!         old: Old,
//!     },
//! }
//! ```
//!
//! An upcaster that leads elsewhere:
//! ```compile_fail
//! use indelible_core::Event;
//! use serde::{Deserialize, Serialize};
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Old;
//! #[derive(Clone, Serialize, Deserialize, Event)]
//! enum OldEvent {
//!     #[event(version = 2, upcast(from = 1, typed = Old))]
//!     A(u8),
//! }
//! ```
//!
//! A category of no events:
//! ```compile_fail
//! use indelible_core::Event;
//! use serde::{Deserialize, Serialize};
//! #[derive(Clone, Serialize, Deserialize)]
//! struct Old;
//! #[derive(Clone, Event)]
//! enum OldEvent {
//!     #[event(category = "old")]
//!     A(Old),
//! }
//! ```
