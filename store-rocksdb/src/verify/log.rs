//! The walk over the log: each block whole, each the successor of the one before, and each event where it says it is.

use ahash::{HashMap, RandomState};
use bytes::Bytes;
use indelible_core::{Position, RecordedEvent, StoreError, Timestamp, Version};
use rocksdb::{DB, DBRawIterator};

use super::{
    Step, Verification, Watch, options,
    sums::{Entry, Kind, Sums},
};
use crate::{
    block::{self, Block, Head},
    keys,
    record::{Decoder, Place},
};

/// The versions of so many streams are kept in mind and compared at once. Those of the others are right where the index
/// says the same and has no holes, so that memory is bounded and nothing is missed. A map of so many is full.
pub(super) const STREAMS_MAX: usize = 7 << 16;

/// Where a log ends, and how many streams begin up to where the index goes.
pub(super) struct End {
    pub(super) position: Position,
    pub(super) indexed_streams: u64,
}

pub(super) struct Walk<'a, 'w> {
    report: &'a mut Verification,
    watch: &'a mut Watch<'w>,
    sums: &'a mut Sums,
    hash: RandomState,
    /// By the hashes of their names.
    versions: HashMap<u64, Version>,
    decoder: Decoder,
    scratch: Vec<u8>,
    /// The next position.
    expected: Position,
    /// What the next block follows, where that is known.
    previous: Option<u32>,
    time: Option<Timestamp>,
    /// Whether the last event ends its append, where that is known.
    ends: Option<bool>,
    indexed_streams: u64,
}

impl<'a, 'w> Walk<'a, 'w> {
    pub(super) fn new(report: &'a mut Verification, watch: &'a mut Watch<'w>, sums: &'a mut Sums) -> Self {
        Self {
            report,
            watch,
            sums,
            hash: RandomState::new(),
            versions: HashMap::default(),
            decoder: Decoder::default(),
            scratch: Vec::new(),
            expected: Position::FIRST,
            previous: Some(0),
            time: None,
            ends: Some(true),
            indexed_streams: 0,
        }
    }

    /// Walks a log whose last block, as far as is known, ends at `head`, and says where it ends.
    pub(super) fn run(mut self, log: &DB, head: Position) -> Result<End, StoreError> {
        let mut blocks = log.raw_iterator_opt(options());
        blocks.seek_to_first();
        // Behind what can't be read, and why.
        let mut unreadable: Option<rocksdb::Error> = None;
        loop {
            let Some((key, value)) = blocks.item() else {
                let Err(error) = blocks.status() else { break };
                unreadable = Some(error);
                if skip(&mut blocks, self.expected) {
                    continue;
                }
                break;
            };
            match block::parse_key(key) {
                Ok(last) => self.block(last, value, unreadable.take()),
                Err(_) => self.report.log(format!("the key {} is none of the log's", key.escape_ascii())),
            }
            self.watch.tick(Step::Log, self.expected.before().get(), head.get())?;
            blocks.next();
        }
        let end = self.expected.before();
        if let Some(error) = unreadable {
            self.report.log(format!("what follows position {end} can't be read: {error}"));
        } else if end < head {
            self.report.log(format!("the events from position {} on are missing", self.expected));
        } else if self.ends == Some(false) {
            self.report.log(format!("the log ends at position {end} in the middle of an append"));
        }
        Ok(End { position: end, indexed_streams: self.indexed_streams })
    }

