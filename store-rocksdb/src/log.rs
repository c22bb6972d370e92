//! The log: blocks in RocksDB, read by position. Called by `read`, `open` and `verify`.

use std::thread;

use bytes::Bytes;
use indelible_core::{Position, RecordedEvent, StoreError, Version};
use rocksdb::{DB, DBPinnableSlice, DBRawIterator, ReadOptions};

use crate::{
    block::{self, Block, Head},
    engine::{Engine, Fault, Tier},
    frame::Damage,
    record::{self, Decoder, Place},
};

/// How many blocks are read in one go at first, and at most; and how many bytes they have then, if they are like those
/// before.
const BATCH_MIN: usize = 8;
const BATCH_MAX: usize = 128;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How many fetch blocks side by side, and from how many blocks on.
const FETCHERS: usize = 4;
const FETCHED_APART_MIN: usize = 32;

/// A walk over blocks, in whatever order of positions; those that follow one another are quickest.
pub(crate) struct Blocks<'a> {
    entries: DBRawIterator<'a>,
    block: Option<Block>,
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(engine: &'a Engine, tier: Tier) -> Self {
        Self::of(&engine.log, tier.options())
    }

    fn of(log: &'a DB, options: ReadOptions) -> Self {
        Self { entries: log.raw_iterator_opt(options), block: None }
    }

    /// The block that holds a position.
    pub(crate) fn at(&mut self, position: Position) -> Result<&Head, Fault> {
        if !self.block.as_ref().is_some_and(|block| block.holds(position)) {
            let is_next = self.block.as_ref().is_some_and(|block| block.head.last.plus(1) == position);
            match is_next {
                true => self.entries.next(),
                false => self.entries.seek(block::key(position)),
            }
            self.arrive()?;
        }
        let found = self.block.as_ref().filter(|block| block.holds(position));
        found.map(|block| &block.head).ok_or_else(|| missing(position).into())
    }

    /// The last block of the log.
    pub(crate) fn last(&mut self) -> Result<Option<&Head>, Fault> {
        self.entries.seek_to_last();
        self.arrive()?;
        Ok(self.block.as_ref().map(|block| &block.head))
    }

    /// The block that holds a position, with its key and value as they are stored.
    pub(crate) fn raw(&mut self, position: Position) -> Result<(&Head, &[u8], &[u8]), Fault> {
        self.at(position)?;
        match (&self.block, self.entries.item()) {
            (Some(block), Some((key, value))) => Ok((&block.head, key, value)),
            _ => Err(missing(position).into()),
        }
    }

    /// The version and the record of an event, and its block.
    pub(crate) fn entry(&mut self, position: Position) -> Result<(&Head, Version, &[u8]), Fault> {
        let (block, value) = self.whole(position)?;
        let (version, record) = block.entry(position, value).map_err(|damage| corrupted(position, damage))?;
        Ok((&block.head, version, record))
    }

    /// The block that holds a position, and its value.
    fn whole(&mut self, position: Position) -> Result<(&Block, &[u8]), Fault> {
        self.at(position)?;
        self.block.as_ref().zip(self.entries.value()).ok_or_else(|| missing(position).into())
    }

    /// One that fails looks just like one that is through, but for its status.
    fn arrive(&mut self) -> Result<(), Fault> {
        let ends = self.block.take().map(Block::into_ends).unwrap_or_default();
        let Some((key, value)) = self.entries.item() else {
            return self.entries.status().map_err(|error| Fault::engine("reading the log", error));
        };
        let at = |damage| Fault::damage(format!("the log, at the key {}", key.escape_ascii()), damage);
        let last = block::parse_key(key).map_err(at)?;
        let block = Block::parse(last, value, ends).map_err(|damage| corrupted_block(last, damage))?;
        self.block = Some(block);
        Ok(())
    }
}

/// Events of the log by position, one after the other.
pub(crate) struct Events<'a> {
    blocks: Blocks<'a>,
    /// A copy of the block, where its events share it.
    shared: Option<(Position, Bytes)>,
    is_sharing: bool,
    decoder: Decoder,
}

impl<'a> Events<'a> {
    pub(crate) fn new(engine: &'a Engine, tier: Tier) -> Self {
        Self::of(&engine.log, tier)
    }

    /// Of a log that is open by itself.
    pub(crate) fn of(log: &'a DB, tier: Tier) -> Self {
        Self { blocks: Blocks::of(log, tier.options()), shared: None, is_sharing: false, decoder: Decoder::default() }
    }

    /// Those who want so many of the events, one after the other, and so all of a block: they share its memory, instead of a
    /// copy each.
    pub(crate) fn scan(engine: &'a Engine, tier: Tier, events: u64) -> Self {
        let blocks = Blocks::of(&engine.log, tier.scanning(events));
        Self { blocks, shared: None, is_sharing: true, decoder: Decoder::default() }
    }

