//! A broker in memory, whose calls can be made to fail; with the feature `nats` also a server of one's own, and what to run
//! while it and others are killed.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{BoxStream, try_unfold},
};
use indelible_sagas::Failure;
use tokio::sync::watch;

use crate::{Broker, Delivery, Feed, FeedError, Message, Outgoing, Place};

#[cfg(feature = "nats")]
pub mod killed;
#[cfg(feature = "nats")]
mod server;

#[cfg(feature = "nats")]
pub use server::NatsServer;

/// A broker in memory, and its one feed, for tests of publishers and inboxes. It keeps all that it is given, in order, and
/// deduplicates nothing. A cheap handle.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

struct State {
    feed: u64,
    messages: Vec<(String, Bytes)>,
    faults: Box<dyn FnMut(&Outgoing) -> Fault + Send>,
}

/// What goes wrong when a message is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It does not arrive, and there is no answer.
    Lost,
    /// It arrives, and there is no answer.
    Unanswered,
    /// It is refused.
    Refused,
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").field("messages", &self.state().messages.len()).finish_non_exhaustive()
    }
}

impl MemoryBroker {
    /// An empty one.
    pub fn new() -> Self {
        Self::failing(|_| Fault::None)
    }

    /// One whose calls fail as this says.
    pub fn failing(faults: impl FnMut(&Outgoing) -> Fault + Send + 'static) -> Self {
        let state = State { feed: 1, messages: Vec::new(), faults: Box::new(faults) };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), news: watch::Sender::new(0) }) }
    }

    /// Puts a message there, of whatever kind, as others do.
    pub fn put(&self, subject: impl Into<String>, payload: impl Into<Bytes>) {
        self.state().messages.push((subject.into(), payload.into()));
        self.shared.news.send_modify(|news| *news += 1);
    }

    /// What is there and can be read, in order.
    pub fn messages(&self) -> Vec<Message> {
        self.state().messages.iter().filter_map(|(_, payload)| Message::read(payload).ok()).collect()
    }

    /// Loses all messages behind the first so many.
    pub fn lose_behind(&self, kept: usize) {
        self.state().messages.truncate(kept);
    }

    /// Loses all messages, and is another feed from now on.
    pub fn make_anew(&self) {
        let mut state = self.state();
        state.feed += 1;
        state.messages.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes behind so many messages, and which feed this is.
    fn next(&self, feed: &str, sequence: u64) -> Result<Option<Delivery>, FeedError> {
        let state = self.state();
        let (now, last) = (state.feed.to_string(), state.messages.len() as u64);
        if now != feed {
            return Err(FeedError::Lost { what: format!("this is feed {now}, and not {feed}") });
        }
        if sequence > last {
            return Err(FeedError::Lost { what: format!("it ends at {last}, and was read to {sequence}") });
        }
        let message = state.messages.get(sequence as usize).cloned();
        Ok(message.map(|(subject, payload)| {
            let place = Place { feed: feed.to_owned(), sequence: sequence + 1 };
            Delivery { place, subject, payload }
        }))
    }
}

impl Broker for MemoryBroker {
    async fn publish(&self, message: &Outgoing) -> Result<(), Failure> {
        // As with any other, calls that are under way at once arrive in any order.
        tokio::task::yield_now().await;
        let fault = (self.state().faults)(message);
        if matches!(fault, Fault::None | Fault::Unanswered) {
            self.put(message.stream().as_str(), message.payload().clone());
        }
        match fault {
            Fault::None => Ok(()),
            Fault::Lost | Fault::Unanswered => Err(Failure::unsure("no answer")),
            Fault::Refused => Err(Failure::refused("a message like this is not taken")),
        }
    }
}

impl Feed for MemoryBroker {
    async fn read(&self, after: Option<&Place>) -> Result<BoxStream<'static, Result<Delivery, FeedError>>, FeedError> {
        let (feed, sequence) = match after {
            Some(place) => (place.feed.clone(), place.sequence),
            None => (self.state().feed.to_string(), 0),
        };
        self.next(&feed, sequence)?;
        let (broker, news) = (self.clone(), self.shared.news.subscribe());
        let next = |(broker, mut news, sequence, feed): (Self, watch::Receiver<u64>, u64, String)| async move {
            loop {
                news.borrow_and_update();
                if let Some(delivery) = broker.next(&feed, sequence)? {
                    return Ok(Some((delivery, (broker, news, sequence + 1, feed))));
                }
                news.changed().await.map_err(|gone| FeedError::unavailable("waiting for messages", gone))?;
            }
        };
        Ok(try_unfold((broker, news, sequence, feed), next).boxed())
    }
}
