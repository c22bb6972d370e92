//! The seam of a subscription, under a scheduler that explores: [`shuttle`] runs writers and subscribers as one thread
//! would, and chooses at each point who goes on.
//!
//! The points are before and after every call of the store, between an event's being readable and its being published, and
//! after each delivery. A subscription shares nothing else with anyone: what it does between two calls nobody can see, and tokio's
//! channel, in which heads are published, is taken to do each thing at once. So what is explored is all orders of what
//! matters, and not of the memory accesses below. Seeded bugs show that wrong orders are found.
//! `INDELIBLE_SCHEDULES` says how many schedules are tried.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use indelible_core::{
    Append, AppendOutcome, Category, ContentType, Delivery, EventId, EventStore, EventType, ExpectedVersion, Filter,
    Limits, NewEvent, Page, Position, ReadLog, ReadStream, RecordedEvent, StartFrom, StoreError, StoreId, StreamHead,
    StreamId, Subscription, Token, Version,
    bugs::{self, Bug},
    conformance::fault::{Line, seeded},
    store::memory::MemoryStore,
};
use shuttle::{
    Runner, check_pct, check_random,
    future::{block_on, spawn, yield_now},
    scheduler::DfsScheduler,
};
use tokio::sync::watch;

const FAULT: &str = "orders of threads, seam";

/// The memory store with short pages, whose calls are points at which others may go first.
#[derive(Clone)]
struct Scheduled {
    store: MemoryStore,
    published: watch::Sender<Position>,
}

/// Lets others go before a call, and after it.
async fn at_a_point<T>(call: impl Future<Output = T>) -> T {
    yield_now().await;
    let result = call.await;
    yield_now().await;
    result
}

#[async_trait::async_trait]
impl EventStore for Scheduled {
    fn id(&self) -> StoreId {
        self.store.id()
    }
    fn limits(&self) -> &Limits {
        self.store.limits()
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let outcome = at_a_point(self.store.append(append)).await?;
        if let AppendOutcome::Appended(appended) = &outcome {
            let position = appended.token.position;
            self.published.send_if_modified(|head| std::mem::replace(head, position.max(*head)) < position);
        }
        Ok(outcome)
    }
    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        at_a_point(self.store.read_stream(read)).await
    }
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        at_a_point(self.store.read_log(&read.clone().limit(read.limit.min(2)))).await
    }
    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        at_a_point(self.store.event(id)).await
    }
    async fn head(&self) -> Result<Token, StoreError> {
        at_a_point(self.store.head()).await
    }
    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        at_a_point(self.store.token(position)).await
    }
    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        at_a_point(self.store.stream_head(stream)).await
    }
    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        at_a_point(self.store.streams(category, after, limit)).await
    }
    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        at_a_point(self.store.categories(after, limit)).await
    }
    fn published(&self) -> watch::Receiver<Position> {
        self.published.subscribe()
    }
}

const WRITERS: u64 = 2;

/// Writers that each append to a stream of their own, so many appends of one event or two.
async fn write(store: Scheduled, writer: u64, appends: u64) {
    for n in 0..appends {
        let events = (0..=n % 2).map(|_| NewEvent::new(EventType::from_static("A"), ContentType::JSON, "{}"));
        let stream: StreamId = format!("s{writer}-1").parse().unwrap();
        store.append(Append::to(stream, ExpectedVersion::Any, events.collect::<Vec<_>>())).await.unwrap();
    }
}

/// Follows until it has looked as far as `end`, and demands that it got just what the filter lets through.
async fn follow(store: Scheduled, filter: Filter, from: StartFrom, end: Position) {
    let mut subscription = Subscription::new(store.clone(), filter.clone(), from).await.unwrap();
    let mut seen = Vec::new();
    let mut looked_to = Position::START;
    while looked_to < end {
        let delivery = subscription.next().await.unwrap();
        // What it does with that takes time.
        yield_now().await;
        match delivery {
            Delivery::Event(event) => {
                assert!(event.position > looked_to, "position {} again, or late", event.position);
                looked_to = event.position;
                seen.push(event);
            }
            Delivery::Progress(token) | Delivery::CaughtUp(token) => {
                assert!(token.position >= looked_to, "went back from {looked_to} to {}", token.position);
                looked_to = token.position;
            }
        }
    }
    let wanted = store.store.read_log(&ReadLog::matching(filter)).await.unwrap().events;
    let first = match from {
        StartFrom::Now => seen.first().map_or(Position::MAX, |event| event.position),
        _ => Position::FIRST,
    };
    let wanted: Vec<_> = wanted.into_iter().filter(|event| event.position >= first).collect();
    assert!(seen == wanted, "saw {:?}", seen.iter().map(|event| event.position.get()).collect::<Vec<_>>());
}

/// Writers and subscribers at the same time, in whatever order the scheduler says.
fn explored(appends: u64, subscribers: usize) {
    block_on(async move {
        let store = Scheduled { store: MemoryStore::new(), published: watch::Sender::new(Position::START) };
        let events = (0..appends).map(|n| 1 + n % 2).sum::<u64>();
        let end = Position::new(WRITERS * events);
        let writers: Vec<_> = (0..WRITERS).map(|writer| spawn(write(store.clone(), writer, appends))).collect();
        let kinds = [
            (Filter::all(), StartFrom::Beginning),
            (Filter::categories([Category::new("s1").unwrap()]), StartFrom::Beginning),
            (Filter::all(), StartFrom::Now),
        ];
        let followers = kinds.into_iter().take(subscribers);
        let followers: Vec<_> =
            followers.map(|(filter, from)| spawn(follow(store.clone(), filter, from, end))).collect();
        for task in writers.into_iter().chain(followers) {
            task.await.unwrap();
        }
    });
}

fn wanted() -> usize {
    std::env::var("INDELIBLE_SCHEDULES").map_or(3_000, |wanted| wanted.parse().expect("a number"))
}

#[test]
fn no_schedule_breaks_the_seam() {
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = |run: fn()| {
        let tried = Arc::clone(&tried);
        move || {
            tried.fetch_add(1, Relaxed);
            run();
        }
    };
    check_random(counted(|| explored(3, 3)), wanted());
    check_pct(counted(|| explored(3, 3)), wanted(), 3);
    // One after the other, those of a small case: the first so many.
    Runner::new(DfsScheduler::new(Some(wanted()), true), Default::default()).run(counted(|| explored(1, 1)));
    let tried = tried.load(Relaxed) as u64;
    println!("{tried} schedules, none breaks the seam");
    Line::clean(FAULT, tried, tried, 0, "").print();
}

#[test]
fn seeded_bugs_in_the_seam_are_found() {
    for bug in [Bug::HeadAfterPage, Bug::SleepsWithoutLooking] {
        let run = move || {
            bugs::choose(Some(bug));
            explored(3, 3);
        };
        let is_found = (0..5).any(|_| catch_unwind(AssertUnwindSafe(|| check_random(run, wanted()))).is_err());
        bugs::choose(None);
        seeded(FAULT, &format!("{bug:?}"), is_found, &format!("in {} schedules", wanted()));
    }
}
