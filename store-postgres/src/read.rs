//! Reading: pages from indexes, and the rows that they are made of. Called by the store's handle. What is committed is
//! durable, so readers may see all that the server shows.

use std::{
    collections::{BTreeSet, HashMap},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use deadpool_postgres::Pool;
use indelible_core::{
    Category, CausationId, ContentType, CorrelationId, Direction, EventId, EventType, InvalidInput, Metadata, NewEvent,
    PAGE_BYTES_MAX, PAGE_EVENTS_MAX, Page, Position, ReadLog, ReadStream, RecordedEvent, StoreError, StoreId,
    StreamHead, StreamId, Tag, Token, Version,
};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use crate::{
    connect::{self, Asked, How, Params, Patience, Rows},
    sql::{Items, bigint},
    store::Shared,
    subscription::{self, Seen},
};

/// More kinds than an application has: where there are more, they are forgotten and asked for again.
pub(crate) const KINDS_MAX: usize = 10_000;

/// Reads on the connections of the pool.
#[derive(Clone)]
pub(crate) struct Reader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Pool,
    /// Subscriptions look as far as this and take what they don't find for what is not there: so a server that is not
    /// there yet, a replica, answers nothing up to here.
    pub(crate) seen: Seen,
    pub(crate) kinds: Arc<RwLock<HashMap<i32, Kind>>>,
    pub(crate) row_bytes: Arc<RowBytes>,
}

/// What events of a kind have in common. A kind never changes.
#[derive(Clone)]
pub(crate) struct Kind {
    event_type: EventType,
    schema_version: u32,
    content_type: ContentType,
}

impl Reader {
    pub(crate) fn store(&self) -> StoreId {
        self.shared.id
    }

    pub(crate) async fn ask(
        &self,
        what: &'static str,
        statement: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(self.ask_for(what, statement, params, usize::MAX, |row| row).await?.rows)
    }

    /// As [`ask`](Self::ask), for rows of so many bytes, and what makes it more, each made something of as it comes.
    async fn ask_for<T>(
        &self,
        what: &'static str,
        statement: &str,
        params: Params<'_>,
        bytes_max: usize,
        made: impl Fn(Row) -> T,
    ) -> Result<Rows<T>, StoreError> {
        if self.shared.failure().is_some() {
            return Err(self.shared.stopped());
        }
        self.shared.counters.read();
        let options = &self.shared.options;
        let how = How { prepared: options.prepared, bytes_max };
        connect::ask(&self.pool, options.patience, what, statement, params, how, made).await
    }

    /// Events, in the order in which they are answered. Those of kinds that are known are made while the server goes on.
    async fn ask_events(
        &self,
        what: &'static str,
        statement: &str,
        params: Params<'_>,
        bytes_max: usize,
    ) -> Result<Rows<RecordedEvent>, StoreError> {
        let Rows { rows, bytes, is_cut } =
            self.ask_for(what, statement, params, bytes_max, |row| self.known(row)).await?;
        Ok(Rows { rows: self.whole(rows).await?, bytes, is_cut })
    }

    /// As [`ask`](Self::ask), and waits for the answer however long it takes.
    pub(crate) async fn ask_long(&self, what: &'static str, statement: &str) -> Result<Vec<Row>, StoreError> {
        if self.shared.failure().is_some() {
            return Err(self.shared.stopped());
        }
        let client = self.pool.get().await.map_err(|error| StoreError::unavailable(what, error))?;
        Asked::new(client).query_all(statement).await.map_err(|error| connect::refused(what, error))
    }

    pub(crate) async fn stream_page(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        let limit = read.limit.min(PAGE_EVENTS_MAX);
        let statements = &self.shared.statements;
        let (statement, low, high) = match read.direction {
            Direction::Forwards => (&statements.page_of_stream, read.from.max(Version::FIRST), Version::MAX),
            Direction::Backwards => (&statements.page_of_stream_backwards, Version::FIRST, read.from),
        };
        if limit == 0 || low > high {
            return Ok(Page { events: Vec::new(), next: None });
        }
        let stream = read.stream.as_str();
        let (low, high) = (bigint(low.get()), bigint(high.get()));
        let category = read.stream.category_str();
        let rows_max = self.row_bytes.rows_max(category, limit);
        let params: Params<'_> =
            &[(&stream, Type::TEXT), (&low, Type::INT8), (&high, Type::INT8), (&rows_max, Type::INT8)];
        let rows = self.ask_events("reading a stream", statement, params, PAGE_BYTES_MAX).await?;
        self.row_bytes.learn(category, &rows);
        let page = page(rows, (rows_max, limit), |event| event.version);
        let next = page.next.filter(|next| match read.direction {
            Direction::Forwards => true,
            Direction::Backwards => next.get() > 1,
        });
        Ok(Page {
            events: page.events,
            next: next.map(|last| match read.direction {
                Direction::Forwards => last.plus(1),
                Direction::Backwards => last.before(),
            }),
        })
    }

