//! A batch in the making, for `append`'s sequencer: what it takes together, and which events in it a condition of it would find.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use indelible_core::{Append, AppendOutcome, EventId, Query, StoreError};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// A batch that has so many events, bytes or appends takes nothing more: what waits gets a batch of its own.
const EVENTS_MAX: usize = 4_096;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// The same for pairs of a condition and an event before it in the batch that matches.
const RIVALS_MAX: usize = 20_000;

/// A caller with its append, and its room in the queue until it is answered.
pub(crate) struct Waiting {
    pub(crate) append: Append,
    /// A caller that has gone away needs no answer: its append goes on all the same.
    pub(crate) answer: oneshot::Sender<Result<AppendOutcome, StoreError>>,
    pub(crate) room: OwnedSemaphorePermit,
    pub(crate) handed_over: Instant,
}

/// An event of a batch: which append, and which of its events.
#[derive(Clone, Copy)]
pub(super) struct Rival {
    pub(super) append: usize,
    pub(super) event: usize,
}

#[derive(Default)]
pub(super) struct Group {
    pub(super) waiting: Vec<Waiting>,
    /// For each condition: the events before it in the batch that match.
    pub(super) rivals: Vec<Vec<Rival>>,
    /// Where the conditions of each append begin.
    conditions: Vec<usize>,
    ids: HashSet<EventId>,
    events: usize,
    bytes: usize,
    pairs: usize,
    /// The events by tag and by type, built when the first condition comes.
    index: Option<Index>,
}

#[derive(Default)]
struct Index {
    tags: HashMap<String, Vec<Rival>>,
    types: HashMap<(String, String), Vec<Rival>>,
}

impl Group {
    pub(super) fn is_full(&self) -> bool {
        self.events >= EVENTS_MAX || self.bytes >= BYTES_MAX || self.pairs >= RIVALS_MAX
    }

    /// Takes an append, or gives it back: one that has an event id in common with another here is judged after that
    /// is written.
    pub(super) fn take(&mut self, waiting: Waiting) -> Result<(), Box<Waiting>> {
        let append = &waiting.append;
        let (events, bytes) = (append.events().len(), append.size());
        let is_too_much = self.events + events > EVENTS_MAX || self.bytes + bytes > BYTES_MAX;
        let is_met_again = append.events().iter().any(|(_, event)| self.ids.contains(&event.id));
        if !self.waiting.is_empty() && (is_too_much || is_met_again) {
            return Err(Box::new(waiting));
        }
        self.conditions.push(self.rivals.len());
        for condition in append.conditions() {
            let rivals = self.matching(&condition.query);
            self.pairs += rivals.len();
            self.rivals.push(rivals);
        }
        let number = self.waiting.len();
        if let Some(index) = &mut self.index {
            index.add(number, append);
        }
        self.ids.extend(append.events().iter().map(|(_, event)| event.id));
        self.events += events;
        self.bytes += bytes;
        self.waiting.push(waiting);
        Ok(())
    }

    /// The events of the group that match a query, in their order.
    fn matching(&mut self, query: &Query) -> Vec<Rival> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let waiting = &self.waiting;
        let index = self.index.get_or_insert_with(|| {
            let mut index = Index::default();
            for (number, waiting) in waiting.iter().enumerate() {
                index.add(number, &waiting.append);
            }
            index
        });
        let mut found: Vec<Rival> = Vec::new();
        for item in query.items() {
            let lists: Vec<&[Rival]> =
                match item.all_tags().iter().map(|tag| index.of_tag(tag.as_str())).min_by_key(|l| l.len()) {
                    Some(rarest) => vec![rarest],
                    None => item
                        .any_type()
                        .iter()
                        .map(|name| index.of_type(name.category.as_str(), name.event_type.as_str()))
                        .collect(),
                };
            let of_item = Query::new([item.clone()]);
            found.extend(lists.into_iter().flatten().filter(|rival| {
                let (stream, event) = &waiting[rival.append].append.events()[rival.event];
                of_item.matches_new(stream, event)
            }));
        }
        found.sort_unstable_by_key(|rival| (rival.append, rival.event));
        found.dedup_by_key(|rival| (rival.append, rival.event));
        found
    }

    /// Keeps the first half, and gives the second.
    pub(super) fn split(&mut self) -> Self {
        let rest = self.waiting.split_off(self.waiting.len() / 2);
        let mut second = Self::default();
        for waiting in rest {
            // They came together before, so they go together.
            if let Err(waiting) = second.take(waiting) {
                second.waiting.push(*waiting);
            }
        }
        self.rivals.truncate(self.conditions.get(self.waiting.len()).copied().unwrap_or(self.rivals.len()));
        self.conditions.truncate(self.waiting.len());
        second
    }

    /// Answers all with an error.
    pub(super) fn fail(self, error: impl Fn(Append) -> StoreError) {
        for waiting in self.waiting {
            let _ = waiting.answer.send(Err(error(waiting.append)));
        }
    }
}

impl Index {
    fn add(&mut self, number: usize, append: &Append) {
        for (event, (stream, new)) in append.events().iter().enumerate() {
            let rival = Rival { append: number, event };
            let name = (stream.category_str().to_owned(), new.event_type.as_str().to_owned());
            self.types.entry(name).or_default().push(rival);
            for tag in &new.tags {
                self.tags.entry(tag.as_str().to_owned()).or_default().push(rival);
            }
        }
    }

    fn of_tag(&self, tag: &str) -> &[Rival] {
        self.tags.get(tag).map_or(&[], Vec::as_slice)
    }

    fn of_type(&self, category: &str, event_type: &str) -> &[Rival] {
        self.types.get(&(category.to_owned(), event_type.to_owned())).map_or(&[], Vec::as_slice)
    }
}
