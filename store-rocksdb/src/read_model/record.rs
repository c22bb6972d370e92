//! The bytes of a read model: keys, a kind byte first, and values. `FORMAT.md` has the whole.
//!
//! Kinds: `d`iscarded letters, `f`ormat, `l`etters by stream, where each `p`artition is, `q`ueue of letters by position,
//! `r`ows, `v`ersions, what is `w`anted of them.

use std::ops::Bound;

use indelible_core::{EventId, EventType, Position, StoreId, StreamId, Timestamp, Token, Version};
use indelible_projections::{
    DeadLetter, Epoch, Partition, PartitionRow, ProjectionId, ReadModelError, VersionRow, VersionState, Wanted,
    WorkerId,
};

use crate::frame::{Damage, Fields, Frame, Put as _};

pub(super) const FORMAT_KEY: &[u8] = b"format";
const VERSION: u8 = 1;

/// From the first key to before the last.
pub(super) type Range = (Vec<u8>, Vec<u8>);

/// All keys that start so: up to the first that come behind. All begin with a letter, so that there are such.
pub(super) fn starting(prefix: Vec<u8>) -> Range {
    let mut end = prefix.clone();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix, end)
}

pub(super) fn versions() -> Range {
    starting(vec![b'v'])
}

pub(super) fn version(projection: &ProjectionId) -> Vec<u8> {
    of(b'v', projection)
}

pub(super) fn wanted(projection: &ProjectionId) -> Vec<u8> {
    of(b'w', projection)
}

pub(super) fn partition(projection: &ProjectionId, partition: Partition) -> Vec<u8> {
    let mut key = of(PARTITIONS, projection);
    key.put(&partition.0.to_be_bytes());
    key
}

/// Kinds that a version of a projection has many of.
pub(super) const DISCARDED: u8 = b'd';
pub(super) const LETTERS: u8 = b'l';
pub(super) const PARTITIONS: u8 = b'p';
pub(super) const QUEUE: u8 = b'q';

/// All of a kind that a version has.
pub(super) fn all(kind: u8, projection: &ProjectionId) -> Range {
    starting(of(kind, projection))
}

/// A letter, in the order of streams.
pub(super) fn letter(projection: &ProjectionId, letter: &DeadLetter) -> Vec<u8> {
    let mut key = letters_of(projection, letter.partition, &letter.stream);
    key.put(&letter.position.get().to_be_bytes());
    key
}

pub(super) fn letters_of(projection: &ProjectionId, partition: Partition, stream: &StreamId) -> Vec<u8> {
    let mut key = letters_in(projection, partition);
    key.name(stream.as_str());
    key
}

pub(super) fn letters_in(projection: &ProjectionId, partition: Partition) -> Vec<u8> {
    let mut key = of(LETTERS, projection);
    key.put(&partition.0.to_be_bytes());
    key
}

/// The stream of a letter's key, behind what those of its partition start with.
pub(super) fn stream_of(rest: &[u8]) -> Result<StreamId, Damage> {
    Ok(Fields::new(rest).name()?.parse()?)
}

/// A letter, in the order of the log: of this kind, or of those that were discarded.
pub(super) fn numbered(kind: u8, projection: &ProjectionId, position: Position) -> Vec<u8> {
    let mut key = of(kind, projection);
    key.put(&position.get().to_be_bytes());
    key
}

fn of(kind: u8, projection: &ProjectionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(6 + projection.name.len());
    key.u8(kind).name(&projection.name).put(&projection.version.to_be_bytes());
    key
}

/// All rows of a space.
pub(super) fn space(space: u32) -> Range {
    starting([&[b'r'][..], &space.to_be_bytes()].concat())
}

/// What the keys of a table's rows start with.
pub(super) fn table(space: u32, table: &str) -> Result<Vec<u8>, ReadModelError> {
    row(space, table, &[])
}

pub(super) fn row(space: u32, table: &str, key: &[u8]) -> Result<Vec<u8>, ReadModelError> {
    if table.len() > usize::from(u8::MAX) {
        return Err(ReadModelError::rejected("a table", format!("its name has {} bytes, at most 255", table.len())));
    }
    let mut row = Vec::with_capacity(6 + table.len() + key.len() + 1);
    row.put(b"r").put(&space.to_be_bytes()).name(table).put(key);
    Ok(row)
}

/// The rows of a table in a range of keys.
pub(super) fn rows(
    space: u32,
    name: &str,
    (start, end): &(Bound<Vec<u8>>, Bound<Vec<u8>>),
) -> Result<Range, ReadModelError> {
    // Nothing is between a key and the same with a zero behind it.
    let behind = |key: &[u8]| {
        let mut row = row(space, name, key)?;
        row.push(0);
        Ok(row)
    };
    let start = match start {
        Bound::Included(key) => row(space, name, key)?,
        Bound::Excluded(key) => behind(key)?,
        Bound::Unbounded => table(space, name)?,
    };
    let end = match end {
        Bound::Included(key) => behind(key)?,
        Bound::Excluded(key) => row(space, name, key)?,
        Bound::Unbounded => starting(table(space, name)?).1,
    };
    Ok((start, end))
}

