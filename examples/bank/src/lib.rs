//! A bank. Its domain is in [`account`]; what it keeps beside the log, and answers questions from, in [`views`]; both
//! together are a [`Bank`], wherever it is kept.

#![expect(missing_docs, reason = "an example's names speak for themselves")]

pub mod money;

pub mod account;
pub mod views;

pub mod bank;

pub mod audit;

pub use bank::{Bank, Teller};
