//! What an application writes: aggregates, the events they apply, and the commands they handle.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Category, CommandContext, Event, InvalidInput, SnapshotPolicy, StreamId, Timestamp, Version, codec::Codec,
};

/// State that is computed from events. Aggregates have it, and [decision models](crate::DecisionModel) too.
pub trait Apply: Clone + Send + Sync + 'static {
    /// The events that make up the state.
    type Event: Event;

    /// Takes one event into the state. Pure, and infallible: what is recorded has happened.
    ///
    /// Each event is applied once and only once on every path: replay, snapshot, cache, a command's own events.
    fn apply(&mut self, event: &Self::Event);
}

/// A consistency boundary with a stream of its own: `#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]`.
///
/// Its [`Default`] is the state before the first event.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an aggregate",
    note = "derive it: `#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]` \
            with `#[aggregate(category = \"…\")]`"
)]
pub trait Aggregate: Apply + Default + Serialize + DeserializeOwned {
    /// The kind of aggregate; its streams are `category-id`.
    const CATEGORY: Category;

    /// What tells its instances apart.
    type Id: AggregateId;

    /// When snapshots are taken, unless a repository says otherwise.
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::NEVER;

    /// Changes whenever old snapshots must not be used any more: when the shape of the state changes, or what `apply`
    /// makes of an event. The derive hashes the state's fields into it; `snapshot(version = n)` is for the rest.
    const STATE: &'static str;

    /// The codec of its snapshots.
    fn snapshot_codec() -> &'static dyn Codec {
        &crate::codec::Bincode
    }

    /// The stream of an instance.
    ///
    /// # Errors
    /// [`InvalidInput`] where the id makes no valid stream name.
    fn stream(id: &Self::Id) -> Result<StreamId, InvalidInput> {
        StreamId::new(&Self::CATEGORY, id)
    }
}

/// What tells aggregates of one category apart; its [`Display`](fmt::Display) is the part of the stream's name after the
/// first `-`. Two ids that print the same are the same.
pub trait AggregateId: fmt::Display + Clone + Send + Sync + 'static {}
impl<T: fmt::Display + Clone + Send + Sync + 'static> AggregateId for T {}

/// What may be given where an id is asked for: the id, a reference to it, and text for a [`String`].
pub trait IntoId<I> {
    /// The id.
    fn into_id(self) -> I;
}
impl<I: AggregateId> IntoId<I> for I {
    fn into_id(self) -> I {
        self
    }
}
impl<I: AggregateId> IntoId<I> for &I {
    fn into_id(self) -> I {
        self.clone()
    }
}
impl IntoId<String> for &str {
    fn into_id(self) -> String {
        self.to_owned()
    }
}

/// Decides about a command: one implementation for each command that an aggregate takes.
///
/// ```
/// # use indelible_core::{*, testing::given};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// enum DoorEvent {
///     Opened,
/// }
///
/// #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// #[aggregate(category = "door")]
/// struct Door {
///     open: bool,
/// }
///
/// impl Apply for Door {
///     type Event = DoorEvent;
///     fn apply(&mut self, event: &DoorEvent) {
///         match event {
///             DoorEvent::Opened => self.open = true,
///         }
///     }
/// }
///
/// struct Open;
///
/// #[derive(Debug, PartialEq)]
/// struct AlreadyOpen;
///
/// impl Handle<Open> for Door {
///     type Error = AlreadyOpen;
///     fn handle(&self, _: &Open, _: &Context<Self>) -> Result<Events<DoorEvent>, AlreadyOpen> {
///         if self.open { Err(AlreadyOpen) } else { Ok(DoorEvent::Opened.into()) }
///     }
/// }
///
/// given::<Door>([]).when(Open).then([DoorEvent::Opened]);
/// given::<Door>([DoorEvent::Opened]).when(Open).then_rejected(AlreadyOpen);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle the command `{C}`",
    note = "write `impl Handle<{C}> for {Self}`"
)]
pub trait Handle<C>: Aggregate {
    /// Why the command may be rejected.
    type Error: Send + 'static;

