//! What is no event.

use indelible_core::Event;

#[derive(Clone, Event)]
enum Empty {}

#[derive(Event)]
union Union {
    a: u8,
}

#[derive(Clone, Event)]
enum Borrowed<'a> {
    Named(&'a str),
}

fn main() {}
