//! A unit of work: what one command reads and wants written, all of which becomes one atomic append.
//!
//! The [loop](crate::command) makes a fresh unit for each attempt, lets the command decide in it, and appends what it
//! gathered.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::TryStreamExt;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::{
    Aggregate, Append, CommandContext, CommandError, Condition, Context, Decide, Event, EventId, EventStoreExt,
    ExpectedVersion, Handle, IntoId, InvalidInput, LoadError, NewEvent, Position, ReadLog, RecordedEvent,
    SnapshotPolicy, StoreError, StreamHead, StreamId, Token, Version,
    decision::Write,
    encode::{PrepareError, payload},
    executor::Executor,
    load::{Loaded, take_snapshot},
};

/// Where a transaction's commands run: see [`Executor::transact`]. A cheap handle.
///
/// A unit sees its own writes, so that a transfer to oneself just works. All that it reads is checked when it is
/// written.
#[derive(Clone)]
pub struct Unit {
    work: Arc<Mutex<Option<Work>>>,
}

impl Unit {
    pub(crate) fn new(work: Work) -> Self {
        Self { work: Arc::new(Mutex::new(Some(work))) }
    }

    /// Takes the work back. Handles that are left can do nothing any more.
    pub(crate) async fn finish(&self) -> Result<Work, StoreError> {
        self.work.lock().await.take().ok_or_else(finished)
    }

    async fn work(&self) -> Result<MappedMutexGuard<'_, Work>, StoreError> {
        MutexGuard::try_map(self.work.lock().await, Option::as_mut).map_err(|_| finished())
    }

    /// Lets an aggregate handle a command.
    ///
    /// # Errors
    /// [`CommandError::Rejected`] with the domain's error, and whatever keeps the aggregate from being loaded.
    pub async fn execute<A, C>(&self, id: impl IntoId<A::Id> + Send, command: C) -> Result<(), CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        self.execute_ref::<A, C>(&id.into_id(), &command, A::SNAPSHOTS).await
    }

    pub(crate) async fn execute_ref<A, C>(
        &self,
        id: &A::Id,
        command: &C,
        snapshots: SnapshotPolicy,
    ) -> Result<(), CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        self.work().await?.execute::<A, C>(id, command, snapshots).await
    }

    /// Lets a decision model decide about a command.
    ///
    /// # Errors
    /// [`CommandError::Rejected`] with the domain's error, and whatever keeps the model's events from being read.
    pub async fn decide<M, C>(&self, model: M, command: C) -> Result<(), CommandError<M::Error>>
    where
        M: Decide<C>,
    {
        self.decide_ref(model, &command).await
    }

    pub(crate) async fn decide_ref<M, C>(&self, model: M, command: &C) -> Result<(), CommandError<M::Error>>
    where
        M: Decide<C>,
    {
        self.work().await?.decide(model, command).await
    }

    /// An aggregate's state as this unit sees it. That it is still so is checked when the unit is written.
    ///
    /// # Errors
    /// Whatever keeps the aggregate from being loaded.
    pub async fn load<A: Aggregate>(&self, id: impl IntoId<A::Id> + Send) -> Result<A, LoadError> {
        let stream = A::stream(&id.into_id())?;
        let mut work = self.work().await?;
        Ok(work.entry::<A>(&stream, A::SNAPSHOTS).await?.loaded.state().clone())
    }
}

fn finished() -> StoreError {
    InvalidInput::new("unit", "its transaction is over").into()
}

/// What a unit has read, and what it wants written.
pub(crate) struct Work {
    executor: Executor,
    context: CommandContext,
    /// The id of the first event, where the command has an idempotency key.
    first_id: Option<EventId>,
    /// Whether states must be proved against the log before use, since a former attempt was decided on a stale one.
    refresh: bool,
    aggregates: BTreeMap<StreamId, Box<dyn Working>>,
    pending: Vec<(StreamId, NewEvent)>,
    conditions: Vec<Condition>,
    closes: Vec<StreamId>,
    /// How far the log was read by queries.
    read_to: Option<Token>,
}

/// An aggregate in a unit.
struct Entry<A: Aggregate> {
    loaded: Arc<Loaded<A>>,
    /// The version in the log that the unit rests on.
    base: Version,
    /// Whether the base was read from the log in this unit, and not only remembered.
    proved: bool,
    /// How many of the pending events were looked at.
    seen: usize,
    snapshots: SnapshotPolicy,
}

