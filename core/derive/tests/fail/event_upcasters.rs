//! Chains of upcasters with holes, doubles, and steps that don't go together.

use indelible_core::Event;

#[derive(Clone, Event)]
enum Missing {
    #[event(version = 4, upcast(from = 1, with = f), upcast(from = 3, with = f))]
    A,
}

#[derive(Clone, Event)]
enum All {
    #[event(version = 2)]
    A,
}

#[derive(Clone, Event)]
enum Twice {
    #[event(version = 2, upcast(from = 1, with = f), upcast(from = 1, typed = Old))]
    A,
}

#[derive(Clone, Event)]
enum OfToday {
    #[event(version = 2, upcast(from = 1, with = f), upcast(from = 2, with = f))]
    A,
}

#[derive(Clone, Event)]
enum WithoutVersion {
    #[event(upcast(from = 1, with = f))]
    A,
}

#[derive(Clone, Event)]
enum From0 {
    #[event(version = 2, upcast(from = 0, with = f))]
    A,
}

#[derive(Clone, Event)]
enum JsonAfterTyped {
    #[event(version = 3, upcast(from = 1, typed = Old), upcast(from = 2, with = f))]
    A,
}

#[derive(Clone, Event)]
enum JsonWithBincode {
    #[event(version = 2, upcast(from = 1, with = f), codec = bincode)]
    A,
}

#[derive(Clone, Event)]
#[event(codec = crate::CBOR)]
enum JsonWithAnother {
    #[event(version = 2, upcast(from = 1, with = f))]
    A,
}

#[derive(Clone, Event)]
enum NoStep {
    #[event(version = 2, upcast(from = 1))]
    A,
}

#[derive(Clone, Event)]
enum BothSteps {
    #[event(version = 2, upcast(from = 1, with = f, typed = Old))]
    A,
}

#[derive(Clone, Event)]
enum NoFrom {
    #[event(version = 2, upcast(with = f))]
    A,
}

#[derive(Clone, Event)]
enum UnknownKey {
    #[event(version = 2, upcast(to = 1, with = f))]
    A,
}

fn main() {}
