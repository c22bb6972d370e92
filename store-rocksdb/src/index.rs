//! The index on the disk: what can be asked beside positions, for all but the log's end, which the [`tail`](crate::tail)
//! holds. It is made of the log by `index/write.rs`. Events that are read through it are compared with what it names
//! them by; judging believes it, and `verify` proves it.
//!
//! The numbers of a [series](Series) stand in chunks, each under the last number in it; the keys are in `keys`.

use std::collections::{BTreeSet, VecDeque};

use indelible_core::{Direction, EventId, Position, StoreError, StreamHead, StreamId, Version};
use rocksdb::{DB, DBRawIterator};

use crate::{
    bugs,
    engine::{Engine, Fault, Tier},
    frame::{Damage, Fields},
    keys::{self, Names, Series},
    log::Spot,
};

mod write;

#[cfg(feature = "fuzzing")]
pub(crate) use write::mark_comes_back;
pub(crate) use write::{Mark, ingest, mark, newness};

/// So many positions of a series are read ahead.
const WINDOW: usize = 64;

/// The index of a store, read up to a position: what it may hold beyond is the tail's.
#[derive(Clone, Copy)]
pub(crate) struct Index<'a> {
    db: &'a DB,
    tier: Tier,
    to: Position,
}

impl<'a> Index<'a> {
    pub(crate) fn new(engine: &'a Engine, tier: Tier, to: Position) -> Self {
        Self { db: &engine.index, tier, to }
    }