/// A version, and the space that its rows are in.
pub(super) fn encode_version(version: &VersionRow, space: u32) -> Vec<u8> {
    let mut frame = Frame::new(VERSION, 17);
    let state = match version.state {
        VersionState::Building => 0,
        VersionState::Current => 1,
        VersionState::Rebuilding => 2,
        VersionState::Former => 3,
    };
    frame.u32(version.partitions).u64(version.replays_to.get()).u8(state).u32(space);
    frame.seal()
}

pub(super) fn decode_version(key: &[u8], value: &[u8]) -> Result<(VersionRow, u32), Damage> {
    let mut name = Fields::new(key);
    name.u8()?;
    let projection = ProjectionId { name: name.name()?.into(), version: u32::from_be_bytes(number(name)?) };
    let (mut fields, _) = Fields::open(VERSION, value)?;
    let version = VersionRow {
        projection,
        partitions: fields.u32()?,
        replays_to: Position::new(fields.u64()?),
        state: match fields.u8()? {
            0 => VersionState::Building,
            1 => VersionState::Current,
            2 => VersionState::Rebuilding,
            3 => VersionState::Former,
            state => return Err(Damage::new(format!("there is no state {state}"))),
        },
        wanted: Wanted::default(),
    };
    let space = fields.u32()?;
    fields.end()?;
    Ok((version, space))
}

/// What is wanted of a version. Where nothing was ever, there is no such value.
pub(super) fn encode_wanted(wanted: Wanted) -> Vec<u8> {
    let mut frame = Frame::new(VERSION, 6);
    let max = wanted.building_events_per_second_max;
    frame.u8(u8::from(wanted.paused)).u8(u8::from(max.is_some())).u32(max.unwrap_or_default());
    frame.seal()
}

pub(super) fn decode_wanted(value: &[u8]) -> Result<Wanted, Damage> {
    let (mut fields, _) = Fields::open(VERSION, value)?;
    let (paused, is_some, max) = (fields.u8()? == 1, fields.u8()? == 1, fields.u32()?);
    fields.end()?;
    Ok(Wanted { paused, building_events_per_second_max: is_some.then_some(max) })
}

pub(super) fn encode_partition(row: &PartitionRow) -> Vec<u8> {
    let owner = row.owner.as_ref().map_or("", |owner| &owner.0);
    let mut frame = Frame::new(VERSION, 72 + owner.len());
    frame.u64(row.epoch.0);
    frame.uuid(row.position.store.as_uuid()).u64(row.position.position.get()).uuid(row.position.event.as_uuid());
    frame.i64(row.updated_at.as_micros()).u64(row.parked as u64).put(owner.as_bytes());
    frame.seal()
}

pub(super) fn decode_partition(partition: Partition, value: &[u8]) -> Result<PartitionRow, Damage> {
    let (mut fields, _) = Fields::open(VERSION, value)?;
    Ok(PartitionRow {
        partition,
        stopped: None,
        epoch: Epoch(fields.u64()?),
        position: Token {
            store: StoreId::from_uuid(fields.uuid()?),
            position: Position::new(fields.u64()?),
            event: EventId::from_uuid(fields.uuid()?),
        },
        updated_at: Timestamp::from_micros(fields.i64()?)?,
        parked: fields.u64()? as usize,
        owner: Some(crate::frame::text(fields.rest())?).filter(|owner| !owner.is_empty()).map(|o| WorkerId(o.into())),
    })
}

/// A letter; a discarded one with the reason.
pub(super) fn encode_letter(letter: &DeadLetter, reason: Option<&str>) -> Vec<u8> {
    let mut frame = Frame::new(VERSION, 128);
    frame.u32(letter.partition.0).uuid(letter.event.as_uuid()).name(letter.stream.as_str());
    frame.u64(letter.version.get()).u64(letter.position.get()).name(letter.event_type.as_str());
    frame.u32(letter.attempts).i64(letter.parked_at.as_micros());
    for text in [letter.error.as_deref(), reason] {
        frame.u8(u8::from(text.is_some())).long(text.unwrap_or_default().as_bytes());
    }
    frame.seal()
}

