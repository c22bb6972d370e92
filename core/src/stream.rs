//! Where an event stands: its stream and version, and its position in the whole log.

use std::fmt;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{
    InvalidInput, RecordedEvent,
    text::{check_name, is_control, name_type},
};

name_type! {
    /// The kind of an aggregate: the part of a stream's name before its first `-`.
    ///
    /// 1 to 255 bytes without control characters and without `-`.
    Category, "category", |what, text| {
        check_name(what, text)?;
        match text.contains('-') {
            true => Err(InvalidInput::new(what, format!("{text:?} contains '-', which ends a category"))),
            false => Ok(()),
        }
    }
}

impl Category {
    /// A category that is known when the program is compiled.
    ///
    /// # Panics
    /// At compile time in a constant, where the text is empty, too long, or contains `-` or a control character.
    pub const fn from_static(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= 255, "a category has 1 to 255 bytes");
        let mut i = 0;
        while i < bytes.len() {
            assert!(bytes[i] != b'-', "a category contains no '-'");
            assert!(!is_control(bytes, i), "a category contains no control characters");
            i += 1;
        }
        Self(SmolStr::new_static(text))
    }
}

/// A stream's name: `category-id`.
///
/// The first `-` splits, so an id may contain more of them.
///
/// ```
/// use indelible_core::{Category, StreamId};
/// let stream: StreamId = "account-7f-1".parse()?;
/// assert_eq!(stream.category().as_str(), "account");
/// assert_eq!(stream.id(), "7f-1");
/// assert_eq!(stream, StreamId::new(&Category::new("account")?, "7f-1")?);
/// assert!("account".parse::<StreamId>().is_err());
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(SmolStr);

impl StreamId {
    /// The stream of one aggregate.
    ///
    /// # Errors
    /// [`InvalidInput`] when the id is empty or contains control characters, or the whole name has more than 255 bytes.
    pub fn new(category: &Category, id: impl fmt::Display) -> Result<Self, InvalidInput> {
        format!("{category}-{id}").parse()
    }

    /// The part before the first `-`.
    pub fn category(&self) -> Category {
        Category(self.category_str().into())
    }

    /// The part before the first `-`, as text.
    pub fn category_str(&self) -> &str {
        self.split().0
    }

    /// The part after the first `-`.
    pub fn id(&self) -> &str {
        self.split().1
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn split(&self) -> (&str, &str) {
        self.0.split_once('-').unwrap_or((&self.0, ""))
    }
}

impl std::str::FromStr for StreamId {
    type Err = InvalidInput;
    fn from_str(name: &str) -> Result<Self, InvalidInput> {
        check_name("stream name", name)?;
        match name.split_once('-') {
            Some((category, id)) if !category.is_empty() && !id.is_empty() => Ok(Self(name.into())),
            _ => Err(InvalidInput::new("stream name", format!("{name:?} is not of the form category-id"))),
        }
    }
}
impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
impl AsRef<str> for StreamId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl std::borrow::Borrow<str> for StreamId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl Serialize for StreamId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for StreamId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The largest that a store can hold: 2⁶³ − 1.
            pub const MAX: Self = Self(i64::MAX as u64);

            /// The number as a typed one.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The plain number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number `n` further on.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                Self(self.0.saturating_add(n))
            }

            /// The number before, 0 staying 0.
            #[must_use]
            pub const fn before(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_type! {
    /// An event's number inside its stream: 1, 2, 3 … without a hole.
    ///
    /// As a stream's version it is the number of its last event; 0 says that the stream does not exist.
    Version
}
number_type! {
    /// An event's number in the whole log: 1, 2, 3 … without a hole. 0 stands before the first.
    Position
}

impl Version {
    /// The version of a stream that does not exist.
    pub const NONE: Self = Self(0);
    /// The version of a stream's first event.
    pub const FIRST: Self = Self(1);
}

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);
    /// The position of the log's first event.
    pub const FIRST: Self = Self(1);
}

/// What a stream is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct StreamHead {
    /// The version of its last event, 0 where it does not exist.
    pub version: Version,
    /// The position of its last event.
    pub position: Position,
    /// Whether that event closed it.
    pub closed: bool,
}

impl StreamHead {
    /// A stream that ends with this event.
    pub fn at(event: &RecordedEvent) -> Self {
        Self { version: event.version, position: event.position, closed: event.closes_stream }
    }
}
