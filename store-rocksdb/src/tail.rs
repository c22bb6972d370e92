//! The index of the log's end, in memory. The sequencer adds each event as it decides it; readers look no further than the
//! published head, as in the log itself. It is a row of segments: the last one grows, and when it is full the keeper moves
//! it into the [`index`](crate::index) and lets it go. What the index holds, and what the tail holds, meet without a gap.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use ahash::RandomState;
use dashmap::DashMap;
use indelible_core::{Direction, EventId, Position, StreamHead, StreamId, Version};

use super::sync::{Condvar, Mutex};
use crate::{
    bugs,
    index::newness,
    keys::{self, Names},
    log::Spot,
};

/// How many segments there are at most. With all of them full, appends wait for the keeper.
const SEGMENTS_MAX: usize = 3;
/// What is reckoned for an id, for a stream, for a series, beside their names; and for each number.
const ID_BYTES: usize = 40;
const STREAM_BYTES: usize = 120;
const SERIES_BYTES: usize = 80;
const NUMBER_BYTES: usize = 6;

/// The segments, and who waits for one to go.
pub(crate) struct Tail {
    segments: Mutex<Segments>,
    released: Condvar,
}

impl Tail {
    /// One that goes on with a segment.
    pub(crate) fn new(segment: Segment) -> Self {
        let segments = Segments([Arc::new(segment)].into());
        Self { segments: Mutex::new(segments), released: Condvar::new() }
    }

    /// As they are now. What is added later shows in the last one.
    pub(crate) fn segments(&self) -> Segments {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there are as many segments as may be: the next one waits for the oldest to go.
    pub(crate) fn is_full(&self) -> bool {
        self.segments().0.len() >= SEGMENTS_MAX
    }

    /// Begins a new segment behind `last`, and returns the full one, to be indexed. Waits while there are too many, or
    /// until `is_over`.
    pub(crate) fn rotate(&self, last: Position, is_over: impl Fn() -> bool) -> Arc<Segment> {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        while segments.0.len() >= SEGMENTS_MAX && !is_over() {
            segments = self.released.wait(segments).unwrap_or_else(PoisonError::into_inner);
        }
        let full = Arc::clone(segments.active());
        let next = Segment::after(last, full.streams_to_its_end());
        *segments = Segments(segments.0.iter().cloned().chain([Arc::new(next)]).collect());
        full
    }

    /// Lets the oldest segment go, which the index holds now. The one that grows is kept.
    pub(crate) fn release(&self) {
        let mut segments = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        *segments = Segments(segments.0[1..].into());
        self.released.notify_all();
    }

    /// Wakes who waits, for the store is over.
    pub(crate) fn wake(&self) {
        if !bugs::is_on(bugs::WAKE_UNLOCKED) {
            // Who has just found that it isn't is waiting once this is ours.
            drop(self.segments.lock());
        }
        self.released.notify_all();
    }
}

/// Segments in the order of the log; at least one.
#[derive(Clone)]
pub(crate) struct Segments(Arc<[Arc<Segment>]>);

impl Segments {
    /// The last position that is not in here: the index holds all up to it.
    pub(crate) fn indexed(&self) -> Position {
        self.0[0].after
    }

    /// Whether the index holds all of the first one, if it goes to a position. The one that grows is kept.
    pub(crate) fn is_first_in(&self, indexed: Position) -> bool {
        self.0.get(1).is_some_and(|next| next.after <= indexed)
    }

    /// The one that grows.
    pub(crate) fn active(&self) -> &Arc<Segment> {
        &self.0[self.0.len() - 1]
    }

    /// About what they take in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|segment| segment.bytes()).sum()
    }

    /// Those that hold positions behind `after`, the last one first.
    fn since(&self, after: Position) -> impl Iterator<Item = &Arc<Segment>> {
        let first = self.0.iter().rposition(|segment| segment.after <= after).unwrap_or(0);
        self.0[first..].iter().rev()
    }

    /// Where an id is, behind `after` and up to `head`.
    pub(crate) fn find(&self, id: EventId, after: Position, head: Position) -> Option<Position> {
        let newness = newness(id);
        let may_hold = |segment: &&Arc<Segment>| newness.is_none_or(|newness| newness <= segment.newest.load(Acquire));
        let find = |segment: &Arc<Segment>| Some(segment.position(*segment.ids.get(&id)?));
        self.since(after).filter(may_hold).find_map(find).filter(|position| *position <= head)
    }

    /// What a stream is like at `head`; `None` where no event behind `after` and up to there is in here.
    pub(crate) fn head(&self, stream: &StreamId, after: Position, head: Position) -> Option<StreamHead> {
        self.since(after).find_map(|segment| {
            let versions = segment.streams.get(stream)?;
            let mut found = versions.last;
            if found.position > head {
                let visible = versions.offsets.partition_point(|offset| segment.position(*offset) <= head);
                found.position = segment.position(*versions.offsets[..visible].last()?);
                found.version = versions.first.plus(visible as u64 - 1);
                found.closed = false;
            }
            Some(found)
        })
    }

