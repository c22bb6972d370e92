//! Reading: the log as it is up to one position. Called by the store's handle for readers, with what is published, and by
//! `append` for judging.

use indelible_core::{
    Category, Direction, EventId, InvalidInput, PAGE_BYTES_MAX, PAGE_EVENTS_MAX, Page, Position, Query, ReadLog,
    ReadStream, RecordedEvent, StoreError, StoreId, StreamHead, StreamId, Token, Version,
};

use crate::{
    engine::{Engine, Fault, Tier},
    index::Index,
    keys::Names,
    log::{Events, Spot, events_at},
    postings::{Found, Postings},
    seen::Seen,
    tail::Segments,
};

/// The most events that a filtered read decodes for one page, wanted or not; then it says how far it has looked.
const LOOKED_EVENTS_MAX: usize = 10_000;
/// The same in bytes of event data.
const LOOKED_BYTES_MAX: usize = 4 * PAGE_BYTES_MAX;
/// The most steps from tag to tag that a page takes.
const STEPS_MAX: usize = 100_000;
/// The same on a thread that many tasks share, and on the sequencer's.
const SHARED_STEPS_MAX: usize = 1_000;
/// The most events of a page that is read on a thread that many tasks share.
const SHARED_EVENTS_MAX: usize = 256;

/// The log up to a position. What lies behind does not exist, in no index.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) segments: &'a Segments,
    pub(crate) store: StoreId,
    /// The last event.
    pub(crate) head: Position,
    pub(crate) head_event: EventId,
    /// No UUIDv7 that begins with more is in the index.
    pub(crate) newest: u64,
    pub(crate) tier: Tier,
}

impl View<'_> {
    /// Reads what is seen of a log as it is now.
    pub(crate) fn of<T>(
        engine: &Engine,
        seen: &Seen,
        store: StoreId,
        tier: Tier,
        read: impl Fn(&View<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (last, segments, newest) = seen.now();
        read(&View { engine, segments: &segments, store, head: last.position, head_event: last.event, newest, tier })
    }
}

impl<'a> View<'a> {
    /// The last position that the index is asked for.
    pub(crate) fn indexed(&self) -> Position {
        self.segments.indexed().min(self.head)
    }

