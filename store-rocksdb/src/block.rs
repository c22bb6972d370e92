//! The bytes of the log: a block of one or more events, with a head in a [`frame`](crate::frame), under the position of its
//! last event. Written by `append::group`, read by `log`; `FORMAT.md` has the fields.
//!
//! Each head names the checksum of the one before, so that no block can be taken out or put in unseen. Each entry has a
//! checksum of its own, so that one event is read and proved without the others. A block stands under its *last* position,
//! so that one search forwards finds the block that holds a position, and the last key is the head of the log.

use indelible_core::{Position, Timestamp, Version};

use crate::{
    bugs,
    frame::{Damage, Fields, Frame, Put as _},
};

const VERSION: u8 = 1;
/// A block that has so many bytes is full. Larger ones compress better and cost a read of one event more.
pub(crate) const BYTES: usize = 16 * 1024;

/// The key of the block that ends at a position. Big-endian, so that keys are in the order of positions.
pub(crate) fn key(last: Position) -> [u8; 8] {
    last.get().to_be_bytes()
}

/// The position that a block's key ends at.
pub(crate) fn parse_key(key: &[u8]) -> Result<Position, Damage> {
    let bytes = key.try_into().map_err(|_| Damage::new("its key is none of the log's"))?;
    Ok(Position::new(u64::from_be_bytes(bytes)))
}

/// A block in the making.
pub(crate) struct Builder {
    first: Position,
    /// The checksum of the last head that was finished.
    previous: u32,
    count: u64,
    directory: Vec<u8>,
    entries: Vec<u8>,
}

impl Builder {
    /// For the block that follows one with this checksum and last position.
    pub(crate) fn after(last: Position, checksum: u32) -> Self {
        Self { first: last.plus(1), previous: checksum, count: 0, directory: Vec::new(), entries: Vec::new() }
    }

    pub(crate) fn push(&mut self, version: Version, record: &[u8]) {
        let start = self.entries.len();
        self.entries.varint(version.get()).put(record);
        let entry = &self.entries[start..];
        self.directory.varint(entry.len() as u64).u32(crc32c::crc32c(entry));
        self.count += 1;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The checksum of the last head that was finished.
    pub(crate) fn checksum(&self) -> u32 {
        self.previous
    }

    /// The last position and the value of the block; begins the next one.
    pub(crate) fn finish(&mut self, recorded_at: Timestamp) -> (Position, Vec<u8>) {
        let mut head = Frame::new(VERSION, 32 + self.directory.len());
        head.varint(self.first.get()).u32(self.previous).i64(recorded_at.as_micros()).varint(self.count);
        head.put(&self.directory);
        let head = head.seal();
        let mut value = Vec::with_capacity(4 + head.len() + self.entries.len());
        value
            .u32(u32::try_from(head.len()).expect("a block ends behind 16 KiB of entries"))
            .put(&head)
            .put(&self.entries);
        self.previous = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        let last = self.first.plus(self.count - 1);
        self.first = last.plus(1);
        self.count = 0;
        self.directory.clear();
        self.entries.clear();
        (last, value)
    }
}

/// What a block says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) recorded_at: Timestamp,
    pub(crate) checksum: u32,
    /// The checksum of the head before.
    pub(crate) previous: u32,
}

impl Head {
    /// The head of the block that ends at a position, and where its directory and its entries are.
    fn parse(last: Position, value: &[u8]) -> Result<(Self, Fields<'_>, &[u8]), Damage> {
        let mut fields = Fields::new(value);
        let length = usize::try_from(fields.u32()?).map_err(|_| Damage::new("it ends too early"))?;
        let head = fields.take(length)?;
        let entries = fields.rest();
        let (mut fields, checksum) = Fields::open(VERSION, head)?;
        let first = Position::new(fields.varint()?);
        let previous = fields.u32()?;
        let recorded_at = Timestamp::from_micros(fields.i64()?)?;
        let count = fields.varint()?;
        if count == 0 || first == Position::START || first.get().checked_add(count - 1) != Some(last.get()) {
            return Err(Damage::new(format!("it is the block of {count} events from position {first} on")));
        }
        Ok((Self { first, last, recorded_at, checksum, previous }, fields, entries))
    }
}

/// Whether a value begins with the head of the block that ends at a position, in this version or a later one.
pub(crate) fn has_head(last: Position, value: &[u8]) -> bool {
    matches!(Head::parse(last, value), Ok(_) | Err(Damage::Newer { .. }))
}

