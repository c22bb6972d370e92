//! The checker of histories is tested too: of a history that is right it must accept all, and reject it with any answer,
//! or the log, changed to what cannot have been.
//!
//! What is changed is chosen so that it is wrong by construction, told without the checker: an answer that was out of
//! date before it was asked for, an event that came later than its reader, two calls exchanged that did not overlap.
//! `INDELIBLE_HISTORY_CHANGES` says how many are tried.

use std::{collections::BTreeMap, sync::Arc};

use futures::TryStreamExt;
use indelible_core::{
    AnyStore, Append, ContentType, Delivery, EventId, EventStoreExt, EventType, ExpectedVersion, FailedCondition,
    Limits, NewEvent, Position, ReadLog, RecordedEvent, StreamId, Timestamp, Version,
    conformance::{
        Harness,
        history::{Answer, Call, Exchange, Workload, check_history, record_history},
    },
    store::memory::MemoryStore,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

pub(crate) struct Memory(pub(crate) MemoryStore);

#[async_trait::async_trait]
impl Harness for Memory {
    fn store(&self) -> AnyStore {
        Arc::new(self.0.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        self.0 = self.0.reopened(limits, Position::MAX);
    }

    async fn crash(&mut self) {
        self.reopen(Limits::default()).await;
    }
}

#[derive(Clone)]
pub(crate) struct History {
    pub(crate) calls: Vec<Call>,
    pub(crate) log: Vec<RecordedEvent>,
}

impl History {
    pub(crate) async fn new(workload: Workload) -> Self {
        let mut memory = Memory(MemoryStore::new());
        let calls = record_history(&mut memory, workload).await.unwrap();
        let log = memory.store().log(ReadLog::all()).try_collect().await.unwrap();
        Self { calls, log }
    }

    /// Events whose append was answered before a moment.
    fn known_before(&self, moment: u64) -> Vec<&RecordedEvent> {
        let answered = self.calls.iter().filter(|call| call.returned < moment);
        answered.filter_map(written).flatten().collect()
    }

    /// Events whose append was begun after a moment.
    fn begun_after(&self, moment: u64) -> Vec<&RecordedEvent> {
        self.calls.iter().filter(|call| call.invoked > moment).filter_map(written).flatten().collect()
    }
}

fn written(call: &Call) -> Option<&Vec<RecordedEvent>> {
    match &call.exchange {
        Exchange::Append { answer: Answer::Appended(appended), .. } if !appended.repeated => Some(&appended.events),
        _ => None,
    }
}

/// Changes a history into one that cannot have been; `None` where this call is not one to do it with.
type Change = fn(&History, &mut History, usize, &mut StdRng) -> Option<()>;

const CHANGES: &[(&str, Change)] = &[
    ("an acknowledged append is lost", |_, history, call, _| {
        let first = written(&history.calls[call])?[0].position.get() as usize;
        history.log.truncate(first - 1);
        Some(())
    }),
    ("an event changes its id", |_, history, call, _| {
        let position = written(&history.calls[call])?.last()?.position.get() as usize;
        history.log[position - 1].id = EventId::new();
        Some(())
    }),
    ("a repetition counts as the first", |_, history, call, _| {
        let Exchange::Append { answer: Answer::Appended(appended), .. } = &mut history.calls[call].exchange else {
            return None;
        };
        appended.repeated.then(|| appended.repeated = false)
    }),
    ("an append in time takes another's place", |_, history, call, random| {
        let (first, early) = (written(&history.calls[call])?, &history.calls[call]);
        let position = first[0].position;
        let later = (0..history.calls.len()).filter(|later| {
            let late = &history.calls[*later];
            late.invoked > early.returned && written(late).is_some_and(|events| events[0].position > position)
        });
        let later = *later.collect::<Vec<_>>().choose(random)?;
        let (a, b) = (history.calls[call].clone(), history.calls[later].clone());
        (history.calls[call].invoked, history.calls[call].returned) = (b.invoked, b.returned);
        (history.calls[later].invoked, history.calls[later].returned) = (a.invoked, a.returned);
        Some(())
    }),
    ("an append was written though its version was not as expected", |_, history, call, _| {
        written(&history.calls[call])?;
        let Exchange::Append { append, .. } = &mut history.calls[call].exchange else { return None };
        let (stream, _) = append.events()[0].clone();
        let expected = append.expected().iter().all(|(named, _)| *named != stream);
        let never = ExpectedVersion::Exact(Version::new(1_000_000));
        expected.then(|| *append = append.clone().check(stream, never))
    }),
    ("an append was written though an event matched", |_, history, call, _| {
        let events = written(&history.calls[call])?.clone();
        let before = history.log[..events[0].position.get() as usize - 1].iter().rev();
        let seen = before.into_iter().find(|event| !event.tags.is_empty())?;
        let condition = indelible_core::Condition::none_after(seen.tags[0].clone().into(), Position::START);
        let Exchange::Append { append, .. } = &mut history.calls[call].exchange else { return None };
        *append = append.clone().require(condition);
        Some(())
    }),
    ("a conflict with a version that was gone", |original, history, call, _| {
        let asked = history.calls[call].invoked;
        let Exchange::Append { answer: Answer::Conflict(failed), .. } = &mut history.calls[call].exchange else {
            return None;
        };
        failed.iter_mut().find_map(|failed| {
            let FailedCondition::Version { stream, actual, expected } = failed else { return None };
            let known = original.known_before(asked);
            let last = known.iter().filter(|event| event.stream == *stream).map(|event| event.version).max()?;
            let stale = last.before();
            (*actual >= last && !expected.is_met_by(stale)).then(|| *actual = stale)
        })
    }),
    ("a conflict doesn't name all that failed", |original, history, call, _| {
        let asked = history.calls[call].invoked;
        let Exchange::Append { answer: Answer::Conflict(failed), .. } = &mut history.calls[call].exchange else {
            return None;
        };
        // That an event matches never ends, and it was there before the question.
        let known = original.known_before(asked);
        let old = failed.iter().position(|failed| {
            matches!(failed, FailedCondition::Query { position, .. } if known.iter().any(|e| e.position == *position))
        })?;
        drop(failed.remove(old));
        Some(())
    }),
    ("a conflict with an event that is not the first", |_, history, call, _| {
        let Exchange::Append { answer: Answer::Conflict(failed), .. } = &mut history.calls[call].exchange else {
            return None;
        };
        failed.iter_mut().find_map(|failed| match failed {
            FailedCondition::Query { position, .. } => {
                *position = position.plus(1);
                Some(())
            }
            _ => None,
        })
    }),
    ("a stream's head is out of date", |original, history, call, _| {
        let asked = history.calls[call].invoked;
        let Exchange::StreamHead { stream, head } = &mut history.calls[call].exchange else { return None };
        let known = original.known_before(asked);
        let last = known.iter().filter(|event| event.stream == *stream).max_by_key(|event| event.version)?;
        let stale = history.log.iter().find(|e| e.stream == *stream && e.version.plus(1) == last.version)?;
        *head = indelible_core::StreamHead::at(stale);
        Some(())
    }),
    ("a stream's head comes from the future", |original, history, call, _| {
        let answered = history.calls[call].returned;
        let Exchange::StreamHead { stream, head } = &mut history.calls[call].exchange else { return None };
        let later = original.begun_after(answered).into_iter().find(|event| event.stream == *stream)?;
        *head = indelible_core::StreamHead::at(later);
        Some(())
    }),
    ("the head is out of date", |original, history, call, _| {
        let known = original.known_before(history.calls[call].invoked);
        let stale = known.iter().map(|event| event.position).max()?.before();
        let stale = history.log.get((stale.get() as usize).checked_sub(1)?)?.clone();
        let Exchange::Head { token } = &mut history.calls[call].exchange else { return None };
        (token.position, token.event) = (stale.position, stale.id);
        Some(())
    }),
    ("a page lacks an event in its middle", |_, history, call, random| {
        let events = page(&mut history.calls[call])?;
        (events.len() > 2).then(|| drop(events.remove(random.random_range(1..events.len() - 1))))
    }),
    ("a page is out of order", |_, history, call, random| {
        let events = page(&mut history.calls[call])?;
        let at = random.random_range(1..events.len().max(2));
        (events.len() > 1).then(|| events.swap(at - 1, at))
    }),
    ("an event that was there is not found", |original, history, call, _| {
        let known = original.known_before(history.calls[call].invoked);
        let Exchange::Event { id, event: Some(event) } = &history.calls[call].exchange else { return None };
        if !known.iter().any(|known| known.id == event.id) {
            return None;
        }
        history.calls[call].exchange = Exchange::Event { id: *id, event: None };
        Some(())
    }),
    ("a subscriber misses an event", |_, history, call, _| {
        let Exchange::Delivery { subscriber, delivery: Delivery::Event(_) } = &history.calls[call].exchange else {
            return None;
        };
        let (by, at) = (*subscriber, history.calls[call].invoked);
        let of = |c: &Call| matches!(c.exchange, Exchange::Delivery { subscriber, .. } if subscriber == by);
        let goes_on = history.calls.iter().any(|call| of(call) && call.invoked > at);
        let has_begun = history.calls.iter().any(|call| of(call) && call.invoked < at);
        (goes_on && has_begun).then(|| drop(history.calls.remove(call)))
    }),
    ("a subscriber is told twice", |_, history, call, _| {
        let mut again = history.calls[call].clone();
        let Exchange::Delivery { delivery: Delivery::Event(_), .. } = &again.exchange else { return None };
        (again.invoked, again.returned) = (again.returned, again.returned + 1);
        history.calls.push(again);
        Some(())
    }),
    ("an event is seen before its append was begun", |_, history, call, _| {
        let Exchange::Event { event: Some(event), .. } = &history.calls[call].exchange else { return None };
        let by = history.calls.iter().find(|call| written(call).is_some_and(|events| events.contains(event)))?;
        let before = by.invoked.checked_sub(1).filter(|before| *before > 1)?;
        (history.calls[call].invoked, history.calls[call].returned) = (before - 1, before);
        Some(())
    }),
];

fn page(call: &mut Call) -> Option<&mut Vec<RecordedEvent>> {
    match &mut call.exchange {
        Exchange::ReadLog { page, .. } => Some(&mut page.events),
        Exchange::ReadStream { page, .. } => Some(&mut page.events),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_have_been_is_rejected() {
    let wanted = std::env::var("INDELIBLE_HISTORY_CHANGES").map_or(300, |wanted| wanted.parse().expect("a number"));
    let seed: u64 = rand::random::<u32>().into();
    let random = &mut StdRng::seed_from_u64(seed);
    let mut histories = Vec::new();
    for n in 0..6 {
        histories.push(History::new(Workload::new(seed + n, 240).callers(2 + n as usize)).await);
    }
    for history in &histories {
        let checked = check_history(&history.calls, &history.log).unwrap_or_else(|anomaly| panic!("{anomaly}"));
        println!("{checked}");
    }
    let mut rejected = BTreeMap::<&str, usize>::new();
    let is_over = |tried: usize, changes: usize| tried >= wanted && (changes == CHANGES.len() || tried >= 20 * wanted);
    while !is_over(rejected.values().sum(), rejected.len()) {
        let (name, change) = CHANGES.choose(random).expect("some");
        let original = histories.choose(random).expect("some");
        let mut history = original.clone();
        let tries = (0..1_000).find_map(|_| {
            let call = random.random_range(0..history.calls.len());
            change(original, &mut history, call, random).map(|()| call)
        });
        let Some(call) = tries else { continue };
        match check_history(&history.calls, &history.log) {
            Err(_) => *rejected.entry(name).or_default() += 1,
            Ok(_) => panic!("seed {seed}: {name}, and nobody noticed: {:?}", history.calls.get(call)),
        }
    }
    println!("all changed histories rejected: {rejected:#?}");
    assert_eq!(rejected.len(), CHANGES.len(), "each change was tried: {rejected:?}");
}

/// The same events were sent twice, with other demands, and nobody was told what became of either: the one whose demands
/// were met has written them, whichever came first.
#[test]
fn of_two_untold_appends_the_one_that_could_has_written() {
    let event = |data| NewEvent::new(EventType::from_static("A"), ContentType::JSON, data);
    let stream = "a-1".parse::<StreamId>().unwrap();
    let before = Append::to(stream.clone(), ExpectedVersion::Any, [event("1")]);
    let right = Append::to(stream.clone(), ExpectedVersion::Any, [event("2")]);
    let wrong = right.clone().check("b-1".parse().unwrap(), ExpectedVersion::Exists);
    let mut log = Vec::new();
    for append in [&before, &right] {
        let version = |_: &StreamId| Ok::<_, std::convert::Infallible>(Version::new(log.len() as u64));
        let Ok(events) = append.clone().record(Position::new(log.len() as u64), Timestamp::now(), version);
        log.extend_from_slice(&events);
    }
    let untold = |invoked, append: &Append| Call {
        invoked,
        returned: Call::NEVER,
        exchange: Exchange::Append { append: append.clone(), answer: Answer::Unknown },
    };
    check_history(&[untold(1, &before), untold(2, &wrong), untold(3, &right)], &log).expect("the last has written it");
    let anomaly = check_history(&[untold(1, &before), untold(2, &wrong)], &log).unwrap_err();
    assert!(anomaly.what.contains("nobody may have written"), "{anomaly}");
}
