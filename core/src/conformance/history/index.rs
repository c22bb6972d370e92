//! The log as the checker looks at it: whole, with what is found by stream, id, type and tag.

use std::collections::{BTreeMap, HashMap};

use crate::{Category, EventId, Filter, QualifiedType, Query, RecordedEvent, StreamId, Tag};

/// A log that is well formed, and its indexes. Positions and versions are plain numbers here.
pub(super) struct Index<'a> {
    pub(super) log: &'a [RecordedEvent],
    pub(super) streams: BTreeMap<&'a StreamId, Vec<u64>>,
    ids: HashMap<EventId, u64>,
    types: HashMap<QualifiedType, Vec<u64>>,
    tags: HashMap<&'a Tag, Vec<u64>>,
    categories: BTreeMap<Category, Vec<u64>>,
    /// The position of the last event of each event's append.
    ends: Vec<u64>,
}

impl<'a> Index<'a> {
    /// Looks the log through, or says what no log may be.
    pub(super) fn new(log: &'a [RecordedEvent]) -> Result<Self, String> {
        let mut index = Self {
            log,
            streams: BTreeMap::new(),
            ids: HashMap::new(),
            types: HashMap::new(),
            tags: HashMap::new(),
            categories: BTreeMap::new(),
            ends: vec![0; log.len()],
        };
        let mut before: Option<&RecordedEvent> = None;
        for (event, position) in log.iter().zip(1..) {
            let found = event.position.get();
            if found != position {
                return Err(format!("the log has position {found} in the place of {position}"));
            }
            if before.is_some_and(|before| before.recorded_at > event.recorded_at) {
                return Err(format!("time goes back at position {position}"));
            }
            before = Some(event);
            if let Some(first) = index.ids.insert(event.id, position) {
                return Err(format!("the id of position {position} is that of position {first}"));
            }
            let of_stream = index.streams.entry(&event.stream).or_default();
            if of_stream.last().is_some_and(|last| index.log[*last as usize - 1].closes_stream) {
                return Err(format!("position {position} is behind the end of {}", event.stream));
            }
            of_stream.push(position);
            if event.version.get() != of_stream.len() as u64 {
                return Err(format!("position {position} is version {} of {}", event.version, event.stream));
            }
            index.types.entry(event.qualified_type()).or_default().push(position);
            index.categories.entry(event.stream.category()).or_default().push(position);
            event.tags.iter().for_each(|tag| index.tags.entry(tag).or_default().push(position));
        }
        let mut end = log.len() as u64;
        for event in log.iter().rev() {
            if event.ends_append {
                end = event.position.get();
            }
            index.ends[event.position.get() as usize - 1] = end;
        }
        match log.last() {
            Some(last) if !last.ends_append => Err("the log ends within an append".into()),
            _ => Ok(index),
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.log.len() as u64
    }

    /// The event at a position.
    pub(super) fn at(&self, position: u64) -> Option<&'a RecordedEvent> {
        self.log.get(usize::try_from(position.checked_sub(1)?).ok()?)
    }

    /// Where the append ends that a position is part of: the first head at which it is there.
    pub(super) fn end(&self, position: u64) -> u64 {
        let index = usize::try_from(position).ok().and_then(|position| position.checked_sub(1));
        index.map_or(0, |index| self.ends.get(index).copied().unwrap_or(u64::MAX))
    }

    pub(super) fn find(&self, id: EventId) -> Option<u64> {
        self.ids.get(&id).copied()
    }

    /// The position of a version of a stream.
    pub(super) fn version(&self, stream: &StreamId, version: u64) -> Option<u64> {
        let index = usize::try_from(version.checked_sub(1)?).ok()?;
        self.streams.get(stream)?.get(index).copied()
    }

    /// Each category, and where its first event is.
    pub(super) fn categories(&self) -> impl Iterator<Item = (&Category, u64)> {
        self.categories.iter().map(|(category, positions)| (category, positions[0]))
    }

    /// The first event from a position on that a filter lets through.
    pub(super) fn next(&self, filter: &Filter, from: u64) -> Option<u64> {
        let wanted = |position: &u64| filter.matches(&self.log[*position as usize - 1]);
        let Some(lists) = self.lists(filter) else { return (from.max(1)..=self.head()).find(wanted) };
        let first = |list: &[u64]| {
            let behind = list.partition_point(|position| *position < from);
            list[behind..].iter().copied().find(wanted)
        };
        lists.into_iter().filter_map(first).min()
    }

    /// The last event up to a position that a filter lets through.
    pub(super) fn last(&self, filter: &Filter, to: u64) -> Option<u64> {
        let wanted = |position: &u64| filter.matches(&self.log[*position as usize - 1]);
        let Some(lists) = self.lists(filter) else { return (1..=to.min(self.head())).rev().find(wanted) };
        let last = |list: &[u64]| {
            let behind = list.partition_point(|position| *position <= to);
            list[..behind].iter().rev().copied().find(wanted)
        };
        lists.into_iter().filter_map(last).max()
    }

    /// The first event behind a position that a query matches.
    pub(super) fn first_match(&self, query: &Query, after: u64) -> Option<u64> {
        self.next(&query.clone().into(), after.saturating_add(1))
    }

    /// The lists that hold all that a filter can let through; none where only the whole log does.
    fn lists(&self, filter: &Filter) -> Option<Vec<&[u64]>> {
        fn of(list: Option<&Vec<u64>>) -> &[u64] {
            list.map_or(&[], Vec::as_slice)
        }
        let mut lists = Vec::new();
        for item in filter.query().items() {
            let tags = item.all_tags().iter().map(|tag| of(self.tags.get(tag)));
            match tags.min_by_key(|list| list.len()) {
                Some(shortest) => lists.push(shortest),
                None => lists.extend(item.any_type().iter().map(|name| of(self.types.get(name)))),
            }
        }
        if !filter.query().items().is_empty() {
            return Some(lists);
        }
        let categories = filter.any_category();
        (!categories.is_empty()).then(|| categories.iter().map(|c| of(self.categories.get(c))).collect())
    }
}
