//! Positions in order: of a series, and of what a filter or a query asks of several. Called by `read`; the index and the
//! tail lie behind each series as one.

use std::collections::VecDeque;

use indelible_core::{Direction, Filter, Position, QueryItem};

use crate::{engine::Fault, keys::Series, read::View};

/// A place in a series, between two positions.
pub(crate) struct Cursor<'a> {
    view: View<'a>,
    series: Series,
    direction: Direction,
    /// What the index says next.
    window: VecDeque<Position>,
    /// Whether the index has nothing behind the window.
    is_through: bool,
}

impl<'a> Cursor<'a> {
    fn new(view: View<'a>, series: Series, direction: Direction) -> Self {
        Self { view, series, direction, window: VecDeque::new(), is_through: false }
    }

    /// The first position at or behind `target` in its direction, up to the view's head. Targets only ever go on in that
    /// direction.
    fn seek(&mut self, target: Position) -> Result<Option<Position>, Fault> {
        let tail = self.view.segments;
        let found = match self.direction {
            Direction::Forwards => match self.seek_index(target)? {
                Some(found) => Some(found),
                None => tail.seek(self.series.as_bytes(), target, self.direction),
            },
            Direction::Backwards => match tail.seek(self.series.as_bytes(), target, self.direction) {
                Some(found) => Some(found),
                None => self.seek_index(target)?,
            },
        };
        Ok(found.filter(|position| *position <= self.view.head))
    }

    fn seek_index(&mut self, target: Position) -> Result<Option<Position>, Fault> {
        while let Some(position) = self.window.front() {
            if at_or_behind(*position, target, self.direction) {
                return Ok(Some(*position));
            }
            self.window.pop_front();
        }
        let is_beyond = self.direction == Direction::Forwards && target > self.view.indexed();
        if self.is_through || is_beyond {
            return Ok(None);
        }
        let more = self.view.index().window(&self.series, target, self.direction, &mut self.window)?;
        self.is_through = !more;
        Ok(self.window.front().copied())
    }
}

fn at_or_behind(position: Position, target: Position, direction: Direction) -> bool {
    match direction {
        Direction::Forwards => position >= target,
        Direction::Backwards => position <= target,
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

impl<'a> Postings<'a> {
    /// The positions that a filter may let through: all that it does, and more only where there is a stream prefix. `None`
    /// where no index serves the filter and the log must be scanned.
    pub(crate) fn filter(view: View<'a>, filter: &Filter, direction: Direction) -> Option<Self> {
        let plan = Plan { view, direction };
        let mut parts = Vec::new();
        match (filter.any_category(), filter.prefix().and_then(|prefix| prefix.split_once('-'))) {
            ([], None) => {}
            // A prefix as long as that fixes the category.
            ([], Some((category, _))) => parts.push(plan.one(Series::category(category))),
            (categories, _) => {
                parts.push(plan.any(categories.iter().map(|c| plan.one(Series::category(c.as_str()))).collect()));
            }
        }
        match filter.query().items() {
            [] => {}
            items => parts.push(plan.any(items.iter().map(|item| plan.item(item)).collect())),
        }
        if parts.is_empty() { None } else { Some(all(parts)) }
    }

    /// The positions of the events that match an item of a query, and no others.
    pub(crate) fn item(view: View<'a>, item: &QueryItem) -> Self {
        Plan { view, direction: Direction::Forwards }.item(item)
    }

    /// The first position at or behind `target`. Targets only ever go on in the postings' direction. Gives up after about
    /// `steps` of looking, which it counts down, with the position that it got to, which is behind `target`.
    pub(crate) fn seek(&mut self, target: Position, steps: &mut usize) -> Result<Found, Fault> {
        match self {
            Self::One(cursor) => Ok(cursor.seek(target)?.map_or(Found::Nothing, Found::At)),
            Self::Any(parts, direction) => {
                let mut first = Found::Nothing;
                let share = *steps / parts.len().max(1);
                for part in parts {
                    // Each its own: the first must not leave the others where they are.
                    let mut left = share;
                    let found = part.seek(target, &mut left)?;
                    *steps -= share - left;
                    first = match (first, found) {
                        (first, Found::Nothing) => first,
                        (Found::Nothing, found) => found,
                        (first, found) => {
                            let is_before = !at_or_behind(found.position(), first.position(), *direction);
                            // Where both stand at one position, the one that is certain counts.
                            let is_sure = found.position() == first.position() && matches!(found, Found::At(_));
                            if is_before || is_sure { found } else { first }
                        }
                    };
                }
                Ok(first)
            }
            Self::All(parts) => {
                let mut target = target;
                let mut agreed = 0;
                // Leapfrog: each part in turn moves the target on, until all have it.
                for turn in 0_usize.. {
                    let part = turn % parts.len();
                    match parts[part].seek(target, steps)? {
                        Found::Nothing => return Ok(Found::Nothing),
                        Found::At(found) if found == target => agreed += 1,
                        Found::At(found) => (target, agreed) = (found, 1),
                        Found::Looked(looked) => return Ok(Found::Looked(looked)),
                    }
                    if agreed == parts.len() {
                        break;
                    }
                    // Not before all had their turn: then one of them has moved the target.
                    if *steps == 0 && turn + 1 >= parts.len() {
                        return Ok(Found::Looked(target));
                    }
                    *steps = steps.saturating_sub(1);
                }
                Ok(Found::At(target))
            }
        }
    }
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    At(Position),
    Nothing,
    /// Nothing is before this position; it has looked for long enough.
    Looked(Position),
}

impl Found {
    fn position(self) -> Position {
        match self {
            Self::At(position) | Self::Looked(position) => position,
            Self::Nothing => Position::MAX,
        }
    }
}

struct Plan<'a> {
    view: View<'a>,
    direction: Direction,
}

impl<'a> Plan<'a> {
    fn item(&self, item: &QueryItem) -> Postings<'a> {
        let mut parts: Vec<_> = item.all_tags().iter().map(|tag| self.one(Series::tag(tag))).collect();
        match item.any_type() {
            [] => {}
            types => parts.push(self.any(types.iter().map(|t| self.one(Series::qualified(t))).collect())),
        }
        all(parts)
    }

    fn one(&self, series: Series) -> Postings<'a> {
        Postings::One(Cursor::new(self.view, series, self.direction))
    }

    fn any(&self, mut parts: Vec<Postings<'a>>) -> Postings<'a> {
        match parts.len() {
            1 => parts.remove(0),
            _ => Postings::Any(parts, self.direction),
        }
    }
}

fn all<'a>(mut parts: Vec<Postings<'a>>) -> Postings<'a> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Postings::All(parts),
    }
}