    pub(crate) fn index(&self) -> Index<'a> {
        Index::new(self.engine, self.tier, self.indexed())
    }

    /// The event at a position up to the head.
    pub(crate) fn event(&self, position: Position) -> Result<RecordedEvent, Fault> {
        Events::new(self.engine, self.tier).at(position)
    }

    pub(crate) fn find(&self, id: EventId) -> Result<Option<Position>, Fault> {
        if let Some(position) = self.segments.find(id, Position::START, self.head) {
            return Ok(Some(position));
        }
        match crate::index::newness(id) {
            Some(newness) if newness > self.newest => Ok(None),
            _ => self.index().find(id),
        }
    }

    pub(crate) fn event_of(&self, id: EventId) -> Result<Option<RecordedEvent>, Fault> {
        let Some(position) = self.find(id)? else { return Ok(None) };
        let event = self.event(position)?;
        match event.id == id {
            true => Ok(Some(event)),
            false => {
                let what = format!("the index of event ids: {id} is not the event at {position}");
                Err(StoreError::corrupted(what).into())
            }
        }
    }

    /// The place at a position; one beyond the head is invalid.
    pub(crate) fn token(&self, position: Position) -> Result<Token, Fault> {
        let event = match position {
            position if position > self.head => {
                let reason = format!("{position} is beyond the head, {}", self.head);
                return Err(InvalidInput::new("position", reason).into());
            }
            Position::START => return Ok(Token::start(self.store)),
            position if position == self.head => self.head_event,
            position => self.event(position)?.id,
        };
        Ok(Token { store: self.store, position, event })
    }

    pub(crate) fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, Fault> {
        match self.segments.head(stream, Position::START, self.head) {
            Some(head) => Ok(head),
            None => self.index().head(stream),
        }
    }

    /// Up to `count` versions of a stream from `from` on, and where they are. They have no holes.
    pub(crate) fn versions(
        &self,
        stream: &StreamId,
        from: Version,
        direction: Direction,
        count: usize,
    ) -> Result<Vec<(Version, Spot)>, Fault> {
        let mut found = Vec::new();
        match direction {
            Direction::Forwards => {
                let mut newest = Vec::new();
                self.segments.versions(stream, from, direction, self.head, count, &mut newest);
                // What begins in memory goes on there.
                if newest.first().is_none_or(|(first, _)| *first != from) {
                    self.index().versions(stream, from, direction, count, &mut found)?;
                }
                newest.truncate(count - found.len());
                found.append(&mut newest);
            }
            Direction::Backwards => {
                self.segments.versions(stream, from, direction, self.head, count, &mut found);
                if found.len() < count {
                    self.index().versions(stream, from, direction, count, &mut found)?;
                }
            }
        }
        // Where they begin and end is known otherwise, so none can be missing in silence.
        let ends = match direction {
            Direction::Forwards if found.len() == count => None,
            _ => Some(self.stream_head(stream)?.version),
        };
        let mut expected = match (direction, ends) {
            (Direction::Backwards, Some(last)) => from.min(last),
            _ => from,
        };
        let missing = |version: Version| {
            StoreError::corrupted(format!("version {version} of {stream} is missing in the index of streams"))
        };
        for (version, _) in &found {
            if *version != expected {
                return Err(missing(expected).into());
            }
            expected = match direction {
                Direction::Forwards => version.plus(1),
                Direction::Backwards => version.before(),
            };
        }
        let is_short = match direction {
            Direction::Forwards => ends.is_some_and(|last| expected <= last),
            Direction::Backwards => found.len() < count && expected > Version::NONE,
        };
        if is_short { Err(missing(expected).into()) } else { Ok(found) }
    }

    pub(crate) fn stream_page(&self, read: &ReadStream) -> Result<Page<Version>, Fault> {
        let mut page = Page { events: Vec::new(), next: None };
        let from = match read.direction {
            Direction::Forwards => read.from.max(Version::FIRST),
            Direction::Backwards => read.from,
        };
        let mut room = self.room(read.limit);
        // One more than there is room for tells where the next page starts.
        let versions = self.versions(&read.stream, from, read.direction, room.events + 1)?;
        let spots: Vec<Spot> = versions.iter().map(|(_, spot)| *spot).collect();
        let read_to = room.events.min(spots.len());
        let mut expected = versions.iter();
        let shown = events_at(self.engine, self.tier, &spots[..read_to], |event| {
            let Some((version, spot)) = expected.next() else { return Ok(false) };
            if event.stream != read.stream || event.version != *version {
                return Err(StoreError::corrupted(format!(
                    "the event at position {} is version {} of {}, not version {version} of {}",
                    spot.position, event.version, event.stream, read.stream
                ))
                .into());
            }
            room.take(&event);
            page.events.push(event);
            Ok(room.is_left())
        });
        match shown {
            // What is there already is a page too.
            Err(Fault::NotInMemory) if !page.events.is_empty() => {}
            shown => shown?,
        }
        page.next = versions.get(page.events.len()).map(|(version, _)| *version);
        Ok(page)
    }

    pub(crate) fn log_page(&self, read: &ReadLog) -> Result<Page<Position>, Fault> {
        read.filter.validate()?;
        let mut page = Page { events: Vec::new(), next: None };
        let (low, high) = match read.direction {
            Direction::Forwards => (read.from.max(Position::FIRST), read.to.min(self.head)),
            Direction::Backwards => (read.to.max(Position::FIRST), read.from.min(self.head)),
        };
        if low > high {
            return Ok(page);
        }
        let mut room = self.room(read.limit);
        let wanted = room.events.min((high.get() - low.get() + 1) as usize);
        let mut candidates = Postings::filter(*self, &read.filter, read.direction);
        let mut events = match candidates {
            Some(_) => Events::new(self.engine, self.tier),
            None => Events::scan(self.engine, self.tier, wanted as u64),
        };
        if candidates.is_none() {
            page.events.reserve(wanted);
        }
        let mut looked = Room { events: LOOKED_EVENTS_MAX, bytes: LOOKED_BYTES_MAX };
        let mut steps = match self.tier {
            Tier::Memory => SHARED_STEPS_MAX,
            Tier::Disk => STEPS_MAX,
        };
        let mut target = if read.direction == Direction::Forwards { low } else { high };
        let mut run = Run::from(target);
        while low <= target && target <= high {
            let found = match &mut candidates {
                // Where a page is full, they say what the next one begins with, if there is anything.
                Some(postings) if !run.is_dense || !room.is_left() => postings.seek(target, &mut steps),
                _ => Ok(Found::At(target)),
            };
            let found = found.and_then(|found| match found {
                Found::At(position) if low <= position && position <= high => {
                    let is_left = room.is_left() && looked.is_left();
                    Ok(Some((position, if is_left { Some(events.at(position)?) } else { None })))
                }
                Found::Looked(position) if low <= position && position <= high => Ok(Some((position, None))),
                _ => Ok(None),
            });
            let (position, event) = match found {
                Ok(Some((position, Some(event)))) => (position, event),
                Ok(Some((position, None))) => {
                    page.next = Some(position);
                    break;
                }
                Ok(None) => break,
                // What is there already is a page too.
                Err(Fault::NotInMemory) if !page.events.is_empty() => {
                    page.next = Some(target);
                    break;
                }
                Err(fault) => return Err(fault),
            };
            looked.take(&event);
            let is_wanted = read.filter.matches(&event);
            if is_wanted {
                room.take(&event);
                page.events.push(event);
            }
            target = match read.direction {
                Direction::Forwards => position.plus(1),
                Direction::Backwards => position.before(),
            };
            if candidates.is_some() && run.changes(is_wanted, target) {
                events.share(run.is_dense);
                if run.is_dense {
                    page.events.reserve(room.events.min(wanted));
                }
            }
        }
        Ok(page)
    }

    pub(crate) fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, Fault> {
        let low = after.plus(1);
        let mut high = self.head;
        let mut first = None;
        // One item after the other, of which none need be searched beyond what another has found.
        for item in query.items() {
            if low > high {
                break;
            }
            let mut steps = match self.tier {
                Tier::Memory => SHARED_STEPS_MAX,
                Tier::Disk => usize::MAX,
            };
            match Postings::item(View { head: high, ..*self }, item).seek(low, &mut steps)? {
                Found::At(found) => (first, high) = (Some(found), found.before()),
                Found::Nothing => {}
                Found::Looked(_) => return Err(Fault::NotInMemory),
            }
        }
        Ok(first)
    }

    pub(crate) fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, Fault> {
        self.may_take_long()?;
        let (names, after) = (Names::streams(category), after.map(StreamId::as_str));
        let exists = |name: &str| {
            let stream: StreamId = parse(name)?;
            Ok(self.index().head(&stream)?.version > Version::NONE)
        };
        let mut found = self.index().names(&names, after, limit, exists)?;
        found.append(&mut self.segments.streams(&names, after, self.head, limit));
        found.iter().take(limit).map(|name| parse(name)).collect()
    }

    pub(crate) fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, Fault> {
        self.may_take_long()?;
        let (names, after) = (Names::categories(), after.map(Category::as_str));
        let exists = |name: &str| {
            let mut first = std::collections::VecDeque::new();
            let series = crate::keys::Series::category(name);
            self.index().window(&series, Position::FIRST, Direction::Forwards, &mut first)?;
            Ok(!first.is_empty())
        };
        let mut found = self.index().names(&names, after, limit, exists)?;
        found.append(&mut self.segments.categories(&names, after, self.head, limit));
        found.iter().take(limit).map(|name| parse(name)).collect()
    }

    /// Goes no further on a thread that many tasks share.
    fn may_take_long(&self) -> Result<(), Fault> {
        if self.tier == Tier::Memory { Err(Fault::NotInMemory) } else { Ok(()) }
    }

    /// What fits into a page.
    fn room(&self, limit: usize) -> Room {
        let most = match self.tier {
            Tier::Memory => SHARED_EVENTS_MAX,
            Tier::Disk => PAGE_EVENTS_MAX,
        };
        Room { events: limit.min(most), bytes: PAGE_BYTES_MAX }
    }
}

