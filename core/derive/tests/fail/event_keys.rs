//! Keys of `#[event(…)]` that are unknown, doubled, elsewhere, or without what they need.

use indelible_core::Event;

#[derive(Clone, Event)]
enum Unknown {
    #[event(nam = "a")]
    A,
}

#[derive(Clone, Event)]
#[event(codecs = json)]
enum UnknownOnEnum {
    A,
}

#[derive(Clone, Event)]
enum UnknownOnField {
    A {
        #[event(tagged)]
        a: u8,
    },
}

#[derive(Clone, Event)]
enum Twice {
    #[event(name = "a")]
    #[event(name = "b")]
    A,
}

#[derive(Clone, Event)]
#[event(name = "a")]
enum NameOnEnum {
    A,
}

#[derive(Clone, Event)]
enum TagOnVariant {
    #[event(tag)]
    A { a: u8 },
}

#[derive(Clone, Event)]
enum CrateOnVariant {
    #[event(crate = indelible_core)]
    A,
}

#[derive(Clone, Event)]
#[event(category = "a")]
struct CategoryOnStruct;

#[derive(Clone, Event)]
enum NoParentheses {
    #[event]
    A,
}

#[derive(Clone, Event)]
enum NoValue {
    #[event(name)]
    A,
}

#[derive(Clone, Event)]
enum NoNumber {
    #[event(version = "2")]
    A,
}

#[derive(Clone, Event)]
enum Version0 {
    #[event(version = 0)]
    A,
}

fn main() {}
