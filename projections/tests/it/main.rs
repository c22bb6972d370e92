//! Projections over the memory store.

mod categories;
mod chaos;
mod exactly_once;
mod failures;
mod fixture;
mod kit;
mod log;
mod model;
mod operators;
mod policies;
mod queries;
mod rebuild;
mod replaying;
mod running;
mod schedules;
mod seeing;
mod workers;
