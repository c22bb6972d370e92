//! Names: what an event is called, found by, and encoded as.

use std::{fmt, marker::PhantomData};

use smol_str::SmolStr;

use crate::{
    Aggregate, Category, Event, InvalidInput,
    text::{check_name, is_control, name_type},
};

name_type! {
    /// The stored name of a kind of event: by default its variant's name, `Withdrawn`.
    ///
    /// It is told apart from the same name elsewhere by its stream's category: see [`QualifiedType`].
    EventType, "event type", check_name
}
name_type! {
    /// A label by which events are found across streams, such as `course:c1`. 1 to 255 bytes.
    Tag, "tag", check_name
}
name_type! {
    /// The name of an event's encoding: `application/json`, or that of another [`Codec`](crate::Codec).
    ContentType, "content type", check_name
}

macro_rules! from_static {
    ($name:ident) => {
        impl $name {
            /// A name that is known when the program is compiled.
            ///
            /// # Panics
            /// At compile time in a constant, where it is empty, too long, or contains a control character.
            pub const fn from_static(text: &'static str) -> Self {
                let bytes = text.as_bytes();
                assert!(!bytes.is_empty() && bytes.len() <= 255, "a name has 1 to 255 bytes");
                let mut i = 0;
                while i < bytes.len() {
                    assert!(!is_control(bytes, i), "a name contains no control characters");
                    i += 1;
                }
                Self(SmolStr::new_static(text))
            }
        }
    };
}
from_static!(EventType);
from_static!(ContentType);

impl Tag {
    /// The tag `key:value`, as `#[event(tag)]` writes it: the field's name, and its value. Nothing knows which keys there
    /// are, so a mistyped one finds nothing.
    ///
    /// # Errors
    /// [`InvalidInput`] when it has more than 255 bytes, or control characters.
    pub fn of(key: &str, value: impl fmt::Display) -> Result<Self, InvalidInput> {
        Self::new(format!("{key}:{value}"))
    }
}

/// An event type in its category, as filters and queries name it: `account.Withdrawn`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct QualifiedType {
    /// The category of the streams that hold it.
    pub category: Category,
    /// The stored name.
    pub event_type: EventType,
}

impl fmt::Display for QualifiedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.category, self.event_type)
    }
}

/// A type name that knows its Rust type. The derive makes one constant a variant (`AccountEvent::WITHDRAWN`), so that
/// a filter cannot name a type that the aggregate doesn't have.
pub struct EventName<E>(&'static str, PhantomData<fn() -> E>);

impl<E: Event> EventName<E> {
    /// For the derive.
    #[doc(hidden)]
    pub const fn from_static(name: &'static str) -> Self {
        Self(name, PhantomData)
    }

    /// The stored name.
    pub const fn as_str(self) -> &'static str {
        self.0
    }

    /// The stored type.
    pub const fn event_type(self) -> EventType {
        EventType::from_static(self.0)
    }

    /// The type in the category of an aggregate that speaks these events.
    pub fn of<A: Aggregate<Event = E>>(self) -> QualifiedType {
        QualifiedType { category: A::CATEGORY, event_type: self.event_type() }
    }
}
impl<E> Clone for EventName<E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for EventName<E> {}
impl<E> fmt::Debug for EventName<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
