//! The embedded store: that it keeps the contract, and what it keeps through kills, damage and failed writes.

mod child;

mod against_memory;
mod commands;
mod conformance;
mod damage;
mod edges;
mod failed_write;
mod idle;
mod kill;
mod lock;
mod sync;
