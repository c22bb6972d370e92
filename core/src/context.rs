//! Where a command comes from, and what all the events that it causes carry.

use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::{CausationId, CorrelationId, EventId, InvalidInput, Metadata, StreamId, Timestamp, text::check_name};

/// The metadata key under which events carry the actor.
pub const ACTOR: &str = "actor";

/// Who sends a command, what it belongs to, at what time it is decided, and until when it may take.
///
/// ```
/// use std::time::Duration;
/// use indelible_core::{CommandContext, Metadata};
/// let context = CommandContext::new()
///     .with_actor("ada")?
///     .with_metadata(Metadata::new().with("channel", "branch")?)?
///     .with_idempotency_key("request-4711")?
///     .with_time("2026-03-01T08:00:00Z".parse()?)
///     .with_timeout(Duration::from_secs(5));
/// assert_eq!(context.actor(), Some("ada"));
/// assert_eq!(context.idempotency_key(), Some("request-4711"));
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, Debug)]
pub struct CommandContext {
    correlation_id: CorrelationId,
    causation_id: Option<CausationId>,
    metadata: Metadata,
    idempotency_key: Option<String>,
    deadline: Option<Instant>,
    time: Option<Timestamp>,
}

impl Default for CommandContext {
    fn default() -> Self {
        Self::new()
    }
}

impl CommandContext {
    /// A command of its own: a new correlation id, and nothing else.
    pub fn new() -> Self {
        Self {
            correlation_id: CorrelationId::new(),
            causation_id: None,
            metadata: Metadata::new(),
            idempotency_key: None,
            deadline: None,
            time: None,
        }
    }

    /// A command that an event gave rise to: correlated with it, caused by it.
    pub fn caused_by(event: &crate::RecordedEvent) -> Self {
        let correlation_id = event.correlation_id.unwrap_or_else(CorrelationId::new);
        Self { correlation_id, causation_id: Some(event.id.into()), ..Self::new() }
    }

    /// As part of what this id stands for.
    #[must_use]
    pub fn with_correlation_id(mut self, id: CorrelationId) -> Self {
        self.correlation_id = id;
        self
    }

    /// Caused by this event or message.
    #[must_use]
    pub fn with_causation_id(mut self, id: impl Into<CausationId>) -> Self {
        self.causation_id = Some(id.into());
        self
    }

    /// On behalf of this actor, who is recorded in each event's metadata under [`ACTOR`].
    ///
    /// # Errors
    /// As [`Metadata::insert`].
    pub fn with_actor(mut self, actor: impl Into<String>) -> Result<Self, InvalidInput> {
        self.metadata.insert(ACTOR, actor)?;
        Ok(self)
    }

    /// With metadata for each event. An actor named before stays, unless the metadata names one.
    ///
    /// # Errors
    /// As [`Metadata::insert`], where the metadata leaves no room for the actor.
    pub fn with_metadata(mut self, metadata: Metadata) -> Result<Self, InvalidInput> {
        let actor = self.actor().map(str::to_owned);
        self.metadata = metadata;
        if let (None, Some(actor)) = (self.metadata.get(ACTOR), actor) {
            self.metadata.insert(ACTOR, actor)?;
        }
        Ok(self)
    }

    /// Once for ever under this key: a command that has written events under the key is answered with those events,
    /// for as long as the log lasts. Rejections, and commands that wrote nothing, are decided again.
    ///
    /// The key is the stream's: for a command over several, that of the one named first; for a decision or a
    /// transaction, the store's.
    ///
    /// # Errors
    /// [`InvalidInput`] for a key that is not 1 to 255 bytes of text.
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Result<Self, InvalidInput> {
        let key = key.into();
        check_name("idempotency key", &key)?;
        self.idempotency_key = Some(key);
        Ok(self)
    }

    /// Not after this moment.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Not longer than this, from now. Longer than the clock goes is no deadline.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.deadline = Instant::now().checked_add(timeout);
        self
    }

    /// As of this time, which handlers see as now. The log's own time is another: see
    /// [`recorded_at`](crate::RecordedEvent::recorded_at).
    #[must_use]
    pub fn with_time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// What it belongs to.
    pub fn correlation_id(&self) -> CorrelationId {
        self.correlation_id
    }

    /// What caused it.
    pub fn causation_id(&self) -> Option<CausationId> {
        self.causation_id
    }

    /// Who asks.
    pub fn actor(&self) -> Option<&str> {
        self.metadata.get(ACTOR)
    }

    /// What its events carry.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The key under which it takes effect once for ever.
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }

    /// Until when it may take.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time it is decided at: that of [`with_time`](Self::with_time), or the clock's.
    pub fn now(&self) -> Timestamp {
        self.time.unwrap_or_else(Timestamp::now)
    }

    /// The same, with the clock read: all that is decided in one go sees one time.
    pub(crate) fn at_one_time(mut self) -> Self {
        self.time = Some(self.now());
        self
    }

    /// The id of the first event that a command writes under its key, by which that is found: UUIDv5 of (stream, key), with
    /// no stream where the key is the store's.
    pub fn first_event_id(&self, stream: Option<&StreamId>) -> Option<EventId> {
        let key = self.idempotency_key.as_ref()?;
        // Names contain no NUL.
        let name = format!("{}\0{key}", stream.map_or("", StreamId::as_str));
        Some(EventId::from_uuid(Uuid::new_v5(&COMMANDS, name.as_bytes())))
    }
}

/// The UUIDv5 namespace of keyed commands; never to be changed.
const COMMANDS: Uuid = Uuid::from_u128(0x6f0b_0a52_5c1e_4a53_9d5e_6b6e_d0c1_7a11);
