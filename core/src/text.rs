//! Checked text: what every name in the log has in common. Names are validated once, where they enter.

use std::{borrow::Borrow, cmp::Ordering, fmt, hash, sync::Arc};

use crate::InvalidInput;

/// The longest stream name, category, type name and tag, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Immutable text that is cheap to clone: a constant, or shared.
#[derive(Clone)]
pub(crate) enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
impl Eq for Text {}
impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}
impl hash::Hash for Text {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}
impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Refuses control characters: they have no place in a name, and stores differ in what they make of them.
pub(crate) fn check_text(what: &'static str, text: &str) -> Result<(), InvalidInput> {
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(InvalidInput::new(what, format!("contains the control character {c:?}"))),
        None => Ok(()),
    }
}

/// Whether a control character ends at a byte of UTF-8: those of ASCII, and U+0080 to U+009F.
pub(crate) const fn is_control(bytes: &[u8], i: usize) -> bool {
    bytes[i] < 0x20 || bytes[i] == 0x7f || (i > 0 && bytes[i - 1] == 0xc2 && bytes[i] < 0xa0)
}

/// Checks a name: 1 to 255 bytes of text.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), InvalidInput> {
    if name.is_empty() {
        return Err(InvalidInput::new(what, "is empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(InvalidInput::new(what, format!("has {} bytes, at most {NAME_BYTES_MAX} are allowed", name.len())));
    }
    check_text(what, name)
}

/// A newtype over [`Text`] with the usual conversions; `$check` sees the text before it becomes one.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($crate::text::Text);

        impl $name {
            /// Checks the text and takes it.
            ///
            /// # Errors
            /// [`InvalidInput`](crate::InvalidInput) when it is empty, longer than 255 bytes, or contains control characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, $crate::InvalidInput> {
                let text = text.as_ref();
                let check: fn(&'static str, &str) -> Result<(), $crate::InvalidInput> = $check;
                check($what, text)?;
                Ok(Self($crate::text::Text::Shared(text.into())))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::InvalidInput;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use name_type;
