//! From the log to an aggregate's state: by a snapshot where there is a good one, then event by event.

use std::{
    any::{Any, TypeId},
    cmp::Ordering,
    collections::HashSet,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use futures::TryStreamExt;

use crate::{
    Aggregate, AnyStore, Apply, Codec, DecodeError, Event, EventId, EventStoreExt, Fingerprint, Position, ReadStream,
    RecordedEvent, Snapshot, StoreError, StreamHead, StreamId, Timestamp, Version, codec,
};

/// Why a state could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The store could not read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A recorded event could not be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl From<crate::InvalidInput> for LoadError {
    fn from(invalid: crate::InvalidInput) -> Self {
        Self::Store(invalid.into())
    }
}

impl LoadError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }
}

/// An aggregate's state, and what it was computed from. Dereferences to the state.
#[derive(Clone, Debug)]
pub struct Loaded<A> {
    state: A,
    version: Version,
    last: Option<(EventId, Position)>,
    /// The version of the snapshot that it was loaded from, or that was taken last.
    snapshot: Option<Version>,
    since_snapshot: Replayed,
    weight: u64,
}

/// What was applied since the last snapshot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// When the last snapshot was taken, or the first event was recorded.
    pub(crate) since: Option<Timestamp>,
}

impl<A> Deref for Loaded<A> {
    type Target = A;
    fn deref(&self) -> &A {
        &self.state
    }
}

impl<A> Loaded<A> {
    /// The state.
    pub fn state(&self) -> &A {
        &self.state
    }

    /// The state, without the rest.
    pub fn into_state(self) -> A {
        self.state
    }

    /// The version of the last event in it, [`Version::NONE`] where there is none.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The id of the last event in it.
    pub fn last_event(&self) -> Option<EventId> {
        self.last.map(|(id, _)| id)
    }

    /// The version of the snapshot that spared replaying what came before, where there was one.
    pub fn snapshot_version(&self) -> Option<Version> {
        self.snapshot
    }

    #[cfg(feature = "bugs")]
    pub(crate) fn state_mut(&mut self) -> &mut A {
        &mut self.state
    }

    /// Whether the log may have come from this state to that head. Not where it has lost events since.
    pub(crate) fn may_lead_to(&self, head: &StreamHead) -> bool {
        match self.version.cmp(&head.version) {
            Ordering::Less => self.position() < head.position,
            Ordering::Equal => self.position() == head.position,
            Ordering::Greater => false,
        }
    }

    /// Where in the log its last event is.
    pub(crate) fn position(&self) -> Position {
        self.last.map_or(Position::START, |(_, position)| position)
    }

    pub(crate) fn last(&self) -> Option<(EventId, Position)> {
        self.last
    }

    pub(crate) fn since_snapshot(&self) -> Replayed {
        self.since_snapshot
    }

    /// About the bytes that the state takes: those of the events in it.
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }
}

impl<A: Apply> Loaded<A> {
    pub(crate) fn new(state: A) -> Self {
        Self {
            state,
            version: Version::NONE,
            last: None,
            snapshot: None,
            since_snapshot: Replayed::default(),
            weight: 0,
        }
    }

    /// The one place where an event meets a state.
    pub(crate) fn apply(&mut self, event: &A::Event, bytes: usize) {
        self.state.apply(event);
        self.version = self.version.plus(1);
        self.weight += bytes as u64;
        self.since_snapshot.events += 1;
        self.since_snapshot.bytes += bytes as u64;
    }

    /// Says which recorded event was applied last.
    pub(crate) fn recorded(&mut self, event: &RecordedEvent) {
        self.last = Some((event.id, event.position));
        self.since_snapshot.since.get_or_insert(event.recorded_at);
    }

    fn apply_recorded(&mut self, event: &RecordedEvent) -> Result<(), LoadError> {
        if event.version != self.version.plus(1) {
            let what = format!("version {} of {} follows version {}", event.version, event.stream, self.version);
            return Err(StoreError::corrupted(what).into());
        }
        let decoded: A::Event = event.decode()?;
        self.apply(&decoded, event.data.len());
        self.recorded(event);
        Ok(())
    }

    /// Applies what the stream holds behind this state, while `wanted` says so. Holds one page at a time.
    pub(crate) async fn catch_up(
        &mut self,
        store: &AnyStore,
        stream: &StreamId,
        wanted: impl Fn(&RecordedEvent) -> bool,
    ) -> Result<(), LoadError> {
        let mut events = store.stream(ReadStream::new(stream.clone()).from(self.version.plus(1)));
        while let Some(event) = events.try_next().await? {
            if !wanted(&event) {
                break;
            }
            self.apply_recorded(&event)?;
        }
        Ok(())
    }
}

/// What snapshots of an aggregate must have been computed with to be of use today.
fn fingerprint<A: Aggregate>(codec: &dyn Codec) -> Fingerprint {
    let mut parts = vec![A::STATE.to_owned(), codec.content_type().to_string()];
    for shape in A::Event::shapes() {
        parts.push(format!("{} {}", shape.name, shape.schema_version));
    }
    Fingerprint::of(parts.iter().map(String::as_str))
}

