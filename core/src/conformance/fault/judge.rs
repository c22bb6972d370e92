//! The one judge of all fault tests: reads a store in every way there is, and compares the answers with each other and with
//! what the writing processes said.
//!
//! In a log that is as it must be, positions and versions have no holes; every acknowledged append is there once, whole,
//! at its position, byte for byte; one whose outcome is not known is there so, or not at all; nothing else is there; what
//! was acknowledged before another append was handed over stands before it; what a reader has seen is still there. All
//! other reads (backwards, by stream, category, type and tag, by id, heads, lists, a subscription) say what the log says.
//!
//! The judge is tested too: by histories that are changed in one place, each of which it must refuse.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use futures::TryStreamExt;

use super::{Ending, Journal, Kind};
use crate::{
    AppendOutcome, Delivery, EventId, EventStore, EventStoreExt, ExpectedVersion, Filter, QualifiedType, Query,
    QueryItem, ReadLog, ReadStream, RecordedEvent, StartFrom, StoreError, StreamId, Subscription,
};

#[cfg(test)]
mod mutations;

/// What a store answers.
#[derive(Clone, Debug)]
struct Observed {
    log: Vec<RecordedEvent>,
    /// All other answers, by what was asked: positions, or versions. An event that is not what the log holds at its
    /// position counts as position 0.
    answers: BTreeMap<String, Vec<u64>>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Events of the log.
    pub events: u64,
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Events that were acknowledged and are not there.
    pub lost: u64,
    /// Positions and versions that are missing or doubled.
    pub holes: u64,
    /// What else is wrong, by its kind.
    pub wrong: BTreeMap<&'static str, u64>,
    /// Appends that may be there.
    pub unknown: u64,
    /// Those of them that are.
    pub unknown_written: u64,
    /// The first thing that is wrong.
    pub first: String,
}

/// Judges a store, with what it answers to appends that are sent again.
pub async fn judge_store<S: EventStore + Clone>(store: &S, journal: &Journal) -> Verdict {
    match observe(store, journal).await {
        Ok(observed) => {
            let mut verdict = judge(journal, &observed);
            send_again(store, journal, &observed, &mut verdict).await;
            verdict
        }
        Err(error) => Verdict::of("unreadable", format!("{error}: {error:?}")),
    }
}

/// Judges a store, and writes nothing.
pub async fn judge_reads<S: EventStore + Clone>(store: &S, journal: &Journal) -> Verdict {
    match observe(store, journal).await {
        Ok(observed) => judge(journal, &observed),
        Err(error) => Verdict::of("unreadable", format!("{error}: {error:?}")),
    }
}

impl Verdict {
    /// One thing that is wrong.
    pub fn of(kind: &'static str, what: String) -> Self {
        let mut verdict = Self::default();
        verdict.wrong(kind, || what);
        verdict
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.holes == 0 && self.wrong.is_empty()
    }

    /// How many things are wrong but for losses and holes.
    pub fn wrong_answers(&self) -> u64 {
        self.wrong.values().sum()
    }

    /// Something is wrong.
    pub fn wrong(&mut self, kind: &'static str, what: impl FnOnce() -> String) {
        self.first_is(what);
        *self.wrong.entry(kind).or_default() += 1;
    }

    fn first_is(&mut self, what: impl FnOnce() -> String) {
        if self.first.is_empty() {
            self.first = what();
        }
    }

    /// Adds what was found in another log.
    pub fn add(&mut self, other: Self) {
        self.events += other.events;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.holes += other.holes;
        self.unknown += other.unknown;
        self.unknown_written += other.unknown_written;
        self.first_is(|| other.first);
        for (kind, count) in other.wrong {
            *self.wrong.entry(kind).or_default() += count;
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, lost, holes, unknown, unknown_written, wrong, .. } = self;
        write!(f, "{acknowledged} appends acknowledged, events lost {lost}, holes {holes}, wrong answers {wrong:?}; ")?;
        write!(f, "{unknown_written} of {unknown} appends without an answer are there")?;
        if !self.first.is_empty() {
            write!(f, "\n  first: {:.2000}", self.first)?;
        }
        Ok(())
    }
}

