//! Tags without a key.

use indelible_core::Event;

#[derive(Clone, Event)]
enum Unnamed {
    A(#[event(tag)] u8),
}

#[derive(Clone, Event)]
enum Empty {
    A(#[event(tag = "")] u8),
}

#[derive(Clone, Event)]
enum Control {
    A(#[event(tag = "\t")] u8),
}

#[derive(Clone, Event)]
enum Twice {
    A {
        #[event(tag, tag = "b")]
        a: u8,
    },
}

fn main() {}
