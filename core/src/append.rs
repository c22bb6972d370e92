//! Writing: what an append asks for, what it is answered, and how it is judged (L1, L2, L5, L10, L13).

use smallvec::SmallVec;

use crate::{
    EventId, InvalidInput, NewEvent, Position, Query, RecordedEvent, StoreId, StreamId, Timestamp, Token, Version,
    event::TAGS_MAX,
    query::{QUERY_ITEMS_MAX, QUERY_NAMES_MAX},
};

mod judge;

pub use judge::{Facts, Judgement, judge};

/// The most events in one append.
pub const APPEND_EVENTS_MAX: usize = 10_000;
/// The most streams that one append names, written or checked.
pub const APPEND_STREAMS_MAX: usize = 100;
/// The limits that a store can be opened with; all others are constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    event_bytes_max: usize,
    append_bytes_max: usize,
}

impl Limits {
    const MIB: usize = 1024 * 1024;

    /// Limits of one's own.
    ///
    /// # Errors
    /// [`InvalidInput`] for an event over 16 MiB, an append over 64 MiB, or an event larger than an append.
    pub fn new(event_bytes_max: usize, append_bytes_max: usize) -> Result<Self, InvalidInput> {
        if event_bytes_max > 16 * Self::MIB || append_bytes_max > 64 * Self::MIB || event_bytes_max > append_bytes_max {
            let most = "an event has at most 16 MiB and no more than an append, an append at most 64 MiB";
            return Err(InvalidInput::new("limits", most));
        }
        Ok(Self { event_bytes_max, append_bytes_max })
    }

    /// The largest event in bytes (data, names, its stream's too, tags and metadata): 1 MiB, at most 16 MiB.
    pub const fn event_bytes_max(&self) -> usize {
        self.event_bytes_max
    }

    /// The largest append in bytes: 32 MiB, at most 64 MiB.
    pub const fn append_bytes_max(&self) -> usize {
        self.append_bytes_max
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { event_bytes_max: Self::MIB, append_bytes_max: 32 * Self::MIB }
    }
}

/// What a stream must be like for an append to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub enum ExpectedVersion {
    /// Whatever it is like.
    Any,
    /// It does not exist.
    NoStream,
    /// It has at least one event.
    Exists,
    /// Its last event has this version; `Exact(Version::NONE)` is [`NoStream`](Self::NoStream).
    Exact(Version),
}

impl ExpectedVersion {
    /// Whether a stream of this version is as expected.
    pub fn is_met_by(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == Version::NONE,
            Self::Exists => actual > Version::NONE,
            Self::Exact(version) => actual == version,
        }
    }
}

/// A consistency condition: no event matches `query` after position `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct Condition {
    /// The events that must not be there.
    pub query: Query,
    /// Exclusive; [`Position::START`] looks at the whole log. Beyond the head is invalid.
    pub after: Position,
}

impl Condition {
    /// No event matches `query` after `after`.
    pub fn none_after(query: Query, after: Position) -> Self {
        Self { query, after }
    }
}

/// Events for one or several streams, with what must hold for them to be written: all, or none.
///
/// ```
/// use indelible_core::{Append, ContentType, EventType, ExpectedVersion, NewEvent};
/// let event = |name| NewEvent::new(EventType::from_static(name), ContentType::JSON, "{}");
/// let transfer = Append::new()
///     .write("account-a".parse()?, ExpectedVersion::Exists, [event("Withdrawn")])
///     .write("account-b".parse()?, ExpectedVersion::Exists, [event("Deposited")])
///     .check("bank-1".parse()?, ExpectedVersion::Exists);
/// assert_eq!(transfer.events().len(), 2);
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct Append {
    events: Vec<(StreamId, NewEvent)>,
    expected: Vec<(StreamId, ExpectedVersion)>,
    conditions: Vec<Condition>,
    closes: Vec<StreamId>,
}

impl Append {
    /// An append of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An append to one stream.
    pub fn to(stream: StreamId, expected: ExpectedVersion, events: impl IntoIterator<Item = NewEvent>) -> Self {
        Self::new().write(stream, expected, events)
    }

