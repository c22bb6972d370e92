//! What a broker must do: take messages, and give them out again in order.

use bytes::Bytes;
use futures::stream::BoxStream;
use indelible_core::{Cause, StreamId};
use indelible_sagas::Failure;
use serde::{Deserialize, Serialize};

/// Takes messages. [`JetStream`](crate::nats::JetStream) is one; another is one method, on the client's own terms.
///
/// It need not keep the order of what is under way at once: a [publisher](crate::Publisher) never has two messages of a
/// stream under way.
pub trait Broker: Send + Sync + 'static {
    /// Hands a message over, and returns when the broker has stored it: to Kafka with the stream as the record's key and all
    /// replicas asked for, to RabbitMQ with a publisher confirm.
    ///
    /// # Errors
    /// [`Refused`](Failure::Refused) where this message will never be taken as it is; that is held against the event. After
    /// [`Unsure`](Failure::Unsure) and [`NotNow`](Failure::NotNow) it is handed over again, for as long as it takes.
    fn publish(&self, message: &Outgoing) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub(crate) key: String,
    pub(crate) stream: StreamId,
    pub(crate) payload: Bytes,
}

impl Outgoing {
    /// The same each time that this event is published by this publisher, and never another's: what a broker deduplicates
    /// by. `store id/publisher/event id`, as two stores may have events of the same id.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The event's stream: what is to stay in order.
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// The CloudEvent, as JSON.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// Gives messages out, in order, from any place that it still has: [`JetStream`](crate::nats::JetStream), a partition of
/// Kafka, a stream of RabbitMQ.
///
/// An [inbox](crate::Inbox) remembers by itself how far it has taken them. Acknowledging each message to the broker instead
/// would not keep the order: what was not acknowledged comes again when it likes, behind what came after it.
pub trait Feed: Send + Sync + 'static {
    /// The messages behind a place, or all that there are, without end.
    ///
    /// # Errors
    /// A [`FeedError`]; the stream ends with its first.
    fn read(
        &self,
        after: Option<&Place>,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Delivery, FeedError>>, FeedError>> + Send;
}

/// A place in a feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which feed it is a place in. One that was made anew is another, whatever it is called.
    pub feed: String,
    /// How far: ascends from message to message.
    pub sequence: u64,
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Where it stands.
    pub place: Place,
    /// What came in order with it: those of one subject do.
    pub subject: String,
    /// What it says.
    pub payload: Bytes,
}

/// Why a feed could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// It can't be reached at the moment, or has lost its thread: again from the same place.
    #[error("the feed is unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What the client said.
        #[source]
        source: Option<Cause>,
    },
    /// What comes next is not there any more, or this is another feed. Going on would pass messages over.
    #[error("messages are lost: {what}")]
    Lost {
        /// What is not as it was.
        what: String,
    },
}

impl FeedError {
    /// [`FeedError::Unavailable`] with its cause.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }
}

/// An error with its causes.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