    /// Decides: which events happen, none, or why not. Pure; it may be called again when another command came first.
    ///
    /// # Errors
    /// The domain's.
    fn handle(&self, command: &C, context: &Context<Self>) -> Result<Events<Self::Event>, Self::Error>;
}

/// What a handler may know beside the state and the command: which aggregate it is, the time, and who asks.
///
/// Handlers take the time from here and not from a clock, so that tests need none.
#[derive(Clone, Debug)]
pub struct Context<A: Aggregate> {
    id: Option<A::Id>,
    version: Version,
    command: CommandContext,
}

impl<A: Aggregate> Context<A> {
    /// Only the testing kit leaves the id out.
    pub(crate) fn new(id: Option<A::Id>, version: Version, command: CommandContext) -> Self {
        Self { id, version, command }
    }

    /// The aggregate's id.
    ///
    /// # Panics
    /// In a test that gave none.
    pub fn id(&self) -> &A::Id {
        let Some(id) = &self.id else { panic!("the handler asks for the id: say `.with_id(…)` before `.when(…)`") };
        id
    }

    /// The aggregate's version, [`Version::NONE`] before its first event.
    pub fn version(&self) -> Version {
        self.version
    }

    /// When the command is decided: the clock's time, unless its context [says another](CommandContext::with_time).
    pub fn now(&self) -> Timestamp {
        self.command.now()
    }

    /// Who asks, and what belongs together.
    pub fn command(&self) -> &CommandContext {
        &self.command
    }
}

/// What a command decided: any number of events.
///
/// ```
/// # use indelible_core::Events;
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, indelible_core::Event)]
/// # enum DoorEvent { Opened, Closed }
/// # use DoorEvent::*;
/// let one: Events<DoorEvent> = Opened.into();
/// let several: Events<DoorEvent> = [Opened, Closed].into();
/// let perhaps: Events<DoorEvent> = Some(Opened).into();
/// let none = Events::<DoorEvent>::none();
/// # assert_eq!((one.len(), several.len(), perhaps.len(), none.len()), (1, 2, 1, 0));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events<E> {
    events: Vec<E>,
    closes: bool,
}

impl<E> Events<E> {
    /// Nothing happens.
    pub const fn none() -> Self {
        Self { events: Vec::new(), closes: false }
    }

    /// And the last of them is the stream's last for ever: every later append to it conflicts. Without events, nothing
    /// is closed.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether they close the stream.
    pub fn closes(&self) -> bool {
        self.closes && !self.is_empty()
    }
}
impl<E: Event> From<E> for Events<E> {
    fn from(event: E) -> Self {
        Self::from_iter([event])
    }
}
impl<E: Event, const N: usize> From<[E; N]> for Events<E> {
    fn from(events: [E; N]) -> Self {
        Self::from_iter(events)
    }
}
impl<E: Event> From<Vec<E>> for Events<E> {
    fn from(events: Vec<E>) -> Self {
        Self { events, closes: false }
    }
}
impl<E: Event> From<Option<E>> for Events<E> {
    fn from(event: Option<E>) -> Self {
        Self::from_iter(event)
    }
}
impl<E> FromIterator<E> for Events<E> {
    fn from_iter<I: IntoIterator<Item = E>>(events: I) -> Self {
        Self { events: events.into_iter().collect(), closes: false }
    }
}
impl<E> IntoIterator for Events<E> {
    type Item = E;
    type IntoIter = std::vec::IntoIter<E>;
    fn into_iter(self) -> Self::IntoIter {
        self.events.into_iter()
    }
}
impl<'a, E> IntoIterator for &'a Events<E> {
    type Item = &'a E;
    type IntoIter = std::slice::Iter<'a, E>;
    fn into_iter(self) -> Self::IntoIter {
        self.events.iter()
    }
}
