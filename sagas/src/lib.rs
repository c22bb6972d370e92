//! Sagas: processes over several aggregates and the world outside, which happen as a whole or are undone.

mod saga;

mod agenda;
mod breaker;
#[cfg(feature = "bugs")]
pub mod bugs;
mod clock;
mod desk;
mod event;
mod journal;
mod past;
mod perform;
mod reactor;
mod sagas;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

pub use agenda::{Agenda, AgendaModel, Change, Entry, Item, changes, due_in_tables, put_in_tables, remove_from_tables};
pub use breaker::{Circuit, CircuitOptions, Dependency};
pub use clock::{Clock, SkippingClock, SystemClock};
pub use event::{Act, Outcome, SagaEvent, Task};
pub use indelible_projections::Retry;
pub use journal::{Due, Journal, SagaError, Standing, Tell};
pub use past::Past;
pub use perform::{Call, Failure, Perform};
pub use reactor::{React, Reactor};
pub use saga::{Plan, Saga, Step};
pub use sagas::Sagas;
pub use worker::{RunningSagas, SagaOptions, SagaWorker};
