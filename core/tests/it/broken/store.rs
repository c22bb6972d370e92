//! The memory store behind a wrapper with one bug, and its disk: what a crash or a reopening leaves.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use indelible_core::{
    AnyStore, Append, AppendOutcome, Appended, Category, CheckpointStore, Direction, EventId, EventStore, Filter,
    InvalidInput, Limits, NewEvent, Page, Position, Query, QueryItem, ReadLog, ReadStream, RecordedEvent, Snapshot,
    SnapshotStore, StoreError, StoreId, StreamHead, StreamId, Token, Version, check_reader, conformance::Harness,
    store::memory::MemoryStore,
};
use tokio::sync::{RwLock, watch};

use super::Bug;

/// The memory store with a bug.
#[derive(Clone)]
struct Broken {
    bug: Bug,
    log: MemoryStore,
    limits: Limits,
    state: Arc<State>,
}

/// What the bugs need to remember.
struct State {
    /// Positions that are written, and not shown yet.
    hidden: RwLock<BTreeSet<Position>>,
    /// Held over each append by bugs that must not overtake themselves.
    turn: tokio::sync::Mutex<usize>,
    published: watch::Sender<Position>,
    /// What a crash leaves.
    durable: watch::Sender<Position>,
    last_snapshot: Mutex<Option<Snapshot>>,
    strange_checkpoints: Mutex<HashMap<String, Token>>,
}

/// How long a bug takes to show itself.
const GAP: Duration = Duration::from_millis(3);

impl Broken {
    fn new(bug: Bug, log: MemoryStore, limits: Limits) -> Self {
        let head = *log.published().borrow();
        let state = State {
            hidden: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
            published: watch::Sender::new(head),
            durable: watch::Sender::new(head),
            last_snapshot: Mutex::default(),
            strange_checkpoints: Mutex::default(),
        };
        Self { bug, log, limits, state: Arc::new(state) }
    }

    async fn write(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        if self.bug != Bug::TakesTooMuch {
            append.validate(&self.limits)?;
        }
        let without = |demand| rebuilt(&append, append.events().iter().cloned(), Some(demand));
        let answer = match self.bug {
            Bug::WritesStreamByStream => self.write_by_stream(append).await?,
            Bug::ShowsOutOfOrder => self.write_out_of_order(append).await?,
            Bug::IgnoresExpectedVersions => self.log.append(without(Demand::Versions)).await?,
            Bug::NeverCloses => self.log.append(without(Demand::Closes)).await?,
            Bug::ChecksConditionsOutside if self.conditions_hold(&append).await? => {
                tokio::time::sleep(GAP).await;
                self.log.append(without(Demand::Conditions)).await?
            }
            Bug::ForgetsIds if self.knows(&append.events()[0].1).await? => {
                let anew = append.events().iter().cloned().map(|(stream, e)| (stream, e.with_id(EventId::new())));
                self.log.append(rebuilt(&append, anew, None)).await?
            }
            _ => self.log.append(append).await?,
        };
        let AppendOutcome::Appended(mut appended) = answer else { return Ok(answer) };
        let position = appended.token.position;
        let durable = self.state.durable.clone();
        let sync = async move {
            tokio::time::sleep(GAP).await;
            raise(&durable, position);
        };
        match self.bug {
            Bug::AnswersBeforeDurable => drop(tokio::spawn(sync)),
            Bug::ShowsBeforeDurable => sync.await,
            Bug::DropsTags => appended.events.iter_mut().for_each(drop_tags),
            Bug::NeverWakes => {
                _ = self.state.published.send_if_modified(|published| {
                    *published = position.max(*published);
                    false
                })
            }
            Bug::ShowsOutOfOrder => raise(&self.state.published, position),
            _ => {}
        }
        Ok(AppendOutcome::Appended(appended))
    }

