//! The end of the write-ahead log, put in order before RocksDB reads it. Called by `open`.
//!
//! A power cut leaves the last commit group in any state: cut short, or whole in length and partly zeros. RocksDB forgives
//! the first and refuses the second, and takes some damage far before the end for the first. This tells them apart by what
//! the sequencer promises: no group is written before the one before is synced. So damage with a later group behind it is
//! damage to what was synced, and is refused; damage in the last group is what a power cut does, and the group, which nobody
//! was told of, is cut off. What is cut off is kept in the directory `torn`.
//!
//! RocksDB's format, of which this reads no more than it needs: blocks of 32 KiB hold fragments, each a masked CRC-32C u32,
//! a length u16, a type u8 (1 whole, 2 first, 3 middle, 4 last part of a record) and bytes. A record is one written batch,
//! and that is one commit group: a sequence number u64, a count u32, and so many puts (`wal/batch.rs`). Behind damage
//! nothing says where the next record begins, and the data of the last group may look like anything, a write-ahead log
//! among it: a later group is what reads as one of ours, with a later sequence number.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

mod batch;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;

const WHOLE: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Damage to what was synced.
#[derive(Debug, thiserror::Error)]
#[error("the write-ahead log {} is damaged at byte {at}, and goes on behind it", file.display())]
pub(crate) struct Rot {
    file: PathBuf,
    at: usize,
}

/// What was cut off, from which files, where.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Vec<(PathBuf, usize, Vec<u8>)>);

impl Cuts {
    /// Puts all back, where the store is refused for another reason.
    pub(crate) fn undo(self) -> io::Result<()> {
        for (file, at, bytes) in self.0 {
            let file = File::options().write(true).open(file)?;
            file.write_all_at(&bytes, at as u64)?;
            file.sync_all()?;
        }
        Ok(())
    }
}

/// Cuts a torn group off. Where appends did not wait for the disk (`is_buffered`), later groups prove nothing: all from the
/// damage on is cut off.
pub(crate) fn mend(log_dir: &Path, torn_dir: &Path, is_buffered: bool) -> io::Result<Result<Cuts, Rot>> {
    let files = files(log_dir)?;
    let mut torn: Option<(usize, Vec<u8>, Damage)> = None;
    // What the groups before the damage end with.
    let mut sequence = 0;
    for (index, file) in files.iter().enumerate() {
        let bytes = fs::read(file)?;
        if let Some((before, _, damage)) = &torn
            && !is_buffered
            && has_group(&bytes, 0, sequence)
        {
            return Ok(Err(Rot { file: files[*before].clone(), at: damage.found }));
        }
        let (last, damage) = walk(&bytes);
        if torn.is_none() {
            sequence = last.and_then(|at| batch::sequence(&record(&bytes, at)?.0)).unwrap_or(sequence);
        }
        let Some(damage) = damage else { continue };
        if !is_buffered && has_group(&bytes, damage.found + 1, sequence) {
            return Ok(Err(Rot { file: file.clone(), at: damage.found }));
        }
        // Of several, all but the first are behind it.
        torn.get_or_insert((index, bytes, damage));
    }
    let mut cuts = Cuts::default();
    let Some((index, bytes, damage)) = torn else { return Ok(Ok(cuts)) };
    for later in &files[index + 1..] {
        let bytes = fs::read(later)?;
        cut(later, &bytes, 0, torn_dir)?;
        cuts.0.push((later.clone(), 0, bytes));
    }
    cut(&files[index], &bytes, damage.record, torn_dir)?;
    cuts.0.push((files[index].clone(), damage.record, bytes[damage.record..].to_vec()));
    Ok(Ok(cuts))
}