pub(super) fn decode_letter(value: &[u8]) -> Result<(DeadLetter, Option<String>), Damage> {
    let (mut fields, _) = Fields::open(VERSION, value)?;
    let mut letter = DeadLetter {
        partition: Partition(fields.u32()?),
        event: EventId::from_uuid(fields.uuid()?),
        stream: fields.name()?.parse()?,
        version: Version::new(fields.u64()?),
        position: Position::new(fields.u64()?),
        event_type: EventType::new(fields.name()?)?,
        attempts: fields.u32()?,
        parked_at: Timestamp::from_micros(fields.i64()?)?,
        error: None,
    };
    let mut text = || {
        let is_some = fields.u8()? == 1;
        let text = crate::frame::text(fields.long()?)?;
        Ok::<_, Damage>(is_some.then(|| text.to_owned()))
    };
    letter.error = text()?;
    let reason = text()?;
    fields.end()?;
    Ok((letter, reason))
}

/// The number at the end of a key.
fn number<const N: usize>(key: Fields<'_>) -> Result<[u8; N], Damage> {
    key.rest().try_into().map_err(|_| Damage::new("its key is of another length"))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(name: &str, version: u32) -> ProjectionId {
        ProjectionId { name: name.into(), version }
    }

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        assert_eq!(version(&id("ab", 258)), b"v\x02ab\0\0\x01\x02");
        assert_eq!(partition(&id("a", 1), Partition(3)), b"p\x01a\0\0\0\x01\0\0\0\x03");
        assert_eq!(row(5, "t", b"k").unwrap(), b"r\0\0\0\x05\x01tk");
        let row = VersionRow {
            projection: id("ab", 258),
            partitions: 4,
            replays_to: Position::new(9),
            state: VersionState::Former,
            wanted: Wanted::default(),
        };
        let value = encode_version(&row, 7);
        assert_eq!((value[0], &value[5..]), (1, &b"\x04\0\0\0\x09\0\0\0\0\0\0\0\x03\x07\0\0\0"[..]));
        assert_eq!(decode_version(&version(&row.projection), &value).unwrap(), (row, 7));
        assert_eq!(wanted(&id("a", 1)), b"w\x01a\0\0\0\x01");
        for (is_some, max) in [(0, None), (1, Some(0)), (1, Some(258))] {
            let row = Wanted { paused: true, building_events_per_second_max: max };
            let value = encode_wanted(row);
            let number = max.unwrap_or(0).to_le_bytes();
            assert_eq!((value[0], &value[5..]), (1, &*[&[1, is_some][..], &number].concat()));
            assert_eq!(decode_wanted(&value).unwrap(), row);
        }
        let store = StoreId::from_uuid(Uuid::from_u128(1));
        let row = PartitionRow {
            partition: Partition(3),
            epoch: Epoch(2),
            position: Token { position: Position::new(8), event: EventId::from_uuid(Uuid::from_u128(6)), store },
            updated_at: Timestamp::from_micros(7).unwrap(),
            owner: Some(WorkerId("w".into())),
            parked: 5,
            stopped: None,
        };
        let value = encode_partition(&row);
        let ids = [1, 6].map(|n| Uuid::from_u128(n).into_bytes());
        let number = |n: u64| n.to_le_bytes();
        let fields = [&number(2)[..], &ids[0], &number(8), &ids[1], &number(7), &number(5), b"w"];
        assert_eq!((value[0], &value[5..]), (1, &*fields.concat()));
        assert_eq!(decode_partition(Partition(3), &value).unwrap(), row);
    }

    #[test]
    fn letters_come_back_in_their_order_and_those_of_one_version_are_apart() {
        let letter = |stream: &str, position, error: Option<&str>| DeadLetter {
            partition: Partition(2),
            event: EventId::from_uuid(Uuid::from_u128(4)),
            stream: stream.parse().unwrap(),
            version: Version::new(3),
            position: Position::new(position),
            event_type: EventType::from_static("T"),
            error: error.map(str::to_owned),
            attempts: 6,
            parked_at: Timestamp::from_micros(7).unwrap(),
        };
        let first = letter("a-1", 300, Some("no"));
        assert_eq!(decode_letter(&encode_letter(&first, None)).unwrap(), (first.clone(), None));
        let waiting = letter("a-1", 301, None);
        assert_eq!(decode_letter(&encode_letter(&waiting, Some(""))).unwrap(), (waiting.clone(), Some(String::new())));
        assert!(self::letter(&id("a", 1), &first) < self::letter(&id("a", 1), &waiting));
        for version in [1, 255, u32::MAX] {
            let (start, end) = all(LETTERS, &id("a", version));
            let holds = |id: ProjectionId| (&start..&end).contains(&&self::letter(&id, &first));
            assert!(holds(id("a", version)));
            assert!(
                !holds(id("a", version - 1)) && !holds(id("a", version.wrapping_add(1))) && !holds(id("b", version))
            );
        }
    }
}
