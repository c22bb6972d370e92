//! Projections into PostgreSQL: exactly once, by one owner at a time, whatever dies.

pub(crate) mod fixture;

mod kills;
mod leases;
mod letters;
mod model;
mod transactions;
mod versions;

pub(crate) use kills::project;
pub(crate) use model::open;
