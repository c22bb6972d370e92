//! The bytes of keys. One key space, a kind byte first; all numbers big-endian, so that byte order is logical order.
//!
//! ```text
//! 'l' position                            → the record of the event there: record.rs
//! 's' stream 0 version                    → position, and a byte: 1 where this event closes the stream
//! 'i' event id                            → position
//! 'c' category 0 position                 → nothing
//! 't' category 0 type 0 position          → nothing
//! 'g' tag 0 position                      → nothing
//! 'p' stream                              → its snapshot: snapshot.rs
//! 'k' reader                              → its checkpoint: checkpoint.rs
//! 'm' "format" | "store"                  → the format's version (u32) | the store's UUID
//! ```
//!
//! Names are at most 255 bytes and contain no control characters, so a 0 byte ends them: no name's keys lie between
//! those of another, also where one name begins with the other, and names sort as their text does. One key space and not
//! one column family a kind, so that whatever a recovery finds is one prefix of all writes.

use indelible_core::{Category, EventId, Position, QualifiedType, RecordedEvent, StreamId, Tag};

pub(crate) const FORMAT: &[u8] = b"mformat";
pub(crate) const STORE: &[u8] = b"mstore";
pub(crate) const CHECKPOINTS: &[u8] = b"k";

const END: u8 = 0;
/// Behind every key of a name that [`END`] ends, before those of the next name.
const BEHIND: u8 = 1;

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(crate) fn record(position: Position) -> Vec<u8> {
    Series::log().key(position.get())
}

pub(crate) fn id(id: EventId) -> Vec<u8> {
    key(b'i', &[id.as_uuid().as_bytes()])
}

pub(crate) fn snapshot(stream: &StreamId) -> Vec<u8> {
    key(b'p', &[stream.as_str().as_bytes()])
}

pub(crate) fn checkpoint(reader: &str) -> Vec<u8> {
    key(b'k', &[reader.as_bytes()])
}

/// The reader of a checkpoint's key.
pub(crate) fn reader(key: &[u8]) -> String {
    String::from_utf8_lossy(key.strip_prefix(CHECKPOINTS).unwrap_or(key)).into_owned()
}

/// Keys that differ in the number at their end only: positions, or a stream's versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Series(Vec<u8>);

impl Series {
    pub(crate) fn log() -> Self {
        Self(vec![b'l'])
    }

    pub(crate) fn stream(stream: &StreamId) -> Self {
        Self(key(b's', &[stream.as_str().as_bytes(), &[END]]))
    }

    pub(crate) fn category(category: &str) -> Self {
        Self(key(b'c', &[category.as_bytes(), &[END]]))
    }

    pub(crate) fn event_type(category: &str, event_type: &str) -> Self {
        Self(key(b't', &[category.as_bytes(), &[END], event_type.as_bytes(), &[END]]))
    }

    pub(crate) fn qualified(qualified: &QualifiedType) -> Self {
        Self::event_type(qualified.category.as_str(), qualified.event_type.as_str())
    }

    pub(crate) fn tag(tag: &Tag) -> Self {
        Self(key(b'g', &[tag.as_str().as_bytes(), &[END]]))
    }

    pub(crate) fn key(&self, number: u64) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + 8);
        key.extend_from_slice(&self.0);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    /// The number at the end of one of its keys.
    pub(crate) fn number(&self, key: &[u8]) -> Option<u64> {
        let number = key.strip_prefix(self.0.as_slice())?;
        Some(u64::from_be_bytes(number.try_into().ok()?))
    }
}

/// Where the position of an event stands beside the log: in the series of its category, of its type, and of each tag.
pub(crate) fn postings(event: &RecordedEvent) -> impl Iterator<Item = Series> {
    let category = event.stream.category_str();
    [Series::category(category), Series::event_type(category, event.event_type.as_str())]
        .into_iter()
        .chain(event.tags.iter().map(Series::tag))
}

/// The names that one kind of series is kept for, in the order of their text.
pub(crate) struct Names {
    kind: u8,
    /// What all of them start with.
    prefix: Vec<u8>,
}

