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
pub struct Metadata {
    entries: BTreeMap<String, String>,
    /// What they hold together: reckoned with each, so that many take no more than their own time.
    #[serde(skip)]
    bytes: usize,
}

impl Metadata {
    /// No metadata.
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new(), bytes: 0 }
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
        let replaced = self.entries.get(&key).map_or(0, |old| key.len() + old.len());
        let bytes = self.bytes - replaced + key.len() + value.len();
        if bytes > METADATA_BYTES_MAX {
            let reason = format!("would have {bytes} bytes, at most {METADATA_BYTES_MAX} are allowed");
            return Err(InvalidInput::new("metadata", reason));
        }
        self.entries.insert(key, value);
        self.bytes = bytes;
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.entries.get(key).map(String::as_str)
    }

    /// The entries, in the order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn size(&self) -> usize {
        self.bytes
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn its_size_is_what_it_holds() {
        let mut metadata = Metadata::new().with("a", "1234").unwrap().with("b", "").unwrap();
        metadata.insert("a", "12").unwrap();
        metadata.insert("b", "x".repeat(METADATA_BYTES_MAX)).unwrap_err();
        metadata.insert("", "y").unwrap_err();
        assert_eq!(metadata.size(), metadata.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>());
        metadata.insert("b", "x".repeat(METADATA_BYTES_MAX - 4)).unwrap();
        metadata.insert("c", "").unwrap_err();
        let again: Metadata = serde_json::from_str(&serde_json::to_string(&metadata).unwrap()).unwrap();
        assert_eq!((again.size(), &again), (METADATA_BYTES_MAX, &metadata));
    }

    /// As many entries as fit are taken in their own time, each looked at once.
    #[test]
    fn many_entries_are_taken_quickly() {
        let started = Instant::now();
        let mut metadata = Metadata::new();
        for n in 0..METADATA_BYTES_MAX / 3 {
            let key: String = [n / 1024, n / 32, n].map(|digit| char::from(b'@' + (digit % 32) as u8)).iter().collect();
            metadata.insert(key, "").unwrap();
        }
        assert_eq!(metadata.iter().len(), METADATA_BYTES_MAX / 3);
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}