    /// Adds up to `count` versions of a stream from `from` on, up to `head`, and where they are.
    pub(crate) fn versions(
        &self,
        stream: &StreamId,
        from: Version,
        direction: Direction,
        head: Position,
        count: usize,
        found: &mut Vec<(Version, Spot)>,
    ) {
        let mut add = |segment: &Segment| {
            let Some(versions) = segment.streams.get(stream) else { return };
            let blocks = segment.blocks.read().unwrap_or_else(PoisonError::into_inner);
            let visible = versions.offsets.partition_point(|offset| segment.position(*offset) <= head);
            let entry = |index: usize| {
                let offset = versions.offsets[index];
                let spot = Spot { position: segment.position(offset), block: segment.block(&blocks, offset) };
                (versions.first.plus(index as u64), spot)
            };
            let behind = from.get().saturating_sub(versions.first.get());
            let behind = usize::try_from(behind).unwrap_or(usize::MAX);
            let room = count - found.len();
            match direction {
                Direction::Forwards => found.extend((behind.min(visible)..visible).map(entry).take(room)),
                Direction::Backwards if from >= versions.first => {
                    found.extend((0..visible.min(behind.saturating_add(1))).rev().map(entry).take(room));
                }
                Direction::Backwards => {}
            }
        };
        match direction {
            Direction::Forwards => self.0.iter().for_each(|segment| add(segment)),
            Direction::Backwards => self.0.iter().rev().for_each(|segment| add(segment)),
        }
    }

    /// The first position of a series at or behind `target` in a direction, in here.
    pub(crate) fn seek(&self, series: &[u8], target: Position, direction: Direction) -> Option<Position> {
        let seek = |segment: &Arc<Segment>| {
            let offsets = segment.series.get(series)?;
            let index = match direction {
                Direction::Forwards => offsets.partition_point(|offset| segment.position(*offset) < target),
                Direction::Backwards => {
                    offsets.partition_point(|offset| segment.position(*offset) <= target).checked_sub(1)?
                }
            };
            Some(segment.position(*offsets.get(index)?))
        };
        match direction {
            Direction::Forwards => self.0.iter().find_map(seek),
            Direction::Backwards => self.0.iter().rev().find_map(seek),
        }
    }

    /// The first `limit` streams up to `head` that are wanted, behind a name.
    pub(crate) fn streams(&self, names: &Names, after: Option<&str>, head: Position, limit: usize) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for segment in self.0.iter() {
            for stream in &segment.streams {
                let is_visible = stream.offsets.first().is_some_and(|first| segment.position(*first) <= head);
                if is_visible && names.is_wanted(stream.key().as_str(), after) {
                    insert_bounded(&mut found, stream.key().as_str(), limit);
                }
            }
        }
        found
    }

    /// The same of categories.
    pub(crate) fn categories(
        &self,
        names: &Names,
        after: Option<&str>,
        head: Position,
        limit: usize,
    ) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for segment in self.0.iter() {
            for series in &segment.series {
                let is_visible = series.first().is_some_and(|first| segment.position(*first) <= head);
                if let Some(name) = names.parse_series(series.key())
                    && is_visible
                    && names.is_wanted(name, after)
                {
                    insert_bounded(&mut found, name, limit);
                }
            }
        }
        found
    }
}

/// Keeps the first `limit`.
fn insert_bounded(names: &mut BTreeSet<String>, name: &str, limit: usize) {
    if names.len() < limit || names.last().is_some_and(|last| name < last.as_str()) {
        names.insert(name.into());
        if names.len() > limit {
            names.pop_last();
        }
    }
}

/// The index of a part of the log.
pub(crate) struct Segment {
    /// The last position before it.
    pub(crate) after: Position,
    /// How many streams are before it, and how many begin in it.
    streams_before: u64,
    streams_begun: AtomicU64,
    streams: DashMap<StreamId, Versions, RandomState>,
    ids: DashMap<EventId, u32, RandomState>,
    series: DashMap<Vec<u8>, Vec<u32>, RandomState>,
    /// Where blocks of the log end.
    blocks: RwLock<Vec<u32>>,
    /// The newest of its UUIDv7s.
    newest: AtomicU64,
    bytes: AtomicUsize,
}

/// A stream's events in a segment.
struct Versions {
    first: Version,
    /// What its last event left of it; nearly all that is asked for.
    last: StreamHead,
    /// Of its positions from [`Segment::after`] on.
    offsets: Vec<u32>,
}

