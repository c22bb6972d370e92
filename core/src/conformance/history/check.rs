//! The checker.
//!
//! All that a store answers depends on one number, the head at the moment of the call: the state of a log is its
//! prefix. And whatever it answers was right at the heads of one interval, [`Moments`]: a stream has a version from the
//! event of that version until the next one; a query that found an event finds it for ever. So each call has the
//! interval of heads at which its answer is true, an append that wrote has exactly one, and the question that is left
//! is whether real time agrees: what began after another call had ended must not stand before it.
//!
//! That is decided by one walk through the history in real time, which gives each call the earliest head that it may
//! have: the first in its interval that is not before those of calls that had ended when it began. Any other choice is
//! later, and leaves less to those that follow; so where this one fails, all do.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::AddAssign,
};

use super::{
    Answer, Call, Exchange,
    answers::{Moments, Subscriber},
    index::Index,
};
use crate::{Append, RecordedEvent, StartFrom, StoreId};

/// An answer that no store may give, or a log that no store may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Anomaly {
    /// Which of the calls, where it is one.
    pub call: Option<usize>,
    /// What is wrong, with the call in words.
    pub what: String,
}

/// What a history without an anomaly consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Calls of all kinds.
    pub calls: usize,
    /// Events in the log.
    pub events: usize,
    /// Answers during which another append was decided.
    pub contended: usize,
    /// How many calls of each kind of answer there were: `"written"`, `"conflict"`, `"read"` and so on.
    pub answers: BTreeMap<&'static str, usize>,
}

impl AddAssign for Checked {
    fn add_assign(&mut self, more: Self) {
        self.calls += more.calls;
        self.events += more.events;
        self.contended += more.contended;
        more.answers.into_iter().for_each(|(kind, count)| *self.answers.entry(kind).or_default() += count);
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, events, contended, answers } = self;
        write!(f, "{calls} calls, {contended} with an append beside them, {events} events; answers: {answers:?}")
    }
}

/// Says whether a store may have answered all these calls so, given the log that it has in the end.
///
/// # Errors
/// The first [`Anomaly`] that it comes upon.
pub fn check_history(calls: &[Call], log: &[RecordedEvent]) -> Result<Checked, Anomaly> {
    let index = Index::new(log).map_err(|what| Anomaly { call: None, what })?;
    let mut checker = Checker { calls, index, store: None, writers: HashMap::new() };
    checker.find_writers()?;
    let moments = checker.moments()?;
    checker.walk(&moments)
}

pub(super) struct Checker<'a> {
    calls: &'a [Call],
    pub(super) index: Index<'a>,
    pub(super) store: Option<StoreId>,
    /// By the position of an append's first event: the call that wrote it.
    pub(super) writers: HashMap<u64, usize>,
}

impl<'a> Checker<'a> {
    fn anomaly(&self, call: usize, why: impl fmt::Display) -> Anomaly {
        let Call { invoked, returned, exchange } = &self.calls[call];
        Anomaly { call: Some(call), what: format!("{why}: call {call}, from {invoked} to {returned}: {exchange:?}") }
    }

    /// Tells of each append in the log which call wrote it: the one that was told so or, where none was, the first of
    /// those that were told nothing and whose demands were met there: the same events may have been sent with others.
    /// All of the log must have been written by somebody, and once.
    fn find_writers(&mut self) -> Result<(), Anomaly> {
        for (call, Call { exchange, .. }) in self.calls.iter().enumerate() {
            let Exchange::Append { append, answer: Answer::Appended(appended) } = exchange else { continue };
            if appended.repeated {
                continue;
            }
            let Some(first) = self.recorded(append) else {
                return Err(self.anomaly(call, "acknowledged, and not in the log"));
            };
            if let Some(other) = self.writers.insert(first, call) {
                return Err(self.anomaly(call, format!("written twice, also by call {other}")));
            }
        }
        let mut untold: Vec<usize> = (0..self.calls.len()).collect();
        untold.sort_unstable_by_key(|call| self.calls[*call].invoked);
        for call in untold {
            let Exchange::Append { append, answer: Answer::Unknown } = &self.calls[call].exchange else { continue };
            let Some(first) = self.recorded(append) else { continue };
            if !self.writers.contains_key(&first) && self.written(append, first).is_ok_and(|moments| !moments.is_none())
            {
                self.writers.insert(first, call);
            }
        }
        let mut first = 1;
        while first <= self.index.head() {
            if !self.writers.contains_key(&first) {
                let what = format!("nobody may have written what is at position {first}: {:?}", self.index.at(first));
                return Err(Anomaly { call: None, what });
            }
            first = self.index.end(first) + 1;
        }
        Ok(())
    }

