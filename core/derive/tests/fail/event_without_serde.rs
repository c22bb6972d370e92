//! An event derives serde's traits too.

use indelible_core::Event;

#[derive(Clone, Event)]
enum AccountEvent {
    Opened,
}

fn main() {}