    /// Whether all conditions hold at the moment, and those that the log would refuse are left to it.
    async fn conditions_hold(&self, append: &Append) -> Result<bool, StoreError> {
        let head = self.log.head().await?.position;
        for condition in append.conditions() {
            let found = ReadLog::matching(condition.query.clone()).from(condition.after.plus(1)).limit(1);
            if condition.after > head || !self.log.read_log(&found).await?.events.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn knows(&self, event: &NewEvent) -> Result<bool, StoreError> {
        Ok(self.log.event(event.id).await?.is_some())
    }

    /// Writes the events of the first stream with all that is demanded, and the others a moment later. What it would
    /// be found out by otherwise than by that moment is left to the log.
    async fn write_by_stream(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let _turn = self.state.turn.lock().await;
        let events = append.events();
        let (first, first_event) = &events[0];
        let (front, rest) = events.split_at(events.iter().take_while(|(stream, _)| stream == first).count());
        if rest.is_empty() || !append.closes().is_empty() {
            return self.log.append(append).await;
        }
        let is_repeated = self.knows(first_event).await?;
        for (stream, event) in rest {
            if !is_repeated && (self.knows(event).await? || self.log.stream_head(stream).await?.closed) {
                return self.log.append(append).await;
            }
        }
        let front = self.log.append(rebuilt(&append, front.to_vec(), None)).await?;
        let AppendOutcome::Appended(front) = front else { return Ok(front) };
        if !front.repeated {
            tokio::time::sleep(GAP / 10).await;
        }
        match self.log.append(rebuilt(&Append::new(), rest.to_vec(), None)).await? {
            AppendOutcome::Appended(rest) => {
                let events = [front.events, rest.events].concat();
                Ok(AppendOutcome::Appended(Appended { events, ..rest }))
            }
            conflict => Ok(conflict),
        }
    }

    /// Shows every third append later than those that come after it.
    async fn write_out_of_order(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let mut hidden = self.state.hidden.write().await;
        let answer = self.log.append(append).await?;
        let AppendOutcome::Appended(appended) = &answer else { return Ok(answer) };
        let mut turn = self.state.turn.lock().await;
        *turn += 1;
        if *turn % 3 == 0 && !appended.repeated {
            let positions: Vec<_> = appended.events.iter().map(|event| event.position).collect();
            hidden.extend(&positions);
            drop((hidden, turn));
            tokio::time::sleep(GAP).await;
            self.state.hidden.write().await.retain(|position| !positions.contains(position));
        }
        Ok(answer)
    }

    /// A refusal as this store words it.
    fn worded<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Err(StoreError::Invalid(_)) if self.bug == Bug::SaysNothing => {
                Err(InvalidInput::new("input", "is wrong").into())
            }
            result => result,
        }
    }
}

fn raise(position: &watch::Sender<Position>, to: Position) {
    position.send_if_modified(|position| {
        let is_behind = *position < to;
        *position = to.max(*position);
        is_behind
    });
}

fn drop_tags(event: &mut RecordedEvent) {
    event.tags.truncate(2);
}

/// What an append demands beside its events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Demand {
    Versions,
    Conditions,
    Closes,
}

/// An append of these events with all that another demands, but for one thing.
fn rebuilt(
    append: &Append,
    events: impl IntoIterator<Item = (StreamId, NewEvent)>,
    left_out: Option<Demand>,
) -> Append {
    let kept = |demand| left_out != Some(demand);
    let mut new = events.into_iter().fold(Append::new(), |new, (stream, event)| new.event(stream, event));
    for (stream, expected) in append.expected().iter().filter(|_| kept(Demand::Versions)) {
        new = new.check(stream.clone(), *expected);
    }
    for condition in append.conditions().iter().filter(|_| kept(Demand::Conditions)) {
        new = new.require(condition.clone());
    }
    for stream in append.closes().iter().filter(|_| kept(Demand::Closes)) {
        new = new.close(stream.clone());
    }
    new
}