/// A name that stands in the index.
fn parse<N: std::str::FromStr>(name: &str) -> Result<N, Fault> {
    name.parse().map_err(|_| StoreError::corrupted(format!("the index names {name:?}, which is no name")).into())
}

/// A stretch of the log of which a filter is found to want much or little. Where it wants at least every other event, the log
/// itself is read: that costs a fraction of looking each up, and who shares a block's memory keeps at most twice their own.
struct Run {
    is_dense: bool,
    from: Position,
    looked: u64,
    wanted: u64,
}

impl Run {
    /// How many events are looked at before it is told anew.
    const EVENTS: u64 = 32;

    fn from(from: Position) -> Self {
        Self { is_dense: false, from, looked: 0, wanted: 0 }
    }

    /// Counts an event; whether the stretch that ends before `next` is of the other kind than the one before.
    fn changes(&mut self, is_wanted: bool, next: Position) -> bool {
        self.looked += 1;
        self.wanted += u64::from(is_wanted);
        if self.looked < Self::EVENTS {
            return false;
        }
        let is_dense = 2 * self.wanted >= next.get().abs_diff(self.from.get());
        let was_dense = self.is_dense;
        *self = Self { is_dense, ..Self::from(next) };
        is_dense != was_dense
    }
}

/// What fits into a page.
struct Room {
    events: usize,
    bytes: usize,
}

