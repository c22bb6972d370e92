//! A commit group in the making: what `append`'s sequencer has judged since its last write.

use std::{mem, sync::Arc};

use indelible_core::{
    EventId, Facts, FailedCondition, Judgement, Position, Query, RecordedEvent, StoreError, StreamHead, StreamId,
    Timestamp, Version, judge,
};
use rocksdb::WriteBatch;
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Keep, Prepared};
use crate::{
    anchor::Place,
    block::{self, Builder},
    bugs,
    engine::{Engine, Fault, Tier},
    read::View,
    record,
    tail::{Entry, Segment},
};

/// A group that has so many events, or bytes, takes nothing more: what waits gets a group of its own.
const EVENTS_MAX: usize = 4_096;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// One that has so many events need not wait for more where the writer is free: half of many callers are answered while
/// the other half is being written.
const EVENTS_ENOUGH: u64 = 128;
/// And with less than so many it is not worth another thread.
const EVENTS_SMALL: u64 = 32;

/// What the sequencer made of a prepared append.
pub(crate) enum Verdict {
    /// It is written, behind this position.
    Written {
        prepared: Box<Prepared>,
        before: Position,
        recorded_at: Timestamp,
    },
    /// Something it demands did not hold any more.
    Conflict(Vec<FailedCondition>),
    /// The log has gone on in a way that asks for a new look.
    LookAgain,
    Failed(StoreError),
}

pub(super) struct Group<'a> {
    view: View<'a>,
    /// The last event and its block, as the group leaves the log.
    last: Place,
    /// When its events are recorded: one moment for all.
    pub(super) recorded_at: Option<Timestamp>,
    block: Builder,
    /// How many appends and events it writes.
    appends: u64,
    events: u64,
    /// All that it writes.
    batch: WriteBatch,
    /// Whether something other than events wants a sync.
    is_durable: bool,
    waiting: Vec<Waiting>,
    scratch: Scratch,
}

/// A group that takes nothing more, as it is written.
pub(super) struct Closed {
    pub(super) last: Place,
    pub(super) appends: u64,
    pub(super) events: u64,
    pub(super) batch: WriteBatch,
    pub(super) is_durable: bool,
    /// The segment that it filled.
    pub(super) full: Option<Arc<Segment>>,
    waiting: Vec<Waiting>,
}

/// Memory that goes from group to group.
#[derive(Default)]
pub(super) struct Scratch {
    series: Vec<u8>,
    versions: Vec<Version>,
    /// How large the last batch was: the next one is likely as large.
    batch_bytes: usize,
}

/// A caller, with its room in the queue. The answer may rest on what the group writes, so it waits for that.
enum Waiting {
    Append(Verdict, Answer<Verdict>, OwnedSemaphorePermit),
    Kept(Answer<Result<(), StoreError>>, OwnedSemaphorePermit),
}

