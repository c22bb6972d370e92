//! Projections into PostgreSQL: exactly once, by one owner at a time, whatever dies.

pub(crate) mod fixture;

#[cfg(feature = "bugs")]
mod bugs;
mod kills;
mod leases;
mod letters;
mod model;
mod moving_on;
mod operators;
mod process;
mod transactions;
mod versions;

pub(crate) use model::open;
pub(crate) use process::project;