/// An [`Entry`] of whatever aggregate.
#[async_trait]
trait Working: Send + Sync {
    fn as_any(&mut self) -> &mut dyn Any;
    fn base(&self) -> Version;
    /// Whether the unit rests on this head: the same version at the same place in the log.
    fn is_at(&self, head: &StreamHead) -> bool;
    fn last(&self) -> Option<(EventId, Position)>;
    fn is_proved(&self) -> bool;
    /// Takes note of what was recorded, remembers the state, and takes a snapshot where one is due.
    async fn commit(self: Box<Self>, executor: &Executor, stream: &StreamId, recorded: &[RecordedEvent]);
}

impl Work {
    pub(crate) fn new(executor: Executor, context: CommandContext, first_id: Option<EventId>, refresh: bool) -> Self {
        Self {
            executor,
            context,
            first_id,
            refresh,
            aggregates: BTreeMap::new(),
            pending: Vec::new(),
            conditions: Vec::new(),
            closes: Vec::new(),
            read_to: None,
        }
    }

    async fn execute<A, C>(
        &mut self,
        id: &A::Id,
        command: &C,
        snapshots: SnapshotPolicy,
    ) -> Result<(), CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        let stream = A::stream(id)?;
        let version = self.entry::<A>(&stream, snapshots).await?.loaded.version();
        let context = Context::new(Some(id.clone()), version, self.context.clone());
        let entry = self.entry_mut::<A>(&stream)?;
        let events = entry.loaded.state().handle(command, &context).map_err(CommandError::Rejected)?;
        let closes = events.closes();
        // All or nothing: the closure of a transaction may go on after an error.
        let encode = |event| {
            self.check_open(&stream)?;
            Ok((self.executor.encoder().encode(&stream, &event, &self.context)?, event))
        };
        let encoded: Vec<_> = events.into_iter().map(encode).collect::<Result<_, CommandError<A::Error>>>()?;
        if closes {
            self.closes.push(stream.clone());
        }
        for (new, event) in encoded {
            let size = new.data.len();
            self.push(stream.clone(), new);
            let seen = self.pending.len();
            let entry = self.entry_mut::<A>(&stream)?;
            Arc::make_mut(&mut entry.loaded).apply(&event, size);
            entry.seen = seen;
        }
        Ok(())
    }

    async fn decide<M, C>(&mut self, mut model: M, command: &C) -> Result<(), CommandError<M::Error>>
    where
        M: Decide<C>,
    {
        let query = model.query()?;
        let store = self.executor.store().clone();
        let head = store.head().await?;
        // Whatever comes of it, a rejection too: what the unit does next may rest on it.
        self.conditions.push(Condition::none_after(query.clone(), head.position));
        self.read_to = Some(head);
        let mut events = store.log(ReadLog::matching(query.clone()).to(head.position));
        while let Some(event) = events.try_next().await? {
            model.apply(&event.decode()?);
        }
        for (stream, new) in self.pending.iter().filter(|(stream, new)| query.matches_new(stream, new)) {
            model.apply(&M::Event::decode(&payload(stream, new))?);
        }
        let writes = model.decide(command, &self.context).map_err(CommandError::Rejected)?;
        let encode = |write: &Write| {
            let stream = write.stream.clone()?;
            self.check_open(&stream)?;
            let new = write.event.encode(&stream, self.executor.encoder(), &self.context)?;
            Ok((stream, new))
        };
        let encoded: Vec<_> = writes.iter().map(encode).collect::<Result<_, CommandError<M::Error>>>()?;
        for (stream, new) in encoded {
            self.push(stream, new);
        }
        Ok(())
    }

    fn check_open(&self, stream: &StreamId) -> Result<(), InvalidInput> {
        match self.closes.contains(stream) {
            true => Err(InvalidInput::new("unit", format!("{stream} was closed by an earlier command of it"))),
            false => Ok(()),
        }
    }

    fn push(&mut self, stream: StreamId, mut new: NewEvent) {
        if let (true, Some(id)) = (self.pending.is_empty(), self.first_id) {
            new.id = id;
        }
        self.pending.push((stream, new));
    }

    /// The aggregate of a stream, loaded when it is named first, and up to date with what the unit wants written.
    async fn entry<A: Aggregate>(
        &mut self,
        stream: &StreamId,
        snapshots: SnapshotPolicy,
    ) -> Result<&mut Entry<A>, LoadError> {
        if !self.aggregates.contains_key(stream) {
            let (loaded, proved) = self.executor.load::<A>(stream, self.refresh).await?;
            let base = loaded.version();
            let entry = Entry { loaded, base, proved, seen: 0, snapshots };
            self.aggregates.insert(stream.clone(), Box::new(entry));
        }
        let pending = std::mem::take(&mut self.pending);
        let caught_up = self.entry_mut::<A>(stream).and_then(|entry| {
            let written = pending[entry.seen..].iter().filter(|(written, _)| written == stream);
            let decode = |(_, new): &(_, NewEvent)| Ok((A::Event::decode(&payload(stream, new))?, new.data.len()));
            // All are decoded before one is applied: after an error, none may be applied again.
            for (event, size) in written.map(decode).collect::<Result<Vec<_>, LoadError>>()? {
                Arc::make_mut(&mut entry.loaded).apply(&event, size);
            }
            entry.seen = pending.len();
            Ok(())
        });
        self.pending = pending;
        caught_up?;
        self.entry_mut(stream)
    }

    fn entry_mut<A: Aggregate>(&mut self, stream: &StreamId) -> Result<&mut Entry<A>, LoadError> {
        let entry = self.aggregates.get_mut(stream).and_then(|entry| entry.as_any().downcast_mut());
        entry.ok_or_else(|| {
            InvalidInput::new("unit", format!("{stream} is used as two different types of aggregate")).into()
        })
    }

    /// Whether all that was read holds at one moment. What was read alone, and from the log, does; what was only
    /// remembered, or read one after the other, is compared with the log.
    pub(crate) async fn is_current(&self) -> Result<bool, StoreError> {
        let alone = self.aggregates.len() + self.conditions.len() == 1;
        let store = self.executor.store();
        for (stream, entry) in &self.aggregates {
            let is_known_to_be = alone && entry.is_proved();
            if !(is_known_to_be || entry.is_at(&store.stream_head(stream).await?)) {
                return Ok(false);
            }
        }
        for condition in self.conditions.iter().filter(|_| !alone) {
            let read = ReadLog::matching(condition.query.clone()).from(condition.after.plus(1)).limit(1);
            if store.log(read).try_next().await?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The place in the log that a decision to write nothing rests on.
    pub(crate) fn token(&self) -> Token {
        let store = self.executor.store().id();
        let at = |(event, position)| Token { store, position, event };
        let read = self.aggregates.values().filter_map(|entry| entry.last()).map(at);
        read.chain(self.read_to).max_by_key(|token| token.position).unwrap_or(Token::start(store))
    }

    /// What is to be appended, `None` where nothing is.
    pub(crate) fn append(&mut self) -> Option<Append> {
        if self.pending.is_empty() {
            return None;
        }
        let mut append = Append::new();
        for (stream, event) in std::mem::take(&mut self.pending) {
            append = append.event(stream, event);
        }
        for (stream, entry) in &self.aggregates {
            append = append.check(stream.clone(), ExpectedVersion::Exact(entry.base()));
        }
        for condition in &self.conditions {
            append = append.require(condition.clone());
        }
        Some(self.closes.iter().fold(append, |append, stream| append.close(stream.clone())))
    }

    /// Remembers the states as they are after the append, and takes the snapshots that are due.
    pub(crate) async fn commit(self, recorded: &[RecordedEvent]) {
        for (stream, entry) in self.aggregates {
            entry.commit(&self.executor, &stream, recorded).await;
        }
    }
}

#[async_trait]
impl<A: Aggregate> Working for Entry<A> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn base(&self) -> Version {
        self.base
    }

    fn is_at(&self, head: &StreamHead) -> bool {
        (self.base, self.loaded.position()) == (head.version, head.position)
    }

    fn last(&self) -> Option<(EventId, Position)> {
        self.loaded.last()
    }

    fn is_proved(&self) -> bool {
        self.proved
    }

    async fn commit(mut self: Box<Self>, executor: &Executor, stream: &StreamId, recorded: &[RecordedEvent]) {
        let own = || recorded.iter().filter(|event| event.stream == *stream);
        let count = own().count() as u64;
        let newest = own().next_back().map_or(self.base, |last| last.version);
        if self.base.plus(count) != newest || self.loaded.version() != newest {
            // A decision wrote to the stream after the state was last looked at: the state is not the newest. Or a
            // command of the same key wrote these very events, behind others that the state doesn't know.
            return;
        }
        if let Some(last) = own().next_back() {
            let loaded = Arc::make_mut(&mut self.loaded);
            own().for_each(|event| loaded.recorded(event));
            let replayed = loaded.since_snapshot();
            let age = replayed.since.map(|since| last.recorded_at.since(since)).unwrap_or_default();
            if self.snapshots.is_due(replayed.events, replayed.bytes, age) {
                #[cfg(feature = "bugs")]
                crate::bugs::apply_twice(loaded, last);
                take_snapshot(executor.store(), stream, loaded).await;
            }
        }
        executor.remember(stream, self.loaded);
    }
}

impl<E> From<PrepareError> for CommandError<E> {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Encode(error) => Self::Encode(error),
            PrepareError::Store(error) => Self::Store(error),
        }
    }
}
