//! Orders, stock, payments and shipments as one process, in two forms that come to the same.
//!
//! [`domain`] has the aggregates, [`provider`] the payments, which are somebody else's and often fail. [`orchestrated`] is a
//! saga, [`choreographed`] two reactors. [`proof`] tells the way of each order, and holds what came of all against each
//! other.
//!
//! What an order costs in each form `tests/it/costs.rs` counts, and the documentation of sagas has it in a table.

#![expect(missing_docs, reason = "an example is read as it stands")]

pub mod choreographed;
pub mod domain;
pub mod orchestrated;
pub mod proof;
pub mod provider;