    fn get(&self, key: &[u8]) -> Result<Option<rocksdb::DBPinnableSlice<'a>>, Fault> {
        self.db.get_pinned_opt(key, &self.tier.options()).map_err(|error| Fault::engine("reading the index", error))
    }

    /// Whether all is in the tail yet.
    fn is_empty(&self) -> bool {
        self.to == Position::START
    }

    /// Where an id is.
    pub(crate) fn find(&self, id: EventId) -> Result<Option<Position>, Fault> {
        if self.is_empty() {
            return Ok(None);
        }
        let Some(value) = self.get(&keys::id(id))? else { return Ok(None) };
        let position = parse(|| format!("of event ids, at {id}"), &value, |fields| fields.varint())?;
        Ok(Some(Position::new(position)).filter(|position| *position <= self.to))
    }

    /// What a stream is like.
    pub(crate) fn head(&self, stream: &StreamId) -> Result<StreamHead, Fault> {
        if self.is_empty() {
            return Ok(StreamHead::default());
        }
        let Some(value) = self.get(&keys::head(stream.as_str()))? else { return Ok(StreamHead::default()) };
        let mut head = StreamHead::default();
        (head.version, head.position, head.closed) = parse(|| format!("of streams, at {stream}"), &value, parse_head)?;
        if head.position <= self.to {
            return Ok(head);
        }
        // It has gone on since: the last event up to here is in a chunk.
        let mut last = Vec::new();
        self.versions(stream, Version::MAX, Direction::Backwards, 1, &mut last)?;
        let mut head = StreamHead::default();
        if let Some((version, spot)) = last.pop() {
            (head.version, head.position) = (version, spot.position);
        }
        Ok(head)
    }

    /// Adds up to `count` versions of a stream from `from` on, and where they are.
    pub(crate) fn versions(
        &self,
        stream: &StreamId,
        from: Version,
        direction: Direction,
        count: usize,
        found: &mut Vec<(Version, Spot)>,
    ) -> Result<(), Fault> {
        if self.is_empty() {
            return Ok(());
        }
        let series = Series::stream(stream.as_str());
        let mut chunks = self.chunks(&series, from.get(), direction)?;
        while let Some((last, value)) = self.chunk(&series, &chunks)? {
            let (first, spots) = parse(|| format!("of {stream}"), value, parse_versions)?;
            if first.checked_add(spots.len() as u64 - 1) != Some(last) {
                return Err(StoreError::corrupted(format!("the index of {stream}: it has a wrong count")).into());
            }
            let is_wanted = |(version, spot): &(Version, Spot)| {
                spot.position <= self.to
                    && match direction {
                        Direction::Forwards => *version >= from,
                        Direction::Backwards => *version <= from,
                    }
            };
            let entries = spots.iter().enumerate().map(|(index, spot)| (Version::new(first + index as u64), *spot));
            let room = count - found.len();
            match direction {
                Direction::Forwards => found.extend(entries.filter(is_wanted).take(room)),
                Direction::Backwards => found.extend(entries.rev().filter(is_wanted).take(room)),
            }
            let is_beyond =
                direction == Direction::Forwards && spots.last().is_some_and(|last| last.position > self.to);
            if found.len() == count || is_beyond {
                break;
            }
            step(&mut chunks, direction);
        }
        Ok(())
    }

    /// Fills a window with positions of a series from `from` on, and says whether there may be more behind them.
    pub(crate) fn window(
        &self,
        series: &Series,
        from: Position,
        direction: Direction,
        window: &mut VecDeque<Position>,
    ) -> Result<bool, Fault> {
        if self.is_empty() {
            return Ok(false);
        }
        let mut chunks = self.chunks(series, from.get(), direction)?;
        while let Some((last, value)) = self.chunk(series, &chunks)? {
            let name = || format!("at {}", series.as_bytes().escape_ascii());
            let positions = parse(name, value, parse_chunk)?;
            if positions.last() != Some(&last) {
                return Err(StoreError::corrupted(format!("the index {}: a chunk has a wrong end", name())).into());
            }
            let positions = positions.into_iter().map(Position::new).filter(|position| *position <= self.to);
            match direction {
                Direction::Forwards => window.extend(positions.filter(|position| *position >= from)),
                Direction::Backwards => window.extend(positions.rev().filter(|position| *position <= from)),
            }
            if direction == Direction::Forwards && last >= self.to.get() {
                return Ok(false);
            }
            if window.len() >= WINDOW {
                return Ok(true);
            }
            step(&mut chunks, direction);
        }
        Ok(false)
    }

    /// The first `limit` names that are there.
    pub(crate) fn names(
        &self,
        names: &Names,
        after: Option<&str>,
        limit: usize,
        exists: impl Fn(&str) -> Result<bool, Fault>,
    ) -> Result<BTreeSet<String>, Fault> {
        let mut options = self.tier.options();
        options.set_iterate_upper_bound(names.end());
        let mut keys = self.db.raw_iterator_opt(options);
        let mut found = BTreeSet::new();
        let mut from = names.start(after);
        while found.len() < limit {
            keys.seek(&from);
            let Some(key) = keys.key() else { break };
            let Some(name) = names.parse(key) else {
                return Err(StoreError::corrupted(format!("the index key {} is of no kind", key.escape_ascii())).into());
            };
            if exists(name)? {
                found.insert(name.to_owned());
            }
            from = names.behind(name);
        }
        keys.status().map_err(|error| Fault::engine("reading names", error))?;
        Ok(found)
    }

    /// The chunks of a series, at the one that `from` is in or where it would be.
    fn chunks(&self, series: &Series, from: u64, direction: Direction) -> Result<DBRawIterator<'a>, Fault> {
        let mut options = self.tier.options();
        options.set_iterate_lower_bound(series.as_bytes());
        options.set_iterate_upper_bound(series.end());
        let mut chunks = self.db.raw_iterator_opt(options);
        // Chunks stand under their last number, so one search forwards finds the right one.
        chunks.seek(keys::numbered(series.as_bytes(), from));
        if !chunks.valid() && direction == Direction::Backwards {
            chunks.status().map_err(|error| Fault::engine("reading the index", error))?;
            chunks.seek_to_last();
        }
        Ok(chunks)
    }

    /// The chunk at an iterator, with the number it ends at. One that fails looks just like one that is through, but for
    /// its status.
    fn chunk<'b>(&self, series: &Series, chunks: &'b DBRawIterator<'a>) -> Result<Option<(u64, &'b [u8])>, Fault> {
        let Some((key, value)) = chunks.item() else {
            return match chunks.status() {
                Err(error) if !bugs::is_on(bugs::IGNORE_STATUS) => Err(Fault::engine("reading the index", error)),
                _ => Ok(None),
            };
        };
        match keys::number(series.as_bytes(), key) {
            Some(number) => Ok(Some((number, value))),
            None => Err(StoreError::corrupted(format!("the index key {} is of no kind", key.escape_ascii())).into()),
        }
    }
}