/// One event of the block that ends at a position, as its value says: the block's head, the version and the record.
pub(crate) fn entry(last: Position, value: &[u8], position: Position) -> Result<(Head, Version, &[u8]), Damage> {
    let (head, mut directory, entries) = Head::parse(last, value)?;
    if position < head.first || position > last {
        return Err(Damage::new(format!("it is not among those from {} to {last}", head.first)));
    }
    let mut start = 0_usize;
    for _ in head.first.get()..position.get() {
        start = start.saturating_add(length(&mut directory)?);
        directory.u32()?;
    }
    let end = start.saturating_add(length(&mut directory)?);
    let (version, record) = parse_entry(entries.get(start..end), directory.u32()?)?;
    Ok((head, version, record))
}

fn length(directory: &mut Fields<'_>) -> Result<usize, Damage> {
    usize::try_from(directory.varint()?).map_err(|_| Damage::new("it ends too early"))
}

fn parse_entry(entry: Option<&[u8]>, checksum: u32) -> Result<(Version, &[u8]), Damage> {
    let entry = entry.ok_or(Damage::new("it ends too early"))?;
    if crc32c::crc32c(entry) != checksum && !bugs::is_on(bugs::IGNORE_CHECKSUM) {
        return Err(Damage::new("its checksum is wrong"));
    }
    let mut fields = Fields::new(entry);
    let version = Version::new(fields.varint()?);
    Ok((version, fields.rest()))
}

/// A block, read event by event.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) head: Head,
    /// Where each entry ends in the value, and its checksum.
    ends: Vec<(usize, u32)>,
    /// Where the first entry starts.
    start: usize,
}

impl Block {
    /// `ends` is memory of an earlier one.
    pub(crate) fn parse(last: Position, value: &[u8], mut ends: Vec<(usize, u32)>) -> Result<Self, Damage> {
        let (head, mut directory, entries) = Head::parse(last, value)?;
        let start = value.len() - entries.len();
        let mut end = start;
        ends.clear();
        for _ in head.first.get()..=last.get() {
            end = end.saturating_add(length(&mut directory)?);
            ends.push((end, directory.u32()?));
        }
        directory.end()?;
        if end != value.len() {
            return Err(Damage::new("its parts don't add up"));
        }
        Ok(Self { head, ends, start })
    }

    pub(crate) fn holds(&self, position: Position) -> bool {
        self.head.first <= position && position <= self.head.last
    }

    /// Gives back its memory.
    pub(crate) fn into_ends(self) -> Vec<(usize, u32)> {
        self.ends
    }

    /// The version and the record of an event that it [`holds`](Self::holds). `value` is what it was parsed from.
    pub(crate) fn entry<'a>(&self, position: Position, value: &'a [u8]) -> Result<(Version, &'a [u8]), Damage> {
        let index = (position.get() - self.head.first.get()) as usize;
        let start = if index == 0 { self.start } else { self.ends[index - 1].0 };
        let (end, checksum) = self.ends[index];
        parse_entry(value.get(start..end), checksum)
    }
}

