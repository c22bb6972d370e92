//! Reading: the log as it is up to one position. Called by the store's handle for readers, with what is published, and by
//! `append` for judging, with all that is written.

use indelible_core::{
    Category, Direction, EventId, PAGE_BYTES_MAX, PAGE_EVENTS_MAX, Page, Position, Query, ReadLog, ReadStream,
    RecordedEvent, StoreError, StoreId, StreamHead, StreamId, Token, Version,
};
use rocksdb::{DB, DBPinnableSlice, ErrorKind, ReadOptions};

use crate::{
    index::{Cursor, Plan, Postings},
    keys::{self, Names, Series},
    record,
};

/// The most events that a filtered read decodes for one page, wanted or not; then it says how far it has looked.
const LOOKED_EVENTS_MAX: usize = 10_000;
/// The same in bytes of event data.
const LOOKED_BYTES_MAX: usize = 4 * PAGE_BYTES_MAX;

/// The log up to a position. What lies behind does not exist, in no index.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) db: &'a DB,
    pub(crate) store: StoreId,
    pub(crate) head: Position,
}

impl<'a> View<'a> {
    /// The event at a position up to the head.
    pub(crate) fn event(&self, position: Position) -> Result<RecordedEvent, StoreError> {
        match self.get(&keys::record(position))? {
            Some(value) => decode(position, &value),
            None => Err(StoreError::corrupted(format!("the event at position {position} is missing"))),
        }
    }

    pub(crate) fn find(&self, id: EventId) -> Result<Option<Position>, StoreError> {
        let Some(value) = self.get(&keys::id(id))? else { return Ok(None) };
        match keys::parse_position(&value) {
            Some(position) => Ok(Some(position).filter(|position| *position <= self.head)),
            None => Err(StoreError::corrupted(format!("the index of event ids, at {id}"))),
        }
    }

    pub(crate) fn event_of(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        let Some(position) = self.find(id)? else { return Ok(None) };
        let event = self.event(position)?;
        match event.id == id {
            true => Ok(Some(event)),
            false => Err(StoreError::corrupted(format!("the index of event ids: {id} is not the event at {position}"))),
        }
    }

    /// The place at a position up to the head.
    pub(crate) fn token(&self, position: Position) -> Result<Token, StoreError> {
        match position {
            Position::START => Ok(Token::start(self.store)),
            position => Ok(Token { store: self.store, position, event: self.event(position)?.id }),
        }
    }