    /// Writes events to a stream of this expected version. Events take their positions in the order of these calls.
    #[must_use]
    pub fn write(
        mut self,
        stream: StreamId,
        expected: ExpectedVersion,
        events: impl IntoIterator<Item = NewEvent>,
    ) -> Self {
        let events = events.into_iter();
        if self.events.is_empty() {
            // Most appends are written so, once: with room for just these they are small.
            self.events.reserve_exact(events.size_hint().0.min(APPEND_EVENTS_MAX));
            self.expected.reserve_exact(1);
        }
        for event in events {
            self = self.event(stream.clone(), event);
        }
        self.check(stream, expected)
    }

    /// Writes one event more, to a stream whose expected version is named elsewhere or doesn't matter.
    #[must_use]
    pub fn event(mut self, stream: StreamId, event: NewEvent) -> Self {
        self.events.push((stream, event));
        self
    }

    /// Demands that a stream has this expected version, without writing to it.
    #[must_use]
    pub fn check(mut self, stream: StreamId, expected: ExpectedVersion) -> Self {
        self.expected.push((stream, expected));
        self
    }

    /// Demands that a consistency condition holds.
    #[must_use]
    pub fn require(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Closes a stream: its last event in this append is its last for ever, and later appends to it conflict.
    #[must_use]
    pub fn close(mut self, stream: StreamId) -> Self {
        self.closes.push(stream);
        self
    }

    /// The events, in the order of their positions.
    pub fn events(&self) -> &[(StreamId, NewEvent)] {
        &self.events
    }

    /// What is expected of streams.
    pub fn expected(&self) -> &[(StreamId, ExpectedVersion)] {
        &self.expected
    }

    /// The consistency conditions.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// The streams it closes.
    pub fn closes(&self) -> &[StreamId] {
        &self.closes
    }

    /// The bytes that count for the limits.
    pub fn size(&self) -> usize {
        self.events.iter().map(|(stream, event)| stream.as_str().len() + event.size()).sum()
    }

    /// Refuses what breaks a rule or a limit; every store calls it before anything else.
    ///
    /// # Errors
    /// [`InvalidInput`], naming the first rule that is broken.
    pub fn validate(&self, limits: &Limits) -> Result<(), InvalidInput> {
        let refuse = |what, reason: String| Err(InvalidInput::new(what, reason));
        if self.events.is_empty() {
            return refuse("append", "has no events".into());
        }
        if self.events.len() > APPEND_EVENTS_MAX {
            return refuse(
                "append",
                format!("has {} events, at most {APPEND_EVENTS_MAX} are allowed", self.events.len()),
            );
        }
        // Sorted, and not hashed: most appends have one event. For those there is room without memory of its own.
        let mut streams: SmallVec<[&StreamId; 4]> = self.expected.iter().map(|(stream, _)| stream).collect();
        streams.sort_unstable();
        if let Some(twice) = streams.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("append", format!("names an expected version of {} twice", twice[0]));
        }
        streams.extend(self.events.iter().map(|(stream, _)| stream));
        streams.sort_unstable();
        streams.dedup();
        if streams.len() > APPEND_STREAMS_MAX {
            let count = streams.len();
            return refuse("append", format!("names {count} streams, at most {APPEND_STREAMS_MAX} are allowed"));
        }
        let mut closes: SmallVec<[&StreamId; 4]> = self.closes.iter().collect();
        closes.sort_unstable();
        if let Some(twice) = closes.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("append", format!("closes {} twice", twice[0]));
        }
        let is_written = |closed: &StreamId| self.events.iter().any(|(stream, _)| stream == closed);
        if let Some(stream) = closes.into_iter().find(|stream| !is_written(stream)) {
            return refuse("append", format!("closes {stream} without a last event for it"));
        }
        let items: usize = self.conditions.iter().map(|condition| condition.query.items().len()).sum();
        if items > QUERY_ITEMS_MAX {
            return refuse("append", format!("has {items} query items, at most {QUERY_ITEMS_MAX} are allowed"));
        }
        let names: usize = self.conditions.iter().map(|condition| condition.query.names()).sum();
        if names > QUERY_NAMES_MAX {
            return refuse("append", format!("queries {names} types and tags, at most {QUERY_NAMES_MAX} are allowed"));
        }
        for condition in &self.conditions {
            condition.query.validate()?;
        }
        let mut ids: SmallVec<[EventId; 4]> = self.events.iter().map(|(_, event)| event.id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("append", format!("has the event id {} twice", twice[0]));
        }
        for (stream, event) in &self.events {
            let size = stream.as_str().len() + event.size();
            if size > limits.event_bytes_max {
                let max = limits.event_bytes_max;
                return refuse("event", format!("for {stream} has {size} bytes, at most {max} are allowed"));
            }
            if event.tags.len() > TAGS_MAX {
                let count = event.tags.len();
                return refuse("event", format!("for {stream} has {count} tags, at most {TAGS_MAX} are allowed"));
            }
            if event.schema_version == 0 {
                return refuse("event", format!("for {stream} has schema version 0, the first is 1"));
            }
            if let Some(tag) = event.tags.iter().enumerate().find(|(n, tag)| event.tags[..*n].contains(tag)) {
                return refuse("event", format!("for {stream} has the tag {:?} twice", tag.1));
            }
            if event.id == EventId::NIL {
                return refuse("event", format!("for {stream} has the nil id"));
            }
        }
        match self.size() {
            size if size > limits.append_bytes_max => {
                refuse("append", format!("has {size} bytes, at most {} are allowed", limits.append_bytes_max))
            }
            _ => Ok(()),
        }
    }

    /// The events as they are recorded after `head`, given the version that each stream has before, which is asked for
    /// once a stream, in the order of their first events.
    ///
    /// For stores, after [`judge`] said [`Judgement::Write`].
    ///
    /// # Errors
    /// Those of `version`.
    pub fn record<E>(
        self,
        head: Position,
        recorded_at: Timestamp,
        mut version: impl FnMut(&StreamId) -> Result<Version, E>,
    ) -> Result<Vec<RecordedEvent>, E> {
        // Of each stream that is written, of which there are few, the last version and its event.
        let mut versions: SmallVec<[(StreamId, Version, usize); 1]> = SmallVec::new();
        let count = self.events.len();
        let mut recorded = Vec::with_capacity(count);
        for (index, (stream, event)) in self.events.into_iter().enumerate() {
            let place = match versions.iter().rposition(|(written, ..)| *written == stream) {
                Some(place) => place,
                None => {
                    versions.push((stream.clone(), version(&stream)?, index));
                    versions.len() - 1
                }
            };
            let last = &mut versions[place];
            (last.1, last.2) = (last.1.plus(1), index);
            let position = head.plus(index as u64 + 1);
            let mut event = RecordedEvent::new(event, stream, last.1, position, recorded_at);
            event.ends_append = index + 1 == count;
            recorded.push(event);
        }
        for stream in &self.closes {
            if let Some((.., last)) = versions.iter().find(|(written, ..)| written == stream) {
                recorded[*last].closes_stream = true;
            }
        }
        Ok(recorded)
    }
}