    /// From here on events share the memory of their blocks, or have a copy each.
    pub(crate) fn share(&mut self, is_sharing: bool) {
        self.is_sharing = is_sharing;
    }

    /// The event at a position.
    pub(crate) fn at(&mut self, position: Position) -> Result<RecordedEvent, Fault> {
        let damaged = |damage| corrupted(position, damage);
        if !self.is_sharing {
            let (head, version, record) = self.blocks.entry(position)?;
            let place = Place { position, version, recorded_at: head.recorded_at };
            return self.decoder.decode(place, record, Bytes::copy_from_slice).map_err(damaged);
        }
        let (block, value) = self.blocks.whole(position)?;
        let last = block.head.last;
        let copied = self.shared.take().filter(|(copied, _)| *copied == last);
        let (_, value) = self.shared.insert(copied.unwrap_or_else(|| (last, Bytes::copy_from_slice(value))));
        let (version, record) = block.entry(position, value).map_err(damaged)?;
        let place = Place { position, version, recorded_at: block.head.recorded_at };
        self.decoder.decode(place, record, |data| value.slice_ref(data)).map_err(damaged)
    }

    /// The same, without what only readers need.
    pub(crate) fn head_at(&mut self, position: Position) -> Result<(Version, record::Head<'_>), Fault> {
        let (_, version, record) = self.blocks.entry(position)?;
        Ok((version, record::Head::parse(record).map_err(|damage| corrupted(position, damage))?))
    }

    pub(crate) fn blocks(&mut self) -> &mut Blocks<'a> {
        &mut self.blocks
    }
}

/// Where an event is: its position, and that of the last event of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) position: Position,
    pub(crate) block: Position,
}

/// Reads events from blocks that are known, in few calls, and shows them in order until one is not wanted any more.
pub(crate) fn events_at(
    engine: &Engine,
    tier: Tier,
    spots: &[Spot],
    mut show: impl FnMut(RecordedEvent) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut decoder = Decoder::default();
    let mut rest = spots;
    let mut count = BATCH_MIN;
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(count.min(rest.len()));
        rest = later;
        let mut keys: Vec<[u8; 8]> = batch.iter().map(|spot| block::key(spot.block)).collect();
        keys.dedup();
        let mut blocks = keys.iter().zip(fetch(&engine.log, tier, &keys));
        let mut block = None;
        let mut largest = 1;
        for spot in batch {
            let key = block::key(spot.block);
            if block.as_ref().is_none_or(|(found, _)| *found != key) {
                let (_, value) = blocks.next().ok_or_else(|| missing(spot.position))?;
                let value = value.map_err(|error| Fault::engine("reading the log", error))?;
                let value = value.ok_or_else(|| missing(spot.position))?;
                largest = largest.max(value.len());
                block = Some((key, value));
            }
            let Some((_, value)) = &block else { break };
            let damaged = |damage| corrupted(spot.position, damage);
            let (head, version, record) = block::entry(spot.block, value, spot.position).map_err(damaged)?;
            let place = Place { position: spot.position, version, recorded_at: head.recorded_at };
            if !show(decoder.decode(place, record, Bytes::copy_from_slice).map_err(damaged)?)? {
                return Ok(());
            }
        }
        // Large blocks are read by the few.
        count = (BATCH_BYTES / largest).clamp(1, BATCH_MAX);
    }
    Ok(())
}

/// Blocks of many places. A disk serves several calls at once, and each has its blocks to unpack: where they are not in memory,
/// many are fetched side by side.
fn fetch<'a>(log: &'a DB, tier: Tier, keys: &[[u8; 8]]) -> Vec<Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>> {
    let family = log.cf_handle("default").expect("a database has it");
    let get = |keys: &[[u8; 8]]| log.batched_multi_get_cf_opt(family, keys, keys.is_sorted(), &tier.options());
    if tier == Tier::Memory || keys.len() < FETCHED_APART_MIN {
        return get(keys);
    }
    thread::scope(|scope| {
        let mut parts = keys.chunks(keys.len().div_ceil(FETCHERS));
        let first = parts.next().unwrap_or_default();
        // Where there can be no more threads, this one does it all.
        let apart = |keys| (keys, thread::Builder::new().spawn_scoped(scope, move || get(keys)));
        let others: Vec<_> = parts.map(apart).collect();
        let mut found = get(first);
        for (keys, other) in others {
            found.extend(match other {
                Ok(other) => other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => get(keys),
            });
        }
        found
    })
}

fn missing(position: Position) -> StoreError {
    StoreError::corrupted(format!("the event at position {position} is missing"))
}

fn corrupted_block(last: Position, damage: Damage) -> Fault {
    Fault::damage(format!("the block that ends at position {last}"), damage)
}

pub(crate) fn corrupted(position: Position, damage: Damage) -> Fault {
    Fault::damage(format!("the event at position {position}"), damage)
}
