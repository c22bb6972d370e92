//! Random load that makes callers meet: few streams, tags and names, appends that were sent before or are under way,
//! and conditions on what the caller saw last, which is just out of date.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{TryStreamExt, future::join_all};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::{sync::watch, task::JoinHandle};

use super::{Anomaly, Call, Checked, Exchange, Recorder, check_history};
use crate::{
    AnyStore, Append, AppendOutcome, Condition, ContentType, Delivery, EventStoreExt, EventType, ExpectedVersion,
    Filter, Limits, NewEvent, Position, QualifiedType, Query, QueryItem, ReadLog, ReadStream, RecordedEvent, StartFrom,
    StoreError, StreamId, Subscription, Tag, Token, Version,
    conformance::{Harness, fixture},
};

/// How much load, and from which numbers.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Workload {
    /// The same seed gives each caller the same dice; what they meet is up to the scheduler.
    pub seed: u64,
    /// Calls of writers and readers, in all; those of subscribers come on top.
    pub calls: usize,
    /// Callers at the same time.
    pub callers: usize,
    /// Crashes in the midst of it, with as many clean stops in turn.
    pub crashes: usize,
}

impl Workload {
    /// So many calls by 8 callers, without a crash.
    pub fn new(seed: u64, calls: usize) -> Self {
        Self { seed, calls, callers: 8, crashes: 0 }
    }

    /// By so many callers.
    #[must_use]
    pub fn callers(self, callers: usize) -> Self {
        Self { callers, ..self }
    }

    /// With so many crashes.
    #[must_use]
    pub fn crashes(self, crashes: usize) -> Self {
        Self { crashes, ..self }
    }
}

/// How long subscribers may take to see the end of a log that no longer grows.
const END_MAX: Duration = Duration::from_secs(15);

/// Records a [history](record_history) on an empty store, and checks it.
///
/// # Errors
/// The [`Anomaly`] that was found. A read that fails is one too.
pub async fn run_histories(harness: &mut dyn Harness, workload: Workload) -> Result<Checked, Anomaly> {
    let calls = record_history(harness, workload).await?;
    let log: Vec<RecordedEvent> = harness.store().log(ReadLog::all()).try_collect().await.map_err(failed)?;
    check_history(&calls, &log)
}

