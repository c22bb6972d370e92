//! What the fault tests write: appends that follow from three numbers, so that whoever looks for them later knows every
//! byte. The writing process says each append before it hands it over and each answer after it has it, through a pipe
//! that outlives it; [`Journal`](super::Journal) reads that.

use std::{fmt, str::FromStr, sync::Arc};

use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::{
    Append, AppendOutcome, ContentType, Delivery, EventId, EventStore, EventType, ExpectedVersion, Filter, NewEvent,
    StartFrom, StoreError, StreamId, Subscription, Tag, Version,
};
/// The name of an append: the n-th of a writer in one cycle of a test. Its events' ids hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The cycle.
    pub cycle: u64,
    /// The writer.
    pub writer: u64,
    /// Which of its appends.
    pub n: u64,
}

/// How an append is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever its streams are like.
    Plain,
    /// Expecting the exact version of a stream that no other writer knows, and so never in conflict.
    Counted,
    /// Expecting the version that a contested stream was just seen to have.
    Contested,
    /// Expecting no stream where there is one: must be refused.
    Refused,
}

impl Name {
    /// How it is sent.
    pub fn kind(self) -> Kind {
        match self.n % 8 {
            3 => Kind::Counted,
            5 => Kind::Contested,
            6 => Kind::Refused,
            _ => Kind::Plain,
        }
    }

    /// What it writes: one to four events, some to a stream of the writer's own, most to few that all write, some to two
    /// at once; most are small, some large enough to be written in pieces.
    pub fn append(self) -> Append {
        let Self { cycle, writer, n } = self;
        let mut random = StdRng::seed_from_u64(cycle << 40 | writer << 32 | n);
        let mut append = Append::new();
        for part in 0..random.random_range(1..=4_u8) {
            let stream = match (self.kind(), random.random_range(0..10)) {
                (Kind::Counted | Kind::Refused, _) => self.counted(),
                (Kind::Contested, _) => contested(),
                (Kind::Plain, 0) => format!("own-{cycle}-{writer}").parse().unwrap(),
                (Kind::Plain, shared) => format!("shared-{shared}").parse().unwrap(),
            };
            let is_large = random.random_range(0..150) == 0;
            let mut data =
                vec![0; if is_large { random.random_range(0..150_000) } else { random.random_range(0..500) }];
            random.fill(data.as_mut_slice());
            let event_type = if part == 0 { "Began" } else { "Went" };
            let event = NewEvent::new(EventType::from_static(event_type), ContentType::from_static("bytes"), data)
                .with_id(self.id(part))
                .with_tags([Tag::of("writer", writer).unwrap(), Tag::of("residue", n % 5).unwrap()]);
            append = append.event(stream, event);
        }
        append
    }

    /// The id of one of its events.
    pub fn id(self, part: u8) -> EventId {
        let Self { cycle, writer, n } = self;
        let id = u128::from(cycle + 1) << 80 | u128::from(writer) << 64 | u128::from(n) << 8 | u128::from(part);
        EventId::from_uuid(Uuid::from_u128(id))
    }

    fn counted(self) -> StreamId {
        format!("counted-{}-{}", self.cycle, self.writer).parse().unwrap()
    }
}

fn contested() -> StreamId {
    "contested-1".parse().unwrap()
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.cycle, self.writer, self.n)
    }
}

impl FromStr for Name {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split('.').map(str::parse);
        let mut next = || numbers.next().unwrap_or_else(|| "".parse());
        Ok(Self { cycle: next()?, writer: next()?, n: next()? })
    }
}

/// What a writing process is to do.
#[derive(Clone, Debug)]
pub struct Work {
    /// In which cycle.
    pub cycle: u64,
    /// How many write at once.
    pub writers: u64,
    /// How many appends each writer sends.
    pub appends: u64,
    /// Whether the store is opened in its weaker mode, in which acknowledged appends may be lost.
    pub weakly: bool,
    /// Appends of earlier processes, whose outcome is not known, to be sent again.
    pub again: Vec<Name>,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.cycle, self.writers, self.appends, self.weakly)?;
        self.again.iter().try_for_each(|name| write!(f, " {name}"))
    }
}

impl FromStr for Work {
    type Err = Box<dyn std::error::Error>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<&str> = text.split(' ').collect();
        let [cycle, writers, appends, weakly, again @ ..] = &words[..] else { return Err("too few words".into()) };
        Ok(Self {
            cycle: cycle.parse()?,
            writers: writers.parse()?,
            appends: appends.parse()?,
            weakly: weakly.parse()?,
            again: again.iter().map(|name| name.parse()).collect::<Result<_, _>>()?,
        })
    }
}

