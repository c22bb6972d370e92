//! How the index is made: a full segment of the tail at a time, sorted, as tables that RocksDB takes in at one stroke,
//! together with a mark that says how far the index goes now. Called by `keeper`, and by `open` for what is missing.
//!
//! The version of the mark is that of the whole index: another one is made anew.

use std::{fs, path::Path};

use indelible_core::{EventId, Position, StoreError};
use rocksdb::{DB, Error, IngestExternalFileOptions, SstFileWriter};

use crate::{
    bugs,
    engine::{Fault, Setup},
    frame::{Damage, Fields, Frame, Put as _},
    keys,
    log::Spot,
    tail::Segment,
};

const VERSION: u8 = 2;
/// The most numbers in a chunk.
const CHUNK: usize = 512;

/// How far the index goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    pub(crate) event: EventId,
    /// No UUIDv7 that begins with more is in the index. Most new ids do, and need no look.
    pub(crate) newest: u64,
    /// How many streams are in the index.
    pub(crate) streams: u64,
}

impl Mark {
    pub(crate) const START: Self = Self { position: Position::START, event: EventId::NIL, newest: 0, streams: 0 };
}

/// What [`Mark::newest`] looks at, of a UUIDv7.
pub(crate) fn newness(id: EventId) -> Option<u64> {
    (id.as_uuid().get_version_num() == 7).then(|| id.as_uuid().as_u64_pair().0)
}

/// The mark of an index; `None` where there is none that this version understands.
pub(crate) fn mark(index: &DB) -> Result<Option<Mark>, Fault> {
    let value = index.get_pinned(keys::MARK).map_err(|error| Fault::engine("reading the index's mark", error))?;
    Ok(value.and_then(|value| decode(&value).ok()))
}

fn encode(mark: Mark) -> Vec<u8> {
    let mut frame = Frame::new(VERSION, 40);
    frame.u64(mark.position.get()).uuid(mark.event.as_uuid()).u64(mark.newest).u64(mark.streams);
    frame.seal()
}

fn decode(value: &[u8]) -> Result<Mark, Damage> {
    let (mut fields, _) = Fields::open(VERSION, value)?;
    let mark = Mark {
        position: Position::new(fields.u64()?),
        event: EventId::from_uuid(fields.uuid()?),
        newest: fields.u64()?,
        streams: fields.u64()?,
    };
    fields.end()?;
    Ok(mark)
}

/// Takes in a segment, whose last event is `last`, behind `before`. Its tables are first written into a directory `ingest`
/// in `dir`, on the disk that the index is on.
pub(crate) fn ingest(
    index: &DB,
    dir: &Path,
    setup: &Setup,
    segment: &Segment,
    before: Mark,
    last: (Position, EventId),
) -> Result<Mark, StoreError> {
    let ids = segment.sorted_ids();
    let newest = ids.iter().filter_map(|(id, _)| newness(*id)).max().unwrap_or(0).max(before.newest);
    let mark = Mark { position: last.0, event: last.1, newest, streams: segment.streams_to_its_end() };
    let failed = |error: Error| StoreError::unavailable("writing the index", error);
    let dir = dir.join("ingest");
    let io = |error: std::io::Error| StoreError::unavailable("writing the index", error);
    fs::create_dir_all(&dir).map_err(io)?;
    // Ids, most of them ascending, lie apart from all else: then their tables overlap no others, and are never rewritten.
    let files = [dir.join("names.sst"), dir.join("ids.sst")];
    // Moving makes a link first: what a kill left here may be a table of the database, which must not be written over.
    for file in &files {
        match fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    let options = setup.index();
    write_names(&options, &files[0], segment, mark).map_err(failed)?;
    let mut table = SstFileWriter::create(&options);
    table.open(&files[1]).map_err(failed)?;
    let mut value = Vec::new();
    for (id, position) in ids {
        value.clear();
        value.varint(position.get());
        table.put(keys::id(id), &value).map_err(failed)?;
    }
    table.finish().map_err(failed)?;
    let mut taking = IngestExternalFileOptions::default();
    taking.set_move_files(true);
    index.ingest_external_file_opts(&taking, files.to_vec()).map_err(failed)?;
    Ok(mark)
}

fn write_names(options: &rocksdb::Options, file: &Path, segment: &Segment, mark: Mark) -> Result<(), Error> {
    let mut table = SstFileWriter::create(options);
    table.open(file)?;
    let series = segment.sorted_series();
    // In the order of kinds: categories and tags, heads, the mark, streams, types.
    let (before, behind) = series.split_at(series.partition_point(|series| series.as_slice() < b"h".as_slice()));
    for series in before {
        if bugs::is_on(bugs::INDEX_FORGETS_TAGS) && series[0] == b'g' && series == &before[before.len() - 1] {
            continue;
        }
        write_series(&mut table, series, &segment.series_positions(series))?;
    }
    let streams = segment.sorted_streams();
    let mut value = Vec::new();
    for (stream, last) in &streams {
        value.clear();
        value.varint(last.version.get()).varint(last.position.get()).u8(last.closed.into());
        table.put(keys::head(stream.as_str()), &value)?;
    }
    table.put(keys::MARK, encode(mark))?;
    for (stream, _) in &streams {
        let Some((first, spots)) = segment.stream_spots(stream) else { continue };
        let series = keys::Series::stream(stream.as_str());
        let mut first = first.get();
        for chunk in spots.chunks(CHUNK) {
            value.clear();
            value.varint(first);
            let mut last = 0;
            for Spot { position, block } in chunk {
                value.varint(position.get() - last).varint(block.get() - position.get());
                last = position.get();
            }
            first += chunk.len() as u64;
            table.put(keys::numbered(series.as_bytes(), first - 1), &value)?;
        }
    }
    for series in behind {
        write_series(&mut table, series, &segment.series_positions(series))?;
    }
    table.finish()
}

fn write_series(table: &mut SstFileWriter<'_>, series: &[u8], positions: &[u64]) -> Result<(), Error> {
    let mut value = Vec::new();
    for chunk in positions.chunks(CHUNK) {
        value.clear();
        let mut last = 0;
        for number in chunk {
            value.varint(number - last);
            last = *number;
        }
        table.put(keys::numbered(series, chunk[chunk.len() - 1]), &value)?;
    }
    Ok(())
}

/// For [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn mark_comes_back(body: &[u8]) -> bool {
    let value = crate::frame::sealed(VERSION, body);
    decode(&value).is_ok_and(|mark| {
        assert_eq!(encode(mark), value);
        true
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// Other bytes than these are another version.
    #[test]
    fn the_format_is_this() {
        let event = Uuid::from_u128(9);
        let mark = Mark { position: Position::new(300), event: EventId::from_uuid(event), newest: 258, streams: 7 };
        let value = encode(mark);
        let fields =
            [&[44, 1, 0, 0, 0, 0, 0, 0][..], event.as_bytes(), &[2, 1, 0, 0, 0, 0, 0, 0], &[7, 0, 0, 0, 0, 0, 0, 0]];
        assert_eq!((value[0], &value[5..]), (2, &*fields.concat()));
        assert_eq!(decode(&value).unwrap(), mark);
    }
}
