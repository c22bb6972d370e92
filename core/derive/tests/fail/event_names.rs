//! Stored names that can't be, or are taken.

use indelible_core::Event;

#[derive(Clone, Event)]
enum Empty {
    #[event(name = "")]
    A,
}

#[derive(Clone, Event)]
enum Control {
    #[event(name = "a\n")]
    A,
}

#[derive(Clone, Event)]
enum Long {
    #[event(name = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]
    A,
}

#[derive(Clone, Event)]
enum Same {
    Moved,
    #[event(name = "Moved")]
    Relocated,
}

#[derive(Clone, Event)]
#[allow(non_camel_case_types)]
enum SameConstant {
    SeatTaken,
    Seat_Taken,
}

fn main() {}
