//! The tests of the core, as one program.

mod bank;
mod broken;
mod commands;
mod conformance;
mod decisions;
mod decoders;
mod histories;
mod loading;
mod schedules;
mod second_opinion;
mod snapshots;
mod subscriptions;
mod testing;
mod units;
