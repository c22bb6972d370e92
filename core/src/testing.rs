//! Given / when / then for aggregates and decision models: no store, no clock, no runtime.
//!
//! Events are encoded and decoded on the way, so that one that would not come back from the log fails its test too. They
//! and the domain's errors are compared and shown: derive `Debug` and `PartialEq` for both.
//!
//! ```should_panic
//! # use indelible_core::{*, testing::given};
//! # use serde::{Deserialize, Serialize};
//! # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
//! # enum TaskEvent { Added { title: String }, Done }
//! # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
//! # #[aggregate(category = "task")]
//! # struct Task { open: bool }
//! # impl Apply for Task {
//! #     type Event = TaskEvent;
//! #     fn apply(&mut self, event: &TaskEvent) { self.open = matches!(event, TaskEvent::Added { .. }) }
//! # }
//! # struct Finish;
//! # #[derive(Debug, PartialEq)]
//! # struct NotOpen;
//! # impl Handle<Finish> for Task {
//! #     type Error = NotOpen;
//! #     fn handle(&self, _: &Finish, _: &Context<Self>) -> Result<Events<TaskEvent>, NotOpen> {
//! #         if self.open { Ok(TaskEvent::Done.into()) } else { Err(NotOpen) }
//! #     }
//! # }
//! let added = || TaskEvent::Added { title: "tests".into() };
//! given::<Task>([added()]).when(Finish).then([TaskEvent::Done]);
//! given::<Task>([added(), TaskEvent::Done]).when(Finish).then_rejected(NotOpen);
//! given::<Task>([added()]).when(Finish).then([added()]); // fails, and shows the difference
//! ```

use std::fmt::{Debug, Write as _};

use similar::{ChangeTag, TextDiff};

use crate::{
    Aggregate, CommandContext, Context, Decide, Event, Events, Handle, NewEvent, StreamId, Timestamp, Version, Writes,
    codec::Json,
    encode::{Encoder, payload},
};

mod layer;

pub use layer::Layer;

/// An aggregate to which these events happened.
///
/// # Panics
/// When one of them does not come back from its encoding.
#[track_caller]
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut given = Given { state: A::default(), version: Version::NONE, id: None, context: test_context() };
    for event in events {
        given.state.apply(&through_the_log::<A>(&event));
        given.version = given.version.plus(1);
    }
    given
}

/// The events of a whole log, for decision models.
pub fn given_log(log: Writes) -> GivenLog {
    GivenLog { log, context: test_context() }
}

/// A context whose time stands still.
fn test_context() -> CommandContext {
    CommandContext::new().with_time(Timestamp::from_micros(0).unwrap_or_else(|_| Timestamp::now()))
}

/// An event as it comes back from the log.
#[track_caller]
fn through_the_log<A: Aggregate>(event: &A::Event) -> A::Event {
    let encode = || {
        let stream = StreamId::new(&A::CATEGORY, "given")?;
        let new = Encoder::new(&Json).encode(&stream, event, &CommandContext::new())?;
        Ok::<_, crate::CommandError<std::convert::Infallible>>(A::Event::decode(&payload(&stream, &new))?)
    };
    encode().unwrap_or_else(|error| panic!("{} does not come back from the log: {error}", event.event_type()))
}

/// An aggregate in its state before a command.
pub struct Given<A: Aggregate> {
    state: A,
    version: Version,
    id: Option<A::Id>,
    context: CommandContext,
}

impl<A: Aggregate> Given<A> {
    /// Of this id, for handlers that ask for it.
    #[must_use]
    pub fn with_id(mut self, id: A::Id) -> Self {
        self.id = Some(id);
        self
    }

    /// At this time; by default 1970-01-01T00:00:00Z, before whatever the given events say.
    #[must_use]
    pub fn at(mut self, time: Timestamp) -> Self {
        self.context = self.context.with_time(time);
        self
    }

    /// In this context.
    #[must_use]
    pub fn with(mut self, context: CommandContext) -> Self {
        self.context = context;
        self
    }

    /// Handles a command.
    #[must_use = "say what is expected: `.then(…)`, `.then_rejected(…)`"]
    pub fn when<C>(self, command: C) -> Then<A, A::Error>
    where
        A: Handle<C>,
    {
        let context = Context::new(self.id, self.version, self.context);
        let outcome = self.state.handle(&command, &context);
        Then { state: self.state, outcome }
    }
}

/// What a command decided.
pub struct Then<A: Aggregate, E> {
    state: A,
    outcome: Result<Events<A::Event>, E>,
}

