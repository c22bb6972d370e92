//! The checker of histories beside one that knows nothing of logs: [`stateright`]'s tester of linearizability, which
//! tries orders until one fits, with the judge of appends as its sequential specification. Over histories that were
//! changed at random, rightly or wrongly, both must come to the same verdict. `INDELIBLE_HISTORY_OPINIONS` says over how
//! many.

use std::convert::Infallible;

use indelible_core::{
    Append, EventId, Facts, FailedCondition, Judgement, Position, Query, RecordedEvent, StreamHead, StreamId,
    Timestamp,
    conformance::history::{Answer, Call, Exchange, Workload, check_history},
    judge,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use crate::histories::History;

/// A log that is asked one thing after the other.
#[derive(Clone, Debug, Default)]
struct Log(Vec<RecordedEvent>);

#[derive(Clone, Debug)]
enum Asked {
    Append(Append),
    StreamHead(StreamId),
    Head,
    Event(EventId),
}

#[derive(Clone, Debug, PartialEq)]
enum Answered {
    Written(Vec<(Position, EventId)>, bool),
    Conflict(Vec<FailedCondition>),
    IdConflict(EventId, Position),
    Invalid,
    StreamHead(StreamHead),
    Head(Position),
    Event(Option<Position>),
}

impl Facts for Log {
    type Error = Infallible;

    fn head(&self) -> Position {
        Position::new(self.0.len() as u64)
    }
    fn stream(&self, stream: &StreamId) -> Result<StreamHead, Infallible> {
        let last = self.0.iter().rev().find(|event| event.stream == *stream);
        Ok(last.map(StreamHead::at).unwrap_or_default())
    }
    fn find(&self, id: EventId) -> Result<Option<Position>, Infallible> {
        Ok(self.0.iter().find(|event| event.id == id).map(|event| event.position))
    }
    fn event(&self, position: Position) -> Result<Option<RecordedEvent>, Infallible> {
        Ok(self.0.iter().find(|event| event.position == position).cloned())
    }
    fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, Infallible> {
        let mut behind = self.0.iter().filter(|event| event.position > after);
        Ok(behind.find(|event| query.matches(event)).map(|event| event.position))
    }
}

fn places(events: &[RecordedEvent]) -> Vec<(Position, EventId)> {
    events.iter().map(|event| (event.position, event.id)).collect()
}

impl SequentialSpec for Log {
    type Op = Asked;
    type Ret = Answered;

    fn invoke(&mut self, asked: &Asked) -> Answered {
        match asked {
            Asked::Append(append) => {
                let Ok(judgement) = judge(append, self);
                match judgement {
                    Judgement::Write => {
                        let version = |stream: &StreamId| self.stream(stream).map(|head| head.version);
                        let Ok(events) = append.clone().record(self.head(), Timestamp::now(), version);
                        self.0.extend_from_slice(&events);
                        Answered::Written(places(&events), false)
                    }
                    Judgement::Repeated(events) => Answered::Written(places(&events), true),
                    Judgement::Conflict(failed) => Answered::Conflict(failed),
                    Judgement::IdConflict(id, position) => Answered::IdConflict(id, position),
                    Judgement::Invalid(_) => Answered::Invalid,
                }
            }
            Asked::StreamHead(stream) => {
                let Ok(head) = self.stream(stream);
                Answered::StreamHead(head)
            }
            Asked::Head => Answered::Head(self.head()),
            Asked::Event(id) => {
                let Ok(position) = self.find(*id);
                Answered::Event(position)
            }
        }
    }
}

/// A call as the specification knows it.
fn translated(call: &Call) -> Option<(Asked, Answered)> {
    Some(match &call.exchange {
        Exchange::Append { append, answer } => {
            let answered = match answer {
                Answer::Appended(appended) => Answered::Written(places(&appended.events), appended.repeated),
                Answer::Conflict(failed) => Answered::Conflict(failed.clone()),
                Answer::IdConflict(id, position) => Answered::IdConflict(*id, *position),
                Answer::Invalid => Answered::Invalid,
                Answer::Refused | Answer::Unknown => return None,
            };
            (Asked::Append(append.clone()), answered)
        }
        Exchange::StreamHead { stream, head } => (Asked::StreamHead(stream.clone()), Answered::StreamHead(*head)),
        Exchange::Head { token } => (Asked::Head, Answered::Head(token.position)),
        Exchange::Event { id, event } => {
            (Asked::Event(*id), Answered::Event(event.as_ref().map(|event| event.position)))
        }
        _ => return None,
    })
}

/// What stateright says.
fn is_linearizable(calls: &[Call]) -> bool {
    let mut steps: Vec<_> = (0..calls.len())
        .flat_map(|call| [(calls[call].invoked, call, true), (calls[call].returned, call, false)])
        .collect();
    steps.sort_unstable();
    let mut tester = LinearizabilityTester::new(Log::default());
    // Whoever is free asks next.
    let mut threads: Vec<Option<usize>> = Vec::new();
    for (_, call, begins) in steps {
        let (asked, answered) = translated(&calls[call]).expect("told apart before");
        let thread = threads.iter().position(|at_work| *at_work == (!begins).then_some(call));
        let thread = thread.unwrap_or_else(|| {
            threads.push(None);
            threads.len() - 1
        });
        threads[thread] = begins.then_some(call);
        match begins {
            true => drop(tester.on_invoke(thread, asked).expect("a thread asks one thing at a time")),
            false => drop(tester.on_return(thread, answered).expect("it was asked")),
        }
    }
    tester.serialized_history().is_some()
}

/// Moves a call's beginning and end, or changes what it says; to the worse or not.
fn change(history: &mut History, random: &mut StdRng) {
    let (one, other) = (random.random_range(0..history.calls.len()), random.random_range(0..history.calls.len()));
    let (log, calls) = (&history.log, &mut history.calls);
    let step = |number: u64, random: &mut StdRng| (number + random.random_range(0..3)).saturating_sub(1);
    let times = (calls[other].invoked, calls[other].returned);
    let (invoked, returned) = (calls[one].invoked, calls[one].returned);
    match &mut calls[one].exchange {
        Exchange::StreamHead { stream, head } if random.random_bool(0.7) => {
            let version = step(head.version.get(), random);
            let at = log.iter().find(|event| event.stream == *stream && event.version.get() == version);
            *head = at.map(StreamHead::at).unwrap_or_default();
        }
        Exchange::Head { token } if random.random_bool(0.7) => {
            let at = (step(token.position.get(), random) as usize).min(log.len());
            token.position = Position::new(at as u64);
            token.event = at.checked_sub(1).map_or(EventId::NIL, |index| log[index].id);
        }
        Exchange::Event { id, event } if random.random_bool(0.7) => match event {
            Some(_) => *event = None,
            None => *event = log.iter().find(|event| event.id == *id).cloned(),
        },
        Exchange::Append { answer: Answer::Conflict(failed), .. } if random.random_bool(0.5) => {
            let many = failed.len() > 1;
            match &mut failed[0] {
                FailedCondition::Version { actual, expected, .. } => {
                    let other = indelible_core::Version::new(step(actual.get(), random));
                    *actual = if expected.is_met_by(other) { *actual } else { other };
                }
                FailedCondition::Query { .. } | FailedCondition::Closed { .. } if many => drop(failed.remove(0)),
                _ => {}
            }
        }
        _ => {
            (calls[one].invoked, calls[one].returned) = times;
            (calls[other].invoked, calls[other].returned) = (invoked, returned);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_checkers_agree() {
    let wanted = std::env::var("INDELIBLE_HISTORY_OPINIONS").map_or(100, |wanted| wanted.parse().expect("a number"));
    let seed = rand::random::<u32>().into();
    let random = &mut StdRng::seed_from_u64(seed);
    let mut verdicts = [0; 2];
    let mut histories = Vec::new();
    while verdicts.iter().sum::<usize>() < wanted {
        if histories.len() < 20 {
            let mut history = History::new(Workload::new(random.random(), 16).callers(3)).await;
            if history.calls.iter().any(|call| call.returned == Call::NEVER) {
                continue; // whether it was written only the log can tell
            }
            history.calls.retain(|call| translated(call).is_some());
            // Longer calls overlap more, and are no less right.
            for call in &mut history.calls {
                call.invoked = (16 * call.invoked).saturating_sub(random.random_range(1..50));
                call.returned = 16 * call.returned + random.random_range(1..50);
            }
            histories.push(history);
        }
        let mut history = histories[random.random_range(0..histories.len())].clone();
        for _ in 0..random.random_range(0..3) {
            change(&mut history, random);
        }
        let mine = check_history(&history.calls, &history.log);
        let theirs = is_linearizable(&history.calls);
        assert_eq!(mine.is_ok(), theirs, "seed {seed}: {mine:?} here, {theirs} there: {:#?}", history.calls);
        verdicts[usize::from(theirs)] += 1;
    }
    println!("seed {seed}: both checkers accept {} histories, and both reject {}", verdicts[1], verdicts[0]);
    assert!(verdicts.iter().all(|verdicts| *verdicts > wanted / 10), "one verdict is hardly ever given: {verdicts:?}");
}
