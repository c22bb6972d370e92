//! How the log and the index are compared without one looking the other up: each adds up a hash of all that it says, for
//! each part of the log and each kind of entry by itself. Where the sums are equal both say the same, in whatever order;
//! where not, it is known in which thousandth of the log to look. The seed is another one each time.

use std::ops::RangeInclusive;

use ahash::RandomState;
use indelible_core::Position;

/// Of how many parts of the log each has a sum of its own.
const PARTS: u64 = 1024;

/// What an entry of the index says about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Id,
    /// Its stream and version.
    Version,
    Category,
    Type,
    Tag,
    /// That it closes its stream.
    Closes,
}

const KINDS: usize = 6;

/// One thing that the log says of an event, or the index does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry<'a> {
    pub(super) kind: Kind,
    /// An id's bytes, a stream's name, or a series.
    pub(super) name: &'a [u8],
    /// A version; 0 where it has none.
    pub(super) number: u64,
    pub(super) position: Position,
    /// The last position of its block; 0 where it does not say so.
    pub(super) block: Position,
}

/// The sums of the events up to a position.
pub(super) struct Sums {
    hash: RandomState,
    to: Position,
    sums: Vec<u64>,
}

impl Sums {
    pub(super) fn up_to(to: Position) -> Self {
        Self { hash: RandomState::new(), to, sums: vec![0; KINDS * PARTS as usize] }
    }

    /// Empty ones, to be compared with these.
    pub(super) fn other(&self) -> Self {
        Self { hash: self.hash.clone(), to: self.to, sums: vec![0; self.sums.len()] }
    }

    pub(super) fn to(&self) -> Position {
        self.to
    }

    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        if Position::START < entry.position && entry.position <= self.to {
            let part = self.part(entry.position);
            let sum = &mut self.sums[entry.kind as usize * PARTS as usize + part];
            *sum = sum.wrapping_add(self.hash.hash_one(entry));
        }
    }

    fn part(&self, position: Position) -> usize {
        (u128::from(position.get() - 1) * u128::from(PARTS) / u128::from(self.to.get())) as usize
    }

    /// Whether two differ in what they say of an entry's kind in its part of the log.
    pub(super) fn differ_at(&self, other: &Self, kind: Kind, position: Position) -> bool {
        let at = |part| kind as usize * PARTS as usize + part;
        Position::START < position && position <= self.to && {
            let part = at(self.part(position));
            self.sums[part] != other.sums[part]
        }
    }

    /// The parts of the log in which two differ, in whatever kind.
    pub(super) fn differences(&self, other: &Self) -> Vec<RangeInclusive<u64>> {
        let differs = |part: &u64| {
            (0..KINDS).any(|kind| {
                let at = kind * PARTS as usize + *part as usize;
                self.sums[at] != other.sums[at]
            })
        };
        // The first position of a part is the first that `part` says so of.
        let start = |part: u64| (u128::from(part) * u128::from(self.to.get())).div_ceil(u128::from(PARTS)) as u64 + 1;
        (0..PARTS).filter(differs).map(|part| start(part)..=start(part + 1) - 1).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, position: u64) -> Entry<'static> {
        Entry { kind, name: b"a", number: 0, position: Position::new(position), block: Position::START }
    }

    /// In whatever order, and for logs that are shorter and longer than there are parts.
    #[test]
    fn a_difference_is_found_where_it_is() {
        for to in [1, 7, 1_023, 1_024, 1_025, 5_000] {
            for missing in [1, to / 2 + 1, to] {
                let mut log = Sums::up_to(Position::new(to));
                let mut index = log.other();
                (1..=to).for_each(|position| log.add(&entry(Kind::Tag, position)));
                (1..=to).rev().filter(|p| *p != missing).for_each(|position| index.add(&entry(Kind::Tag, position)));
                let at = Position::new(missing);
                assert!(log.differ_at(&index, Kind::Tag, at) && !log.differ_at(&index, Kind::Id, at));
                let found = log.differences(&index);
                assert!(found.len() == 1 && found[0].contains(&missing), "{missing} of {to}: {found:?}");
                index.add(&entry(Kind::Tag, missing));
                assert_eq!(log.differences(&index), []);
            }
        }
    }
}
