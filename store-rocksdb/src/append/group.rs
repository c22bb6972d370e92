//! A commit group in the making: what `append`'s sequencer has judged since its last write.

use std::{cell::RefCell, collections::HashMap};

use indelible_core::{
    Append, AppendOutcome, Appended, EventId, Facts, Judgement, Position, Query, RecordedEvent, StoreError, StreamHead,
    StreamId, Timestamp, Token, judge,
};
use rocksdb::WriteBatch;
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Keep};
use crate::{
    keys::{self, Series},
    read::View,
    record,
};

/// A group that has so many events, or bytes, takes nothing more: what waits gets a group of its own.
const EVENTS_MAX: usize = 4_096;
const BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) struct Group<'a> {
    /// The log before the group.
    view: View<'a>,
    clock: fn() -> Timestamp,
    last_time: Option<Timestamp>,
    /// What the group adds to the log, in order.
    pub(super) events: Vec<RecordedEvent>,
    ids: HashMap<EventId, Position>,
    /// The heads of streams that were asked for, as the group leaves them.
    heads: RefCell<HashMap<StreamId, StreamHead>>,
    /// How many appends it writes.
    pub(super) appends: u64,
    /// All that it writes.
    pub(super) batch: WriteBatch,
    /// Whether something other than events wants a sync.
    pub(super) is_durable: bool,
    waiting: Vec<Waiting>,
}

/// A caller, with its room in the queue.
enum Waiting {
    /// Its append is in the group, with so many events.
    Written(usize, Answer<AppendOutcome>, OwnedSemaphorePermit),
    /// Its append is not. The answer may rest on what the group writes, so it waits for that too.
    Judged(Result<AppendOutcome, StoreError>, Answer<AppendOutcome>, OwnedSemaphorePermit),
    Kept(Answer<()>, OwnedSemaphorePermit),
}

impl<'a> Group<'a> {
    pub(super) fn new(view: View<'a>, clock: fn() -> Timestamp, last_time: Option<Timestamp>) -> Self {
        Self {
            view,
            clock,
            last_time,
            events: Vec::new(),
            ids: HashMap::new(),
            heads: RefCell::default(),
            appends: 0,
            batch: WriteBatch::default(),
            is_durable: false,
            waiting: Vec::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= EVENTS_MAX || self.waiting.len() >= EVENTS_MAX || self.batch.size_in_bytes() >= BYTES_MAX
    }

    /// Judges an append and, where that says so, adds its events. An error is this append's alone.
    pub(super) fn append(&mut self, append: Append, answer: Answer<AppendOutcome>, room: OwnedSemaphorePermit) {
        let count = append.events().len();
        let waiting = match self.decide(append) {
            Ok(Decision::Write(events)) => {
                self.appends += 1;
                self.add(events);
                Waiting::Written(count, answer, room)
            }
            Ok(Decision::Answer(outcome)) => Waiting::Judged(Ok(outcome), answer, room),
            Err(error) => Waiting::Judged(Err(error), answer, room),
        };
        self.waiting.push(waiting);
    }

    pub(super) fn keep(&mut self, keep: Keep, answer: Answer<()>, room: OwnedSemaphorePermit) {
        match keep.value {
            Some(value) => self.batch.put(keep.key, value),
            None => self.batch.delete(keep.key),
        }
        self.is_durable |= keep.durable;
        self.waiting.push(Waiting::Kept(answer, room));
    }

    fn decide(&self, append: Append) -> Result<Decision, StoreError> {
        match judge(&append, self)? {
            Judgement::Write => {
                let now = (self.clock)();
                let recorded_at = self.last_time.map_or(now, |last| last.max(now));
                let version = |stream: &StreamId| self.stream(stream).map(|head| head.version);
                Ok(Decision::Write(append.record(self.head(), recorded_at, version)?))
            }
            Judgement::Repeated(events) => Ok(Decision::Answer(appended(&self.view, events, true))),
            Judgement::Conflict(failed) => Ok(Decision::Answer(AppendOutcome::Conflict(failed))),
            Judgement::IdConflict(id, position) => Err(StoreError::IdConflict { id, position }),
            Judgement::Invalid(invalid) => Err(invalid.into()),
        }
    }

    fn add(&mut self, events: Vec<RecordedEvent>) {
        for event in events {
            put(&mut self.batch, &event);
            self.ids.insert(event.id, event.position);
            self.heads.get_mut().insert(event.stream.clone(), StreamHead::at(&event));
            self.last_time = Some(event.recorded_at);
            self.events.push(event);
        }
    }

    /// Answers all that wait, and gives them the events.
    pub(super) fn answer(&mut self) {
        let mut events = std::mem::take(&mut self.events).into_iter();
        for waiting in self.waiting.drain(..) {
            // Sending fails where the caller has gone away.
            match waiting {
                Waiting::Written(count, answer, _room) => {
                    let events = events.by_ref().take(count).collect();
                    drop(answer.send(Ok(appended(&self.view, events, false))));
                }
                Waiting::Judged(outcome, answer, _room) => drop(answer.send(outcome)),
                Waiting::Kept(answer, _room) => drop(answer.send(Ok(()))),
            }
        }
    }
}

enum Decision {
    Write(Vec<RecordedEvent>),
    Answer(AppendOutcome),
}

fn appended(view: &View<'_>, events: Vec<RecordedEvent>, repeated: bool) -> AppendOutcome {
    let token = events.last().map_or(Token::start(view.store), |last| Token {
        store: view.store,
        position: last.position,
        event: last.id,
    });
    AppendOutcome::Appended(Appended { token, events, repeated })
}

/// All that the log and its indexes hold of an event.
fn put(batch: &mut WriteBatch, event: &RecordedEvent) {
    let RecordedEvent { position, stream, .. } = event;
    batch.put(keys::record(*position), record::encode(event));
    batch.put(Series::stream(stream).key(event.version.get()), keys::stream_value(*position, event.closes_stream));
    batch.put(keys::id(event.id), keys::position_value(*position));
    for series in keys::postings(event) {
        batch.put(series.key(position.get()), []);
    }
}

/// The facts are those of the log with all that the group has added: appends of one group see each other.
impl Facts for Group<'_> {
    type Error = StoreError;

    fn head(&self) -> Position {
        self.view.head.plus(self.events.len() as u64)
    }

    fn stream(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        if let Some(head) = self.heads.borrow().get(stream) {
            return Ok(*head);
        }
        let head = self.view.stream_head(stream)?;
        self.heads.borrow_mut().insert(stream.clone(), head);
        Ok(head)
    }

    fn find(&self, id: EventId) -> Result<Option<Position>, StoreError> {
        match self.ids.get(&id) {
            Some(position) => Ok(Some(*position)),
            None => self.view.find(id),
        }
    }

    fn event(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        match position.get().checked_sub(self.view.head.get() + 1) {
            Some(index) => Ok(usize::try_from(index).ok().and_then(|index| self.events.get(index)).cloned()),
            None if position == Position::START => Ok(None),
            None => self.view.event(position).map(Some),
        }
    }

    fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, StoreError> {
        if let Some(position) = self.view.first_match(query, after)? {
            return Ok(Some(position));
        }
        let mut added = self.events.iter().filter(|event| event.position > after);
        Ok(added.find(|event| query.matches(event)).map(|event| event.position))
    }
}
