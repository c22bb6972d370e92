//! Reading ahead: the events of a projection in chunks, as far as they are there.

use indelible_core::{AnyStore, Delivery, Query, RecordedEvent, StartFrom, Store, StoreError, Subscription, Token};

/// Events in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub events: Vec<RecordedEvent>,
    bytes: usize,
    /// How far it goes; there is no other wanted event up to here.
    pub looked_to: Option<Token>,
    /// Nothing more is there to be put into it at the moment.
    closed: bool,
    /// It ends where the log did.
    pub caught_up: bool,
}

/// One reader for all partitions. It holds one chunk, while another is worked on.
pub(super) struct Ahead {
    subscription: Subscription<dyn Store>,
    chunk: Chunk,
    /// How far the chunks that were taken go.
    pub taken_to: Token,
}

impl Ahead {
    pub async fn from(store: &AnyStore, query: &Query, from: Token) -> Result<Self, StoreError> {
        let subscription = Subscription::shared(store.clone(), query.clone(), StartFrom::After(from)).await?;
        Ok(Self { subscription, chunk: Chunk::default(), taken_to: from })
    }

    /// Reads until a chunk is full or all is read that is there, and waits while that is nothing. May be dropped and
    /// called again.
    pub async fn fill(&mut self, events_max: usize, bytes_max: usize) -> Result<(), StoreError> {
        while !self.chunk.closed {
            let token = match self.subscription.next().await? {
                Delivery::Event(event) => {
                    let token = Token { store: self.taken_to.store, position: event.position, event: event.id };
                    self.chunk.bytes += event.size();
                    self.chunk.events.push(event);
                    self.chunk.closed = self.chunk.events.len() >= events_max || self.chunk.bytes >= bytes_max;
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
        Ok(())
    }

    /// Takes the chunk that [`fill`](Self::fill) has made.
    pub fn take(&mut self) -> Chunk {
        let chunk = std::mem::take(&mut self.chunk);
        self.taken_to = chunk.looked_to.unwrap_or(self.taken_to);
        chunk
    }
}