/// The write-ahead logs, the oldest first.
pub(crate) fn files(log_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(log_dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|extension| extension == "log")
        {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// The manifest of a database, which has the same format, where RocksDB would read it for ever: it takes a damaged record
/// of a strange type for one that is left from an earlier use of the file, and doesn't get past it.
pub(crate) fn endless_manifest(database: &Path) -> Option<PathBuf> {
    let current = fs::read_to_string(database.join("CURRENT")).ok()?;
    let manifest = database.join(current.trim_end());
    let bytes = fs::read(&manifest).ok()?;
    let kind = *bytes.get(walk(&bytes).1?.found + HEADER - 1)?;
    (kind > LAST).then_some(manifest)
}

fn cut(file: &Path, bytes: &[u8], at: usize, torn_dir: &Path) -> io::Result<()> {
    if bytes[at..].iter().any(|byte| *byte != 0) {
        tracing::warn!(file = %file.display(), at, bytes = bytes.len() - at, "a torn commit group is cut off");
        // Nobody was told that it is there: where it can't be kept, for want of room, the store opens all the same.
        if let Err(error) = keep(file, &bytes[at..], at, torn_dir) {
            tracing::warn!(file = %file.display(), %error, "what is cut off can't be kept");
        }
    }
    let file = File::options().write(true).open(file)?;
    file.set_len(at as u64)?;
    file.sync_all()
}

fn keep(file: &Path, bytes: &[u8], at: usize, torn_dir: &Path) -> io::Result<()> {
    fs::create_dir_all(torn_dir)?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    let mut kept = File::create(torn_dir.join(format!("{name}-{at}")))?;
    kept.write_all(bytes)?;
    kept.sync_all()
}

/// Where a log stops making sense.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    /// The first byte of the record that is not whole.
    record: usize,
    /// The first byte of the fragment in which it shows.
    found: usize,
}

/// The start of the last record that is whole, and the first damage, be it no more than an end in the middle of a record.
fn walk(bytes: &[u8]) -> (Option<usize>, Option<Damage>) {
    let mut at = 0;
    let (mut record, mut last) = (None, None);
    loop {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
        }
        if at >= bytes.len() {
            return (last, record.map(|record| Damage { record, found: bytes.len().min(at) }));
        }
        let damaged = Some(Damage { record: record.unwrap_or(at), found: at });
        let Some((kind, end)) = fragment(bytes, at) else { return (last, damaged) };
        match (kind, record) {
            (FIRST, None) => record = Some(at),
            (MIDDLE, Some(_)) => {}
            (LAST, Some(_)) => (last, record) = (record, None),
            (WHOLE, None) => last = Some(at),
            // The few that hold no data.
            (kind, None) if kind > LAST => {}
            _ => return (last, damaged),
        }
        at = end;
    }
}

/// The type and the end of the fragment at a byte, where it is whole.
fn fragment(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let header = bytes.get(at..at + HEADER)?;
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    let end = at + HEADER + length;
    if kind == 0 || at % BLOCK + HEADER + length > BLOCK {
        return None;
    }
    let checksum = crc32c::crc32c(bytes.get(at + HEADER - 1..end)?);
    let masked = checksum.rotate_right(15).wrapping_add(0xa282_ead8);
    (masked.to_le_bytes() == header[..4]).then_some((kind, end))
}

/// The record that begins at a byte, as far as it is there, and whether all of it is.
fn record(bytes: &[u8], at: usize) -> Option<(Cow<'_, [u8]>, bool)> {
    let (kind, mut end) = fragment(bytes, at)?;
    let mut record = Cow::Borrowed(&bytes[at + HEADER..end]);
    // All parts but the last fill their block.
    if kind != FIRST || !end.is_multiple_of(BLOCK) {
        return (kind == WHOLE).then_some((record, true));
    }
    while let Some((kind @ (MIDDLE | LAST), next)) = fragment(bytes, end) {
        record.to_mut().extend_from_slice(&bytes[end + HEADER..next]);
        end = next;
        if kind == LAST {
            return Some((record, true));
        }
    }
    Some((record, false))
}