    pub(crate) async fn log_page(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        read.filter.validate()?;
        let limit = read.limit.min(PAGE_EVENTS_MAX);
        let backwards = read.direction == Direction::Backwards;
        let (low, high) = match read.direction {
            Direction::Forwards => (read.from.max(Position::FIRST), read.to),
            Direction::Backwards => (read.to.max(Position::FIRST), read.from),
        };
        if limit == 0 || low > high {
            return Ok(Page { events: Vec::new(), next: None });
        }
        let (low, high) = (bigint(low.get()), bigint(high.get()));
        if !read.filter.is_all() {
            return self.filtered_page(read, low, high, limit).await;
        }
        let statements = &self.shared.statements;
        let statement = if backwards { &statements.page_of_log_backwards } else { &statements.page_of_log };
        let rows_max = self.row_bytes.rows_max(LOG, limit);
        let params: Params<'_> = &[(&low, Type::INT8), (&high, Type::INT8), (&rows_max, Type::INT8)];
        let mut patience = Patience::new(self.shared.options.patience);
        let page = loop {
            let rows = self.ask_events("reading the log", statement, params, PAGE_BYTES_MAX).await?;
            self.row_bytes.learn(LOG, &rows);
            // Positions have no holes, so a page that is not full ends where the log does.
            let end = if backwards { rows.rows.first() } else { rows.rows.last() };
            let end = end.map_or(0, |event| bigint(event.position.get()));
            let page = page(rows, (rows_max, limit), |event| event.position);
            let needed = high.min(self.seen());
            if end >= needed || low > needed || (!backwards && page.next.is_some()) {
                break page;
            }
            self.wait_for_it(&mut patience).await?;
        };
        let next = page.next.map(|last| behind(last, read.direction));
        Ok(Page { events: page.events, next: next.filter(|next| (low..=high).contains(&bigint(next.get()))) })
    }

    /// The last position that this process has seen.
    fn seen(&self) -> i64 {
        bigint(self.seen.token().position.get())
    }

    /// Gives a replica time.
    async fn wait_for_it(&self, patience: &mut Patience) -> Result<(), StoreError> {
        if patience.wait().await {
            return Ok(());
        }
        let what = format!("the server is not yet at position {}, which this process has seen", self.seen());
        Err(StoreError::Unavailable { what, source: None })
    }

