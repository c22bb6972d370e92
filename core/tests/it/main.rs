//! The tests of the core, as one program.

mod bank;
mod commands;
mod decisions;
mod loading;
mod snapshots;
