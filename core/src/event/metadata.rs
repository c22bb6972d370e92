//! Metadata: what else is to be known of an event.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    InvalidInput,
    text::{check_name, check_text},
};

/// The most that an event's metadata holds, keys and values together, in bytes.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;

/// What else is to be known of an event: a map of text, at most 64 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// No metadata.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// With one more entry; an entry of the same key is replaced.
    ///
    /// # Errors
    /// [`InvalidInput`] for an empty key, a key of more than 255 bytes, control characters, or more than 64 KiB in all.
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Result<Self, InvalidInput> {
        self.insert(key, value)?;
        Ok(self)
    }

    /// Adds or replaces an entry.
    ///
    /// # Errors
    /// As [`with`](Self::with); the metadata is then as it was.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<(), InvalidInput> {
        let (key, value) = (key.into(), value.into());
        check_name("metadata key", &key)?;
        check_text("metadata value", &value)?;
        let replaced = self.0.get(&key).map_or(0, |old| key.len() + old.len());
        let bytes = self.size() - replaced + key.len() + value.len();
        if bytes > METADATA_BYTES_MAX {
            let reason = format!("would have {bytes} bytes, at most {METADATA_BYTES_MAX} are allowed");
            return Err(InvalidInput::new("metadata", reason));
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The entries, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}
impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut metadata = Self::new();
        for (key, value) in BTreeMap::<String, String>::deserialize(deserializer)? {
            metadata.insert(key, value).map_err(serde::de::Error::custom)?;
        }
        Ok(metadata)
    }
}