/// For [`fuzzing`](crate::fuzzing): a head of which the checksum is right, behind its length, and entries.
#[cfg(feature = "fuzzing")]
pub(crate) fn is_read(bytes: &[u8]) -> bool {
    let Some(([last, length], rest)) = bytes.split_first_chunk() else { return false };
    let (body, entries) = rest.split_at(rest.len().min(usize::from(*length)));
    let head = crate::frame::sealed(VERSION, body);
    let mut value = Vec::new();
    value.u32(head.len() as u32).put(&head).put(entries);
    let last = Position::new(u64::from(*last));
    let Ok(block) = Block::parse(last, &value, Vec::new()) else { return false };
    for position in (block.head.first.get()..=last.get()).map(Position::new) {
        let whole = block.entry(position, &value).ok();
        assert_eq!(whole, entry(last, &value, position).ok().map(|(_, version, record)| (version, record)));
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    prop_compose! {
        fn entries()(entries in collection::vec((any::<u64>(), collection::vec(any::<u8>(), 1..50)), 1..20))
            -> Vec<(u64, Vec<u8>)> { entries }
    }

    fn block(first: u64, entries: &[(u64, Vec<u8>)]) -> (Position, Vec<u8>) {
        let mut builder = Builder::after(Position::new(first).before(), 7);
        entries.iter().for_each(|(version, record)| builder.push(Version::new(*version), record));
        builder.finish(Timestamp::from_micros(5).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(first in 1_u64..1 << 60, entries in entries()) {
            let (last, value) = block(first, &entries);
            let block = parse(last, &value).unwrap();
            let Head { previous, recorded_at, .. } = block.head;
            prop_assert_eq!((block.head.first.get(), previous, recorded_at.as_micros()), (first, 7, 5));
            for (position, (version, record)) in (first..).map(Position::new).zip(&entries) {
                let expected = (Version::new(*version), record.as_slice());
                prop_assert_eq!(block.entry(position, &value).unwrap(), expected);
                let (_, version, record) = entry(last, &value, position).unwrap();
                prop_assert_eq!((version, record), expected);
            }
        }

        /// In the head nothing of the block is believed, in an entry nothing of that.
        #[test]
        fn any_changed_byte_is_found_out(entries in entries(), at in any::<prop::sample::Index>(), with in 1_u8..) {
            let (last, mut value) = block(1, &entries);
            let at = at.index(value.len());
            value[at] ^= with;
            if let Ok(block) = parse(last, &value) {
                let positions = || (1..=last.get()).map(Position::new);
                prop_assert_eq!(positions().filter(|position| block.entry(*position, &value).is_err()).count(), 1);
                prop_assert_eq!(positions().filter(|position| entry(last, &value, *position).is_err()).count(), 1);
            }
        }

        #[test]
        fn a_cut_block_is_found_out(entries in entries(), at in any::<prop::sample::Index>()) {
            let (last, value) = block(1, &entries);
            let value = &value[..at.index(value.len())];
            prop_assert!(parse(last, value).is_err());
            prop_assert!(entry(last, value, last).is_err());
        }

        /// Bytes that the checksum is right for reach the fields: there is no panic.
        #[test]
        fn hostile_bytes_are_an_error_or_a_block(
            entries in entries(),
            changes in collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let (last, value) = block(1, &entries);
            let head = u32::from_le_bytes([value[0], value[1], value[2], value[3]]) as usize;
            let mut body = value[9..4 + head].to_vec();
            for (at, with) in changes {
                let at = at.index(body.len());
                body[at] = with;
            }
            body.truncate(cut.index(body.len()) + 1);
            let mut frame = Frame::new(VERSION, body.len());
            frame.put(&body);
            let frame = frame.seal();
            let mut hostile = Vec::new();
            hostile.u32(frame.len() as u32).put(&frame).put(&value[4 + head..]);
            if let Ok(block) = parse(last, &hostile) {
                for position in (block.head.first.get()..=last.get()).map(Position::new) {
                    let _ = block.entry(position, &hostile);
                }
            }
            let _ = entry(last, &hostile, last);
        }
    }

    fn parse(last: Position, value: &[u8]) -> Result<Block, Damage> {
        Block::parse(last, value, Vec::new())
    }

    #[test]
    fn a_block_under_another_key_is_found_out() {
        let (last, value) = block(5, &[(1, vec![0])]);
        assert!(parse(last, &value).is_ok());
        assert!(parse(last.plus(1), &value).is_err());
    }

    #[test]
    fn blocks_follow_one_another() {
        let mut builder = Builder::after(Position::START, 0);
        let now = Timestamp::from_micros(0).unwrap();
        builder.push(Version::FIRST, &[1]);
        let (_, first) = builder.finish(now);
        builder.push(Version::FIRST, &[2]);
        builder.push(Version::FIRST, &[3]);
        let (last, second) = builder.finish(now);
        let first = parse(Position::FIRST, &first).unwrap().head;
        let second = parse(last, &second).unwrap().head;
        assert_eq!((second.first, second.last), (Position::new(2), Position::new(3)));
        assert_eq!(second.previous, first.checksum);
    }

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        let (last, value) = block(300, &[(1, vec![8, 9]), (128, vec![10])]);
        assert_eq!(key(last), [0, 0, 0, 0, 0, 0, 1, 45]);
        let entries = [[1, 8, 9], [0x80, 1, 10]];
        let checksums = entries.map(|entry| crc32c::crc32c(&entry).to_le_bytes());
        let head = [&[0xac, 2, 7, 0, 0, 0][..], &[5, 0, 0, 0, 0, 0, 0, 0], &[2, 3], &checksums[0], &[3], &checksums[1]]
            .concat();
        let checksum = crc32c::crc32c(&[&[1][..], &head].concat()).to_le_bytes();
        let expected = [&[30, 0, 0, 0, 1], &checksum[..], &head, &entries.concat()].concat();
        assert_eq!(value, expected);
    }
}