    async fn filtered_page(
        &self,
        read: &ReadLog,
        low: i64,
        high: i64,
        limit: usize,
    ) -> Result<Page<Position>, StoreError> {
        let filter = &read.filter;
        let prefix = filter.prefix().filter(|prefix| !prefix.is_empty());
        // A prefix that ends a category's name asks for that category.
        let of_prefix = prefix.and_then(|prefix| prefix.split_once('-')).map(|(category, _)| category);
        let categories: BTreeSet<&str> = filter.any_category().iter().map(Category::as_str).collect();
        let within: Option<Vec<&str>> = match (categories.is_empty(), of_prefix) {
            (true, of_prefix) => of_prefix.map(|category| vec![category]),
            (false, None) => Some(categories.into_iter().collect()),
            (false, Some(category)) => Some(categories.into_iter().filter(|c| *c == category).collect()),
        };
        let mut items = Items::default();
        for item in filter.query().items() {
            items.add(item);
        }
        let seen = self.seen();
        let head = match within.is_none() && items.tags.is_empty() {
            // Only this one counts the places that it looks at.
            true => seen.max(bigint(self.head().await?.position.get())),
            false => i64::MAX,
        };
        let high = high.min(head);
        if low > high {
            return Ok(Page { events: Vec::new(), next: None });
        }
        let backwards = read.direction == Direction::Backwards;
        let mut named: BTreeSet<&str> = within.iter().flatten().copied().collect();
        named.extend(items.categories.iter().flatten().flat_map(|names| names.split('\n')));
        // Of one category, its events are as large as they are in its streams.
        let sized_as = if named.len() == 1 { named.pop_first().unwrap_or(FILTERED) } else { FILTERED };
        let rows_max = self.row_bytes.rows_max(sized_as, limit);
        let params: Params<'_> = &[
            (&within, Type::TEXT_ARRAY),
            (&prefix.unwrap_or(""), Type::TEXT),
            (&items.tags, Type::TEXT_ARRAY),
            (&items.categories, Type::TEXT_ARRAY),
            (&items.types, Type::TEXT_ARRAY),
            (&low, Type::INT8),
            (&high, Type::INT8),
            (&backwards, Type::BOOL),
            (&(rows_max as i32 - 1), Type::INT4),
            (&high.min(seen), Type::INT8),
        ];
        let (what, statement) = ("reading the log by filter", &self.shared.statements.page_of_filter);
        let mut rows = self.ask_for(what, statement, params, PAGE_BYTES_MAX, |row| self.known(row)).await?;
        // The last may be no event, but -1 times the place from which to go on.
        let is_place = |row: &Row| row.get::<_, i64>(column::POSITION) < 0;
        let place = rows.rows.pop_if(|last| last.as_ref().is_err_and(is_place)).and_then(Result::err);
        self.row_bytes.learn(sized_as, &rows);
        let is_cut = rows.is_cut;
        let events = self.whole(rows.rows).await?;
        let next = match place {
            Some(row) => Some(Position::new(row.get::<_, i64>(column::POSITION).unsigned_abs())),
            None => events.last().filter(|_| is_cut).map(|last| behind(last.position, read.direction)),
        };
        Ok(Page { events, next: next.filter(|next| (low..=high).contains(&bigint(next.get()))) })
    }

    pub(crate) async fn event_of(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        let params: Params<'_> = &[(&id.as_uuid(), Type::UUID)];
        let rows = self.ask_events("reading an event", &self.shared.statements.event, params, usize::MAX).await?;
        Ok(rows.rows.into_iter().next())
    }

    pub(crate) async fn head(&self) -> Result<Token, StoreError> {
        let rows = self.ask("reading the head", &self.shared.statements.head, &[]).await?;
        Ok(rows.first().map_or(Token::start(self.store()), |row| self.place(row)))
    }

    pub(crate) async fn token(&self, position: Position) -> Result<Token, StoreError> {
        if position == Position::START {
            return Ok(Token::start(self.store()));
        }
        let place = bigint(position.get());
        let mut patience = Patience::new(self.shared.options.patience);
        loop {
            let rows = self.ask("reading a place", &self.shared.statements.token, &[(&place, Type::INT8)]).await?;
            if let Some(row) = rows.first() {
                return Ok(self.place(row));
            }
            if place > self.seen() {
                let head = self.head().await?.position;
                return Err(InvalidInput::new("position", format!("{position} is beyond the head, {head}")).into());
            }
            self.wait_for_it(&mut patience).await?;
        }
    }

    /// A replica that is not there yet is given time.
    pub(crate) async fn check(&self, token: &Token) -> Result<(), StoreError> {
        let place = bigint(token.position.get());
        let mut patience = Patience::new(self.shared.options.patience);
        loop {
            let rows = self.ask("proving a place", &self.shared.statements.follow, &[(&place, Type::INT8)]).await?;
            let Some(row) = rows.first() else {
                return Err(StoreError::corrupted("one row says where the head is"));
            };
            let head = subscription::head(self.store(), row);
            let (there, is_replica): (Option<Uuid>, bool) = (row.get(2), row.get(3));
            let found = match there {
                Some(id) => Token { store: self.store(), position: token.position, event: EventId::from_uuid(id) },
                None if token.position == Position::START => Token::start(self.store()),
                None if is_replica && token.store == self.store() && i64::try_from(token.position.get()).is_ok() => {
                    if patience.wait().await {
                        continue;
                    }
                    let what = format!("the replica is at position {}, and not yet at {place}", head.position);
                    return Err(StoreError::Unavailable { what, source: None });
                }
                None => head,
            };
            return if found == *token { Ok(()) } else { Err(StoreError::Diverged { token: *token, found }) };
        }
    }

    fn place(&self, row: &Row) -> Token {
        Token {
            store: self.store(),
            position: Position::new(row.get::<_, i64>(0).cast_unsigned()),
            event: EventId::from_uuid(row.get(1)),
        }
    }

    pub(crate) async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        let statement = &self.shared.statements.stream_head;
        let rows = self.ask("reading a stream's head", statement, &[(&stream.as_str(), Type::TEXT)]).await?;
        let mut head = StreamHead::default();
        if let Some(row) = rows.first() {
            head.version = Version::new(row.get::<_, i64>(0).cast_unsigned());
            head.position = Position::new(row.get::<_, i64>(1).cast_unsigned());
            head.closed = row.get(2);
        }
        Ok(head)
    }

    pub(crate) async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        // All streams of a category stand between its name with `-`, and with the byte behind that.
        let first = category.map_or(String::new(), |category| format!("{category}-"));
        let end = category.map(|category| format!("{category}."));
        let after = after.map_or(first.as_str(), |after| after.as_str().max(&first));
        let params: Params<'_> =
            &[(&after, Type::TEXT), (&end, Type::TEXT), (&(limit.min(1 << 30) as i64), Type::INT8)];
        let rows = self.ask("listing streams", &self.shared.statements.streams, params).await?;
        rows.iter().map(|row| parsed(row.get(0))).collect()
    }

    pub(crate) async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        let after = after.map_or("", Category::as_str);
        let params: Params<'_> = &[(&after, Type::TEXT), (&(limit.min(1 << 30) as i64), Type::INT8)];
        let rows = self.ask("listing categories", &self.shared.statements.categories, params).await?;
        rows.iter().map(|row| parsed(row.get(0))).collect()
    }

    /// The event in a row, where that is one, whole, and of a kind that is known.
    fn known(&self, row: Row) -> Made {
        let of = |kind: i32| self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(&kind).cloned();
        let kind = kind(&row).and_then(of);
        kind.and_then(|kind| decode(&row, kind).ok()).ok_or(row)
    }

    /// All events of rows, when the kinds of the rest are known.
    async fn whole(&self, rows: Vec<Made>) -> Result<Vec<RecordedEvent>, StoreError> {
        // An index leads to what the log doesn't have.
        if let Some(row) = rows.iter().filter_map(|made| made.as_ref().err()).find(|row| kind(row).is_none()) {
            return Err(StoreError::corrupted(format!("there is no event at position {}", position(row))));
        }
        let unknown: BTreeSet<i32> = rows.iter().filter_map(|made| kind(made.as_ref().err()?)).collect();
        if unknown.is_empty() {
            return Ok(rows.into_iter().filter_map(Result::ok).collect());
        }
        let kinds = self.learn_kinds(unknown.into_iter().collect()).await?;
        let event = |made: Made| {
            made.or_else(|row| {
                let kind = kind(&row).and_then(|kind| kinds.get(&kind)).cloned();
                decode(&row, kind.ok_or_else(|| StoreError::corrupted("an event is of a kind that is not there"))?)
            })
        };
        rows.into_iter().map(event).collect()
    }

    async fn learn_kinds(&self, wanted: Vec<i32>) -> Result<HashMap<i32, Kind>, StoreError> {
        let params: Params<'_> = &[(&wanted, Type::INT4_ARRAY)];
        let found = self.ask("reading kinds of events", &self.shared.statements.kinds, params).await?;
        let mut learned = HashMap::with_capacity(found.len());
        for row in found {
            let kind = Kind {
                event_type: parsed(row.get(1))?,
                schema_version: u32::try_from(row.get::<_, i64>(2)).unwrap_or(u32::MAX),
                content_type: parsed(row.get(3))?,
            };
            learned.insert(row.get(0), kind);
        }
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        if kinds.len() > KINDS_MAX {
            kinds.clear();
        }
        kinds.extend(learned.clone());
        Ok(learned)
    }
}

