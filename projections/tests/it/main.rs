//! Projections over the memory store.

mod chaos;
mod exactly_once;
mod failures;
mod fixture;
mod kit;
mod log;
mod model;
mod policies;
mod queries;
mod rebuild;
mod running;
mod schedules;
mod seeing;
mod workers;
