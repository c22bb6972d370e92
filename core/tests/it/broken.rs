//! The suite is tested too: a store that breaks one clause fails cases of that clause, and of no other.
//!
//! Each broken store is the memory store behind a wrapper with one bug. Its disk is what a crash or a reopening leaves.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, stream};
use indelible_core::{
    AnyStore, Append, AppendOutcome, Appended, Category, CheckpointStore, Direction, EventId, EventStore, Filter,
    InvalidInput, Limits, NewEvent, Page, Position, Query, QueryItem, ReadLog, ReadStream, RecordedEvent, Snapshot,
    SnapshotStore, StoreError, StoreId, StreamHead, StreamId, Token, Version, check_reader,
    conformance::{CASES, Harness},
    store::memory::MemoryStore,
};
use tokio::sync::{RwLock, watch};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bug {
    None,
    WritesStreamByStream,
    IgnoresExpectedVersions,
    ChecksConditionsOutside,
    ShowsOutOfOrder,
    LosesLastOnReopen,
    AnswersBeforeDurable,
    ShowsBeforeDurable,
    ForgetsIds,
    ReadsBackwardsAsForwards,
    TakesAnyTag,
    NeverWakes,
    DropsTags,
    LoadsAnothersSnapshot,
    TakesTooMuch,
    TrustsAnyToken,
    SaysNothing,
    NeverCloses,
}

