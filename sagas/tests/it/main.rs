//! Sagas: what they decide, what they survive, and how they are run.

mod crashes;
mod decisions;
mod journals;
mod running;
mod trip;
mod trouble;
