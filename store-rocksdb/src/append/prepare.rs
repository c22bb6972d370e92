//! What a caller does for its append on its own thread, before the sequencer sees it: judges it on all that is published,
//! and encodes its events. Most appends that fail end here, and all that repeat.

use std::sync::Arc;

use indelible_core::{
    Append, AppendOutcome, Appended, EventId, Facts, Judgement, Position, Query, RecordedEvent, StoreError, StreamHead,
    StreamId, Token, judge,
};
use smallvec::SmallVec;

use crate::{engine::Fault, read::View, record};

/// An append that may be written, and is encoded.
pub(crate) struct Prepared {
    pub(crate) append: Arc<Append>,
    /// All that it demands held here.
    pub(crate) judged: Token,
    /// The streams that it names, with their heads as of then.
    pub(crate) streams: SmallVec<[(StreamId, StreamHead); 1]>,
    pub(super) events: SmallVec<[Encoded; 1]>,
    /// The records of its events, one behind the other.
    pub(super) records: Vec<u8>,
    /// Whether it demands more than streams of expected versions.
    pub(super) has_conditions: bool,
    /// Whether the sequencer judges it to the end, because it gave up often enough.
    pub(crate) is_judged_patiently: bool,
}

/// What the sequencer needs of an event beside its record, so that it need not look at the event itself, which is in the
/// cache of its caller's processor.
pub(super) struct Encoded {
    pub(super) id: EventId,
    /// The place of its stream among those that the append names.
    pub(super) stream: usize,
    /// Where its record ends.
    pub(super) end: usize,
}

/// What preparing came to.
pub(crate) enum Preparation {
    /// It needs the sequencer.
    Ready(Box<Prepared>),
    /// It is decided already.
    Done(AppendOutcome),
}

/// Judges an append on the log up to a view's head, and encodes it where that says that it may be written. All that it demands
/// held at a place where it was `judged` before.
pub(crate) fn prepare(view: &View<'_>, append: &Arc<Append>, judged: Token) -> Result<Preparation, Fault> {
    // What was published before the store was resumed may be lost.
    let judged = match judged.position <= view.head && view.token(judged.position)? == judged {
        true => judged.position,
        false => Position::START,
    };
    let mut streams: SmallVec<[(StreamId, StreamHead); 1]> = SmallVec::new();
    let mut place = |stream: &StreamId| -> Result<usize, Fault> {
        if let Some(place) = streams.iter().position(|(named, _)| named == stream) {
            return Ok(place);
        }
        streams.push((stream.clone(), view.stream_head(stream)?));
        Ok(streams.len() - 1)
    };
    for (stream, _) in append.expected() {
        place(stream)?;
    }
    let written = append.events().iter().map(|(stream, _)| place(stream)).collect::<Result<SmallVec<[_; 1]>, _>>()?;
    match judge(append, &Published { view, judged, streams: &streams })? {
        Judgement::Write => {}
        Judgement::Repeated(events) => {
            return Ok(Preparation::Done(AppendOutcome::Appended(Appended::new(view.store, events, true))));
        }
        Judgement::Conflict(failed) => return Ok(Preparation::Done(AppendOutcome::Conflict(failed))),
        Judgement::IdConflict(id, position) => return Err(StoreError::IdConflict { id, position }.into()),
        Judgement::Invalid(invalid) => return Err(invalid.into()),
    }
    let count = append.events().len();
    let mut records = Vec::with_capacity(append.size() + 64 * count);
    let mut events = SmallVec::with_capacity(count);
    for (index, (stream, event)) in append.events().iter().enumerate() {
        let is_last = || !append.events()[index + 1..].iter().any(|(later, _)| later == stream);
        let closes = append.closes().contains(stream) && is_last();
        record::encode(&mut records, stream, event, closes, index + 1 == count);
        events.push(Encoded { id: event.id, stream: written[index], end: records.len() });
    }
    let append = Arc::clone(append);
    let judged = Token { store: view.store, position: view.head, event: view.head_event };
    let has_conditions = !append.conditions().is_empty();
    let prepared = Prepared { append, judged, streams, events, records, has_conditions, is_judged_patiently: false };
    Ok(Preparation::Ready(Box::new(prepared)))
}

/// The facts of a view.
struct Published<'a> {
    view: &'a View<'a>,
    judged: Position,
    streams: &'a [(StreamId, StreamHead)],
}

impl Facts for Published<'_> {
    type Error = Fault;

    fn head(&self) -> Position {
        self.view.head
    }

    fn stream(&self, stream: &StreamId) -> Result<StreamHead, Fault> {
        match self.streams.iter().find(|(named, _)| named == stream) {
            Some((_, head)) => Ok(*head),
            None => self.view.stream_head(stream),
        }
    }

    fn find(&self, id: EventId) -> Result<Option<Position>, Fault> {
        self.view.find(id)
    }

    fn event(&self, position: Position) -> Result<Option<RecordedEvent>, Fault> {
        match position == Position::START || position > self.view.head {
            true => Ok(None),
            false => self.view.event(position).map(Some),
        }
    }

    fn first_match(&self, query: &Query, after: Position) -> Result<Option<Position>, Fault> {
        self.view.first_match(query, after.max(self.judged))
    }
}