    pub(crate) fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        let mut versions = self.versions(stream, Version::FIRST, Version::MAX, Direction::Backwards);
        let mut from = Version::MAX;
        while let Some(entry) = versions.at_or_behind(from)? {
            if entry.position <= self.head {
                let mut head = StreamHead::default();
                (head.version, head.position, head.closed) = (entry.version, entry.position, entry.closes);
                return Ok(head);
            }
            from = entry.version.before();
        }
        Ok(StreamHead::default())
    }

    /// Where a version of a stream is.
    pub(crate) fn version_at(&self, stream: &StreamId, version: Version) -> Result<Option<Position>, StoreError> {
        let value = self.get(&Series::stream(stream).key(version.get()))?;
        Ok(value.and_then(|value| keys::parse_stream_value(&value)).map(|(position, _)| position))
    }

    pub(crate) fn stream_page(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        let mut page = Page { events: Vec::new(), next: None };
        let (low, high) = match read.direction {
            Direction::Forwards => (read.from.max(Version::FIRST), Version::MAX),
            Direction::Backwards => (Version::FIRST, read.from.min(Version::MAX)),
        };
        if low > high {
            return Ok(page);
        }
        let missing = |version: Version| {
            StoreError::corrupted(format!("version {version} of {} is missing in its index", read.stream))
        };
        let mut versions = self.versions(&read.stream, low, high, read.direction);
        let mut room = Room::new(read.limit);
        let (mut target, mut is_known) = match read.direction {
            Direction::Forwards => (low, true),
            // The last version is where the index ends, all others are known to be there.
            Direction::Backwards => (high, false),
        };
        while let Some(entry) = versions.at_or_behind(target)? {
            if is_known && entry.version != target {
                return Err(missing(target));
            }
            is_known = true;
            if entry.position <= self.head {
                if !room.is_left() {
                    page.next = Some(entry.version);
                    return Ok(page);
                }
                let event = self.event(entry.position)?;
                if event.stream != read.stream || event.version != entry.version {
                    return Err(StoreError::corrupted(format!(
                        "the event at position {} is version {} of {}, not version {} of {}",
                        entry.position, event.version, event.stream, entry.version, read.stream
                    )));
                }
                room.take(&event);
                page.events.push(event);
            } else if read.direction == Direction::Forwards {
                break;
            }
            target = match read.direction {
                Direction::Forwards => entry.version.plus(1),
                Direction::Backwards => entry.version.before(),
            };
        }
        if read.direction == Direction::Backwards && is_known && target >= Version::FIRST {
            return Err(missing(target));
        }
        Ok(page)
    }

    pub(crate) fn log_page(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        read.filter.validate()?;
        let mut page = Page { events: Vec::new(), next: None };
        let (low, high) = match read.direction {
            Direction::Forwards => (read.from.max(Position::FIRST), read.to.min(self.head)),
            Direction::Backwards => (read.to.max(Position::FIRST), read.from.min(self.head)),
        };
        if low > high {
            return Ok(page);
        }
        let plan = Plan { db: self.db, low, high, direction: read.direction };
        let mut candidates = match plan.filter(&read.filter) {
            Some(postings) => Candidates::Indexed(postings),
            None => Candidates::Scanned(plan.cursor(Series::log())),
        };
        let mut room = Room::new(read.limit);
        let mut looked = Room { events: LOOKED_EVENTS_MAX, bytes: LOOKED_BYTES_MAX };
        let mut target = if read.direction == Direction::Forwards { low } else { high };
        while low <= target && target <= high {
            let Some(position) = candidates.seek(target)? else { break };
            if !room.is_left() || !looked.is_left() {
                page.next = Some(position);
                break;
            }
            let event = candidates.event(self, position)?;
            looked.take(&event);
            if read.filter.matches(&event) {
                room.take(&event);
                page.events.push(event);
            }
            target = match read.direction {
                Direction::Forwards => position.plus(1),
                Direction::Backwards => position.before(),
            };
        }
        Ok(page)
    }

    pub(crate) fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, StoreError> {
        let low = after.plus(1);
        if low > self.head {
            return Ok(None);
        }
        let mut high = self.head;
        let mut first = None;
        // One item after the other: the cursors of all would hold hundreds of megabytes for the largest query.
        for item in query.items() {
            let plan = Plan { db: self.db, low, high, direction: Direction::Forwards };
            if let Some(found) = plan.item(item).seek(low.get())?.map(Position::new) {
                (first, high) = (Some(found), found.before());
            }
            if low > high {
                break;
            }
        }
        Ok(first)
    }

    pub(crate) fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.names(&Names::streams(category), after.map(StreamId::as_str), limit, |_version, value| {
            keys::parse_stream_value(value).map(|(position, _)| position)
        })
    }

    pub(crate) fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.names(&Names::categories(), after.map(Category::as_str), limit, |position, _| {
            Some(Position::new(position))
        })
    }

    /// The names whose first entry is at a visible position.
    fn names<N: std::str::FromStr>(
        &self,
        names: &Names,
        after: Option<&str>,
        limit: usize,
        position: impl Fn(u64, &[u8]) -> Option<Position>,
    ) -> Result<Vec<N>, StoreError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(names.end());
        let mut keys = self.db.raw_iterator_opt(options);
        let mut found = Vec::new();
        let mut from = names.start(after);
        while found.len() < limit {
            keys.seek(&from);
            let Some((key, value)) = keys.item() else { break };
            let parsed = names.parse(key).and_then(|(name, number)| {
                let position = position(number, value)?;
                Some((name, name.parse().ok()?, position))
            });
            let Some((name, parsed, position)) = parsed else {
                return Err(StoreError::corrupted(format!("the key {} is of no kind", key.escape_ascii())));
            };
            if position <= self.head {
                found.push(parsed);
            }
            from = names.behind(name);
        }
        keys.status().map_err(|error| engine_error("reading names", error))?;
        Ok(found)
    }

    fn versions(&self, stream: &StreamId, low: Version, high: Version, direction: Direction) -> Versions<'a> {
        Versions(Cursor::new(self.db, Series::stream(stream), low.get(), high.get(), direction), stream.clone())
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'a>>, StoreError> {
        self.db.get_pinned(key).map_err(|error| engine_error("reading", error))
    }
}

