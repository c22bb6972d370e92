//! The tests of the core, as one program.

mod bank;
mod commands;