/// Reads all there is.
async fn observe<S: EventStore + Clone>(store: &S, journal: &Journal) -> Result<Observed, StoreError> {
    let log: Vec<RecordedEvent> = store.log(ReadLog::all()).try_collect().await?;
    let mut answers = BTreeMap::new();
    let places = |events: Vec<RecordedEvent>| -> Vec<u64> {
        let is_as_logged = |event: &RecordedEvent| index(event).and_then(|index| log.get(index)) == Some(event);
        events.iter().map(|event| if is_as_logged(event) { event.position.get() } else { 0 }).collect()
    };
    answers.insert("the head".into(), vec![store.head().await?.position.get()]);
    answers.insert("the log backwards".into(), places(store.log(ReadLog::all().backwards()).try_collect().await?));
    for (name, filter) in filters(&log) {
        answers.insert(name, places(store.log(ReadLog::matching(filter)).try_collect().await?));
    }
    let mut after: Option<StreamId> = None;
    loop {
        let page = store.streams(None, after.as_ref(), 100).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        for stream in page {
            let read = ReadStream::new(stream.clone());
            let head = store.stream_head(&stream).await?;
            answers.insert(format!("the head of {stream}"), vec![head.version.get(), head.position.get()]);
            answers.insert(
                format!("{stream} backwards"),
                places(store.stream(read.clone().backwards()).try_collect().await?),
            );
            answers.insert(stream.to_string(), places(store.stream(read).try_collect().await?));
        }
    }
    for category in store.categories(None, 1_000).await? {
        answers.insert(format!("lists the category {category}"), Vec::new());
    }
    for id in journal.ids().chain(log.iter().map(|event| event.id)) {
        answers.insert(format!("event {id}"), places(store.event(id).await?.into_iter().collect()));
    }
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await?;
    let mut delivered = Vec::new();
    loop {
        match subscription.next().await? {
            Delivery::Event(event) => delivered.push(event),
            Delivery::CaughtUp(_) => break,
            Delivery::Progress(_) => {}
        }
    }
    answers.insert("a subscription".into(), places(delivered));
    Ok(Observed { log, answers })
}

fn index(event: &RecordedEvent) -> Option<usize> {
    event.position.get().checked_sub(1).and_then(|index| usize::try_from(index).ok())
}

/// Reads by category, type and tag that the events of a log make sense of.
fn filters(log: &[RecordedEvent]) -> BTreeMap<String, Filter> {
    let mut filters = BTreeMap::new();
    for event in log {
        let QualifiedType { category, event_type } = event.qualified_type();
        filters.entry(format!("category {category}")).or_insert_with(|| Filter::categories([category.clone()]));
        for tag in &event.tags {
            filters.entry(format!("tag {}", tag.as_str())).or_insert_with(|| tag.clone().into());
        }
        let name = format!("type {category}.{event_type}");
        let of_type = || QueryItem::types([event.qualified_type()]);
        filters.entry(name.clone()).or_insert_with(|| Query::new([of_type()]).into());
        if let Some(tag) = event.tags.first() {
            let name = format!("{name} and tag {}", tag.as_str());
            filters.entry(name).or_insert_with(|| Query::new([of_type().and_tag(tag.clone())]).into());
        }
    }
    filters
}

/// What a store with this log must answer.
fn answers_of(log: &[RecordedEvent], ids: impl Iterator<Item = EventId>) -> BTreeMap<String, Vec<u64>> {
    let positions = |matches: &dyn Fn(&RecordedEvent) -> bool| -> Vec<u64> {
        log.iter().filter(|event| matches(event)).map(|event| event.position.get()).collect()
    };
    let mut answers: BTreeMap<String, Vec<u64>> = ids.map(|id| (format!("event {id}"), Vec::new())).collect();
    let all = positions(&|_| true);
    answers.insert("the head".into(), vec![all.last().copied().unwrap_or_default()]);
    answers.insert("the log backwards".into(), all.iter().rev().copied().collect());
    answers.insert("a subscription".into(), all);
    for (name, filter) in filters(log) {
        answers.insert(name, positions(&|event| filter.matches(event)));
    }
    for event in log {
        let position = event.position.get();
        answers.insert(format!("event {}", event.id), vec![position]);
        answers.insert(format!("the head of {}", event.stream), vec![event.version.get(), position]);
        answers.insert(format!("lists the category {}", event.stream.category()), Vec::new());
        answers.entry(event.stream.to_string()).or_default().push(position);
        answers.entry(format!("{} backwards", event.stream)).or_default().insert(0, position);
    }
    answers
}

fn judge(journal: &Journal, observed: &Observed) -> Verdict {
    let log = &observed.log;
    let mut verdict = Verdict { events: log.len() as u64, ..Verdict::default() };
    for what in &journal.wrong {
        verdict.wrong("answer", || what.clone());
    }
    judge_order(log, &mut verdict);
    judge_appends(journal, log, &mut verdict);
    for (position, event) in &journal.seen {
        let found = log.get(*position as usize - 1).map(|found| found.id.to_string());
        if found.as_ref() != Some(event) {
            verdict.wrong("seen, then gone", || format!("position {position} was {event}, is {found:?}"));
        }
    }
    let expected = answers_of(log, journal.ids());
    for (question, answer) in &expected {
        let found = observed.answers.get(question);
        if found != Some(answer) {
            verdict.wrong("read", || format!("{question} is {found:?}, the log has {answer:?}"));
        }
    }
    for (question, answer) in observed.answers.iter().filter(|(question, _)| !expected.contains_key(*question)) {
        verdict.wrong("read", || format!("{question} is {answer:?}, the log has none"));
    }
    verdict
}