impl<A: Aggregate<Event: Debug + PartialEq>, E: Debug> Then<A, E> {
    /// These events, in this order.
    ///
    /// # Panics
    /// When it decided something else; the message is a diff.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) -> Self {
        let expected: Vec<A::Event> = expected.into_iter().collect();
        let decided: Vec<A::Event> = match &self.outcome {
            Ok(events) => events.into_iter().map(through_the_log::<A>).collect(),
            Err(error) => panic!("expected {} events, the command was rejected: {error:?}", expected.len()),
        };
        if decided != expected {
            panic!("{}", difference("the command decided other events", &lines(&expected), &lines(&decided)));
        }
        self
    }

    /// Nothing happens.
    ///
    /// # Panics
    /// When something does.
    #[track_caller]
    pub fn then_nothing(self) -> Self {
        self.then([])
    }

    /// The command is rejected with this error.
    ///
    /// # Panics
    /// When it is not, or with another.
    #[track_caller]
    pub fn then_rejected(self, expected: E)
    where
        E: PartialEq,
    {
        match &self.outcome {
            Err(error) if *error == expected => {}
            Err(error) => {
                let (expected, error) = (format!("{expected:#?}\n"), format!("{error:#?}\n"));
                panic!("{}", difference("the command was rejected with another error", &expected, &error));
            }
            Ok(events) => {
                let decided: Vec<&A::Event> = events.into_iter().collect();
                panic!("expected to be rejected with {expected:?}, the command decided:\n{}", lines(&decided));
            }
        }
    }

    /// The events are the stream's last.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn then_closed(self) -> Self {
        match &self.outcome {
            Ok(events) if events.closes() => self,
            _ => panic!("the command does not close the stream"),
        }
    }

    /// Looks at the state that the events lead to; assert in the closure.
    #[track_caller]
    pub fn then_state(self, look: impl FnOnce(&A)) -> Self {
        let mut state = self.state.clone();
        for event in self.outcome.as_ref().into_iter().flatten() {
            state.apply(event);
        }
        look(&state);
        self
    }
}

/// A log before a decision.
pub struct GivenLog {
    log: Writes,
    context: CommandContext,
}

impl GivenLog {
    /// At this time; by default 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn at(mut self, time: Timestamp) -> Self {
        self.context = self.context.with_time(time);
        self
    }

    /// In this context.
    #[must_use]
    pub fn with(mut self, context: CommandContext) -> Self {
        self.context = context;
        self
    }

    /// Decides about a command by a model, which sees of the log what its query finds.
    ///
    /// # Panics
    /// When an event or the query is invalid, or an event that the query finds doesn't decode.
    #[must_use = "say what is expected: `.then(…)`, `.then_rejected(…)`"]
    #[track_caller]
    pub fn when<M, C>(self, mut model: M, command: C) -> ThenWrites<M::Error>
    where
        M: Decide<C>,
    {
        let query = model.query().unwrap_or_else(|error| panic!("the model's query: {error}"));
        for (stream, new) in encoded(&self.log).iter().filter(|(stream, new)| query.matches_new(stream, new)) {
            match M::Event::decode(&payload(stream, new)) {
                Ok(event) => model.apply(&event),
                Err(error) => panic!("the query finds an event that the model can't read: {error}"),
            }
        }
        ThenWrites { outcome: model.decide(&command, &self.context) }
    }
}

/// What a decision model decided.
pub struct ThenWrites<E> {
    outcome: Result<Writes, E>,
}

impl<E: Debug> ThenWrites<E> {
    /// These events in these streams, in this order.
    ///
    /// # Panics
    /// When it decided something else; the message is a diff.
    #[track_caller]
    pub fn then(self, expected: Writes) {
        let decided = match self.outcome {
            Ok(writes) => shown(&encoded(&writes)),
            Err(error) => panic!("expected to be accepted, the command was rejected: {error:?}"),
        };
        let expected = shown(&encoded(&expected));
        if decided != expected {
            panic!("{}", difference("the command decided other events", &expected, &decided));
        }
    }

    /// The command is rejected with this error.
    ///
    /// # Panics
    /// When it is not, or with another.
    #[track_caller]
    pub fn then_rejected(self, expected: E)
    where
        E: PartialEq,
    {
        match self.outcome {
            Err(error) if error == expected => {}
            Err(error) => panic!("expected to be rejected with {expected:?}, it was with {error:?}"),
            Ok(writes) => {
                panic!("expected to be rejected with {expected:?}, it decided:\n{}", shown(&encoded(&writes)))
            }
        }
    }
}

/// The events as they would be written.
#[track_caller]
fn encoded(writes: &Writes) -> Vec<(StreamId, NewEvent)> {
    let encoder = Encoder::new(&Json);
    let encode = |write: &crate::decision::Write| {
        let stream = write.stream.clone()?;
        let new = write.event.encode(&stream, &encoder, &CommandContext::new())?;
        Ok::<_, crate::CommandError<std::convert::Infallible>>((stream, new))
    };
    writes
        .iter()
        .map(|write| encode(write).unwrap_or_else(|error| panic!("{:?} can't be written: {error}", write.event)))
        .collect()
}

fn shown(events: &[(StreamId, NewEvent)]) -> String {
    let mut text = String::new();
    for (stream, new) in events {
        let data = String::from_utf8_lossy(&new.data);
        let tags: Vec<&str> = new.tags.iter().map(crate::Tag::as_str).collect();
        let _ = writeln!(text, "{stream}: {} {data} {}", new.event_type, tags.join(" "));
    }
    text
}

fn lines<E: Debug>(events: &[E]) -> String {
    events.iter().fold(String::new(), |mut text, event| {
        let _ = writeln!(text, "{event:#?}");
        text
    })
}

/// Two texts line by line: `-` was expected, `+` is there.
fn difference(what: &str, expected: &str, found: &str) -> String {
    let mut text = format!("{what} (- expected, + decided):\n");
    for change in TextDiff::from_lines(expected, found).iter_all_changes() {
        let sign = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => ' ',
        };
        let _ = write!(text, "{sign} {change}");
    }
    text
}