    /// Where the log has the very same append.
    pub(super) fn recorded(&self, append: &Append) -> Option<u64> {
        let first = self.index.find(append.events().first()?.1.id)?;
        let count = append.events().len() as u64;
        let starts = first == 1 || self.index.end(first - 1) == first - 1;
        let same = append.events().iter().zip(first..).all(|((stream, event), position)| {
            self.index.at(position).is_some_and(|recorded| recorded.records(stream, event))
        });
        (starts && same && self.index.end(first) == first + count - 1).then_some(first)
    }

    /// At which heads each call's answer is right.
    fn moments(&mut self) -> Result<Vec<Moments>, Anomaly> {
        let mut in_time: Vec<usize> = (0..self.calls.len()).collect();
        in_time.sort_unstable_by_key(|call| self.calls[*call].invoked);
        let mut moments = vec![Moments::ALL; self.calls.len()];
        let mut subscribers: HashMap<usize, Subscriber<'a>> = HashMap::new();
        let calls = self.calls;
        for call in in_time {
            let right = match &calls[call].exchange {
                Exchange::Subscribe { subscriber, filter, from } => {
                    let looked_to = match from {
                        StartFrom::Beginning => Some(0),
                        StartFrom::After(token) => Some(token.position.get()),
                        StartFrom::Now => None,
                    };
                    subscribers.insert(*subscriber, Subscriber { call, filter, looked_to });
                    match from {
                        StartFrom::After(token) => self.token(token),
                        _ => Ok(Moments::ALL),
                    }
                }
                Exchange::Delivery { subscriber, delivery } => match subscribers.get_mut(subscriber) {
                    Some(subscriber) => self.delivery(subscriber, delivery, &mut moments),
                    None => Err("nobody subscribed".into()),
                },
                exchange => self.answer(call, exchange),
            };
            moments[call] = right.map_err(|why| self.anomaly(call, why))?;
        }
        Ok(moments)
    }

    /// Walks through the history in real time, and gives each call the earliest place that it may have.
    fn walk(&self, moments: &[Moments]) -> Result<Checked, Anomaly> {
        let begins = self.calls.iter().enumerate().map(|(call, c)| (c.invoked, call, true));
        let ends = self.calls.iter().enumerate().map(|(call, c)| (c.returned, call, false));
        let mut steps: Vec<_> = begins.chain(ends.filter(|(returned, ..)| *returned != Call::NEVER)).collect();
        steps.sort_unstable();
        let writes: HashMap<usize, u64> = self.writers.iter().map(|(first, call)| (*call, *first)).collect();
        let mut floor = 0;
        let mut floor_at = vec![0; self.calls.len()];
        let mut checked = Checked { calls: self.calls.len(), events: self.index.log.len(), ..Checked::default() };
        for (_, call, begins) in steps {
            let written = writes.get(&call);
            let Moments { low, high } = moments[call];
            if begins {
                floor_at[call] = floor;
                *checked.answers.entry(self.kind(call)).or_default() += 1;
            }
            let earliest = self.index.end(low.max(floor_at[call]));
            if earliest > high.min(self.index.head()) && (written.is_some() || !begins) {
                let why = format!(
                    "was true with the head from {low} to {high}, and the head was {} or more when it began",
                    floor_at[call]
                );
                return Err(self.anomaly(call, why));
            }
            if !begins {
                checked.contended += usize::from(floor > floor_at[call]);
                floor = floor.max(written.map_or(earliest, |first| self.index.end(*first)));
            }
        }
        Ok(checked)
    }

    fn kind(&self, call: usize) -> &'static str {
        match &self.calls[call].exchange {
            Exchange::Append { answer, .. } => match answer {
                Answer::Appended(appended) if appended.repeated => "repeated",
                Answer::Appended(_) => "written",
                Answer::Conflict(_) => "conflict",
                Answer::IdConflict(..) => "id conflict",
                Answer::Invalid => "invalid",
                Answer::Refused => "refused",
                Answer::Unknown => "unknown",
            },
            Exchange::Delivery { .. } => "delivery",
            _ => "read",
        }
    }
}
