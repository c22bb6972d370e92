//! Sagas: what they decide, what they survive, and how they are run.

mod bell;
mod circuits;
mod correlated;
mod crashes;
mod decisions;
mod faults;
mod journals;
mod overview;
mod reactors;
mod recorded;
mod running;
mod trip;
mod trouble;
mod until;
mod zombies;