impl Names {
    pub(crate) fn streams(category: Option<&Category>) -> Self {
        // A category contains no '-', which ends it.
        Self { kind: b's', prefix: category.map(|c| format!("{c}-").into_bytes()).unwrap_or_default() }
    }

    pub(crate) fn categories() -> Self {
        Self { kind: b'c', prefix: Vec::new() }
    }

    /// Where the first name is, or the first one behind `after`.
    pub(crate) fn start(&self, after: Option<&str>) -> Vec<u8> {
        let first = key(self.kind, &[&self.prefix]);
        after.map_or(first.clone(), |name| first.max(self.behind(name)))
    }

    /// Behind the last name.
    pub(crate) fn end(&self) -> Vec<u8> {
        let mut end = key(self.kind, &[&self.prefix]);
        // The last byte is the kind, or the '-' that ends a category: there is always a next one.
        *end.last_mut().expect("a kind byte") += 1;
        end
    }

    /// Behind all keys of a name.
    pub(crate) fn behind(&self, name: &str) -> Vec<u8> {
        key(self.kind, &[name.as_bytes(), &[BEHIND]])
    }

    /// The name of a key and the number at its end; `None` for a key that is none of these.
    pub(crate) fn parse<'a>(&self, key: &'a [u8]) -> Option<(&'a str, u64)> {
        let key = key.strip_prefix(&[self.kind])?;
        let (name, number) = key.split_at_checked(key.len().checked_sub(8)?)?;
        let name = name.strip_suffix(&[END])?;
        Some((std::str::from_utf8(name).ok()?, u64::from_be_bytes(number.try_into().ok()?)))
    }
}

/// The value of a stream's key.
pub(crate) fn stream_value(position: Position, closes: bool) -> [u8; 9] {
    let mut value = [0; 9];
    value[..8].copy_from_slice(&position_value(position));
    value[8] = u8::from(closes);
    value
}

/// What [`stream_value`] said; `None` for other bytes.
pub(crate) fn parse_stream_value(value: &[u8]) -> Option<(Position, bool)> {
    match value.split_last()? {
        (closes @ (0 | 1), position) => Some((parse_position(position)?, *closes == 1)),
        _ => None,
    }
}

pub(crate) fn position_value(position: Position) -> [u8; 8] {
    position.get().to_be_bytes()
}

pub(crate) fn parse_position(value: &[u8]) -> Option<Position> {
    Some(Position::new(u64::from_be_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text that is allowed in names, from few characters, so that names often begin with one another.
    fn name() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[ab é-]{0,6}").unwrap_or_else(|error| panic!("{error}"))
    }

    proptest! {
        #[test]
        fn the_order_of_keys_is_that_of_name_and_version(
            (a, b) in (name(), name()), (m, n) in (any::<u64>(), any::<u64>())
        ) {
            let stream = |id: &str| -> StreamId { format!("c-{id}x").parse().unwrap() };
            let (a, b) = (stream(&a), stream(&b));
            let key = Series::stream(&a).key(m);
            prop_assert_eq!(key.cmp(&Series::stream(&b).key(n)), (&a, m).cmp(&(&b, n)));
            prop_assert_eq!(Names::streams(None).parse(&key), Some((a.as_str(), m)));
        }

        #[test]
        fn a_series_holds_no_key_of_another(a in name(), b in name(), n in any::<u64>()) {
            let key = Series::tag(&Tag::of("t", &a).unwrap()).key(n);
            let other = Series::tag(&Tag::of("t", &b).unwrap());
            prop_assert_eq!(other.number(&key), (a == b).then_some(n));
        }
    }

    #[test]
    fn a_categorys_streams_are_told_from_those_whose_name_begins_alike() {
        let names = Names::streams(Some(&Category::from_static("a")));
        let holds = |stream: &str| {
            let key = Series::stream(&stream.parse().unwrap()).key(1);
            (names.start(None)..names.end()).contains(&key)
        };
        assert!(holds("a-1") && holds("a-a-"));
        assert!(!holds("ab-1") && !holds("a b-1") && !holds("a.-1"));
    }
}