/// What was made of a row: an event, or nothing yet.
type Made = Result<RecordedEvent, Row>;

/// A page of what was answered to a question for so many rows; `next` is the last place in it.
fn page<P>(
    Rows { rows: mut events, is_cut, .. }: Rows<RecordedEvent>,
    (rows_max, limit): (i64, usize),
    place: impl Fn(&RecordedEvent) -> P,
) -> Page<P> {
    let is_more = is_cut || events.len() as i64 == rows_max;
    events.truncate(limit);
    let next = events.last().filter(|_| is_more).map(place);
    Page { events, next }
}

/// How large rows are: of each category, of the log, and of what filters let through.
#[derive(Default)]
pub(crate) struct RowBytes(Mutex<HashMap<String, usize>>);

/// The names there of the log, and of what is read of it by filters that name no category or several: no category has them.
const LOG: &str = "";
const FILTERED: &str = "-";

impl RowBytes {
    /// How many rows to ask for: one more than are wanted, which tells whether there are more. Fewer, where a page is full
    /// of bytes before that: the server sends all that it was asked for.
    fn rows_max(&self, category: &str, limit: usize) -> i64 {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = known.get(category).copied().unwrap_or(1);
        (limit + 1).min((PAGE_BYTES_MAX / bytes).max(2)) as i64
    }

