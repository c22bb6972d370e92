//! Given / when / then for projections, in memory: no store, no worker, no clock.
//!
//! ```
//! # use indelible_core::{Aggregate, Apply, Event};
//! # use indelible_projections::{*, memory::{MemoryModel, MemoryTx}, testing::given};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
//! # enum DoorEvent { Opened }
//! # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! # #[aggregate(category = "door")]
//! # struct Door {}
//! # impl Apply for Door { type Event = DoorEvent; fn apply(&mut self, _: &DoorEvent) {} }
//! # #[derive(Clone)]
//! # struct Openings;
//! # const OPENINGS: Table<String, u64> = Table::new("openings");
//! # impl Projection for Openings {
//! #     const NAME: &'static str = "openings";
//! #     type Event = DoorEvent;
//! #     fn wants() -> Wants<DoorEvent> { Wants::of::<Door>() }
//! # }
//! # impl Project<MemoryModel> for Openings {
//! #     async fn apply(&self, envelope: &Envelope<DoorEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
//! #         let door = envelope.recorded.stream.id().to_owned();
//! #         let opened = tx.get(&OPENINGS, &door)?.unwrap_or(0);
//! #         Ok(tx.put(&OPENINGS, &door, &(opened + 1))?)
//! #     }
//! # }
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let front = || "front".to_owned();
//! given(Openings)
//!     .history::<Door>("front", [DoorEvent::Opened])
//!     .when::<Door>("front", [DoorEvent::Opened])
//!     .then(|views| assert_eq!(views.get(&OPENINGS, &front()).unwrap(), Some(2)))
//!     .await
//!     .then_in_any_order()
//!     .await;
//! # }
//! ```

use std::collections::HashMap;

use indelible_core::{
    Aggregate, Cause, Event, EventId, IntoId, NewEvent, Position, RecordedEvent, StoreId, StreamId, Timestamp, Token,
    Version,
    codec::{Codec, Json},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    Advance, Envelope, Partition, Project, ProjectionId, ReadModel, Registration, WorkerId,
    memory::{MemoryModel, MemorySnapshot},
};

/// How many orders the shuffle tries.
const SHUFFLES: u64 = 100;

/// A projection that has seen nothing yet.
pub fn given<P: Project<MemoryModel> + Clone>(projection: P) -> Given<P> {
    let now = Timestamp::from_micros(0).unwrap_or_else(|_| Timestamp::now());
    Given { projection, events: Vec::new(), history: 0, versions: HashMap::new(), now }
}

/// A projection, and the events that it is to see.
pub struct Given<P> {
    projection: P,
    events: Vec<RecordedEvent>,
    history: usize,
    versions: HashMap<StreamId, Version>,
    now: Timestamp,
}

impl<P: Project<MemoryModel> + Clone> Given<P> {
    /// These events of an aggregate were there before the projection: it sees them as
    /// [replaying](Envelope::replaying).
    ///
    /// # Panics
    /// When one of them can't be recorded, or comes after [`when`](Self::when).
    #[must_use]
    #[track_caller]
    pub fn history<A: Aggregate>(self, id: impl IntoId<A::Id>, events: impl IntoIterator<Item = A::Event>) -> Self {
        assert_eq!(self.history, self.events.len(), "history comes before `when`");
        let mut given = self.when::<A>(id, events);
        given.history = given.events.len();
        given
    }

    /// These events happen.
    ///
    /// # Panics
    /// When one of them can't be recorded.
    #[must_use]
    #[track_caller]
    pub fn when<A: Aggregate>(mut self, id: impl IntoId<A::Id>, events: impl IntoIterator<Item = A::Event>) -> Self {
        let stream = A::stream(&id.into_id()).unwrap_or_else(|error| panic!("{error}"));
        for event in events {
            let version = self.versions.entry(stream.clone()).or_default();
            *version = version.plus(1);
            let position = Position::new(self.events.len() as u64 + 1);
            self.events.push(RecordedEvent::new(new(&event), stream.clone(), *version, position, self.now));
        }
        self
    }

