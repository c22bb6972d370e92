//! How an append is judged: called by stores that decide in Rust, with the facts of one moment.

use smallvec::SmallVec;

use crate::{Append, EventId, FailedCondition, InvalidInput, Position, Query, RecordedEvent, StreamHead, StreamId};

/// What [`judge`] asks a store, whose answers are those of one moment at which no other append is decided.
pub trait Facts {
    /// Why a fact can't be told.
    type Error;
    /// The position of the last event.
    fn head(&self) -> Position;
    /// What a stream is like.
    ///
    /// # Errors
    /// The store's.
    fn stream(&self, stream: &StreamId) -> Result<StreamHead, Self::Error>;
    /// Where an event id is recorded.
    ///
    /// # Errors
    /// The store's.
    fn find(&self, id: EventId) -> Result<Option<Position>, Self::Error>;
    /// The event at a position, `None` beyond the head.
    ///
    /// # Errors
    /// The store's.
    fn event(&self, position: Position) -> Result<Option<RecordedEvent>, Self::Error>;
    /// The first event after `after` that matches.
    ///
    /// # Errors
    /// The store's.
    fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, Self::Error>;
}

/// What is to be done with an append.
#[derive(Debug)]
pub enum Judgement {
    /// Write it.
    Write,
    /// It is written already; these are its events.
    Repeated(Vec<RecordedEvent>),
    /// Something it demands does not hold.
    Conflict(Vec<FailedCondition>),
    /// One of its ids is taken by another append.
    IdConflict(EventId, Position),
    /// It breaks a rule that only the log can tell.
    Invalid(InvalidInput),
}

/// Judges a valid append: first whether it is a repetition (L5), then all that it demands (L2). It names every
/// condition that failed.
///
/// For stores that decide in Rust; one that decides in its engine must come to the same answers.
///
/// # Errors
/// Those of the facts.
pub fn judge<F: Facts>(append: &Append, facts: &F) -> Result<Judgement, F::Error> {
    for (index, (_, event)) in append.events.iter().enumerate() {
        let Some(position) = facts.find(event.id)? else { continue };
        if index > 0 {
            return Ok(Judgement::IdConflict(event.id, position));
        }
        return match recorded_before(append, position, facts)? {
            Some(events) => Ok(Judgement::Repeated(events)),
            None => Ok(Judgement::IdConflict(event.id, position)),
        };
    }
    let mut failed = Vec::new();
    for (stream, expected) in &append.expected {
        let head = facts.stream(stream)?;
        if !expected.is_met_by(head.version) {
            failed.push(FailedCondition::Version { stream: stream.clone(), expected: *expected, actual: head.version });
        }
    }
    let mut written: SmallVec<[&StreamId; 4]> = SmallVec::new();
    for (stream, _) in &append.events {
        if written.contains(&stream) {
            continue;
        }
        written.push(stream);
        let head = facts.stream(stream)?;
        if head.closed {
            failed.push(FailedCondition::Closed { stream: stream.clone(), version: head.version });
        }
    }
    for (index, condition) in append.conditions.iter().enumerate() {
        if condition.after > facts.head() {
            let reason = format!("looks after position {}, the head is {}", condition.after, facts.head());
            return Ok(Judgement::Invalid(InvalidInput::new("condition", reason)));
        }
        if let Some(position) = facts.first_match(&condition.query, condition.after)? {
            failed.push(FailedCondition::Query { index, position });
        }
    }
    Ok(if failed.is_empty() { Judgement::Write } else { Judgement::Conflict(failed) })
}

/// The events from `first` on, where they are just those of one append, and those of this one.
fn recorded_before<F: Facts>(
    append: &Append,
    first: Position,
    facts: &F,
) -> Result<Option<Vec<RecordedEvent>>, F::Error> {
    let count = append.events.len();
    if facts.event(first.before())?.is_some_and(|before| !before.ends_append) {
        return Ok(None);
    }
    let mut events = Vec::with_capacity(count);
    for (index, (stream, event)) in append.events.iter().enumerate() {
        let Some(recorded) = facts.event(first.plus(index as u64))? else { return Ok(None) };
        if !recorded.records(stream, event) || recorded.ends_append != (index + 1 == count) {
            return Ok(None);
        }
        events.push(recorded);
    }
    Ok(Some(events))
}
