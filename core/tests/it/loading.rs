//! The past and the present of aggregates, however long they are, in whatever encoding.

use std::sync::atomic::Ordering::Relaxed;

use indelible_core::{
    Aggregate, Append, AppendOutcome, Apply, AsOf, Codec, CommandError, Context, Event, EventStore, EventType, Events,
    ExpectedVersion, Handle, LoadError, NewEvent, PAGE_EVENTS_MAX, Position, ReadStream, Repository, Version,
    codec::{Bincode, Json},
    store::memory::MemoryStore,
};
use serde::{Deserialize, Serialize};

use crate::bank::{Account, Deposit, Watched};

#[tokio::test]
async fn an_account_is_known_as_it_was() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    for cents in 1..=25 {
        accounts.execute("a", Deposit(cents)).await.unwrap();
        accounts.execute("b", Deposit(1_000)).await.unwrap();
    }
    let events = store.read_stream(&ReadStream::new("account-a".parse().unwrap())).await.unwrap().events;
    for event in events {
        let n = event.version.get();
        let sum = n * (n + 1) / 2;
        let at = async |moment| accounts.load_as_of("a", moment).await.unwrap();
        assert_eq!(at(AsOf::Version(event.version)).await.balance, sum);
        assert_eq!(at(AsOf::Position(event.position)).await.balance, sum);
        // The next event of another stream changes nothing.
        assert_eq!(at(AsOf::Position(event.position.plus(1))).await.balance, sum);
        let then = at(AsOf::Time(event.recorded_at)).await;
        assert!(then.version() >= event.version && then.balance >= sum);
    }
    assert_eq!(accounts.load_as_of("a", AsOf::Position(Position::START)).await.unwrap().version(), Version::NONE);
    let spared = accounts.load_as_of("a", AsOf::Version(Version::new(25))).await.unwrap();
    assert_eq!(spared.snapshot_version(), Some(Version::new(20)));
}

#[tokio::test]
async fn a_hundred_thousand_events_are_never_held_at_once() {
    let store = Watched::new();
    let stream = || "account-a".parse().unwrap();
    for _ in 0..10 {
        let deposit = |_| {
            let data = r#"{"cents":1}"#;
            NewEvent::new(EventType::from_static("Deposited"), indelible_core::ContentType::JSON, data)
        };
        let append = Append::to(stream(), ExpectedVersion::Any, (0..10_000).map(deposit));
        assert!(matches!(store.inner.append(append).await.unwrap(), AppendOutcome::Appended(_)));
    }
    let loaded = Repository::<Account>::new(&store).load("a").await.unwrap();
    assert_eq!((loaded.balance, loaded.version()), (100_000, Version::new(100_000)));
    let (reads, largest) = (store.reads.load(Relaxed), store.page_events_max.load(Relaxed));
    assert!(largest <= PAGE_EVENTS_MAX && reads >= 100, "{reads} reads, the largest of {largest} events");
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum NoteEvent {
    Written {
        text: String,
    },
    #[event(codec = bincode)]
    Scored {
        points: Vec<u32>,
    },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "note")]
struct Note {
    text: String,
    points: u32,
}

impl Apply for Note {
    type Event = NoteEvent;
    fn apply(&mut self, event: &NoteEvent) {
        match event {
            NoteEvent::Written { text } => self.text.push_str(text),
            NoteEvent::Scored { points } => self.points += points.iter().sum::<u32>(),
        }
    }
}

impl Handle<NoteEvent> for Note {
    type Error = std::convert::Infallible;
    fn handle(&self, event: &NoteEvent, _: &Context<Self>) -> Result<Events<NoteEvent>, Self::Error> {
        Ok(event.clone().into())
    }
}

