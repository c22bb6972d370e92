//! What a backup says of itself: a file of text, one line a field, written when all else is there. `FORMAT.md` has its
//! lines.

use std::{
    fmt::Write as _,
    path::{Component, Path},
};

use indelible_core::{Timestamp, Token};

use crate::frame::Damage;

pub(super) const NAME: &str = "manifest";
const FIRST: &str = "indelible backup ";
const VERSION: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) head: Token,
    pub(super) taken_at: Timestamp,
    pub(super) added_bytes: u64,
    pub(super) files: Vec<Listed>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) bytes: u64,
    pub(super) checksum: u32,
    /// In the backup's directory.
    pub(super) path: String,
}

impl Manifest {
    pub(super) fn encode(&self) -> String {
        let Self { head, taken_at, added_bytes, files } = self;
        let mut text = format!("{FIRST}{VERSION}\nhead {head}\ntaken {}\nadded {added_bytes}\n", taken_at.as_micros());
        for Listed { bytes, checksum, path } in files {
            let _ = writeln!(text, "file {bytes} {checksum:08x} {path}");
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        let _ = writeln!(text, "checksum {checksum:08x}");
        text
    }

    pub(super) fn decode(text: &str) -> Result<Self, Damage> {
        let damage = |line: &str| Damage::new(format!("its line {line:?} makes no sense"));
        let (lines, checksum) = text.rsplit_once("checksum ").ok_or(Damage::new("it has no end"))?;
        let checksum = checksum.strip_suffix('\n').and_then(|checksum| u32::from_str_radix(checksum, 16).ok());
        if checksum != Some(crc32c::crc32c(lines.as_bytes())) {
            return Err(Damage::new("its checksum is wrong"));
        }
        let mut lines = lines.lines();
        let version = lines.next().and_then(|line| line.strip_prefix(FIRST)?.parse::<u8>().ok());
        match version.ok_or(Damage::new("it is none of a backup"))? {
            VERSION => {}
            found if found > VERSION => return Err(Damage::Newer { found, supported: VERSION }),
            found => return Err(Damage::new(format!("its version is {found}, not {VERSION}"))),
        }
        let mut field = |name: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(name).and_then(|line| line.strip_prefix(' ')).ok_or_else(|| damage(line))
        };
        let head = field("head")?.parse()?;
        let taken = field("taken")?;
        let taken_at = Timestamp::from_micros(taken.parse().map_err(|_| damage(taken))?)?;
        let added = field("added")?;
        let added_bytes = added.parse().map_err(|_| damage(added))?;
        let files = lines.map(|line| file(line).ok_or_else(|| damage(line))).collect::<Result<_, _>>()?;
        Ok(Self { head, taken_at, added_bytes, files })
    }
}

fn file(line: &str) -> Option<Listed> {
    let mut fields = line.strip_prefix("file ")?.splitn(3, ' ');
    let (bytes, checksum, path) = (fields.next()?, fields.next()?, fields.next()?);
    let is_inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    is_inside.then_some(Listed { bytes: bytes.parse().ok()?, checksum, path: path.into() })
}

/// For [`fuzzing`](crate::fuzzing): lines behind which the checksum is right.
#[cfg(feature = "fuzzing")]
pub(crate) fn comes_back(lines: &[u8]) -> bool {
    let lines = String::from_utf8_lossy(lines);
    let text = format!("{lines}checksum {:08x}\n", crc32c::crc32c(lines.as_bytes()));
    let Ok(manifest) = Manifest::decode(&text) else { return false };
    assert_eq!(Manifest::decode(&manifest.encode()).ok(), Some(manifest));
    true
}

#[cfg(test)]
mod tests {
    use indelible_core::StoreId;

    use super::*;

    #[test]
    fn what_is_written_comes_back_and_any_change_is_found_out() {
        let file = |path: &str| Listed { bytes: 7, checksum: 0xabc, path: path.into() };
        let manifest = Manifest {
            head: Token::start(StoreId::new()),
            taken_at: Timestamp::from_micros(-5).unwrap(),
            added_bytes: 9,
            files: vec![file("anchor"), file("log/a b.sst")],
        };
        let text = manifest.encode();
        assert_eq!(Manifest::decode(&text).unwrap(), manifest);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).unwrap();
            assert!(Manifest::decode(&changed).is_err(), "{changed}");
            assert!(Manifest::decode(&text[..at]).is_err());
        }
        let newer = text[..text.rfind("checksum").unwrap()].replace("backup 1", "backup 2");
        let newer = format!("{newer}checksum {:08x}\n", crc32c::crc32c(newer.as_bytes()));
        assert!(matches!(Manifest::decode(&newer), Err(Damage::Newer { found: 2, supported: 1 })));
        let outside = Manifest { files: vec![file("../anchor")], ..manifest };
        assert!(Manifest::decode(&outside.encode()).is_err());
    }
}