/// What the log shows without any journal.
fn judge_order(log: &[RecordedEvent], verdict: &mut Verdict) {
    let mut versions: HashMap<&StreamId, u64> = HashMap::new();
    let mut recorded_at = log.first().map(|event| event.recorded_at);
    for (event, position) in log.iter().zip(1..) {
        let version = versions.entry(&event.stream).or_default();
        *version += 1;
        if event.position.get() != position || event.version.get() != *version {
            verdict.first_is(|| format!("position {position} and version {version} hold {event:?}"));
            verdict.holes += 1;
            *version = event.version.get();
        }
        if recorded_at > Some(event.recorded_at) {
            verdict.wrong("time", || format!("position {position} was recorded before its predecessor"));
        }
        recorded_at = Some(event.recorded_at);
    }
    if log.last().is_some_and(|last| !last.ends_append) {
        verdict.wrong("torn", || "the log ends inside an append".into());
    }
}

fn judge_appends(journal: &Journal, log: &[RecordedEvent], verdict: &mut Verdict) {
    let mut by_id: HashMap<EventId, &RecordedEvent> = HashMap::with_capacity(log.len());
    for event in log {
        if by_id.insert(event.id, event).is_some() {
            verdict.wrong("twice", || format!("{event:?}"));
        }
    }
    for (name, sent) in &journal.sent {
        let append = name.append();
        let count = append.events().len() as u64;
        let there: Vec<_> = append.events().iter().filter_map(|(_, event)| by_id.remove(&event.id)).collect();
        match sent.ending {
            Ending::Acknowledged(position) => {
                verdict.acknowledged += 1;
                if (there.len() as u64) < count {
                    verdict.first_is(|| format!("lost: append {name}, acknowledged at {position}"));
                    verdict.lost += count - there.len() as u64;
                }
                if there.first().is_some_and(|event| event.position.get() != position) {
                    verdict.wrong("moved", || format!("append {name} is at {:?}: {sent:?}", there[0].position));
                }
            }
            Ending::MayBeThere => verdict.unknown += 1,
            Ending::NotThere => {}
        }
        let Some(first) = there.first().map(|event| event.position.get()) else { continue };
        verdict.unknown_written += u64::from(sent.ending == Ending::MayBeThere);
        if sent.ending == Ending::NotThere || name.kind() == Kind::Refused {
            verdict.wrong("refused, yet there", || format!("append {name} at {first}"));
        }
        if there.len() as u64 != count || !there[there.len() - 1].ends_append {
            verdict.wrong("torn", || format!("append {name} at {first}: {} of {count} events", there.len()));
        }
        if first <= sent.after || first > sent.until {
            verdict.wrong("order", || format!("append {name} at {first}: {sent:?}"));
        }
        for ((event, (stream, new)), position) in there.iter().zip(append.events()).zip(first..) {
            let is_same = event.stream == *stream
                && event.data == new.data
                && event.tags == new.tags
                && event.event_type == new.event_type
                && event.content_type == new.content_type
                && event.position.get() == position;
            if !is_same {
                verdict.wrong("changed", || format!("append {name} at {first}: {event:?}"));
            }
        }
    }
    for event in by_id.into_values() {
        verdict.wrong("from nowhere", || format!("{event:?}"));
    }
}

/// How many appends are sent again, of those with and of those without an answer.
const SENT_AGAIN: usize = 20;

/// What is in the log answers with its position, what is not is written now, and once.
async fn send_again<S: EventStore>(store: &S, journal: &Journal, observed: &Observed, verdict: &mut Verdict) {
    let acknowledged = journal.sent.iter().rev().filter(|(_, sent)| matches!(sent.ending, Ending::Acknowledged(_)));
    let acknowledged = acknowledged.map(|(name, _)| *name).take(SENT_AGAIN);
    let mut head = observed.log.len() as u64;
    for name in acknowledged.chain(journal.unknown().into_iter().rev().take(SENT_AGAIN)) {
        let append = name.append();
        let question = format!("event {}", name.id(0));
        let before = observed.answers.get(&question).and_then(|positions| positions.first()).copied();
        let stream = append.events()[0].0.clone();
        let count = append.events().len() as u64;
        let is_right = match store.append(append.check(stream, ExpectedVersion::Any)).await {
            Ok(AppendOutcome::Appended(done)) => {
                head += if before.is_none() { count } else { 0 };
                let position = before.unwrap_or(head + 1 - count);
                done.repeated == before.is_some() && done.events[0].position.get() == position
            }
            _ => false,
        };
        if !is_right {
            verdict.wrong("sent again", || format!("append {name}, at {before:?}, head {head}"));
        }
    }
}