/// Where a writing process says what it does.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

impl Work {
    /// Sends it all, and says so; returns when all is sent, or the store takes nothing more.
    pub async fn run<S: EventStore + Clone>(&self, store: S, say: Say) {
        let head = store.head().await.unwrap();
        say(&format!("opened {} {}", head.position, head.event));
        let reader = tokio::spawn(read(store.clone(), Arc::clone(&say)));
        for name in &self.again {
            Writer { store: store.clone(), say: Arc::clone(&say), errors: 0 }.send(*name, ExpectedVersion::Any).await;
        }
        let writers = (0..self.writers).map(|writer| {
            let writer = Writer { store: store.clone(), say: Arc::clone(&say), errors: 0 }.write(
                self.cycle,
                writer,
                self.appends,
            );
            tokio::spawn(writer)
        });
        for writer in futures::future::join_all(writers).await {
            writer.unwrap();
        }
        reader.abort();
        // Until it has let the store go.
        let _ = reader.await;
    }
}

/// Says what a live reader has seen: what is visible must not go away again.
async fn read<S: EventStore + Clone>(store: S, say: Say) {
    let Ok(mut subscription) = Subscription::new(store, Filter::all(), StartFrom::Now).await else { return };
    while let Ok(delivery) = subscription.next().await {
        if let Delivery::CaughtUp(token) = delivery {
            say(&format!("seen {} {}", token.position, token.event));
        }
    }
}

/// One that has had so many errors sends nothing more: a few after the first show that the store takes nothing.
const ERRORS_MAX: u32 = 3;

struct Writer<S> {
    store: S,
    say: Say,
    errors: u32,
}

impl<S: EventStore + Clone> Writer<S> {
    async fn write(mut self, cycle: u64, writer: u64, appends: u64) {
        // What is not known to have been written or not is no longer counted on.
        let mut counted = Some(Version::NONE);
        for n in 0..appends {
            let name = Name { cycle, writer, n };
            let expected = match name.kind() {
                Kind::Plain => ExpectedVersion::Any,
                Kind::Counted => match counted {
                    Some(version) => ExpectedVersion::Exact(version),
                    None => continue,
                },
                Kind::Refused if counted.is_none_or(|version| version == Version::NONE) => continue,
                Kind::Refused => ExpectedVersion::NoStream,
                Kind::Contested => match self.store.stream_head(&contested()).await {
                    Ok(head) => ExpectedVersion::Exact(head.version),
                    Err(error) => return (self.say)(&format!("unread {error:?}").replace('\n', " ")),
                },
            };
            let is_written = self.send(name, expected).await;
            if name.kind() == Kind::Counted {
                counted =
                    counted.filter(|_| is_written).map(|version| version.plus(name.append().events().len() as u64));
            }
            // What was just acknowledged is sent again now and then, whatever is expected now.
            if n % 8 == 7 && self.errors == 0 {
                self.send(name, ExpectedVersion::NoStream).await;
            }
            if self.errors == ERRORS_MAX {
                return;
            }
        }
    }

    /// Whether it was written.
    async fn send(&mut self, name: Name, expected: ExpectedVersion) -> bool {
        let append = name.append();
        let first = append.events()[0].0.clone();
        (self.say)(&format!("append {name}"));
        let answer = match self.store.append(append.clone().check(first, expected)).await {
            Ok(AppendOutcome::Appended(done)) => {
                let word = if done.repeated { "again" } else { "done" };
                format!("{word} {name} {}", done.events[0].position)
            }
            Ok(AppendOutcome::Conflict(_)) => format!("refused {name}"),
            Err(StoreError::OutcomeUnknown { append: returned, source }) if *returned.events() == *append.events() => {
                format!("unknown {name} {source:?}")
            }
            Err(StoreError::Stopped { reason }) => format!("stopped {name} {reason}"),
            Err(error) => format!("failed {name} {error:?}"),
        }
        .replace('\n', " ");
        let is_error = !["done", "again", "refused"].iter().any(|word| answer.starts_with(word));
        self.errors += u32::from(is_error);
        (self.say)(&answer);
        // A store may have sent it twice by itself.
        answer.starts_with("done") || answer.starts_with("again")
    }
}
