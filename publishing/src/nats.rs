//! NATS JetStream, as a broker and as a feed.
//!
//! ```no_run
//! use indelible_publishing::nats::{JetStream, async_nats};
//! # async fn connect() -> Result<(), Box<dyn std::error::Error>> {
//! let client = async_nats::connect("nats://localhost:4222").await?;
//! let orders = JetStream::new(async_nats::jetstream::new(client), "orders")?;
//! // Once, when the service is set up, and not each time that it starts: see below.
//! orders.create(orders.config()).await?;
//! # Ok(()) }
//! ```
//!
//! The connection is the caller's, with its TLS, its credentials, and its time-out for acknowledgements
//! ([`ContextBuilder::timeout`](async_nats::jetstream::context::ContextBuilder::timeout), 5 s): so long a publisher waits
//! before it publishes again what was under way when the server went.
//!
//! # Subjects
//!
//! An event of the stream `order-7` goes to the subject `orders.order.7`: the name of the JetStream stream, the category,
//! the id. What may not stand in a subject, and all but letters, digits, `-` and `_` of ASCII, is percent-encoded, so that
//! two streams never share a subject. The server keeps a few hundred bytes in memory for each subject.
//!
//! # What is promised
//!
//! - A publisher goes on when the server has acknowledged. It has one message of a stream under way at a time, and up to
//!   [`UNACKNOWLEDGED_MAX`](crate::Publish::UNACKNOWLEDGED_MAX) of different streams: what the server didn't take, or took
//!   without its answer coming back, is published again before what follows it in its stream.
//! - `Nats-Msg-Id` is the message's [key](crate::Outgoing::key). So what is published again within the stream's
//!   `duplicate_window` (2 minutes, unless it says otherwise) is stored once; and what is published again later, twice. An
//!   [inbox](crate::Inbox) is indifferent to that.
//! - Several processes may publish to one stream. A zombie's late message is a repetition of one that is there.
//! - A message beyond the server's `max_payload` (1 MiB) or the stream's `max_message_size` is refused, and that is held
//!   against its event, as [`ON_FAILURE`](crate::Publish::ON_FAILURE) says. A stream that is full and discards new messages is an outage.
//! - While the server is away, publishers and inboxes wait, and say so. They go on by themselves.
//!
//! # What the server loses
//!
//! A server that is killed keeps what it has acknowledged. Whether it does so when the power fails is its own to answer:
//! ask for three replicas, or for `sync_interval: always` of server 2.10. What it has lost is not lost to you, since the
//! log has it:
//!
//! - Where the *stream is gone*, publishing waits, and says that there is none. Don't let services create it by themselves at
//!   each start, or nobody notices. Create it again, and [reset](indelible_projections::Running::reset) the publisher: it
//!   publishes the whole log, under the same keys.
//! - Where the stream has gone back while a publisher was running, which is seen by its sequence numbers, publishing
//!   waits, stores nothing more, and says so. Reset the publisher, too, and start its process anew.
//! - An inbox stops where the stream was made anew, ends before what was taken of it, or has dropped what comes next
//!   ([`FeedError::Lost`]), also while it runs. What somebody has deleted in between is passed over, with a warning. When
//!   the publisher was reset, [rewind](crate::RunningInbox::rewind) it.
//!
//! Retention must be by limits, and long enough for inboxes that were down: they acknowledge nothing to the server, and
//! keep by themselves how far they have read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use async_nats;
use async_nats::{
    HeaderMap,
    jetstream::{
        self, Context, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        context::{CreateStreamError, GetStreamError, PublishError, PublishErrorKind},
        publish::PublishAck,
        stream::{self, StorageType},
    },
};
use futures::{
    StreamExt,
    stream::{BoxStream, try_unfold},
};
use indelible_core::{InvalidInput, StreamId};
use indelible_sagas::Failure;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, timeout};

use crate::{Broker, Delivery, Feed, FeedError, Outgoing, Place, broker::told};

/// What a token of a subject is written with as it is.
const TOKEN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');
/// How many messages are asked for at once, and how many bytes, or as many as one message may have, with its subjects.
const PULLED_MAX: usize = 512;
const PULLED_BYTES: usize = 4 * 1024 * 1024;
const SUBJECTS_BYTES: usize = 16 * 1024;
/// What the server says when the next message would be more bytes than were asked for.
const NO_ROOM: &str = "Message Size Exceeds MaxBytes";
/// For how long the server holds a request for messages when there are none, and how much later it is thought to be lost.
const PULLED_FOR: Duration = Duration::from_millis(1_000);
const LOST_AFTER: Duration = Duration::from_millis(500);