#[tokio::test]
async fn a_log_of_mixed_encodings_reads_back() {
    let store = MemoryStore::new();
    for codec in [&Json as &dyn Codec, &Bincode, &Json] {
        let store = if codec.content_type() == Bincode.content_type() {
            store.clone().with_codec(&Bincode)
        } else {
            store.clone()
        };
        let notes = Repository::<Note>::new(&store);
        notes.execute("n", NoteEvent::Written { text: "ü".into() }).await.unwrap();
        notes.execute("n", NoteEvent::Scored { points: vec![1, 2] }).await.unwrap();
    }
    let note = Repository::<Note>::new(&store).load("n").await.unwrap();
    assert_eq!((note.text.as_str(), note.points), ("üüü", 9));
    let events = store.read_stream(&ReadStream::new("note-n".parse().unwrap())).await.unwrap().events;
    let names: Vec<&str> = events.iter().map(|event| event.content_type.as_str()).collect();
    let (json, bincode) = ("application/json", "application/x-bincode");
    assert_eq!(names, [json, bincode, bincode, bincode, json, bincode]);
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let store = MemoryStore::new();
    let notes = Repository::<Note>::new(&store);
    notes.execute("n", NoteEvent::Written { text: "one".into() }).await.unwrap();
    let strange = NewEvent::new(EventType::from_static("Sung"), Json.content_type(), "{}");
    store.append(Append::to("note-n".parse().unwrap(), ExpectedVersion::Any, [strange])).await.unwrap();

    let Err(LoadError::Decode(error)) = Repository::<Note>::new(&store).load("n").await else { panic!() };
    assert_eq!((error.stream.as_str(), error.version, error.schema_version), ("note-n", Version::new(2), 1));
    let text = error.to_string();
    assert!(text.contains("Sung (schema version 1) at version 2 of note-n"), "{text}");
}

/// bincode writes this and reads something else; the log must not take it.
#[tokio::test]
async fn an_event_that_does_not_come_back_is_not_written() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Lossy {
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
        count: u8,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    #[event(codec = bincode)]
    enum LossyEvent {
        Happened(Lossy),
    }
    #[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
    #[aggregate(category = "lossy")]
    struct Losses {}
    impl Apply for Losses {
        type Event = LossyEvent;
        fn apply(&mut self, _: &LossyEvent) {}
    }
    impl Handle<u8> for Losses {
        type Error = std::convert::Infallible;
        fn handle(&self, count: &u8, _: &Context<Self>) -> Result<Events<LossyEvent>, Self::Error> {
            Ok(LossyEvent::Happened(Lossy { note: None, count: *count }).into())
        }
    }
    let store = MemoryStore::new();
    let error = Repository::<Losses>::new(&store).execute("a", 0_u8).await.unwrap_err();
    let CommandError::Encode(error) = error else { panic!("{error}") };
    assert_eq!((error.event_type.as_str(), error.content_type.as_str()), ("Happened", "application/x-bincode"));
    assert_eq!(store.head().await.unwrap().position, Position::START);
}

/// The log of a server that took some appends and is gone, and that of the one that came in its place: the states that a
/// repository remembers are of events that are lost, whatever their versions.
mod fail_over {
    use super::*;
    use crate::bank::{Insufficient, Withdraw};

    /// The first appends are answered by a log that is lost then.
    fn losing(lost: usize) -> (Watched, Repository<Account>) {
        let gone = MemoryStore::new();
        let store = Watched::intercepting(move |before, append, store| {
            let store = if before < lost { gone.clone() } else { store };
            Box::pin(async move { store.append(append).await })
        });
        let accounts = Repository::new(&store);
        (store, accounts)
    }

    async fn write(store: &Watched, stream: &str, data: &'static str) {
        let event = NewEvent::new(EventType::from_static("Deposited"), indelible_core::ContentType::JSON, data);
        let append = Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event]);
        assert!(matches!(store.inner.append(append).await.unwrap(), AppendOutcome::Appended(_)));
    }

    /// The same version, and yet another event: it stands at another position.
    #[tokio::test]
    async fn a_rejection_is_not_answered_from_events_that_are_lost() {
        let (store, accounts) = losing(1);
        accounts.execute("a", Deposit(100)).await.unwrap();
        write(&store, "account-b", r#"{"cents":1}"#).await;
        write(&store, "account-a", r#"{"cents":5}"#).await;
        let rejected = accounts.execute("a", Withdraw(200)).await;
        assert!(matches!(rejected, Err(CommandError::Rejected(Insufficient(5)))), "{rejected:?}");
    }

    /// A state of events that are lost gives way, though its version is the higher.
    #[tokio::test]
    async fn what_is_lost_is_not_remembered_for_ever() {
        let (store, accounts) = losing(3);
        for _ in 0..3 {
            accounts.execute("a", Deposit(100)).await.unwrap();
        }
        write(&store, "account-a", r#"{"cents":5}"#).await;
        assert_eq!(accounts.execute("a", Deposit(1)).await.unwrap().attempts(), 2, "the state was not remembered");
        assert_eq!(accounts.execute("a", Deposit(1)).await.unwrap().attempts(), 1, "what is lost is remembered still");
        assert_eq!(accounts.load("a").await.unwrap().balance, 7);
    }
}