impl Room {
    fn is_left(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }

    fn take(&mut self, event: &RecordedEvent) {
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(event.size());
    }
}

#[cfg(test)]
mod tests {
    use indelible_core::{
        Append, ContentType, EventStore, EventType, ExpectedVersion, Filter, NewEvent, QualifiedType, QueryItem, Tag,
    };

    use super::*;
    use crate::RocksStore;

    /// What is written and not published yet is in no answer, whatever is asked.
    #[tokio::test]
    async fn nothing_behind_the_head_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::open(dir.path()).unwrap();
        let tag = Tag::new("t").unwrap();
        let mut ids = Vec::new();
        for stream in ["a-1", "a-1", "b-1", "a-1", "c-1"] {
            let mut event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
            event.tags = vec![tag.clone()];
            ids.push(event.id);
            let append = Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event]);
            store.append(append).await.unwrap();
        }
        let seen = store.read(move |published| {
            let view = View { head: Position::new(3), tier: Tier::Disk, ..*published };
            let (a, c): (StreamId, StreamId) = ("a-1".parse()?, "c-1".parse()?);
            assert_eq!(view.find(ids[2])?, Some(Position::new(3)));
            assert_eq!(view.find(ids[3])?, None);
            assert_eq!(view.event_of(ids[4])?, None);
            assert_eq!(view.stream_head(&a)?.version, Version::new(2));
            assert_eq!(view.stream_head(&c)?, StreamHead::default());
            assert_eq!(view.categories(None, 9)?.len(), 2);
            assert_eq!(view.streams(None, None, 9)?.len(), 2);
            assert_eq!(view.stream_page(&ReadStream::new(a.clone()))?.events.len(), 2);
            assert_eq!(view.stream_page(&ReadStream::new(a.clone()).backwards())?.events[0].version, Version::new(2));
            assert_eq!(view.stream_page(&ReadStream::new(a.clone()).limit(2))?.next, None);
            let typed = QualifiedType { category: Category::new("a")?, event_type: EventType::new("Written")? };
            for (filter, there) in [
                (Filter::all(), 3),
                (Filter::stream_prefix("a")?, 2),
                (Filter::categories([Category::new("a")?, Category::new("c")?]), 2),
                (Query::new([QueryItem::types([typed.clone()])]).into(), 2),
                (Query::new([QueryItem::tags([tag.clone()])]).into(), 3),
            ] {
                let read = ReadLog::matching(filter);
                assert_eq!(view.log_page(&read)?.events.len(), there, "{read:?}");
                assert_eq!(view.log_page(&read.clone().backwards())?.events.len(), there, "{read:?} backwards");
            }
            Ok(())
        });
        seen.await.unwrap();
    }

    /// What is wanted much in some stretches and little in others is found by two ways, in pages of any length.
    #[tokio::test]
    async fn stretches_of_all_kinds_are_read_alike() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::options().durability(crate::Durability::Buffered).open(dir.path()).unwrap();
        // Of a hundred events each: all, every other, every third, the first 31 to 33, those behind, none.
        let kinds: [fn(u64) -> bool; 8] =
            [|_| true, |n| n % 2 == 0, |n| n % 3 == 0, |n| n < 31, |n| n < 32, |n| n < 33, |n| n > 31, |_| false];
        let mut random = 1_u64;
        let mut wanted = Vec::new();
        let mut append = Append::new();
        for n in 0..6_000 {
            if n % 100 == 0 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            }
            let is_wanted = kinds[(random >> 33) as usize % kinds.len()](n % 100);
            let event_type = EventType::from_static(if is_wanted { "Wanted" } else { "Other" });
            let event = NewEvent::new(event_type, ContentType::JSON, n.to_string());
            append = append.event("s-1".parse().unwrap(), event);
            wanted.extend(is_wanted.then_some(n + 1));
        }
        store.append(append).await.unwrap();
        let typed =
            QualifiedType { category: Category::new("s").unwrap(), event_type: EventType::from_static("Wanted") };
        let read = ReadLog::matching(Query::new([QueryItem::types([typed])]));
        for limit in [1, 30, 64, 777, PAGE_EVENTS_MAX] {
            for mut read in [read.clone().limit(limit), read.clone().backwards().limit(limit)] {
                let is_forwards = read.direction == Direction::Forwards;
                let mut found = Vec::new();
                loop {
                    let page = {
                        let read = read.clone();
                        store.read(move |view| View { tier: Tier::Disk, ..*view }.log_page(&read)).await.unwrap()
                    };
                    assert!(page.events.iter().all(|event| event.data == (event.position.get() - 1).to_string()));
                    found.extend(page.events.iter().map(|event| event.position.get()));
                    let Some(next) = page.next else { break };
                    read.from = next;
                }
                if !is_forwards {
                    found.reverse();
                }
                assert!(found == wanted, "pages of {limit}, forwards: {is_forwards}");
            }
        }
    }

    /// A page that gives up looking has got somewhere, whichever part of the query has kept it, and nothing is passed over.
    #[tokio::test]
    async fn a_page_that_gives_up_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = RocksStore::options().durability(crate::Durability::Buffered).open(dir.path()).unwrap();
        let tag = |name: &str| Tag::new(name).unwrap();
        let event = |tags: &[&str]| {
            let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
            event.with_tags(tags.iter().map(|name| tag(name)))
        };
        // Two tags that are frequent and never together, one that stands alone, and a match at the end.
        let mut events: Vec<_> = (0..6_000).map(|n| event(&[["a1", "a2"][n % 2]])).collect();
        events[50] = event(&["b1"]);
        events.push(event(&["b1", "b2"]));
        let append = Append::to("s-1".parse().unwrap(), ExpectedVersion::Any, events);
        store.append(append).await.unwrap();
        let pairs = [["a1", "a2"], ["b1", "b2"]];
        let query = Query::new(pairs.map(|pair| QueryItem::tags(pair.map(tag))));
        for is_forwards in [true, false] {
            let mut read = ReadLog::matching(query.clone());
            if !is_forwards {
                read = read.backwards();
            }
            let (mut found, mut pages) = (Vec::new(), 0);
            loop {
                let page = {
                    let read = read.clone();
                    store.read(move |view| View { tier: Tier::Memory, ..*view }.log_page(&read)).await.unwrap()
                };
                found.extend(page.events.iter().map(|event| event.position.get()));
                pages += 1;
                let Some(next) = page.next else { break };
                assert!(if is_forwards { next > read.from } else { next < read.from }, "page {pages} stays at {next}");
                read.from = next;
            }
            assert_eq!(found, [6_001]);
            assert!(pages > 3, "{pages} pages: none gave up");
        }
    }
}