/// How an append ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub enum AppendOutcome {
    /// It is written, durable and visible.
    Appended(Appended),
    /// Something that it demands does not hold; nothing was written. Every condition that failed, in the order in
    /// which the append names them: streams, then queries.
    Conflict(Vec<FailedCondition>),
}

/// An append that is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub struct Appended {
    /// Stands for the log up to its last event.
    pub token: Token,
    /// The events as they are recorded.
    pub events: Vec<RecordedEvent>,
    /// Whether the same append had been written before, and this is its answer again (L5).
    pub repeated: bool,
}

impl Appended {
    /// What an append of these events is answered with.
    pub fn new(store: StoreId, events: Vec<RecordedEvent>, repeated: bool) -> Self {
        let place = |last: &RecordedEvent| Token { store, position: last.position, event: last.id };
        let token = events.last().map_or(Token::start(store), place);
        Self { token, events, repeated }
    }
}

/// A condition of an append that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[cfg_attr(feature = "conformance", derive(serde::Serialize, serde::Deserialize))]
pub enum FailedCondition {
    /// A stream was not of its expected version.
    #[error("{stream} is at version {actual}, expected was {expected:?}")]
    Version {
        /// The stream.
        stream: StreamId,
        /// What was expected of it.
        expected: ExpectedVersion,
        /// The version it has.
        actual: Version,
    },
    /// A stream that was to be written is closed.
    #[error("{stream} was closed at version {version}")]
    Closed {
        /// The stream.
        stream: StreamId,
        /// The version of its last event.
        version: Version,
    },
    /// An event matches a query that none may match.
    #[error("condition {index} found an event at position {position}")]
    Query {
        /// Which of the append's conditions, from 0.
        index: usize,
        /// The position of the first event that matches.
        position: Position,
    },
}
