//! The tests of the core, as one program.

mod bank;
mod broken;
mod commands;
mod conformance;
mod decisions;
mod loading;
mod snapshots;
mod subscriptions;
mod testing;
mod units;