    /// Rises at once and falls by half: too few rows cost a question more, too many a connection.
    fn learn<T>(&self, category: &str, Rows { rows, bytes, .. }: &Rows<T>) {
        if rows.is_empty() {
            return;
        }
        let bytes = bytes / rows.len();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > KINDS_MAX {
            known.clear();
        }
        match known.get_mut(category) {
            Some(known) => *known = bytes.max(*known / 2).max(1),
            None => drop(known.insert(category.to_owned(), bytes.max(1))),
        }
    }
}

/// The columns of an event, in the order of every statement that reads events.
mod column {
    pub(super) const POSITION: usize = 0;
    pub(super) const VERSION: usize = 1;
    pub(super) const RECORDED_AT: usize = 2;
    pub(super) const ID: usize = 3;
    pub(super) const CORRELATION_ID: usize = 4;
    pub(super) const CAUSATION_ID: usize = 5;
    pub(super) const KIND: usize = 6;
    pub(super) const CLOSES_STREAM: usize = 7;
    pub(super) const ENDS_APPEND: usize = 8;
    pub(super) const STREAM: usize = 9;
    pub(super) const TAGS: usize = 10;
    pub(super) const METADATA: usize = 11;
    pub(super) const DATA: usize = 12;
}

fn position(row: &Row) -> Position {
    Position::new(row.get::<_, i64>(column::POSITION).cast_unsigned())
}

/// Where a page goes on whose last event is there.
fn behind(last: Position, direction: Direction) -> Position {
    match direction {
        Direction::Forwards => last.plus(1),
        Direction::Backwards => last.before(),
    }
}

/// Of what kind the event in a row is; a row without one has no event.
fn kind(row: &Row) -> Option<i32> {
    row.get(column::KIND)
}

/// The event in a row.
fn decode(row: &Row, kind: Kind) -> Result<RecordedEvent, StoreError> {
    let position = position(row);
    let corrupted = |what: &str, source: Option<indelible_core::Cause>| StoreError::Corrupted {
        what: format!("{what} of the event at position {position}"),
        source,
    };
    let stream: StreamId = parsed(row.get(column::STREAM))?;
    let data: &[u8] = row.get(column::DATA);
    let id = EventId::from_uuid(row.get(column::ID));
    let mut event = NewEvent::identified(id, kind.event_type, kind.content_type, data.to_vec());
    event.schema_version = kind.schema_version;
    event.correlation_id = row.get::<_, Option<Uuid>>(column::CORRELATION_ID).map(CorrelationId::from_uuid);
    event.causation_id = row.get::<_, Option<Uuid>>(column::CAUSATION_ID).map(CausationId::from_uuid);
    if let Some(tags) = row.get::<_, Option<&str>>(column::TAGS) {
        let tags: Result<Vec<Tag>, _> = tags.split('\n').map(Tag::new).collect();
        event.tags = tags.map_err(|error| corrupted("a tag", Some(error.into())))?;
    }
    if let Some(metadata) = row.get::<_, Option<&str>>(column::METADATA) {
        let metadata: Result<Metadata, _> = serde_json::from_str(metadata);
        event.metadata = metadata.map_err(|error| corrupted("the metadata", Some(error.into())))?;
    }
    let version = Version::new(row.get::<_, i64>(column::VERSION).cast_unsigned());
    let recorded_at = row.get::<_, std::time::SystemTime>(column::RECORDED_AT).into();
    let mut event = RecordedEvent::new(event, stream, version, position, recorded_at);
    event.closes_stream = row.get(column::CLOSES_STREAM);
    event.ends_append = row.get(column::ENDS_APPEND);
    Ok(event)
}

/// A name that was checked when it was written.
pub(crate) fn parsed<N: FromStr<Err = InvalidInput>>(name: &str) -> Result<N, StoreError> {
    name.parse().map_err(|error: InvalidInput| StoreError::Corrupted {
        what: format!("the name {name:?}"),
        source: Some(error.into()),
    })
}