    fn block(&mut self, last: Position, value: &[u8], unreadable: Option<rocksdb::Error>) {
        let expected = self.expected;
        self.expected = last.plus(1);
        let block = match Block::parse(last, value, Vec::new()) {
            Ok(block) => block,
            Err(damage) => {
                self.report.log(format!("the block that ends at position {last}, from {expected} on: {damage}"));
                self.previous = None;
                self.ends = None;
                return;
            }
        };
        if block.head.first == expected {
            self.follows(&block.head);
        } else {
            let missing = match (block.head.first > expected, unreadable) {
                (true, Some(error)) => format!("to {} can't be read: {error}", block.head.first.before()),
                (true, None) => format!("to {} are missing", block.head.first.before()),
                (false, _) => format!("to {last} are there twice, the block from {} on", block.head.first),
            };
            self.report.log(format!("the events at positions {expected} {missing}"));
        }
        self.previous = Some(block.head.checksum);
        self.time = Some(block.head.recorded_at);
        for position in (block.head.first.get()..=last.get()).map(Position::new) {
            let decoded = block.entry(position, value).and_then(|(version, record)| {
                let place = Place { position, version, recorded_at: block.head.recorded_at };
                self.decoder.decode(place, record, Bytes::copy_from_slice)
            });
            match decoded {
                Ok(event) => self.event(&event, last),
                Err(damage) => {
                    self.report.log(format!("the event at position {position}: {damage}"));
                    self.ends = None;
                }
            }
        }
    }

    fn follows(&mut self, block: &Head) {
        let last = block.last;
        if self.previous.is_some_and(|previous| previous != block.previous) {
            self.report.log(format!("the block that ends at position {last} does not follow the one before"));
        }
        let Some(time) = self.time else { return };
        if block.recorded_at < time {
            self.report.log(format!("the block that ends at position {last} was recorded before the one before it"));
        }
        // All events of an append have one time.
        if block.recorded_at != time && self.ends == Some(false) {
            self.report.log(format!("the append that position {} is in does not end", block.first.before()));
        }
    }

    fn event(&mut self, event: &RecordedEvent, block: Position) {
        let (stream, version, position) = (&event.stream, event.version, event.position);
        self.ends = Some(event.ends_append);
        self.report.events += 1;
        if version == Version::FIRST {
            self.report.streams += 1;
            self.indexed_streams += u64::from(position <= self.sums.to());
        }
        let name = self.hash.hash_one(stream.as_str());
        let room = self.versions.len() < STREAMS_MAX;
        let before = match self.versions.get_mut(&name) {
            Some(known) => Some(std::mem::replace(known, version)),
            // One that is not known begins here, as long as all are.
            None if room => Some(self.versions.insert(name, version).unwrap_or(Version::NONE)),
            None => None,
        };
        if let Some(before) = before
            && before.plus(1) != version
        {
            self.report
                .log(format!("the event at position {position} is version {version} of {stream}, behind {before}"));
        }
        each(event, block, &mut self.scratch, |entry| self.sums.add(&entry));
    }
}

/// All that the index must say of an event, in the block that ends at a position.
pub(super) fn each(event: &RecordedEvent, block: Position, scratch: &mut Vec<u8>, mut show: impl FnMut(Entry<'_>)) {
    let position = event.position;
    let stream = event.stream.as_str();
    let entry = |kind, name| Entry { kind, name, number: 0, position, block: Position::START };
    let id = event.id.as_uuid();
    show(entry(Kind::Id, id.as_bytes()));
    show(Entry { number: event.version.get(), block, ..entry(Kind::Version, stream.as_bytes()) });
    if event.closes_stream {
        show(entry(Kind::Closes, stream.as_bytes()));
    }
    let tags = event.tags.iter().map(|tag| tag.as_str());
    keys::for_each_series(scratch, stream, event.event_type.as_str(), tags, |series| {
        show(Entry { kind: series_kind(series), name: series, number: 0, position, block: Position::START });
    });
}

/// The kind of a series, by its first byte.
pub(super) fn series_kind(series: &[u8]) -> Kind {
    match series.first() {
        Some(b'c') => Kind::Category,
        Some(b't') => Kind::Type,
        _ => Kind::Tag,
    }
}

/// Goes on behind what can't be read, by steps that double. Says whether there is anything.
fn skip(blocks: &mut DBRawIterator<'_>, from: Position) -> bool {
    for step in 0..63 {
        let Some(next) = from.get().checked_add(1 << step) else { break };
        blocks.seek(block::key(Position::new(next)));
        if blocks.valid() {
            return true;
        }
        if blocks.status().is_ok() {
            break;
        }
    }
    false
}
