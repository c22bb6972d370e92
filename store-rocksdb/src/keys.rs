//! The bytes of keys in the index. One key space, a kind byte first: `c`ategories, ta`g`s, `h`eads of streams, the
//! `m`ark, `s`treams, `t`ypes, `u`nique ids. `FORMAT.md` has the whole.
//!
//! Names are at most 255 bytes and contain no control characters, so a 0 byte ends them: no name's keys lie between
//! those of another, also where one name begins with the other, and names sort as their text does.

use indelible_core::{Category, EventId, QualifiedType, Tag};

/// How far the index goes.
pub(crate) const MARK: &[u8] = b"m";
/// The kind of event ids, the last of all.
pub(crate) const ID: u8 = b'u';

const END: u8 = 0;
/// Behind every key of a name that [`END`] ends, before those of the next name.
const BEHIND: u8 = 1;

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(kind);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

pub(crate) fn id(id: EventId) -> Vec<u8> {
    key(ID, &[id.as_uuid().as_bytes()])
}

pub(crate) fn head(stream: &str) -> Vec<u8> {
    key(b'h', &[stream.as_bytes()])
}

/// Keys that differ in the number at their end only: positions, or a stream's versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Series(Vec<u8>);

impl Series {
    pub(crate) fn stream(stream: &str) -> Self {
        Self(key(b's', &[stream.as_bytes(), &[END]]))
    }

    pub(crate) fn category(category: &str) -> Self {
        Self(key(b'c', &[category.as_bytes(), &[END]]))
    }

    fn event_type(category: &str, event_type: &str) -> Self {
        Self(key(b't', &[category.as_bytes(), &[END], event_type.as_bytes(), &[END]]))
    }

    pub(crate) fn qualified(qualified: &QualifiedType) -> Self {
        Self::event_type(qualified.category.as_str(), qualified.event_type.as_str())
    }

    pub(crate) fn tag(tag: &Tag) -> Self {
        Self(key(b'g', &[tag.as_str().as_bytes(), &[END]]))
    }

    /// What all its keys start with.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Behind all its keys.
    pub(crate) fn end(&self) -> Vec<u8> {
        let mut end = self.0.clone();
        *end.last_mut().expect("a series ends with a zero byte") = BEHIND;
        end
    }
}

/// The key of a series' number.
pub(crate) fn numbered(series: &[u8], number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(series.len() + 8);
    key.extend_from_slice(series);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The number at the end of a series' key.
pub(crate) fn number(series: &[u8], key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.strip_prefix(series)?.try_into().ok()?))
}

/// Where an event stands beside the log: in the series of its category, of its type, and of each tag. Each is built in
/// `scratch` and shown.
pub(crate) fn for_each_series<'a>(
    scratch: &mut Vec<u8>,
    stream: &str,
    event_type: &str,
    tags: impl Iterator<Item = &'a str>,
    mut show: impl FnMut(&[u8]),
) {
    let category = stream.split_once('-').map_or(stream, |(category, _)| category);
    let mut build = |kind, parts: &[&str]| {
        scratch.clear();
        scratch.push(kind);
        for part in parts {
            scratch.extend_from_slice(part.as_bytes());
            scratch.push(END);
        }
        show(scratch);
    };
    build(b'c', &[category]);
    build(b't', &[category, event_type]);
    tags.for_each(|tag| build(b'g', &[tag]));
}

/// The names that are kept, in the order of their text.
pub(crate) struct Names {
    kind: u8,
    /// What all of them start with.
    prefix: Vec<u8>,
}

impl Names {
    pub(crate) fn streams(category: Option<&Category>) -> Self {
        // A category contains no '-', which ends it.
        Self { kind: b'h', prefix: category.map(|c| format!("{c}-").into_bytes()).unwrap_or_default() }
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

    /// Behind all keys of a name, before those of the next.
    pub(crate) fn behind(&self, name: &str) -> Vec<u8> {
        match self.kind {
            b'c' => key(self.kind, &[name.as_bytes(), &[BEHIND]]),
            _ => key(self.kind, &[name.as_bytes(), &[END]]),
        }
    }

    /// The name of a key; `None` for a key that is none of these.
    pub(crate) fn parse<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        let key = key.strip_prefix(&[self.kind])?;
        let name = match self.kind {
            b'c' => key.get(..key.len().checked_sub(8)?)?.strip_suffix(&[END])?,
            _ => key,
        };
        std::str::from_utf8(name).ok()
    }

    /// The category that a series in memory is of.
    pub(crate) fn parse_series<'a>(&self, series: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(series.strip_prefix(&[self.kind])?.strip_suffix(&[END])?).ok()
    }

    pub(crate) fn is_wanted(&self, name: &str, after: Option<&str>) -> bool {
        name.as_bytes().starts_with(&self.prefix) && after.is_none_or(|after| name > after)
    }
}

#[cfg(test)]
mod tests {
    use indelible_core::StreamId;
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
            let series = |stream: &StreamId| Series::stream(stream.as_str());
            let key = |stream: &StreamId, n| numbered(series(stream).as_bytes(), n);
            prop_assert_eq!(key(&a, m).cmp(&key(&b, n)), (&a, m).cmp(&(&b, n)));
            prop_assert_eq!(head(a.as_str()).cmp(&head(b.as_str())), a.cmp(&b));
            prop_assert!(key(&a, m) < series(&a).end());
            let head = head(a.as_str());
            prop_assert_eq!(Names::streams(None).parse(&head), Some(a.as_str()));
        }

        #[test]
        fn a_series_holds_no_key_of_another(a in name(), b in name(), n in any::<u64>()) {
            let series = |name| Series::tag(&Tag::of("t", name).unwrap());
            let key = numbered(series(&a).as_bytes(), n);
            prop_assert_eq!(number(series(&b).as_bytes(), &key), (a == b).then_some(n));
        }
    }

    #[test]
    fn a_categorys_streams_are_told_from_those_whose_name_begins_alike() {
        let names = Names::streams(Some(&Category::from_static("a")));
        let holds = |stream: &str| {
            let key = head(stream);
            (names.start(None)..names.end()).contains(&key)
        };
        assert!(holds("a-1") && holds("a-a-"));
        assert!(!holds("ab-1") && !holds("a b-1") && !holds("a.-1"));
    }
}