impl Bug {
    /// All there are, each with the clause that it breaks; the wrapper alone breaks none.
    const ALL: [(Self, &str); 18] = [
        (Self::None, ""),
        (Self::WritesStreamByStream, "l1"),
        (Self::IgnoresExpectedVersions, "l2"),
        (Self::ChecksConditionsOutside, "l2"),
        (Self::ShowsOutOfOrder, "l3"),
        (Self::LosesLastOnReopen, "l4"),
        (Self::AnswersBeforeDurable, "l4"),
        (Self::ShowsBeforeDurable, "l4"),
        (Self::ForgetsIds, "l5"),
        (Self::ReadsBackwardsAsForwards, "l6"),
        (Self::TakesAnyTag, "l6"),
        (Self::NeverWakes, "l7"),
        (Self::DropsTags, "l8"),
        (Self::LoadsAnothersSnapshot, "l9"),
        (Self::TakesTooMuch, "l10"),
        (Self::TrustsAnyToken, "l11"),
        (Self::SaysNothing, "l12"),
        (Self::NeverCloses, "l13"),
    ];
}

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
        let answer = match self.bug {
            Bug::WritesStreamByStream => self.write_by_stream(append).await?,
            Bug::ShowsOutOfOrder => self.write_out_of_order(append).await?,
            Bug::IgnoresExpectedVersions => {
                self.log.append(closing(&append, requiring(&append, writing(&append, |event| event)))).await?
            }
            Bug::NeverCloses => {
                self.log.append(checking(&append, requiring(&append, writing(&append, |event| event)))).await?
            }
            Bug::ChecksConditionsOutside if self.conditions_hold(&append).await? => {
                tokio::time::sleep(GAP).await;
                self.log.append(closing(&append, checking(&append, writing(&append, |event| event)))).await?
            }
            Bug::ForgetsIds
                if self.log.event(append.events().first().map_or(EventId::NIL, |e| e.1.id)).await?.is_some() =>
            {
                let anew = |event: NewEvent| event.with_id(EventId::new());
                self.log.append(closing(&append, checking(&append, requiring(&append, writing(&append, anew))))).await?
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

    /// Writes the events of the first stream with all that is demanded, and the others a moment later.
    async fn write_by_stream(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let _turn = self.state.turn.lock().await;
        let first = append.events()[0].0.clone();
        let (mut front, mut rest) = (Append::new(), Append::new());
        for (stream, event) in append.events().iter().cloned() {
            match stream == first && rest.events().is_empty() {
                true => front = front.event(stream, event),
                false => rest = rest.event(stream, event),
            }
        }
        if rest.events().is_empty() || !append.closes().is_empty() {
            return self.log.append(append).await;
        }
        for (stream, event) in rest.events() {
            let is_known = self.log.event(event.id).await?.is_some();
            if is_known || self.log.stream_head(stream).await?.closed {
                return self.log.append(append).await;
            }
        }
        let front = self.log.append(checking(&append, requiring(&append, front))).await?;
        let AppendOutcome::Appended(front) = front else { return Ok(front) };
        if !front.repeated {
            tokio::time::sleep(GAP / 10).await;
        }
        match self.log.append(rest).await? {
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

fn writing(append: &Append, change: impl Fn(NewEvent) -> NewEvent) -> Append {
    let events = append.events().iter().cloned();
    events.fold(Append::new(), |new, (stream, event)| new.event(stream, change(event)))
}

fn checking(append: &Append, new: Append) -> Append {
    append.expected().iter().cloned().fold(new, |new, (stream, expected)| new.check(stream, expected))
}

fn requiring(append: &Append, new: Append) -> Append {
    append.conditions().iter().cloned().fold(new, Append::require)
}

fn closing(append: &Append, new: Append) -> Append {
    append.closes().iter().cloned().fold(new, Append::close)
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
    filter.clone().and_query(Query::new(filter.query().items().iter().flat_map(one_tag)))
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
struct BrokenHarness(Broken);

impl BrokenHarness {
    fn new(bug: Bug) -> Self {
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

/// How many cases of each clause a store failed, of how many.
type Row = BTreeMap<&'static str, (usize, usize)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_broken_store_fails_the_clause_that_it_breaks_and_no_other() {
    let runs = Bug::ALL.iter().flat_map(|(bug, _)| CASES.iter().map(|case| (*bug, *case)));
    let run = |(bug, case): (Bug, indelible_core::conformance::Case)| async move {
        let task = tokio::spawn(async move { case.run(&mut BrokenHarness::new(bug)).await });
        (bug, case, task.await.is_err())
    };
    let mut table: BTreeMap<Bug, Row> = BTreeMap::new();
    let mut failed_cases = Vec::new();
    let mut results = stream::iter(runs).map(run).buffer_unordered(6);
    while let Some((bug, case, failed)) = results.next().await {
        let (failures, all) = table.entry(bug).or_default().entry(case.clause()).or_default();
        *all += 1;
        if failed {
            *failures += 1;
            failed_cases.push((bug, case));
        }
    }
    println!("{}", printed(&table));
    for (bug, breaks) in Bug::ALL {
        let of = |own: bool| {
            let cases = failed_cases.iter().filter(move |(b, case)| *b == bug && (case.clause() == breaks) == own);
            cases.map(|(_, case)| case.name).collect::<Vec<_>>()
        };
        assert!(breaks.is_empty() || !of(true).is_empty(), "{bug:?} breaks {breaks}, and no case of it noticed");
        assert_eq!(of(false), Vec::<&str>::new(), "{bug:?} breaks {breaks:?} alone, and yet other cases fail");
    }
}

/// The table, store by clause: how many cases failed, of how many.
fn printed(table: &BTreeMap<Bug, Row>) -> String {
    let clauses: Vec<String> = (1..=13).map(|n| format!("l{n}")).collect();
    let mut text = format!("{:26}", "cases failed");
    clauses.iter().for_each(|clause| write!(text, "{clause:>7}").unwrap());
    for (bug, row) in table {
        write!(text, "\n{:26}", format!("{bug:?}")).unwrap();
        for clause in &clauses {
            let (failed, all) = row.get(clause.as_str()).copied().unwrap_or_default();
            let cell = if failed == 0 { "–".to_owned() } else { format!("{failed}/{all}") };
            write!(text, "{cell:>7}").unwrap();
        }
    }
    text
}