#[async_trait::async_trait]
impl EventStore for Broken {
    fn id(&self) -> StoreId {
        self.log.id()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    /// In a task of its own, so that the bugs' gaps end though the caller went away.
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let store = self.clone();
        self.worded(tokio::spawn(async move { store.write(append).await }).await.expect("an append ends"))
    }

    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        let mut page = self.log.read_stream(read).await?;
        match self.bug {
            Bug::DropsTags => page.events.iter_mut().for_each(drop_tags),
            Bug::ReadsBackwardsAsForwards if read.direction == Direction::Backwards => page.events.reverse(),
            _ => {}
        }
        Ok(page)
    }

    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        let mut read = read.clone();
        if self.bug == Bug::TakesAnyTag && read.filter.validate().is_ok() {
            read.filter = any_tag(&read.filter);
        }
        let hidden = self.state.hidden.read().await;
        let mut page = self.worded(self.log.read_log(&read).await)?;
        match self.bug {
            Bug::DropsTags => page.events.iter_mut().for_each(drop_tags),
            Bug::ReadsBackwardsAsForwards if read.direction == Direction::Backwards => page.events.reverse(),
            Bug::ShowsOutOfOrder if read.filter.is_all() => {
                page.events.retain(|event| !hidden.contains(&event.position));
            }
            _ => {}
        }
        Ok(page)
    }

    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        let mut event = self.log.event(id).await?;
        if self.bug == Bug::DropsTags {
            event.iter_mut().for_each(drop_tags);
        }
        Ok(event)
    }

    async fn head(&self) -> Result<Token, StoreError> {
        self.log.head().await
    }

    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.worded(self.log.token(position).await)
    }

    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.log.stream_head(stream).await
    }

    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.log.streams(category, after, limit).await
    }

    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.log.categories(after, limit).await
    }

    fn published(&self) -> watch::Receiver<Position> {
        match self.bug {
            Bug::NeverWakes | Bug::ShowsOutOfOrder => self.state.published.subscribe(),
            _ => self.log.published(),
        }
    }

    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        match self.bug {
            Bug::TrustsAnyToken => Ok(()),
            _ => self.log.check(token).await,
        }
    }
}

/// The filter that takes an event with one of the tags for one with all of them.
fn any_tag(filter: &Filter) -> Filter {
    let one_tag = |item: &QueryItem| -> Vec<QueryItem> {
        let types = || QueryItem::types(item.any_type().to_vec());
        match item.all_tags() {
            [] => vec![types()],
            tags => tags.iter().map(|tag| types().and_tag(tag.clone())).collect(),
        }
    };
    filter.clone().with_query(Query::new(filter.query().items().iter().flat_map(one_tag)))
}

#[async_trait::async_trait]
impl SnapshotStore for Broken {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let own = self.log.load_snapshot(stream).await?;
        let anothers = || self.state.last_snapshot.lock().unwrap().clone();
        Ok(if self.bug == Bug::LoadsAnothersSnapshot { own.or_else(anothers) } else { own })
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        *self.state.last_snapshot.lock().unwrap() = Some(snapshot.clone());
        self.log.save_snapshot(snapshot).await
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.log.delete_snapshot(stream).await
    }
}

#[async_trait::async_trait]
impl CheckpointStore for Broken {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        let own = self.worded(self.log.load_checkpoint(reader).await)?;
        Ok(self.state.strange_checkpoints.lock().unwrap().get(reader).copied().or(own))
    }

    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        if self.bug != Bug::TrustsAnyToken {
            return self.worded(self.log.save_checkpoint(reader, token).await);
        }
        check_reader(reader)?;
        self.state.strange_checkpoints.lock().unwrap().insert(reader.to_owned(), token);
        if self.log.check(&token).await.is_ok() { self.log.save_checkpoint(reader, token).await } else { Ok(()) }
    }
}

/// A broken store and its disk.
pub(super) struct BrokenHarness(Broken);

impl BrokenHarness {
    pub(super) fn new(bug: Bug) -> Self {
        let log = MemoryStore::with_limits(Self::real_limits(bug, Limits::default()));
        Self(Broken::new(bug, log, Limits::default()))
    }

    fn real_limits(bug: Bug, limits: Limits) -> Limits {
        match bug {
            Bug::TakesTooMuch => Limits::new(16 << 20, 64 << 20).unwrap(),
            _ => limits,
        }
    }

    fn open(&mut self, limits: Limits, kept: Position) {
        let bug = self.0.bug;
        self.0 = Broken::new(bug, self.0.log.reopened(Self::real_limits(bug, limits.clone()), kept), limits);
    }
}

#[async_trait::async_trait]
impl Harness for BrokenHarness {
    fn store(&self) -> AnyStore {
        Arc::new(self.0.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        let kept = match self.0.bug {
            Bug::LosesLastOnReopen => {
                let head = self.0.log.head().await.unwrap().position;
                let before = ReadLog::all().backwards().from(head.before());
                let before = self.0.log.read_log(&before).await.unwrap().events;
                before.iter().find(|event| event.ends_append).map_or(Position::START, |event| event.position)
            }
            _ => Position::MAX,
        };
        self.open(limits, kept);
    }

    async fn crash(&mut self) {
        let kept = match self.0.bug {
            Bug::AnswersBeforeDurable | Bug::ShowsBeforeDurable => *self.0.state.durable.borrow(),
            _ => Position::MAX,
        };
        self.open(Limits::default(), kept);
    }
}
