//! Decision models: rules over events of many streams, found by a query, in the sense of
//! [Dynamic Consistency Boundaries](https://dcb.events).

use std::{fmt, sync::Arc};

use crate::{
    Aggregate, Apply, CommandContext, Event, IntoId, InvalidInput, NewEvent, Query, StreamId,
    encode::{Encoder, PrepareError},
};

/// State that is computed from the events that a query finds, whatever their streams.
///
/// A decision from it is written on the condition that no event matching the query was recorded in the meantime; else
/// it is decided again.
pub trait DecisionModel: Apply {
    /// The events that the decision rests on.
    ///
    /// # Errors
    /// [`InvalidInput`] where a value makes no valid tag.
    fn query(&self) -> Result<Query, InvalidInput>;
}

/// Decides about a command by a decision model: one implementation for each command.
///
/// ```
/// # use indelible_core::{*, store::memory::MemoryStore};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// enum UserEvent {
///     Registered {
///         #[event(tag)]
///         name: String,
///     },
/// }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "user")]
/// # struct User {}
/// # impl Apply for User {
/// #     type Event = UserEvent;
/// #     fn apply(&mut self, _: &UserEvent) {}
/// # }
///
/// /// Whether a name is taken, by whichever user.
/// #[derive(Clone)]
/// struct Username {
///     name: String,
///     taken: bool,
/// }
///
/// impl Apply for Username {
///     type Event = UserEvent;
///     fn apply(&mut self, _: &UserEvent) {
///         self.taken = true;
///     }
/// }
///
/// impl DecisionModel for Username {
///     fn query(&self) -> Result<Query, InvalidInput> {
///         Ok(Query::types::<User>([UserEvent::REGISTERED]).tagged(Tag::of("name", &self.name)?))
///     }
/// }
///
/// struct Register {
///     id: String,
/// }
///
/// #[derive(Debug, PartialEq, thiserror::Error)]
/// #[error("the name is taken")]
/// struct Taken;
///
/// impl Decide<Register> for Username {
///     type Error = Taken;
///     fn decide(&self, command: &Register, _: &CommandContext) -> Result<Writes, Taken> {
///         match self.taken {
///             true => Err(Taken),
///             false => Ok(Writes::to::<User>(&command.id, UserEvent::Registered { name: self.name.clone() })),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let users = Executor::new(&MemoryStore::new());
/// let ada = Username { name: "ada".into(), taken: false };
/// users.decide(ada.clone(), Register { id: "u1".into() }).await?;
/// let second = users.decide(ada, Register { id: "u2".into() }).await;
/// assert!(matches!(second, Err(CommandError::Rejected(Taken))));
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not decide the command `{C}`",
    note = "write `impl Decide<{C}> for {Self}`"
)]
pub trait Decide<C>: DecisionModel {
    /// Why the command may be rejected.
    type Error: Send + 'static;

    /// Decides: which events are written to which streams, none, or why not. Pure; it may be called again when another
    /// command came first.
    ///
    /// # Errors
    /// The domain's.
    fn decide(&self, command: &C, context: &CommandContext) -> Result<Writes, Self::Error>;
}

/// What a decision writes: events, each with its stream.
#[derive(Clone, Debug, Default)]
pub struct Writes(Vec<Write>);

#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) stream: Result<StreamId, InvalidInput>,
    pub(crate) event: Arc<dyn AnyEvent>,
}

impl Writes {
    /// Nothing happens.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// An event of this aggregate. An id that makes no stream name fails the command as invalid.
    pub fn to<A: Aggregate<Event: fmt::Debug>>(id: impl IntoId<A::Id>, event: A::Event) -> Self {
        Self::none().and::<A>(id, event)
    }

    /// And an event of that aggregate.
    #[must_use]
    pub fn and<A: Aggregate<Event: fmt::Debug>>(mut self, id: impl IntoId<A::Id>, event: A::Event) -> Self {
        self.0.push(Write { stream: A::stream(&id.into_id()), event: Arc::new(event) });
        self
    }

    /// Whether nothing happens.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Write> {
        self.0.iter()
    }
}

/// An event whose type is forgotten until it is encoded.
pub(crate) trait AnyEvent: fmt::Debug + Send + Sync {
    fn encode(&self, stream: &StreamId, encoder: &Encoder, context: &CommandContext) -> Result<NewEvent, PrepareError>;
}

impl<E: Event + fmt::Debug> AnyEvent for E {
    fn encode(&self, stream: &StreamId, encoder: &Encoder, context: &CommandContext) -> Result<NewEvent, PrepareError> {
        encoder.encode(stream, self, context)
    }
}