impl<'a> Group<'a> {
    /// Behind the last event that was written. `view` ends there; it is not asked for what the index holds.
    pub(super) fn new(view: View<'a>, last: Place, scratch: Scratch) -> Self {
        Self {
            block: Builder::after(last.position, last.checksum),
            view,
            last,
            recorded_at: None,
            appends: 0,
            events: 0,
            batch: WriteBatch::with_capacity_bytes(scratch.batch_bytes),
            is_durable: false,
            waiting: Vec::new(),
            scratch,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.events >= EVENTS_MAX as u64 || self.waiting.len() >= EVENTS_MAX || self.batch.size_in_bytes() >= BYTES_MAX
    }

    pub(super) fn is_enough(&self) -> bool {
        self.events >= EVENTS_ENOUGH
    }

    pub(super) fn is_small(&self) -> bool {
        self.events < EVENTS_SMALL
    }

    /// Judges an append by what came behind the position that its caller has judged it up to, and adds its events.
    pub(super) fn append(
        &mut self,
        mut prepared: Box<Prepared>,
        now: impl FnOnce() -> Timestamp,
        answer: Answer<Verdict>,
        room: OwnedSemaphorePermit,
    ) {
        let verdict = match self.judge(&mut prepared) {
            None => self.write(prepared, now),
            Some(verdict) => verdict,
        };
        self.waiting.push(Waiting::Append(verdict, answer, room));
    }

    fn judge(&self, prepared: &mut Prepared) -> Option<Verdict> {
        let (head, seen) = (self.last.position, prepared.judged.position);
        if seen == head || bugs::is_on(bugs::JUDGE_ONCE) {
            return None;
        }
        let segments = self.view.segments;
        // Behind the head is what was published before the store was resumed, and lost.
        if seen < segments.indexed() || seen > head {
            return Some(Verdict::LookAgain);
        }
        for event in &prepared.events {
            if segments.find(event.id, seen, head).is_some() {
                return Some(Verdict::LookAgain);
            }
        }
        let mut is_as_judged = !prepared.has_conditions;
        for (stream, known) in &mut prepared.streams {
            // Also what was known is still there, as a rule.
            if let Some(newer) = segments.head(stream, seen, head).filter(|newer| newer != known) {
                *known = newer;
                is_as_judged = false;
            }
        }
        if is_as_judged {
            return None;
        }
        match judge(&prepared.append, &Since { group: self, prepared }) {
            Ok(Judgement::Write) => None,
            Ok(Judgement::Conflict(failed)) => Some(Verdict::Conflict(failed)),
            Ok(Judgement::Invalid(invalid)) => Some(Verdict::Failed(invalid.into())),
            Ok(Judgement::Repeated(_) | Judgement::IdConflict(..)) => Some(Verdict::LookAgain),
            // It would take too long here.
            Err(Fault::NotInMemory) => Some(Verdict::LookAgain),
            Err(fault) => Some(Verdict::Failed(fault.into())),
        }
    }

    fn write(&mut self, prepared: Box<Prepared>, now: impl FnOnce() -> Timestamp) -> Verdict {
        let recorded_at = *self.recorded_at.get_or_insert_with(now);
        let before = self.last.position;
        let mut versions = mem::take(&mut self.scratch.versions);
        versions.clear();
        versions.extend(prepared.streams.iter().map(|(_, head)| head.version));
        let segment = self.view.segments.active();
        let mut start = 0;
        for event in &prepared.events {
            let version = &mut versions[event.stream];
            *version = version.plus(1);
            let record = &prepared.records[start..event.end];
            start = event.end;
            self.block.push(*version, record);
            self.last.position = self.last.position.plus(1);
            let names = record::Head::parse(record).expect("as it was encoded");
            let entry = Entry {
                position: self.last.position,
                version: *version,
                id: event.id,
                stream: &prepared.streams[event.stream].0,
                event_type: names.event_type,
                closes: names.closes,
            };
            segment.add(&entry, names.tags().map_while(Result::ok), &mut self.scratch.series);
            if self.block.is_full() {
                self.finish_block(recorded_at);
            }
        }
        self.scratch.versions = versions;
        self.appends += 1;
        self.events += prepared.events.len() as u64;
        self.last.event = prepared.events.last().map_or(EventId::NIL, |event| event.id);
        // Its memory goes back to the thread that it came from.
        Verdict::Written { prepared, before, recorded_at }
    }

    fn finish_block(&mut self, recorded_at: Timestamp) {
        let (last, value) = self.block.finish(recorded_at);
        self.batch.put(block::key(last), value);
        self.view.segments.active().end_block(last);
    }

    /// Adds a checkpoint.
    pub(super) fn keep(
        &mut self,
        engine: &Engine,
        keep: Keep,
        answer: Answer<Result<(), StoreError>>,
        room: OwnedSemaphorePermit,
    ) {
        self.batch.put_cf(engine.state(), keep.key, keep.value);
        self.is_durable = true;
        self.waiting.push(Waiting::Kept(answer, room));
    }

    /// Ends it, and gives back its memory for the next one.
    pub(super) fn close(mut self) -> (Closed, Scratch) {
        if let Some(recorded_at) = self.recorded_at
            && !self.block.is_empty()
        {
            self.finish_block(recorded_at);
        }
        self.last.checksum = self.block.checksum();
        let Self { last, appends, events, batch, is_durable, waiting, mut scratch, .. } = self;
        scratch.batch_bytes = batch.size_in_bytes();
        (Closed { last, appends, events, batch, is_durable, full: None, waiting }, scratch)
    }

    /// Answers that nothing was tried.
    pub(super) fn refuse(self, stopped: impl Fn() -> StoreError) {
        self.close().0.refuse(stopped);
    }
}

impl Closed {
    /// Answers all that wait.
    pub(super) fn answer(&mut self) {
        // Given back at one stroke: each time costs a lock that all callers take.
        let mut rooms: Option<OwnedSemaphorePermit> = None;
        for waiting in self.waiting.drain(..) {
            // Sending fails where the caller has gone away.
            let room = match waiting {
                Waiting::Append(verdict, answer, room) => {
                    drop(answer.send(verdict));
                    room
                }
                Waiting::Kept(answer, room) => {
                    drop(answer.send(Ok(())));
                    room
                }
            };
            match &mut rooms {
                Some(rooms) => rooms.merge(room),
                none => *none = Some(room),
            }
        }
    }

    pub(super) fn refuse(mut self, stopped: impl Fn() -> StoreError) {
        for waiting in self.waiting.drain(..) {
            match waiting {
                Waiting::Append(_, answer, _room) => drop(answer.send(Verdict::Failed(stopped()))),
                Waiting::Kept(answer, _room) => drop(answer.send(Err(stopped()))),
            }
        }
    }
}

/// The facts of the log with all that the group has added, of which an append knows those up to its own head.
struct Since<'a> {
    group: &'a Group<'a>,
    prepared: &'a Prepared,
}

impl Facts for Since<'_> {
    type Error = Fault;

    fn head(&self) -> Position {
        self.group.last.position
    }

    fn stream(&self, stream: &StreamId) -> Result<StreamHead, Fault> {
        let found = self.prepared.streams.iter().find(|(named, _)| named == stream);
        Ok(found.map(|(_, head)| *head).unwrap_or_default())
    }

    /// All ids were looked for.
    fn find(&self, _id: EventId) -> Result<Option<Position>, Fault> {
        Ok(None)
    }

    fn event(&self, _position: Position) -> Result<Option<RecordedEvent>, Fault> {
        Ok(None)
    }

    fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, Fault> {
        // All that came since is in memory, and takes no more than its time.
        let tier = if self.prepared.is_judged_patiently { Tier::Disk } else { Tier::Memory };
        let view = View { head: self.group.last.position, tier, ..self.group.view };
        view.first_match(query, after.max(self.prepared.judged.position))
    }
}