/// Instead of the highest sequence number, when one came that was no higher.
const GONE_BACK: u64 = u64::MAX;

/// A stream of JetStream, to publish to and to read. A cheap handle.
#[derive(Clone, Debug)]
pub struct JetStream {
    context: Context,
    name: Arc<str>,
    /// The highest sequence number that was acknowledged.
    highest: Arc<AtomicU64>,
}

impl JetStream {
    /// The stream of this name, whose subjects are those that begin with it.
    ///
    /// # Errors
    /// [`InvalidInput`] for a name that is not 1 to 64 letters, digits, `-` and `_` of ASCII.
    pub fn new(context: Context, name: impl Into<String>) -> Result<Self, InvalidInput> {
        let name = name.into();
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !plain || name.is_empty() || name.len() > 64 {
            let reason = format!("{name:?} is not 1 to 64 letters, digits, '-' and '_'");
            return Err(InvalidInput::new("name of a JetStream stream", reason));
        }
        Ok(Self { context, name: name.into(), highest: Arc::default() })
    }

    /// How it is best created: in files, with its subjects, kept for ever and for all who read.
    pub fn config(&self) -> stream::Config {
        stream::Config {
            name: self.name.to_string(),
            subjects: vec![format!("{}.>", self.name)],
            storage: StorageType::File,
            ..stream::Config::default()
        }
    }

    /// Creates the stream, or does nothing where it is there as it is to be.
    ///
    /// # Errors
    /// What the server says: that there is one with another configuration, say.
    pub async fn create(&self, config: stream::Config) -> Result<(), CreateStreamError> {
        self.context.create_stream(config).await.map(|_| ())
    }

    /// The sequence number of its last message, 0 where there was none.
    ///
    /// # Errors
    /// What the server says, or that it doesn't.
    pub async fn last(&self) -> Result<u64, GetStreamError> {
        Ok(self.context.get_stream(&*self.name).await?.cached_info().state.last_sequence)
    }

    /// The subject of an event's stream.
    pub fn subject(&self, stream: &StreamId) -> String {
        let (category, id) = (stream.category(), stream.id());
        let token = |text| utf8_percent_encode(text, TOKEN);
        format!("{}.{}.{}", self.name, token(category.as_str()), token(id))
    }
}

impl Broker for JetStream {
    async fn publish(&self, message: &Outgoing) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", message.key());
        headers.insert("Nats-Expected-Stream", &*self.name);
        headers.insert("Content-Type", "application/cloudevents+json");
        let before = self.highest.load(Ordering::Acquire);
        let gone_back = || {
            let what = "has gone back: it has lost what it had acknowledged";
            Err(Failure::unsure(format!("the JetStream stream {} {what}", self.name)))
        };
        if before == GONE_BACK {
            // It would be stored, again and again.
            return gone_back();
        }
        let subject = self.subject(message.stream());
        let sent = self.context.publish_with_headers(subject, headers, message.payload().clone()).await;
        let PublishAck { sequence, duplicate, .. } = match sent {
            Ok(acknowledged) => acknowledged.await.map_err(not_published)?,
            Err(error) => return Err(not_published(error)),
        };
        if !duplicate && sequence <= before {
            self.highest.store(GONE_BACK, Ordering::Release);
            return gone_back();
        }
        self.highest.fetch_max(sequence, Ordering::AcqRel);
        Ok(())
    }
}

fn not_published(error: PublishError) -> Failure {
    let refused = [ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM, ErrorCode::STREAM_NOT_MATCH];
    let source = std::error::Error::source(&error);
    let answer = source.and_then(|source| source.downcast_ref::<jetstream::Error>());
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => Failure::refused(told(&error)),
        _ if answer.is_some_and(|answer| refused.contains(&answer.error_code())) => Failure::refused(told(&error)),
        _ => Failure::unsure(told(&error)),
    }
}