/// What an empty store is asked and answers under random load.
///
/// # Errors
/// A read that fails, and a subscriber that doesn't come to the end of the log.
pub async fn record_history(harness: &mut dyn Harness, workload: Workload) -> Result<Vec<Call>, Anomaly> {
    let shared = Arc::new(Shared::default());
    let rounds = workload.crashes * 2 + 1;
    for round in 0..rounds {
        let calls = workload.calls / rounds / workload.callers.max(1);
        let handles = [harness.store(), harness.another().await];
        let mut callers: Vec<_> = (0..workload.callers)
            .map(|n| {
                let random = StdRng::seed_from_u64(workload.seed ^ ((round * 1_000 + n + 1) as u64) << 32);
                let store = handles[n % 2].clone();
                tokio::spawn(Caller { random, store, shared: Arc::clone(&shared), seen: Seen::default() }.run(calls))
            })
            .collect();
        let subscribers = (0..3)
            .map(|n| tokio::spawn(subscribe(handles[n % 2].clone(), Arc::clone(&shared), round * 3 + n)))
            .collect::<Vec<_>>();
        drop(handles);
        match round % 2 {
            1 => {
                let enough = shared.recorder.calls() + calls * workload.callers / 2;
                while shared.recorder.calls() < enough && callers.iter().any(|caller| !caller.is_finished()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                shared.recorder.cut();
                harness.crash().await;
                callers.extend(subscribers);
                callers.iter().for_each(JoinHandle::abort);
                join_all(callers).await;
                shared.recorder.resume();
            }
            _ => {
                for caller in join_all(callers).await {
                    caller.expect("a caller doesn't panic")?;
                }
                let end = harness.store().head().await.map_err(failed)?.position;
                shared.end.send_replace(Some(end));
                for subscriber in join_all(subscribers).await {
                    subscriber.expect("a subscriber doesn't panic")?;
                }
                shared.end.send_replace(None);
                if round + 1 < rounds {
                    harness.reopen(Limits::default()).await;
                }
            }
        }
    }
    look_back(&shared.recorder, &harness.store()).await;
    let (calls, failures) = shared.recorder.finish();
    match failures.first() {
        Some(failure) => Err(Anomaly { call: None, what: format!("a read failed: {failure}") }),
        None => Ok(calls),
    }
}

fn failed(error: StoreError) -> Anomaly {
    Anomaly { call: None, what: format!("a read failed: {error}") }
}

/// Reads all streams, types, tags and ids of a log that no longer grows, so that its indexes are checked against it.
async fn look_back(recorder: &Recorder, store: &AnyStore) {
    let mut after = None;
    while let Some(streams) = ask_streams(recorder, store, after.clone(), 50).await.filter(|s| !s.is_empty()) {
        for stream in &streams {
            let mut read = Some(ReadStream::new(stream.clone()));
            while let Some(now) = read.take() {
                let page = ask_stream(recorder, store, now.clone()).await;
                read = page.and_then(|page| page.next).map(|next| now.from(next));
            }
        }
        after = streams.last().cloned();
    }
    let mut filters: Vec<Filter> = TAGS.iter().map(|text| fixture::tag(text).into()).collect();
    for category in CATEGORIES {
        filters.push(Filter::categories([fixture::category(category)]));
        let of_types = TYPES.map(|name| Query::new([QueryItem::types([fixture::of_type(category, name)])]));
        filters.extend(of_types.map(Filter::from));
    }
    for filter in filters {
        for read in [ReadLog::matching(filter.clone()), ReadLog::matching(filter).backwards()] {
            let mut read = Some(read);
            while let Some(now) = read.take() {
                let page = ask_log(recorder, store, now.clone()).await;
                read = page.and_then(|page| page.next).map(|next| now.from(next));
            }
        }
    }
}

async fn ask_streams(
    recorder: &Recorder,
    store: &AnyStore,
    after: Option<StreamId>,
    limit: usize,
) -> Option<Vec<StreamId>> {
    let asked = store.streams(None, after.as_ref(), limit);
    let said =
        |streams: &Vec<_>| Exchange::Streams { category: None, after: after.clone(), limit, streams: streams.clone() };
    recorder.ask(asked, said).await
}

async fn ask_stream(recorder: &Recorder, store: &AnyStore, read: ReadStream) -> Option<crate::Page<Version>> {
    recorder.ask(store.read_stream(&read), |page| Exchange::ReadStream { read: read.clone(), page: page.clone() }).await
}

async fn ask_log(recorder: &Recorder, store: &AnyStore, read: ReadLog) -> Option<crate::Page<Position>> {
    recorder.ask(store.read_log(&read), |page| Exchange::ReadLog { read: read.clone(), page: page.clone() }).await
}

/// What callers have in common.
#[derive(Default)]
struct Shared {
    recorder: Recorder,
    /// Appends that were sent of late, by anyone.
    sent: Mutex<VecDeque<Append>>,
    /// Streams are named from here on: those before are closed.
    first_stream: AtomicU64,
    /// Where subscribers end.
    end: watch::Sender<Option<Position>>,
}

const CATEGORIES: [&str; 3] = ["a", "ab", "b"];
const TYPES: [&str; 3] = ["A", "AB", "B"];
const TAGS: [&str; 5] = ["t", "t:", "u:1", "u:10", "v"];

/// What a caller saw last, which may be out of date.
#[derive(Default)]
struct Seen {
    head: Position,
    versions: HashMap<StreamId, Version>,
}

impl Seen {
    fn events(&mut self, events: &[RecordedEvent]) {
        for event in events {
            self.head = self.head.max(event.position);
            let version = self.versions.entry(event.stream.clone()).or_default();
            *version = event.version.max(*version);
        }
    }
}

struct Caller {
    random: StdRng,
    store: AnyStore,
    shared: Arc<Shared>,
    seen: Seen,
}

impl Caller {
    async fn run(mut self, calls: usize) -> Result<(), Anomaly> {
        for _ in 0..calls {
            match self.random.random_range(0..10) {
                0..6 => self.append().await,
                6 => self.read_stream().await,
                7 => self.read_log().await,
                8 => self.look_up().await,
                _ => self.list().await,
            }
            if self.random.random_bool(0.2) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn stream(&mut self) -> StreamId {
        let number = self.shared.first_stream.load(Relaxed) + self.random.random_range(0..6);
        fixture::stream(&format!("{}-{number}", CATEGORIES[number as usize % 3]))
    }

    fn tag(&mut self) -> Tag {
        fixture::tag(TAGS.choose(&mut self.random).expect("some"))
    }

    fn event_type(&mut self) -> EventType {
        EventType::from_static(TYPES.choose(&mut self.random).expect("some"))
    }

    fn event(&mut self) -> NewEvent {
        let many = self.random.random_range(0..4);
        let tags = TAGS.choose_multiple(&mut self.random, many).map(|text| fixture::tag(text)).collect::<Vec<_>>();
        NewEvent::new(self.event_type(), ContentType::JSON, format!("{}", self.random.random_range(0..1_000)))
            .with_tags(tags)
    }

    fn query(&mut self) -> Query {
        Query::new((0..self.random.random_range(1..3)).map(|_| {
            let category = self.stream().category();
            match self.random.random_range(0..4) {
                0 => QueryItem::tags([self.tag()]),
                1 => QueryItem::tags([self.tag(), self.tag()]),
                2 => QueryItem::types([QualifiedType { category, event_type: self.event_type() }]),
                _ => QueryItem::types([QualifiedType { category, event_type: self.event_type() }]).and_tag(self.tag()),
            }
        }))
    }

    fn expected(&mut self, stream: &StreamId) -> ExpectedVersion {
        let seen = self.seen.versions.get(stream).copied().unwrap_or_default();
        match self.random.random_range(0..8) {
            0 => ExpectedVersion::NoStream,
            1 => ExpectedVersion::Exists,
            2 | 3 => ExpectedVersion::Any,
            4 => ExpectedVersion::Exact(seen.plus(1)),
            _ => ExpectedVersion::Exact(seen),
        }
    }

    fn new_append(&mut self) -> Append {
        let mut append = Append::new();
        let mut named: Vec<StreamId> = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            let stream = self.stream();
            append = append.event(stream.clone(), self.event());
            if self.random.random_bool(0.6) && !named.contains(&stream) {
                append = append.check(stream.clone(), self.expected(&stream));
                named.push(stream);
            }
        }
        let other = self.stream();
        if self.random.random_bool(0.1) && !named.contains(&other) {
            append = append.check(other.clone(), self.expected(&other));
        }
        if self.random.random_bool(0.25) {
            let after = match self.random.random_range(0..5) {
                // Beyond the head, however quickly others write.
                4 => self.seen.head.plus(1_000_000),
                back => Position::new((self.seen.head.get() + 1).saturating_sub(back * back)),
            };
            append = append.require(Condition::none_after(self.query(), after));
        }
        if self.random.random_bool(0.1) {
            // A name that is taken once: all that race for it demand that nobody has it.
            let name = fixture::tag(&format!("name:{}", self.seen.head.get() / 16));
            let stream = self.stream();
            append = append.event(stream, self.event().with_tags([name.clone()]));
            append = append.require(Condition::none_after(name.into(), Position::START));
        }
        if self.random.random_bool(0.008) {
            let (stream, _) = append.events()[0].clone();
            append = append.close(stream);
            self.shared.first_stream.fetch_add(1, Relaxed);
        }
        append
    }

    /// What was sent before, by anyone: as it was, with other demands, or not all of it.
    fn again(&mut self, before: Append) -> Append {
        let events = before.events().to_vec();
        let anew = |events: Vec<(StreamId, NewEvent)>| {
            events.into_iter().fold(Append::new(), |append, (stream, event)| append.event(stream, event))
        };
        match self.random.random_range(0..8) {
            0 if events.len() > 1 => anew(events[1..].to_vec()),
            1 => {
                let stream = self.stream();
                before.event(stream, self.event())
            }
            2 => anew(events.into_iter().map(|(stream, event)| (stream, self.event().with_id(event.id))).collect()),
            3 => {
                let stream = self.stream();
                let first = anew(vec![(stream, self.event())]);
                events.into_iter().fold(first, |append, (stream, event)| append.event(stream, event))
            }
            4 => anew(events).require(Condition::none_after(self.query(), Position::START)),
            _ => before,
        }
    }

    async fn append(&mut self) {
        let before = {
            let sent = self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let before = sent.get(self.random.random_range(0..sent.len().max(1))).cloned();
            before.filter(|_| self.random.random_bool(0.2))
        };
        let append = match before {
            Some(before) => self.again(before),
            None => self.new_append(),
        };
        {
            let mut sent = self.shared.sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.push_front(append.clone());
            sent.truncate(24);
        }
        let shared = Arc::clone(&self.shared);
        let outcome = match self.random.random_range(0..40) {
            // The caller goes away, and never learns what became of it.
            0 => {
                let patience = Duration::from_micros(self.random.random_range(0..2_000));
                let gone = shared.recorder.append(&self.store, append);
                tokio::time::timeout(patience, gone).await.ok()
            }
            // Twice at once: one of them is a repetition.
            1 => {
                let once = shared.recorder.append(&self.store, append.clone());
                let twice = shared.recorder.append(&self.store, append);
                Some(tokio::join!(once, twice).0)
            }
            _ => Some(shared.recorder.append(&self.store, append).await),
        };
        if let Some(Ok(AppendOutcome::Appended(appended))) = outcome {
            self.seen.events(&appended.events);
        }
    }

    async fn read_stream(&mut self) {
        let stream = self.stream();
        let last = self.seen.versions.get(&stream).copied().unwrap_or_default();
        let mut read = ReadStream::new(stream.clone());
        match self.random.random_range(0..4) {
            0 => read = read.backwards(),
            1 => read = read.backwards().from(last.plus(1)),
            _ => read = read.from(Version::new((last.get() + 2).saturating_sub(self.random.random_range(0..6)))),
        }
        let read = read.limit(self.random.random_range(1..8));
        let shared = Arc::clone(&self.shared);
        if let Some(page) = ask_stream(&shared.recorder, &self.store, read).await {
            self.seen.events(&page.events);
        }
        let said = |head: &_| Exchange::StreamHead { stream: stream.clone(), head: *head };
        if let Some(head) = shared.recorder.ask(self.store.stream_head(&stream), said).await {
            self.seen.versions.insert(stream.clone(), head.version);
        }
    }

    async fn read_log(&mut self) {
        let filter = match self.random.random_range(0..5) {
            0 => Filter::categories([self.stream().category()]),
            1 => Filter::from(self.tag()),
            2 => self.query().into(),
            _ => Filter::all(),
        };
        let near = Position::new((self.seen.head.get() + 3).saturating_sub(self.random.random_range(0..12)));
        let read = match self.random.random_range(0..4) {
            0 => ReadLog::matching(filter).backwards(),
            1 => ReadLog::matching(filter).backwards().from(near).to(Position::new(near.get().saturating_sub(10))),
            2 => ReadLog::matching(filter).from(near).to(near.plus(4)),
            _ => ReadLog::matching(filter).from(near),
        };
        let read = read.limit(self.random.random_range(1..8));
        if let Some(page) = ask_log(&Arc::clone(&self.shared).recorder, &self.store, read).await {
            self.seen.events(&page.events);
        }
    }

    async fn look_up(&mut self) {
        let shared = Arc::clone(&self.shared);
        let sent = || shared.sent.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
        if let Some((_, event)) = sent().and_then(|append| append.events().last().cloned()) {
            let id = event.id;
            let said = |event: &Option<_>| Exchange::Event { id, event: event.clone() };
            shared.recorder.ask(self.store.event(id), said).await;
        }
        let said = |token: &_| Exchange::Head { token: *token };
        if let Some(token) = shared.recorder.ask(self.store.head(), said).await {
            self.seen.head = token.position;
        }
        let position = self.seen.head.plus(self.random.random_range(0..3));
        let asked = async {
            match self.store.token(position).await {
                Ok(token) => Ok(Some(token)),
                Err(StoreError::Invalid(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        shared.recorder.ask(asked, |token| Exchange::Token { position, token: *token }).await;
    }

    async fn list(&mut self) {
        let shared = Arc::clone(&self.shared);
        let (after, limit) = (Some(self.stream()).filter(|_| self.random.random()), self.random.random_range(1..9));
        let category = Some(self.stream().category()).filter(|_| self.random.random());
        let asked = self.store.streams(category.as_ref(), after.as_ref(), limit);
        let (category, after) = (category.clone(), after.clone());
        let said = |streams: &Vec<_>| Exchange::Streams {
            category: category.clone(),
            after: after.clone(),
            limit,
            streams: streams.clone(),
        };
        shared.recorder.ask(asked, said).await;
        let after = category;
        let asked = self.store.categories(after.as_ref(), limit);
        let said =
            |categories: &Vec<_>| Exchange::Categories { after: after.clone(), limit, categories: categories.clone() };
        shared.recorder.ask(asked, said).await;
        let asked = async { Ok(*self.store.published().borrow()) };
        shared.recorder.ask(asked, |position| Exchange::Published { position: *position }).await;
    }
}

/// Follows the log to its end, over subscriptions that each take up where the one before stopped.
async fn subscribe(store: AnyStore, shared: Arc<Shared>, number: usize) -> Result<(), Anomaly> {
    let filter = match number % 3 {
        0 => Filter::all(),
        1 => Filter::from(fixture::tag("u:1")),
        _ => Filter::categories([fixture::category("ab")]),
    };
    let mut random = StdRng::seed_from_u64(number as u64);
    let mut end = shared.end.subscribe();
    let mut from = if number.is_multiple_of(2) { StartFrom::Beginning } else { StartFrom::Now };
    let mut looked_to = Position::START;
    for subscriber in 0.. {
        let subscriber = number * 1_000_000 + subscriber;
        let asked = Subscription::shared(store.clone(), filter.clone(), from);
        let said = |_: &_| Exchange::Subscribe { subscriber, filter: filter.clone(), from };
        let Some(mut subscription) = shared.recorder.ask(asked, said).await else { return Ok(()) };
        for _ in 0..random.random_range(1..400) {
            let said = |delivery: &Delivery| Exchange::Delivery { subscriber, delivery: delivery.clone() };
            let delivered = tokio::select! {
                delivered = shared.recorder.ask(subscription.next(), said) => delivered,
                _ = end.wait_for(|end| end.is_some_and(|end| end <= looked_to)) => return Ok(()),
                _ = ended(shared.end.subscribe()) => return Err(Anomaly {
                    call: None,
                    what: format!("subscriber {subscriber} looked to {looked_to}, and not to the end"),
                }),
            };
            let token = match delivered {
                None => return Ok(()),
                Some(Delivery::Event(event)) => Token { store: store.id(), position: event.position, event: event.id },
                Some(Delivery::Progress(token) | Delivery::CaughtUp(token)) => token,
            };
            looked_to = token.position;
            from = StartFrom::After(token);
        }
    }
    Ok(())
}

/// Some time after the log has ended.
async fn ended(mut end: watch::Receiver<Option<Position>>) {
    let _ = end.wait_for(Option::is_some).await;
    tokio::time::sleep(END_MAX).await;
}
