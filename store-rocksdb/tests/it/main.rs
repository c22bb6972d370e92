//! The embedded store: that it keeps the contract, and what it keeps through kills, power cuts, failing and full disks, and
//! damage.

mod against_memory;
mod backup;
mod catching_up;
mod commands;
mod conformance;
#[cfg(feature = "fuzzing")]
mod decoders;
mod edges;
mod export;
mod golden;
mod history;
mod idle;
mod lock;
mod overload;
#[cfg(feature = "projections")]
mod read_model;
mod reader;
mod sessions;
mod statistics;
mod sync;
mod verification;

// Faults, from whom they strike to what they are. What is written and how it is judged is the suite's.
mod child;
mod judge;

mod campaign;
mod control;
mod disk;

mod damage;
mod failed_write;
mod full_disk;
mod io_sweep;
mod kill;
mod little_room;
mod lying_sync;
mod mutation;
mod power;
#[cfg(feature = "projections")]
mod projecting;
#[cfg(feature = "sagas")]
mod sagas;
mod slow_disk;
#[cfg(feature = "bugs")]
mod zoo;
