//! The anchor: how far the log certainly goes, in a file beside it. RocksDB cannot tell a write-ahead log that lost its end
//! from one that never had it; the anchor can. Written by the keeper about once a second and when the store is closed,
//! after what it names is durable; compared with the log by `open`.
//!
//! The file has two slots, written in turn, so that one is whole whatever happens; `FORMAT.md` has their fields.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use indelible_core::{EventId, Position, StoreId};
use uuid::Uuid;

use crate::{
    Durability,
    frame::{Damage, Fields, Frame, Put as _},
};

const VERSION: u8 = 1;
pub(crate) const NAME: &str = "anchor";
const SLOT: usize = 4096;

/// A place in the log that certainly is in it: the end of a commit group, or the start of an empty log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) position: Position,
    pub(crate) event: EventId,
    /// Of the block that ends there.
    pub(crate) checksum: u32,
}

impl Place {
    pub(crate) const START: Self = Self { position: Position::START, event: EventId::NIL, checksum: 0 };
}

/// The file.
pub(crate) struct Anchor {
    file: File,
    store: StoreId,
    durability: Durability,
    /// The number of what is written next; the slots take turns.
    next: u64,
}

/// What a slot says.
pub(crate) struct Slot {
    number: u64,
    pub(crate) store: StoreId,
    pub(crate) place: Place,
    pub(crate) durability: Durability,
}

fn decode(slot: &[u8]) -> Result<Slot, Damage> {
    let (mut fields, _) = Fields::open(VERSION, slot)?;
    let number = fields.u64()?;
    let store = StoreId::from_uuid(fields.uuid()?);
    let position = Position::new(fields.u64()?);
    let event = EventId::from_uuid(fields.uuid()?);
    let checksum = fields.u32()?;
    let durability = match fields.u8()? {
        0 => Durability::Synced,
        1 => Durability::Buffered,
        _ => return Err(Damage::new("its mode is none")),
    };
    Ok(Slot { number, store, place: Place { position, event, checksum }, durability })
}

/// The slot that counts.
fn newest(file: &File) -> Result<Slot, Damage> {
    let mut newest: Option<Slot> = None;
    for slot in 0..2 {
        let mut bytes = [0; SLOT];
        if file.read_exact_at(&mut bytes, slot * SLOT as u64).is_err() {
            continue;
        }
        match decode(&bytes) {
            Ok(found) if newest.as_ref().is_none_or(|newest| newest.number < found.number) => newest = Some(found),
            Err(newer @ Damage::Newer { .. }) => return Err(newer),
            _ => {}
        }
    }
    newest.ok_or(Damage::new("neither of its slots is whole"))
}

fn encode(number: u64, store: StoreId, place: Place, durability: Durability) -> Vec<u8> {
    let mut frame = Frame::new(VERSION, SLOT);
    let event: Uuid = place.event.as_uuid();
    frame.u64(number).uuid(store.as_uuid()).u64(place.position.get()).uuid(event).u32(place.checksum);
    frame.u8(match durability {
        Durability::Synced => 0,
        Durability::Buffered => 1,
    });
    frame.seal_filled(SLOT)
}

impl Anchor {
    /// The file of a store, and the place that it names; `None` where there is none.
    pub(crate) fn open(dir: &Path) -> io::Result<Option<Result<(Self, Place), Damage>>> {
        let file = match File::options().read(true).write(true).open(dir.join(NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = newest(&file).map(|Slot { number, store, place, durability }| {
            (Self { file, store, durability, next: number + 1 }, place)
        });
        Ok(Some(found))
    }

    /// What the file of a store says, that another process may be writing; `None` where there is none.
    pub(crate) fn read(dir: &Path) -> io::Result<Option<Result<Slot, Damage>>> {
        match File::open(dir.join(NAME)) {
            Ok(file) => Ok(Some(newest(&file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the file, with one slot written; when this returns it is there for good.
    pub(crate) fn create(dir: &Path, store: StoreId, durability: Durability) -> io::Result<Self> {
        let temporary = dir.join("anchor.new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.set_len(2 * SLOT as u64)?;
        file.write_all_at(&encode(0, store, Place::START, durability), 0)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(NAME))?;
        File::open(dir)?.sync_all()?;
        Ok(Self { file, store, durability, next: 1 })
    }

    /// The store that it is of.
    pub(crate) fn store(&self) -> StoreId {
        self.store
    }

    /// How appends since its place were written.
    pub(crate) fn durability(&self) -> Durability {
        self.durability
    }

    /// Says how those from now on are, of a log that is durable up to a place.
    pub(crate) fn set_durability(&mut self, durability: Durability, place: Place) -> io::Result<()> {
        self.durability = durability;
        self.write(place)
    }

    /// Writes a place that is durable in the log.
    pub(crate) fn write(&mut self, place: Place) -> io::Result<()> {
        let slot = encode(self.next, self.store, place, self.durability);
        self.file.write_all_at(&slot, self.next % 2 * SLOT as u64)?;
        self.file.sync_data()?;
        self.next += 1;
        Ok(())
    }
}

/// For [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn comes_back(body: &[u8]) -> bool {
    let Ok(Slot { number, store, place, durability }) = decode(&crate::frame::sealed(VERSION, body)) else {
        return false;
    };
    let again = decode(&encode(number, store, place, durability)).expect("it was just encoded");
    assert_eq!((again.number, again.store, again.place, again.durability), (number, store, place, durability));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(position: u64) -> Place {
        Place { position: Position::new(position), event: EventId::new(), checksum: 7 }
    }

    #[test]
    fn the_last_place_that_is_whole_counts() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Anchor::open(dir.path()).unwrap().is_none());
        let store = StoreId::new();
        let mut anchor = Anchor::create(dir.path(), store, Durability::Synced).unwrap();
        let places = [place(3), place(8), place(9)];
        for expected in places {
            anchor.write(expected).unwrap();
            let (again, found) = Anchor::open(dir.path()).unwrap().unwrap().unwrap();
            assert_eq!((again.store(), found, again.durability()), (store, expected, Durability::Synced));
        }
        // Torn while it was written: the one before is there.
        let name = dir.path().join(NAME);
        let mut bytes = fs::read(&name).unwrap();
        bytes[SLOT + 20] ^= 1;
        fs::write(&name, &bytes).unwrap();
        let (mut again, found) = Anchor::open(dir.path()).unwrap().unwrap().unwrap();
        assert_eq!(found, places[1]);
        again.set_durability(Durability::Buffered, places[1]).unwrap();
        let (_, found) = Anchor::open(dir.path()).unwrap().unwrap().unwrap();
        assert_eq!(found, places[1]);
        assert_eq!(Anchor::open(dir.path()).unwrap().unwrap().unwrap().0.durability(), Durability::Buffered);
        fs::write(&name, [0; 100]).unwrap();
        assert!(Anchor::open(dir.path()).unwrap().unwrap().is_err());
    }

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        let ids = [8, 9].map(Uuid::from_u128);
        let place = Place { position: Position::new(300), event: EventId::from_uuid(ids[1]), checksum: 7 };
        let slot = encode(5, StoreId::from_uuid(ids[0]), place, Durability::Buffered);
        let fields = [
            &[5, 0, 0, 0, 0, 0, 0, 0][..],
            ids[0].as_bytes(),
            &[44, 1, 0, 0, 0, 0, 0, 0],
            ids[1].as_bytes(),
            &[7, 0, 0, 0, 1],
            &[0; 4096 - 5 - 53],
        ];
        assert_eq!((slot.len(), slot[0], &slot[5..]), (4096, 1, &*fields.concat()));
    }
}