/// The state in the stream's snapshot, where there is one no newer than `max` that can be trusted (L9).
pub(crate) async fn from_snapshot<A: Aggregate>(
    store: &AnyStore,
    stream: &StreamId,
    max: Version,
) -> Result<Option<Loaded<A>>, LoadError> {
    let Some(snapshot) = store.load_snapshot(stream).await? else { return Ok(None) };
    if snapshot.version > max {
        return Ok(None);
    }
    let codec = A::snapshot_codec();
    if snapshot.fingerprint != fingerprint::<A>(codec) {
        ignore::<A>(&snapshot, "it was taken by another version of the program");
        return Ok(None);
    }
    let read = ReadStream::new(stream.clone()).from(snapshot.version).limit(1);
    let page = store.read_stream(&read).await?;
    let Some(event) = page.events.first().filter(|event| event.id == snapshot.event_id) else {
        ignore::<A>(&snapshot, "the stream does not hold its event");
        return Ok(None);
    };
    match codec::decode::<A>(codec, &snapshot.data) {
        Ok(state) => Ok(Some(Loaded {
            state,
            version: snapshot.version,
            last: Some((event.id, event.position)),
            snapshot: Some(snapshot.version),
            since_snapshot: Replayed { since: Some(snapshot.taken_at), ..Replayed::default() },
            weight: snapshot.data.len() as u64,
        })),
        Err(cause) => {
            ignore::<A>(&snapshot, &format!("it does not decode: {cause}"));
            Ok(None)
        }
    }
}

/// Takes a snapshot of a state that is wholly recorded. One that could not be taken is counted and warned of, and
/// nothing else: the log has it all.
pub(crate) async fn take_snapshot<A: Aggregate>(store: &AnyStore, stream: &StreamId, loaded: &mut Loaded<A>) -> bool {
    let Some((event_id, _)) = loaded.last else { return false };
    let codec = A::snapshot_codec();
    let taken_at = Timestamp::now();
    let data = match codec::encode_proved(codec, &loaded.state) {
        Ok(data) => data,
        Err(cause) => {
            refused::<A>(&format!("the state does not come back from {}: {cause}", codec.content_type()));
            return false;
        }
    };
    let weight = data.len() as u64;
    let snapshot = Snapshot {
        stream: stream.clone(),
        version: loaded.version,
        event_id,
        fingerprint: fingerprint::<A>(codec),
        taken_at,
        content_type: codec.content_type(),
        data,
    };
    if let Err(error) = store.save_snapshot(snapshot).await {
        refused::<A>(&format!("it could not be saved: {error}"));
        return false;
    }
    metrics::counter!("indelible_snapshots_taken_total").increment(1);
    loaded.snapshot = Some(loaded.version);
    loaded.weight = weight;
    loaded.since_snapshot = Replayed { since: Some(taken_at), ..Replayed::default() };
    true
}

fn ignore<A: Any>(snapshot: &Snapshot, reason: &str) {
    metrics::counter!("indelible_snapshots_ignored_total").increment(1);
    if first_of::<A>("ignored") {
        let (stream, version) = (&snapshot.stream, snapshot.version);
        tracing::warn!(%stream, %version, reason, "a snapshot is ignored; further ones of this type are only counted");
    }
}

fn refused<A: Any>(reason: &str) {
    metrics::counter!("indelible_snapshots_refused_total").increment(1);
    if first_of::<A>("refused") {
        let state = std::any::type_name::<A>();
        tracing::warn!(state, reason, "a snapshot was not taken; further ones of this type are only counted");
    }
}

/// Whether this is the first time that this is said of a type.
fn first_of<A: Any>(what: &'static str) -> bool {
    static SAID: Mutex<Option<HashSet<(TypeId, &'static str)>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.get_or_insert_default().insert((TypeId::of::<A>(), what))
}

/// States of hot aggregates, bounded in bytes. What it gives may be stale: the expected version, or a look at the
/// stream's head, proves it.
pub(crate) struct Cache(quick_cache::sync::Cache<StreamId, Cached, ByWeight>);

#[derive(Clone)]
struct Cached {
    loaded: Arc<dyn Any + Send + Sync>,
    version: Version,
    position: Position,
    weight: u64,
}

#[derive(Clone)]
struct ByWeight;

impl quick_cache::Weighter<StreamId, Cached> for ByWeight {
    fn weight(&self, stream: &StreamId, cached: &Cached) -> u64 {
        // The entry itself, and a state that no event has made larger, take some room too.
        256 + stream.as_str().len() as u64 + cached.weight
    }
}

impl Cache {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let items = usize::try_from(bytes_max / 1024).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self(quick_cache::sync::Cache::with_weighter(items, bytes_max, ByWeight))
    }

    pub(crate) fn get<A: Aggregate>(&self, stream: &StreamId) -> Option<Arc<Loaded<A>>> {
        self.0.get(stream)?.loaded.downcast().ok()
    }

    /// Keeps a state, unless a newer one is there: one that is further on in its stream, and in the log too. A state of
    /// events that the log has lost since is no newer one.
    pub(crate) fn put<A: Aggregate>(&self, stream: &StreamId, loaded: Arc<Loaded<A>>) {
        let (version, position) = (loaded.version, loaded.position());
        if self.0.peek(stream).is_none_or(|cached| cached.version <= version || cached.position <= position) {
            let weight = loaded.weight();
            self.0.insert(stream.clone(), Cached { loaded, version, position, weight });
        }
    }

    /// Forgets a state that the log can't have come from.
    pub(crate) fn forget(&self, stream: &StreamId) {
        self.0.remove(stream);
    }
}
