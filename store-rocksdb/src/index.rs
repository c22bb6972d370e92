//! Which positions, in order: cursors over the indexes, and their unions and intersections. Called by `read` for pages,
//! and by `append` for consistency conditions.

use indelible_core::{Direction, Filter, Position, QueryItem, StoreError};
use rocksdb::{DB, DBRawIterator, ReadOptions};

use crate::{keys::Series, read::engine_error};

/// Walks the numbers of one series, one way, within bounds.
pub(crate) struct Cursor<'a> {
    keys: DBRawIterator<'a>,
    series: Series,
    direction: Direction,
    place: Place,
}

enum Place {
    Outside,
    At(u64),
    Ended,
}

impl<'a> Cursor<'a> {
    /// Over the numbers from `low` to `high`, inclusive.
    pub(crate) fn new(db: &'a DB, series: Series, low: u64, high: u64, direction: Direction) -> Self {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(series.key(low));
        options.set_iterate_upper_bound(series.key(high.saturating_add(1)));
        Self { keys: db.raw_iterator_opt(options), series, direction, place: Place::Outside }
    }

    /// The first number at or behind `target` in its direction. Targets only ever go on in that direction.
    pub(crate) fn seek(&mut self, target: u64) -> Result<Option<u64>, StoreError> {
        let reached = |number| at_or_behind(number, target, self.direction);
        match self.place {
            Place::At(number) if reached(number) => return Ok(Some(number)),
            Place::Ended => return Ok(None),
            Place::Outside => self.jump(target),
            // What is wanted is most often the next one; a jump costs some times a step.
            Place::At(_) => {
                self.step();
                match self.arrive()? {
                    Some(number) if !at_or_behind(number, target, self.direction) => self.jump(target),
                    found => return Ok(found),
                }
            }
        }
        self.arrive()
    }

    /// The value at the number that [`seek`](Self::seek) found last.
    pub(crate) fn value(&self) -> &[u8] {
        self.keys.value().unwrap_or_default()
    }

    fn jump(&mut self, target: u64) {
        match self.direction {
            Direction::Forwards => self.keys.seek(self.series.key(target)),
            Direction::Backwards => self.keys.seek_for_prev(self.series.key(target)),
        }
    }

    fn step(&mut self) {
        match self.direction {
            Direction::Forwards => self.keys.next(),
            Direction::Backwards => self.keys.prev(),
        }
    }

    /// Where the iterator stands now. One that fails looks just like one that is through, but for its status.
    fn arrive(&mut self) -> Result<Option<u64>, StoreError> {
        let Some(key) = self.keys.key() else {
            self.keys.status().map_err(|error| engine_error("reading an index", error))?;
            self.place = Place::Ended;
            return Ok(None);
        };
        let Some(number) = self.series.number(key) else {
            return Err(StoreError::corrupted(format!("the key {} is of no kind", key.escape_ascii())));
        };
        self.place = Place::At(number);
        Ok(Some(number))
    }
}

fn at_or_behind(number: u64, target: u64, direction: Direction) -> bool {
    match direction {
        Direction::Forwards => number >= target,
        Direction::Backwards => number <= target,
    }
}

/// Positions in order, each once.
pub(crate) enum Postings<'a> {
    One(Cursor<'a>),
    /// Those in any part.
    Any(Vec<Postings<'a>>, Direction),
    /// Those in all parts; at least one part.
    All(Vec<Postings<'a>>),
}

impl Postings<'_> {
    /// The first position at or behind `target`. Targets only ever go on in the postings' direction.
    pub(crate) fn seek(&mut self, target: u64) -> Result<Option<u64>, StoreError> {
        match self {
            Self::One(cursor) => cursor.seek(target),
            Self::Any(parts, direction) => {
                let mut first = None;
                for part in parts {
                    if let Some(found) = part.seek(target)?
                        && first.is_none_or(|first| at_or_behind(first, found, *direction))
                    {
                        first = Some(found);
                    }
                }
                Ok(first)
            }
            Self::All(parts) => {
                let mut target = target;
                let mut agreed = 0;
                // Leapfrog: each part in turn moves the target on, until all have it.
                for turn in (0..parts.len()).cycle() {
                    match parts[turn].seek(target)? {
                        None => return Ok(None),
                        Some(found) if found == target => agreed += 1,
                        Some(found) => (target, agreed) = (found, 1),
                    }
                    if agreed == parts.len() {
                        break;
                    }
                }
                Ok(Some(target))
            }
        }
    }
}

/// Plans how to find what a filter lets through between two positions, inclusive.
pub(crate) struct Plan<'a> {
    pub(crate) db: &'a DB,
    pub(crate) low: Position,
    pub(crate) high: Position,
    pub(crate) direction: Direction,
}

impl<'a> Plan<'a> {
    /// The positions that may match: all that do, and more only where there is a stream prefix. `None` where no index
    /// serves the filter and the log must be scanned.
    pub(crate) fn filter(&self, filter: &Filter) -> Option<Postings<'a>> {
        let mut parts = Vec::new();
        match (filter.any_category(), filter.prefix().and_then(|prefix| prefix.split_once('-'))) {
            ([], None) => {}
            // A prefix as long as that fixes the category.
            ([], Some((category, _))) => parts.push(self.one(Series::category(category))),
            (categories, _) => {
                parts.push(self.any(categories.iter().map(|c| self.one(Series::category(c.as_str()))).collect()));
            }
        }
        match filter.query().items() {
            [] => {}
            items => parts.push(self.query(items)),
        }
        if parts.is_empty() { None } else { Some(all(parts)) }
    }

    /// The positions of the events that match a query, and no others.
    fn query(&self, items: &[QueryItem]) -> Postings<'a> {
        self.any(items.iter().map(|item| self.item(item)).collect())
    }

    /// The same for one of its items.
    pub(crate) fn item(&self, item: &QueryItem) -> Postings<'a> {
        let mut parts: Vec<_> = item.all_tags().iter().map(|tag| self.one(Series::tag(tag))).collect();
        match item.any_type() {
            [] => {}
            types => parts.push(self.any(types.iter().map(|t| self.one(Series::qualified(t))).collect())),
        }
        all(parts)
    }

    fn one(&self, series: Series) -> Postings<'a> {
        Postings::One(self.cursor(series))
    }

    fn any(&self, mut parts: Vec<Postings<'a>>) -> Postings<'a> {
        match parts.len() {
            1 => parts.remove(0),
            _ => Postings::Any(parts, self.direction),
        }
    }

    pub(crate) fn cursor(&self, series: Series) -> Cursor<'a> {
        Cursor::new(self.db, series, self.low.get(), self.high.get(), self.direction)
    }
}

fn all<'a>(mut parts: Vec<Postings<'a>>) -> Postings<'a> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Postings::All(parts),
    }
}