impl Feed for JetStream {
    async fn read(&self, after: Option<&Place>) -> Result<BoxStream<'static, Result<Delivery, FeedError>>, FeedError> {
        let failed = |error: GetStreamError| FeedError::unavailable("looking at the stream", error);
        let stream = self.context.get_stream(&*self.name).await.map_err(failed)?;
        let info = stream.cached_info();
        let created = SystemTime::from(info.created).duration_since(UNIX_EPOCH).unwrap_or_default();
        let feed = format!("{}, created {}.{:09}", self.name, created.as_secs(), created.subsec_nanos());
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let next = match after {
            None => 1,
            Some(place) if place.feed != feed => {
                return Err(FeedError::Lost {
                    what: format!("the stream was made anew: {feed}, and not {}", place.feed),
                });
            }
            Some(Place { sequence, .. }) if *sequence > last => {
                return Err(FeedError::Lost { what: format!("{feed} ends at {last}, and was read to {sequence}") });
            }
            Some(Place { sequence, .. }) if sequence + 1 < first => {
                return Err(FeedError::Lost { what: format!("{feed} begins at {first}, and was read to {sequence}") });
            }
            Some(Place { sequence, .. }) => sequence + 1,
        };
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: next },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(60),
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await;
        let consumer = consumer.map_err(|error| FeedError::unavailable("beginning to read", error))?;
        let bytes = PULLED_BYTES.max(self.context.client().max_payload() + SUBJECTS_BYTES);
        // Read from the start, it is all that there is.
        let expected = if after.is_none() { first.max(1) } else { next };
        let reading = Reading {
            stream,
            consumer,
            feed,
            bytes,
            batch: None,
            left: 0,
            asked: Instant::now(),
            delivered: 0,
            expected,
        };
        Ok(try_unfold(reading, |mut reading| async move {
            let delivery = reading.next().await?;
            Ok(Some((delivery, reading)))
        })
        .boxed())
    }
}

/// A consumer that exists as long as all goes well: what it delivers has no hole, or it is given up.
struct Reading {
    stream: stream::Stream,
    consumer: PullConsumer,
    feed: String,
    /// How many are asked for at once.
    bytes: usize,
    batch: Option<pull::Batch>,
    left: usize,
    asked: Instant,
    delivered: u64,
    /// The sequence number of the message that comes next, unless it was deleted.
    expected: u64,
}

impl Reading {
    async fn next(&mut self) -> Result<Delivery, FeedError> {
        loop {
            let batch = match &mut self.batch {
                Some(batch) if self.left > 0 => batch,
                batch => {
                    let asked =
                        self.consumer.batch().max_messages(PULLED_MAX).max_bytes(self.bytes).expires(PULLED_FOR);
                    (self.left, self.asked) = (PULLED_MAX, Instant::now());
                    batch.insert(
                        asked.messages().await.map_err(|error| FeedError::unavailable("asking for messages", error))?,
                    )
                }
            };
            let message = match timeout(PULLED_FOR + LOST_AFTER, batch.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) if self.left < PULLED_MAX && error.to_string().contains(NO_ROOM) => {
                    self.left = 0;
                    continue;
                }
                Ok(Some(Err(error))) => return Err(FeedError::unavailable("reading", error)),
                // There are none at the moment.
                Ok(None) => {
                    self.left = 0;
                    self.missed().await?;
                    continue;
                }
                Err(late) => return Err(FeedError::unavailable("waiting for the server", late)),
            };
            self.left -= 1;
            let info = message.info().map_err(|error| FeedError::unavailable("reading", error))?;
            self.delivered += 1;
            if info.consumer_sequence != self.delivered {
                let hole = format!("delivery {} comes where {} should", info.consumer_sequence, self.delivered);
                return Err(FeedError::unavailable("reading", hole));
            }
            if info.stream_sequence > self.expected {
                self.skipped(info.stream_sequence).await?;
            }
            self.expected = info.stream_sequence + 1;
            return Ok(Delivery {
                place: Place { feed: self.feed.clone(), sequence: info.stream_sequence },
                subject: message.subject.to_string(),
                payload: message.payload.clone(),
            });
        }
    }
    /// A batch that ends so late may have been ended by the client's own timer, which throws away what has come and was
    /// not looked at yet: who reads slowly would miss it.
    async fn missed(&mut self) -> Result<(), FeedError> {
        if self.asked.elapsed() <= PULLED_FOR + LOST_AFTER {
            return Ok(());
        }
        let info = self.consumer.info().await.map_err(|error| FeedError::unavailable("reading", error))?;
        let (given, came) = (info.delivered.consumer_sequence, self.delivered);
        match given == came {
            true => Ok(()),
            false => {
                Err(FeedError::unavailable("reading", format!("{given} messages were delivered, and {came} came")))
            }
        }
    }

    /// The next message is not the one that was expected: it was dropped with all before it, or deleted.
    async fn skipped(&mut self, to: u64) -> Result<(), FeedError> {
        let (expected, feed) = (self.expected, &self.feed);
        let info =
            self.stream.get_info().await.map_err(|error| FeedError::unavailable("looking at the stream", error))?;
        let first = info.state.first_sequence;
        if first > expected {
            return Err(FeedError::Lost { what: format!("{feed} begins at {first}, and was read up to {expected}") });
        }
        tracing::warn!(%feed, expected, to, "messages were deleted");
        Ok(())
    }
}
