//! The shared store: that it keeps the contract, and what it keeps through lost connections, crashes and hostile names.

mod child;
mod cluster;
mod proxy;
mod writing;

mod against_memory;
#[cfg(feature = "bugs")]
mod bugs;
mod conformance;
mod crash;
mod cut;
mod fail_over;
mod faults;
mod growing;
mod history;
mod hostile;
mod opening;
mod pooled;
#[cfg(feature = "projections")]
mod publishing;
mod races;
#[cfg(feature = "projections")]
mod read_model;
mod refused;
mod roles;
#[cfg(feature = "sagas")]
mod sagas;
mod silent;
mod stalls;
mod tail;
mod tls;
mod verify;