fn step(chunks: &mut DBRawIterator<'_>, direction: Direction) {
    match direction {
        Direction::Forwards => chunks.next(),
        Direction::Backwards => chunks.prev(),
    }
}

fn parse<T>(
    what: impl Fn() -> String,
    value: &[u8],
    parse: impl Fn(&mut Fields<'_>) -> Result<T, Damage>,
) -> Result<T, Fault> {
    let mut fields = Fields::new(value);
    let parsed = parse(&mut fields).and_then(|parsed| fields.end().map(|()| parsed));
    parsed.map_err(|damage| {
        StoreError::Corrupted { what: format!("the index {}", what()), source: Some(damage.into()) }.into()
    })
}

pub(crate) fn parse_head(fields: &mut Fields<'_>) -> Result<(Version, Position, bool), Damage> {
    let (version, position) = (Version::new(fields.varint()?), Position::new(fields.varint()?));
    match fields.u8()? {
        closed @ (0 | 1) => Ok((version, position, closed == 1)),
        _ => Err(Damage::new("it is neither open nor closed")),
    }
}

pub(crate) fn parse_versions(fields: &mut Fields<'_>) -> Result<(u64, Vec<Spot>), Damage> {
    let first = fields.varint()?;
    let mut spots = Vec::new();
    let mut position = 0_u64;
    while spots.is_empty() || !fields.is_empty() {
        position = position.checked_add(fields.varint()?).ok_or(Damage::new("its numbers don't ascend"))?;
        let block = position.checked_add(fields.varint()?).ok_or(Damage::new("its numbers don't ascend"))?;
        spots.push(Spot { position: Position::new(position), block: Position::new(block) });
    }
    Ok((first, spots))
}

/// Ascending numbers, at least one.
pub(crate) fn parse_chunk(fields: &mut Fields<'_>) -> Result<Vec<u64>, Damage> {
    let mut number = fields.varint()?;
    let mut numbers = vec![number];
    while !fields.is_empty() {
        let more = fields.varint()?;
        number = number.checked_add(more).filter(|_| more > 0).ok_or(Damage::new("its numbers don't ascend"))?;
        numbers.push(number);
    }
    Ok(numbers)
}

/// For [`fuzzing`](crate::fuzzing): what each of these makes of the same bytes, which are the only ones that say it.
#[cfg(feature = "fuzzing")]
pub(crate) fn chunks_come_back(value: &[u8]) -> bool {
    use crate::frame::Put as _;
    let mut again = Vec::new();
    let mut decoded = false;
    if let Ok((version, position, closed)) = parse(String::new, value, parse_head) {
        again.varint(version.get()).varint(position.get()).u8(closed.into());
        assert_eq!(again, value, "a head");
        decoded = true;
    }
    if let Ok(numbers) = parse(String::new, value, parse_chunk) {
        again.clear();
        numbers.iter().fold(0, |last, number| {
            again.varint(number - last);
            *number
        });
        assert_eq!(again, value, "positions");
        decoded = true;
    }
    if let Ok((first, spots)) = parse(String::new, value, parse_versions) {
        again.clear();
        again.varint(first);
        spots.iter().fold(0, |last, Spot { position, block }| {
            again.varint(position.get() - last).varint(block.get() - position.get());
            position.get()
        });
        assert_eq!(again, value, "versions");
        decoded = true;
    }
    decoded
}