/// Whether a group with a later sequence number begins somewhere at or behind a byte, whatever lies between.
fn has_group(bytes: &[u8], from: usize, sequence: u64) -> bool {
    let mut at = from;
    while let Some(kind) = bytes.get(at + HEADER - 1) {
        match *kind {
            // Data is never where a block begins, so this is a part of the group before, and what is in it is data.
            MIDDLE | LAST if at.is_multiple_of(BLOCK) => {
                at = fragment(bytes, at).map_or(at + 1, |(_, end)| end);
                continue;
            }
            WHOLE | FIRST => {
                let found = record(bytes, at);
                if found.is_some_and(|(record, is_whole)| batch::is_later(&record, is_whole, sequence)) {
                    return true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

/// For [`fuzzing`](crate::fuzzing): a log of fragments whose checksums are right, each a type, a length and bytes. What is
/// left when the damage is cut off makes sense.
#[cfg(feature = "fuzzing")]
pub(crate) fn is_mended(mut bytes: &[u8]) -> bool {
    let mut log = Vec::new();
    while let Some((&[kind, length], rest)) = bytes.split_first_chunk() {
        let left = BLOCK - log.len() % BLOCK;
        if left < HEADER {
            log.resize(log.len() + left, 0);
            continue;
        }
        let (data, rest) = rest.split_at(rest.len().min(usize::from(length) * 64).min(left - HEADER));
        bytes = rest;
        let typed = [&[kind % 6], data].concat();
        let checksum = crc32c::crc32c(&typed).rotate_right(15).wrapping_add(0xa282_ead8);
        log.extend([&checksum.to_le_bytes()[..], &(data.len() as u16).to_le_bytes(), &typed].concat());
    }
    let Some(Damage { record, found }) = walk(&log).1 else { return true };
    assert!(record <= found && found <= log.len(), "{record} {found} of {}", log.len());
    assert_eq!(walk(&log[..record]).1, None);
    has_group(&log, found, 0)
}

#[cfg(test)]
mod tests {
    use indelible_core::{Position, Timestamp, Version};
    use rocksdb::{DB, IteratorMode, WriteBatch};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        block::{self, Builder},
        engine::{Setup, write_options},
    };

    /// What a kill leaves of a log with one group for each of these sizes, of one event of so much random data.
    fn killed(groups: &[usize]) -> TempDir {
        let data = groups.iter().map(|size| rand::random_iter().take(*size).collect());
        killed_with(&data.collect::<Vec<Vec<u8>>>())
    }

    fn killed_with(groups: &[Vec<u8>]) -> TempDir {
        let at_work = tempfile::tempdir().unwrap();
        let log = Setup::new().open_log(at_work.path(), true).unwrap();
        write(&log, 0, groups);
        copy(&at_work)
    }

    /// One group for each, behind so many.
    fn write(log: &DB, before: u64, groups: &[Vec<u8>]) {
        let mut block = Builder::after(Position::new(before), 7);
        for record in groups {
            block.push(Version::FIRST, record);
            let (last, value) = block.finish(Timestamp::from_micros(5).unwrap());
            let mut batch = WriteBatch::default();
            batch.put(block::key(last), value);
            log.write_opt(batch, &write_options(true)).unwrap();
        }
    }

    fn copy(of: &TempDir) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(of.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
        dir
    }

    fn log(dir: &TempDir) -> PathBuf {
        files(dir.path()).unwrap().pop().unwrap()
    }

    fn mended(dir: &TempDir, is_buffered: bool) -> Result<(), Rot> {
        mend(dir.path(), &dir.path().join("torn"), is_buffered).unwrap().map(|_| ())
    }

    /// How many groups are there, which are the first ones.
    fn opened(dir: &TempDir) -> usize {
        let log: DB = Setup::new().open_log(dir.path(), false).unwrap();
        let keys: Vec<_> = log.iterator(IteratorMode::Start).map(|entry| entry.unwrap().0).collect();
        let expected: Vec<_> = (1..=keys.len() as u64).map(|last| block::key(Position::new(last)).into()).collect();
        assert_eq!(keys, expected);
        keys.len()
    }

    const SIZES: [&[usize]; 3] = [&[100, 300, 200], &[10, 40_000, 500], &[70_000, 10, 100_000]];

    /// Where the last record begins.
    fn last_record(bytes: &[u8]) -> usize {
        walk(bytes).0.unwrap()
    }

    #[test]
    fn a_whole_log_is_left_as_it_is() {
        for sizes in SIZES {
            let dir = killed(sizes);
            let before = fs::read(log(&dir)).unwrap();
            assert_eq!(walk(&before).1, None);
            mended(&dir, false).unwrap();
            assert_eq!(fs::read(log(&dir)).unwrap(), before);
            assert_eq!(opened(&dir), sizes.len());
        }
    }

    /// Cut short, or with zeros, or with anything else from somewhere on, or just for a page: the last group is gone, and
    /// nothing else.
    #[test]
    fn a_torn_last_group_is_cut_off() {
        for sizes in SIZES {
            let whole = fs::read(log(&killed(sizes))).unwrap();
            let start = last_record(&whole);
            let length = whole.len() - start;
            for part in (0..6).map(|part| start + 1 + part * (length - 1) / 6).chain([whole.len() - 1]) {
                for kind in 0..4 {
                    let dir = killed(sizes);
                    let mut bytes = fs::read(log(&dir)).unwrap();
                    assert_eq!(bytes.len(), whole.len());
                    let page = (part / 4096 * 4096).max(start)..(part / 4096 * 4096 + 4096).min(bytes.len());
                    match kind {
                        0 => bytes.truncate(part),
                        1 => bytes[part..].fill(0),
                        2 => bytes[part..].fill(0xa5),
                        _ => bytes[page].fill(0),
                    }
                    fs::write(log(&dir), &bytes).unwrap();
                    mended(&dir, false).unwrap();
                    assert_eq!(opened(&dir), sizes.len() - 1, "sizes {sizes:?}, from {part} on, kind {kind}");
                }
            }
        }
    }

    #[test]
    fn zeros_behind_the_last_group_are_nothing() {
        let dir = killed(&[100, 200]);
        let whole = fs::read(log(&dir)).unwrap();
        fs::write(log(&dir), [whole, vec![0; 100_000]].concat()).unwrap();
        mended(&dir, false).unwrap();
        assert!(!dir.path().join("torn").exists());
        assert_eq!(opened(&dir), 2);
    }

    /// A changed bit anywhere before the last group, its lengths included.
    #[test]
    fn damage_before_the_last_group_is_refused() {
        let dir = killed(&[100, 300, 200]);
        let whole = fs::read(log(&dir)).unwrap();
        for at in 0..last_record(&whole) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(log(&dir), &bytes).unwrap();
            let rot = mended(&dir, false).unwrap_err();
            assert!(rot.at <= at, "{rot} was at {at}");
            assert_eq!(fs::read(log(&dir)).unwrap(), bytes, "what is refused is left as it is");
        }
        let mut bytes = whole.clone();
        bytes[fragment(&whole, 0).unwrap().1 + 50] ^= 1;
        fs::write(log(&dir), &bytes).unwrap();
        mended(&dir, true).unwrap();
        assert_eq!(opened(&dir), 1, "where nothing was promised, what is before the damage is kept");
        let kept: Vec<_> = fs::read_dir(dir.path().join("torn")).unwrap().collect();
        assert_eq!(kept.len(), 1);
    }

    #[test]
    fn damage_with_a_later_log_behind_it_is_refused() {
        let at_work = tempfile::tempdir().unwrap();
        write(&Setup::new().open_log(at_work.path(), true).unwrap(), 0, &[vec![1; 100], vec![2; 300]]);
        let log = Setup::new().open_log(at_work.path(), false).unwrap();
        write(&log, 2, &[vec![3; 50]]);
        let dir = copy(&at_work);
        let found = files(dir.path()).unwrap();
        let (first, later) = (&found[0], &found[1]);
        let whole = fs::read(first).unwrap();
        fs::write(first, &whole[..whole.len() - 5]).unwrap();
        mended(&dir, false).unwrap_err();
        fs::write(later, "").unwrap();
        mended(&dir, false).unwrap();
    }

    /// A fragment, of a record that is whole.
    fn whole(record: &[u8]) -> Vec<u8> {
        let checksum = crc32c::crc32c(&[&[WHOLE], record].concat()).rotate_right(15).wrapping_add(0xa282_ead8);
        [&checksum.to_le_bytes(), &(record.len() as u16).to_le_bytes()[..], &[WHOLE], record].concat()
    }

    /// What people store may look like a write-ahead log, or be one.
    #[test]
    fn a_log_in_the_data_of_a_torn_group_is_no_later_group() {
        let elsewhere = tempfile::tempdir().unwrap();
        let other = DB::open_default(elsewhere.path()).unwrap();
        (0..9_u64).for_each(|key| other.put(key.to_be_bytes(), [7; 500]).unwrap());
        let theirs = fs::read(log(&elsewhere)).unwrap();
        let batch = |sequence: u64, put: &[u8]| [&sequence.to_le_bytes(), &1_u32.to_le_bytes()[..], put].concat();
        let random = |size| rand::random_iter().take(size).collect::<Vec<u8>>();
        for hostile in [
            whole(&[0; 12]),
            whole(&batch(u64::MAX - 1, &[])),
            whole(&batch(1_000, b"\x01\x08aaaaaaaa\x03bbb")),
            whole(&batch(1_000, b"\x05\x01\x0ccheckpoint a\x03bbb")),
            theirs,
        ] {
            for before in [9_000, 40_000] {
                let groups = [vec![1; 100], vec![2; 200], [random(before), hostile.clone(), random(9_000)].concat()];
                let intact = killed_with(&groups);
                let start = last_record(&fs::read(log(&intact)).unwrap());
                for page in start / 4096..(start + before) / 4096 {
                    let dir = copy(&intact);
                    let mut bytes = fs::read(log(&dir)).unwrap();
                    bytes[(page * 4096).max(start)..(page + 1) * 4096].fill(0);
                    fs::write(log(&dir), &bytes).unwrap();
                    mended(&dir, false).unwrap();
                    assert_eq!(opened(&dir), 2);
                }
            }
        }
    }

    /// Also one that could be ours, where what is around it is whole.
    #[test]
    fn what_is_in_a_part_of_a_group_is_data() {
        let ours = fs::read(log(&killed(&[300; 9]))).unwrap();
        let mut data = vec![3; 40_000];
        data.extend_from_slice(&ours);
        let groups = [vec![1; 100], data];
        let dir = killed_with(&groups);
        let mut bytes = fs::read(log(&dir)).unwrap();
        bytes[4_096..8_192].fill(0);
        fs::write(log(&dir), &bytes).unwrap();
        mended(&dir, false).unwrap();
        assert_eq!(opened(&dir), 1);
    }

    /// The later group may begin with a few bytes at the end of a block.
    #[test]
    fn a_later_group_is_found_wherever_it_begins() {
        for left in HEADER..HEADER + 40 {
            // The first group ends where so many bytes of the block are left.
            let before = killed(&[100, 100]);
            let start = last_record(&fs::read(log(&before)).unwrap());
            let mut size = BLOCK - start - left - 100;
            let groups = loop {
                let groups = [vec![1; 100], vec![2; size], vec![3; 500]];
                let bytes = fs::read(log(&killed_with(&groups))).unwrap();
                let last = last_record(&bytes);
                if last + left == BLOCK {
                    break groups;
                }
                assert!(last + left < BLOCK, "{left}: {last}");
                size += BLOCK - left - last;
            };
            let dir = killed_with(&groups);
            let mut bytes = fs::read(log(&dir)).unwrap();
            bytes[start + 100] ^= 1;
            fs::write(log(&dir), &bytes).unwrap();
            assert!(mended(&dir, false).is_err(), "{left} bytes are left");
        }
    }
}