    /// From now on it is so late; by default 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn at(mut self, time: Timestamp) -> Self {
        self.now = time;
        self
    }

    /// Looks at what the projection has made of it; assert in the closure.
    ///
    /// # Panics
    /// When an event could not be handled.
    pub async fn then(self, look: impl FnOnce(&MemorySnapshot)) -> Self {
        look(&self.played(&self.events, |rest| rest).await.unwrap_or_else(|error| panic!("not handled: {error}")));
        self
    }

    /// An event can't be handled; the closure looks at why.
    ///
    /// # Panics
    /// When all can.
    pub async fn then_fails(self, look: impl FnOnce(&Cause)) {
        match self.played(&self.events, |rest| rest).await {
            Ok(_) => panic!("expected a failure, all events were handled"),
            Err(error) => look(&error),
        }
    }

    /// In other orders that keep each stream's, and other batches, it comes to the same: as a projection with the order
    /// of each stream must (P1).
    ///
    /// # Panics
    /// When it doesn't; the message names an order.
    pub async fn then_in_any_order(self) -> Self {
        let expected = self.played(&self.events, |rest| rest).await;
        let expected = expected.unwrap_or_else(|error| panic!("not handled: {error}"));
        for seed in 0..SHUFFLES {
            let mut random = StdRng::seed_from_u64(seed);
            let shuffled = shuffled(&self.events, &mut random);
            let names = || shuffled.iter().map(|e| format!("{} {} of {}", e.event_type, e.version, e.stream));
            match self.played(&shuffled, |rest| random.random_range(1..=rest)).await {
                Ok(found) if found == expected => {}
                Ok(_) => panic!(
                    "another order of events comes to something else, so this handler does not commute across streams:\n{}",
                    names().collect::<Vec<_>>().join("\n")
                ),
                Err(error) => panic!("in another order: {error}\n{}", names().collect::<Vec<_>>().join("\n")),
            }
        }
        self
    }

    /// What comes of events in this order, in batches of so many out of those that remain.
    async fn played(
        &self,
        events: &[RecordedEvent],
        mut batch: impl FnMut(usize) -> usize,
    ) -> Result<MemorySnapshot, Cause> {
        let (model, projection) = (MemoryModel::new(), ProjectionId::of::<P>());
        let query = P::wants().query()?;
        let mut from = Token::start(StoreId::new());
        model.register(&Registration { projection: projection.clone(), partitions: 1, head: from, setup: "" }).await?;
        let claim = model.take(&projection, Partition(0), &WorkerId("test".into())).await?;
        let epoch = claim.ok_or("the partition is taken")?.epoch;
        let mut left: Vec<&RecordedEvent> = events.iter().filter(|event| query.matches(event)).collect();
        while !left.is_empty() {
            let taken: Vec<_> = left.drain(..batch(left.len())).collect();
            let envelope = |event: &&RecordedEvent| {
                Envelope::decode((*event).clone(), event.position.get() <= self.history as u64)
            };
            let envelopes = taken.iter().map(envelope).collect::<Result<Vec<_>, _>>()?;
            let to = Token { position: from.position.plus(1), event: EventId::new(), ..from };
            let step = Advance { projection: projection.clone(), partition: Partition(0), epoch, from, to };
            let mut tx = model.begin(&step).await?;
            self.projection.apply_batch(&envelopes, &mut tx).await?;
            model.commit(tx).await?;
            from = to;
        }
        Ok(model.query::<P>()?)
    }
}

/// An event as it is written.
#[track_caller]
fn new<E: Event>(event: &E) -> NewEvent {
    let codec: &dyn Codec = event.codec().unwrap_or(&Json);
    let data = event.encode(codec).unwrap_or_else(|error| panic!("{error}"));
    let tags = event.tags().unwrap_or_else(|error| panic!("{error}"));
    let mut new = NewEvent::new(event.event_type(), codec.content_type(), data).with_tags(tags);
    new.schema_version = event.schema_version();
    new
}

/// Deals the events out by stream, and takes them one by one from a stream that has some left.
fn shuffled(events: &[RecordedEvent], random: &mut StdRng) -> Vec<RecordedEvent> {
    let mut streams: Vec<Vec<RecordedEvent>> = Vec::new();
    for event in events.iter().rev() {
        match streams.iter_mut().find(|stream| stream.first().is_some_and(|first| first.stream == event.stream)) {
            Some(stream) => stream.push(event.clone()),
            None => streams.push(vec![event.clone()]),
        }
    }
    let mut order = Vec::new();
    while order.len() < events.len() {
        let open: Vec<usize> = (0..streams.len()).filter(|stream| !streams[*stream].is_empty()).collect();
        order.extend(open.choose(random).and_then(|stream| streams[*stream].pop()));
    }
    order
}
