//! `crate = …` is where the generated code looks.

use indelible_core::Event;

#[derive(Clone, Event)]
#[event(crate = nowhere)]
struct Happened;

fn main() {}
