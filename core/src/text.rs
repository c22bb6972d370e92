//! Checked text: what every name in the log has in common. Names are validated once, where they enter.

use crate::InvalidInput;

/// The longest stream name, category, type name and tag, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Refuses control characters: they have no place in a name, and stores differ in what they make of them.
pub(crate) fn check_text(what: &'static str, text: &str) -> Result<(), InvalidInput> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(()); // which nearly all is, and is quick to see
    }
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

/// A newtype over text with the usual conversions; `$check` sees the text before it becomes one. Short text stands in the
/// value itself: names come with every event, and what is shared between threads or allocated costs more than its bytes.
macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(smol_str::SmolStr);

        impl $name {
            /// Checks the text and takes it.
            ///
            /// # Errors
            /// [`InvalidInput`](crate::InvalidInput) when it is empty, longer than 255 bytes, or contains control characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, $crate::InvalidInput> {
                let text = text.as_ref();
                let check: fn(&'static str, &str) -> Result<(), $crate::InvalidInput> = $check;
                check($what, text)?;
                Ok(Self(text.into()))
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