/// Where the events that may be wanted are.
enum Candidates<'a> {
    Indexed(Postings<'a>),
    Scanned(Cursor<'a>),
}

impl Candidates<'_> {
    fn seek(&mut self, target: Position) -> Result<Option<Position>, StoreError> {
        let found = match self {
            Self::Indexed(postings) => postings.seek(target.get())?,
            Self::Scanned(log) => match log.seek(target.get())? {
                Some(found) if found == target.get() => Some(found),
                _ => return Err(StoreError::corrupted(format!("the event at position {target} is missing"))),
            },
        };
        Ok(found.map(Position::new))
    }

    fn event(&self, view: &View<'_>, position: Position) -> Result<RecordedEvent, StoreError> {
        match self {
            Self::Indexed(_) => view.event(position),
            Self::Scanned(log) => decode(position, log.value()),
        }
    }
}

/// The index of one stream.
struct Versions<'a>(Cursor<'a>, StreamId);

struct VersionEntry {
    version: Version,
    position: Position,
    closes: bool,
}

impl Versions<'_> {
    fn at_or_behind(&mut self, version: Version) -> Result<Option<VersionEntry>, StoreError> {
        let Some(version) = self.0.seek(version.get())?.map(Version::new) else { return Ok(None) };
        match keys::parse_stream_value(self.0.value()) {
            Some((position, closes)) => Ok(Some(VersionEntry { version, position, closes })),
            None => Err(StoreError::corrupted(format!("the index of {}, at version {version}", self.1))),
        }
    }
}

/// What fits into a page.
struct Room {
    events: usize,
    bytes: usize,
}

impl Room {
    fn new(limit: usize) -> Self {
        Self { events: limit.min(PAGE_EVENTS_MAX), bytes: PAGE_BYTES_MAX }
    }

    fn is_left(&self) -> bool {
        self.events > 0 && self.bytes > 0
    }

    fn take(&mut self, event: &RecordedEvent) {
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(event.size());
    }
}

fn decode(position: Position, value: &[u8]) -> Result<RecordedEvent, StoreError> {
    record::decode(position, value).map_err(|damage| StoreError::Corrupted {
        what: format!("the event at position {position}"),
        source: Some(damage.into()),
    })
}

/// What RocksDB said, without its type.
pub(crate) fn engine_error(what: &str, error: rocksdb::Error) -> StoreError {
    match error.kind() {
        ErrorKind::Corruption => StoreError::Corrupted { what: what.into(), source: Some(error.into()) },
        _ => StoreError::unavailable(what, error),
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
            let view = View { head: Position::new(3), ..*published };
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
            assert_eq!(view.stream_page(&ReadStream::new(a).limit(2))?.next, None);
            let typed = QualifiedType { category: Category::new("a")?, event_type: EventType::new("Written")? };
            for (filter, there) in [
                (Filter::all(), 3),
                (Filter::stream_prefix("a")?, 2),
                (Filter::categories([Category::new("a")?, Category::new("c")?]), 2),
                (Query::new([QueryItem::types([typed])]).into(), 2),
                (Query::new([QueryItem::tags([tag])]).into(), 3),
            ] {
                let read = ReadLog::matching(filter);
                assert_eq!(view.log_page(&read)?.events.len(), there, "{read:?}");
                assert_eq!(view.log_page(&read.clone().backwards())?.events.len(), there, "{read:?} backwards");
            }
            Ok(())
        });
        seen.await.unwrap();
    }
}