/// An event, as it is added.
pub(crate) struct Entry<'a> {
    pub(crate) position: Position,
    pub(crate) version: Version,
    pub(crate) id: EventId,
    pub(crate) stream: &'a StreamId,
    pub(crate) event_type: &'a str,
    pub(crate) closes: bool,
}

impl Segment {
    /// Behind a position, up to which there are so many streams.
    pub(crate) fn after(after: Position, streams: u64) -> Self {
        Self {
            after,
            streams_before: streams,
            streams_begun: AtomicU64::new(0),
            streams: DashMap::default(),
            ids: DashMap::default(),
            series: DashMap::default(),
            blocks: RwLock::default(),
            newest: AtomicU64::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Adds the next event of the log. Only one thread adds.
    pub(crate) fn add<'a>(&self, entry: &Entry<'_>, tags: impl Iterator<Item = &'a str>, scratch: &mut Vec<u8>) {
        let offset = u32::try_from(entry.position.get() - self.after.get()).expect("a segment has fewer events");
        let mut bytes = ID_BYTES + NUMBER_BYTES;
        if let Some(newness) = newness(entry.id) {
            self.newest.fetch_max(newness, Release);
        }
        if entry.version == Version::FIRST {
            self.streams_begun.fetch_add(1, Relaxed);
        }
        self.ids.insert(entry.id, offset);
        let mut last = StreamHead::default();
        (last.version, last.position, last.closed) = (entry.version, entry.position, entry.closes);
        match self.streams.get_mut(entry.stream) {
            Some(mut versions) => {
                versions.offsets.push(offset);
                versions.last = last;
            }
            None => {
                bytes += STREAM_BYTES + entry.stream.as_str().len();
                let versions = Versions { first: entry.version, last, offsets: vec![offset] };
                self.streams.insert(entry.stream.clone(), versions);
            }
        }
        keys::for_each_series(scratch, entry.stream.as_str(), entry.event_type, tags, |series| {
            bytes += NUMBER_BYTES;
            if let Some(mut offsets) = self.series.get_mut(series) {
                return offsets.push(offset);
            }
            bytes += SERIES_BYTES + series.len();
            self.series.insert(series.to_vec(), vec![offset]);
        });
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Says where a block ends; before its events are published.
    pub(crate) fn end_block(&self, last: Position) {
        let offset = u32::try_from(last.get() - self.after.get()).expect("a segment has fewer events");
        self.blocks.write().unwrap_or_else(PoisonError::into_inner).push(offset);
        self.bytes.fetch_add(NUMBER_BYTES, Relaxed);
    }

    /// The end of the block that an event is in.
    fn block(&self, blocks: &[u32], offset: u32) -> Position {
        let index = blocks.partition_point(|end| *end < offset);
        self.position(blocks.get(index).copied().unwrap_or(offset))
    }

    /// About what it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// How many streams there are up to the last event in here.
    pub(crate) fn streams_to_its_end(&self) -> u64 {
        self.streams_before + self.streams_begun.load(Relaxed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn position(&self, offset: u32) -> Position {
        self.after.plus(offset.into())
    }

    /// All ids with their positions, in the order of the ids.
    pub(crate) fn sorted_ids(&self) -> Vec<(EventId, Position)> {
        let mut ids: Vec<_> = self.ids.iter().map(|entry| (*entry.key(), self.position(*entry.value()))).collect();
        // As numbers, which are in the order of their bytes, and quicker to compare.
        ids.sort_unstable_by_key(|(id, _)| id.as_uuid().as_u128());
        ids
    }

    /// All streams, in the order of their names, and what the last event of each in here left of it.
    pub(crate) fn sorted_streams(&self) -> Vec<(StreamId, StreamHead)> {
        let mut streams: Vec<_> = self.streams.iter().map(|entry| (entry.key().clone(), entry.value().last)).collect();
        streams.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        streams
    }

    /// All series, in the order of their keys.
    pub(crate) fn sorted_series(&self) -> Vec<Vec<u8>> {
        let mut series: Vec<_> = self.series.iter().map(|entry| entry.key().clone()).collect();
        series.sort_unstable();
        series
    }

    /// The first version of a stream in here, and where its events are from there on.
    pub(crate) fn stream_spots(&self, stream: &StreamId) -> Option<(Version, Vec<Spot>)> {
        let versions = self.streams.get(stream)?;
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let spot = |offset: &u32| Spot { position: self.position(*offset), block: self.block(&blocks, *offset) };
        Some((versions.first, versions.offsets.iter().map(spot).collect()))
    }

    /// The positions of a series in here.
    pub(crate) fn series_positions(&self, series: &[u8]) -> Vec<u64> {
        let offsets = self.series.get(series);
        offsets.map(|offsets| offsets.iter().map(|offset| self.position(*offset).get()).collect()).unwrap_or_default()
    }
}
