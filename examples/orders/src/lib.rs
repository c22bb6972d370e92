//! Orders, stock, payments and shipments as one process, in two forms that come to the same.
//!
//! [`domain`] has the aggregates, [`provider`] the payments, which are somebody else's and often fail. [`orchestrated`] is a
//! saga, [`choreographed`] three reactors. [`proof`] holds what came of all against each other.

#![expect(missing_docs, reason = "an example is read as it stands")]

pub mod choreographed;
pub mod domain;
pub mod orchestrated;
pub mod proof;
pub mod provider;
