//! Reading ahead: the events of a projection in chunks, as far as they are there, decoded. So what a partition is left to do
//! is to handle and to commit, while others read and decode what comes next.

use std::{
    collections::VecDeque,
    mem::{replace, take},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use indelible_core::{
    AnyStore, Delivery, Event, PAGE_EVENTS_MAX, Position, Query, RecordedEvent, StartFrom, Store, StoreError,
    Subscription, Token,
};

use tokio::task::JoinHandle;

use super::lane::{message, told};
use crate::Envelope;

/// An event that was asked for, and can't be decoded: what its partition is to be told.
pub(super) struct Undecodable {
    pub recorded: RecordedEvent,
    pub error: Arc<str>,
}

/// An event as it was read.
pub(super) type Read<E> = Result<Envelope<E>, Box<Undecodable>>;

/// What the log says of it.
pub(super) fn recorded<E>(read: &Read<E>) -> &RecordedEvent {
    match read {
        Ok(envelope) => &envelope.recorded,
        Err(undecodable) => &undecodable.recorded,
    }
}

/// So many events are decoded by a task of their own, while the log is read on; where no more are there, from this many on.
const DECODED_AT_ONCE: usize = 256;
const DECODED_APART_MIN: usize = 64;

/// Events in the order of the log.
pub(super) struct Chunk<E> {
    pub events: Vec<Read<E>>,
    count: usize,
    bytes: usize,
    /// How far it goes; there is no other wanted event up to here.
    pub looked_to: Option<Token>,
    /// Nothing more is there to be put into it at the moment.
    closed: bool,
    /// It ends where the log did.
    pub caught_up: bool,
}

impl<E> Default for Chunk<E> {
    fn default() -> Self {
        Self { events: Vec::new(), count: 0, bytes: 0, looked_to: None, closed: false, caught_up: false }
    }
}

/// One reader for all partitions. It holds one chunk, while another is worked on.
pub(super) struct Ahead<E> {
    subscription: Subscription<dyn Store>,
    chunk: Chunk<E>,
    /// What belongs behind the chunk's events, and is being decoded.
    decoding: VecDeque<JoinHandle<Vec<Read<E>>>>,
    /// What belongs behind that.
    read: Vec<RecordedEvent>,
    /// How far the chunks that were taken go.
    pub taken_to: Token,
}

impl<E: Event> Ahead<E> {
    pub async fn from(store: &AnyStore, query: &Query, from: Token) -> Result<Self, StoreError> {
        let subscription = Subscription::shared(store.clone(), query.clone(), StartFrom::After(from)).await?;
        let subscription = subscription.pages_of(PAGE_EVENTS_MAX);
        Ok(Self { subscription, chunk: Chunk::default(), decoding: VecDeque::new(), read: Vec::new(), taken_to: from })
    }

    /// Reads until a chunk is full or all is read that is there, and waits while that is nothing. May be dropped and
    /// called again.
    pub async fn fill(&mut self, events_max: usize, bytes_max: usize) -> Result<(), StoreError> {
        while !self.chunk.closed {
            let token = match self.subscription.next().await? {
                Delivery::Event(event) => {
                    let token = Token { store: self.taken_to.store, position: event.position, event: event.id };
                    self.chunk.bytes += event.size();
                    self.chunk.count += 1;
                    self.chunk.closed = self.chunk.count >= events_max || self.chunk.bytes >= bytes_max;
                    self.read.push(event);
                    if self.read.len() >= DECODED_AT_ONCE {
                        self.decode_apart();
                    }
                    token
                }
                Delivery::Progress(token) => token,
                Delivery::CaughtUp(token) => {
                    (self.chunk.closed, self.chunk.caught_up) = (true, true);
                    token
                }
            };
            self.chunk.looked_to = Some(token);
        }
        if self.read.len() >= DECODED_APART_MIN {
            self.decode_apart();
        }
        self.chunk.events.reserve(self.chunk.count - self.chunk.events.len());
        while let Some(decoding) = self.decoding.front_mut() {
            let decoded = decoding.await;
            self.decoding.pop_front();
            match decoded {
                Ok(decoded) => self.chunk.events.extend(decoded),
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                // The runtime shuts down.
                Err(_) => std::future::pending().await,
            }
        }
        self.chunk.events.extend(self.read.drain(..).map(decode));
        Ok(())
    }

    fn decode_apart(&mut self) {
        let events = replace(&mut self.read, Vec::with_capacity(DECODED_AT_ONCE));
        self.decoding.push_back(tokio::spawn(async { events.into_iter().map(decode).collect() }));
    }

    /// Takes the chunk that [`fill`](Self::fill) has made.
    pub fn take(&mut self) -> Chunk<E> {
        let chunk = take(&mut self.chunk);
        self.taken_to = chunk.looked_to.unwrap_or(self.taken_to);
        chunk
    }
}

/// Decodes an event. An upcaster that panics is the event's failure, and nobody else's.
pub(super) fn decode<E: Event>(recorded: RecordedEvent) -> Read<E> {
    let error = match catch_unwind(AssertUnwindSafe(|| recorded.decode())) {
        Ok(Ok(event)) => return Ok(Envelope { event, recorded, replaying: false }),
        Ok(Err(error)) => told(&error),
        Err(panic) => format!("decoding it panicked: {}", message(&*panic)).into(),
    };
    Err(Box::new(Undecodable { recorded, error }))
}

/// A partition's events of a chunk, in their order.
pub(super) struct Share<E> {
    pieces: Vec<Piece<E>>,
    /// What comes up to here is history to it.
    replays_to: Position,
}

enum Piece<E> {
    Events(Vec<Envelope<E>>),
    Undecodable(Box<Undecodable>),
}

/// What a partition does at a time.
pub(super) enum Step<'a, E> {
    Batch(&'a [Envelope<E>]),
    Undecodable(&'a Undecodable),
}

impl<E> Share<E> {
    pub fn new(replays_to: Position) -> Self {
        Self { pieces: Vec::new(), replays_to }
    }

    pub fn push(&mut self, read: Read<E>) {
        let mut envelope = match read {
            Ok(envelope) => envelope,
            Err(undecodable) => return self.pieces.push(Piece::Undecodable(undecodable)),
        };
        envelope.replaying = envelope.recorded.position <= self.replays_to;
        match self.pieces.last_mut() {
            Some(Piece::Events(events)) => events.push(envelope),
            _ => self.pieces.push(Piece::Events(vec![envelope])),
        }
    }

    /// Batches of up to so many events; one that can't be decoded is a step of its own.
    pub fn steps(&self, events_max: usize) -> impl Iterator<Item = Step<'_, E>> {
        self.pieces.iter().flat_map(move |piece| {
            let (events, undecodable) = match piece {
                Piece::Events(events) => (events.as_slice(), None),
                Piece::Undecodable(undecodable) => ([].as_slice(), Some(Step::Undecodable(undecodable))),
            };
            events.chunks(events_max.max(1)).map(Step::Batch).chain(undecodable)
        })
    }
}

impl<E> Step<'_, E> {
    /// Its last event.
    pub fn last(&self) -> Option<&RecordedEvent> {
        match self {
            Self::Batch(events) => events.last().map(|last| &last.recorded),
            Self::Undecodable(undecodable) => Some(&undecodable.recorded),
        }
    }
}
