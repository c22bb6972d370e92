//! What can't be published, and what can't be received: never passed over in silence, and in nobody else's way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use indelible_core::{
    Append, Category, Cause, CommandContext, ContentType, EventStore, NewEvent, Position, StreamId,
    store::memory::MemoryStore,
};
use indelible_projections::{
    Envelope, OnFailure, ProjectionId, ReadModel, Retry, Waited, Wants, Worker, memory::MemoryModel,
};
use indelible_publishing::{
    Inbox, InboxState, IntegrationEvent, Message, Publish, Publisher, Receive, RunningInbox,
    testing::{
        Fault, MemoryBroker,
        killed::{Gauge, GaugeEvent, Measurements, Mirrors},
    },
};
use indelible_sagas::Failure;

use crate::fixture::{Newer, SOON, measured, told};

/// Parks at once.
struct Parking;

impl Publish for Parking {
    const NAME: &'static str = "parking";
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    const RETRY: Retry = Retry::NEVER;
    type Event = GaugeEvent;
    fn wants() -> Wants<GaugeEvent> {
        Wants::of::<Gauge>()
    }
    fn map(&self, envelope: &Envelope<GaugeEvent>) -> Result<Option<IntegrationEvent>, Cause> {
        match envelope.event {
            GaugeEvent::Calibrated { .. } => Err("there are no words for it".into()),
            _ => Measurements.map(envelope),
        }
    }
}

async fn write(store: &MemoryStore, gauge: &str, event_type: &str, data: &str) {
    let stream = StreamId::new(&Category::from_static("gauge"), gauge).unwrap();
    let event = NewEvent::new(event_type.parse().unwrap(), ContentType::JSON, data.to_owned());
    store.append(Append::new().event(stream, event)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_is_parked_with_its_stream_and_redriven() {
    let (log, model) = (MemoryStore::new(), MemoryModel::new());
    let refuses = Arc::new(AtomicBool::new(true));
    let still = refuses.clone();
    let broker = MemoryBroker::failing(move |message| match message.payload().windows(6).any(|at| at == b"999999") {
        true if still.load(Relaxed) => Fault::Refused,
        _ => Fault::None,
    });
    for (gauge, event_type, data) in [
        ("a", "Measured", r#"{"number":1,"value":999999}"#),
        ("a", "Measured", r#"{"number":2,"value":0}"#),
        ("b", "Calibrated", r#"{"value":0}"#),
        ("c", "Measured", r#"{"number":1,"value":0}"#),
    ] {
        write(&log, gauge, event_type, data).await;
    }
    let publisher = Publisher::new(&log, broker.clone(), Parking);
    let running = Worker::new(&log).add(&model, publisher).start().await.unwrap();
    let head = log.head().await.unwrap();
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let letters = model
        .letters(&ProjectionId::of::<Publisher<Parking, MemoryBroker>>(), None, Position::START, 10)
        .await
        .unwrap();
    let reasons: Vec<_> = letters.iter().map(|letter| (letter.stream.as_str(), letter.error.is_some())).collect();
    assert_eq!(reasons, [("gauge-a", true), ("gauge-a", false), ("gauge-b", true)]);
    assert!(letters[0].error.as_ref().unwrap().contains("the broker refuses"), "{letters:?}");
    assert!(broker.messages().iter().all(|message| message.subject() == Some("gauge-c")));

    refuses.store(false, Relaxed);
    let redriven = running.redrive::<Publisher<Parking, MemoryBroker>>(&"gauge-a".parse().unwrap()).await;
    assert_eq!(redriven.unwrap(), 2);
    let of_a: Vec<_> = broker.messages().into_iter().filter(|message| message.subject() == Some("gauge-a")).collect();
    assert_eq!(of_a.iter().map(|message| message.stream_version().unwrap()).collect::<Vec<_>>(), [1, 2]);
}

/// An inbox that has taken all that is there.
async fn caught_up<R: Receive>(store: &MemoryStore, broker: &MemoryBroker, all: u64, receive: R) -> RunningInbox {
    let mut inbox = Inbox::new(store, broker.clone(), receive).start().unwrap();
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == all), SOON).await;
    assert!(taken.is_some(), "{:?}", inbox.status());
    inbox
}

#[tokio::test(start_paused = true)]
async fn what_an_inbox_does_not_understand_is_counted_or_parked() {
    let (store, broker) = (MemoryStore::new(), MemoryBroker::new());
    broker.put("gauge-a", measured("a", 1, 1));
    broker.put("gauge-a", measured("a", 1, 2).replace("test.measured", "test.whatever"));
    broker.put("gauge-a", measured("a", 2, 3));
    broker.put("gauge-a", measured("a", 1, 4));
    broker.put("gauge-b", measured("b", 1, 1));
    broker.put("gauge-c", "no CloudEvent");
    broker.put("gauge-c", &b"\xff"[..]);
    broker.put("gauge-d", measured("d", 1, 1).replace(r#""number""#, r#""count""#));
    let inbox = caught_up(&store, &broker, 8, Mirrors::new(&store)).await;
    let status = inbox.status();
    assert_eq!((status.received, status.passed, status.parked), (2, 1, 5));
    assert_eq!((told(&store, "a").await, told(&store, "b").await), (vec![1], vec![1]));
    let letters = inbox.letters().await.unwrap();
    let said: Vec<_> =
        letters.iter().map(|letter| (&*letter.subject, letter.sequence, letter.reason.as_deref())).collect();
    assert_eq!(said[0], ("gauge-a", 3, Some("test.measured has version 2, and 1 is the newest that is known")));
    assert_eq!(said[1], ("gauge-a", 4, None));
    assert!(said[2].2.unwrap().contains("invalid CloudEvent") && said[3].2.is_none(), "{said:?}");
    assert!(said[4].2.unwrap().contains("missing field `number`"), "{said:?}");

    // Old code still can't; what comes goes on waiting, over a restart, too.
    assert!(inbox.redrive("gauge-a").await.unwrap_err().to_string().contains("version 2"));
    assert!(inbox.drain(SOON).await);
    broker.put("gauge-a", measured("a", 1, 5));
    let inbox = caught_up(&store, &broker, 9, Newer(Mirrors::new(&store))).await;
    assert_eq!(inbox.status().parked, 6);
    assert_eq!(inbox.redrive("gauge-a").await.unwrap(), 3);
    assert_eq!(told(&store, "a").await, [1, 3, 4, 5]);
    inbox.discard(letters[2].number, "a joke").await.unwrap();
    assert!(inbox.discard(letters[2].number, "again").await.is_err());
    assert_eq!(inbox.status().parked, 2);
    // With the first of it gone, the second is what stands in the way.
    broker.put("gauge-a", measured("a", 1, 6));
    assert!(inbox.drain(SOON).await);
    caught_up(&store, &broker, 10, Newer(Mirrors::new(&store))).await;
    assert_eq!(told(&store, "a").await, [1, 3, 4, 5, 6]);
}

/// What others mean by an extension of the same name is in nobody's way, but where it says how to read what is known.
#[tokio::test(start_paused = true)]
async fn extensions_may_mean_something_else() {
    let (store, broker) = (MemoryStore::new(), MemoryBroker::new());
    let odd = |number, schema: &str| {
        let more = format!(r#""streamversion":{{}},"correlationid":7,"schemaversion":{schema},"#);
        measured("a", 1, number).replace(r#""schemaversion":1,"#, &more)
    };
    broker.put("gauge-a", odd(1, "1"));
    broker.put("gauge-a", odd(2, r#""v2.1""#).replace("test.measured", "test.whatever"));
    broker.put("gauge-a", odd(3, r#""1""#));
    broker.put("gauge-a", odd(4, r#""v2.1""#));
    let inbox = caught_up(&store, &broker, 4, Mirrors::new(&store)).await;
    let status = inbox.status();
    assert_eq!((status.received, status.passed, status.parked), (2, 1, 1));
    assert_eq!(told(&store, "a").await, [1, 3]);
    let letters = inbox.letters().await.unwrap();
    assert!(letters[0].reason.as_ref().unwrap().contains(r#"schemaversion "v2.1""#), "{letters:?}");
}

/// Receives nothing of what is odd, until it is told to.
struct Picky {
    parks: &'static str,
    yields: Arc<AtomicBool>,
    mirrors: Mirrors,
}

impl Picky {
    async fn pick(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
        let odd = message.id().ends_with(['1', '3', '5']) && !self.yields.load(Relaxed);
        match (odd, self.parks) {
            (true, "panic") => panic!("odd"),
            (true, _) => Err(Failure::refused("odd")),
            (false, _) => self.mirrors.receive(message, context).await,
        }
    }
}

struct Stops(Picky);
impl Receive for Stops {
    const NAME: &'static str = "stops";
    const KNOWS: &'static [(&'static str, u32)] = Mirrors::KNOWS;
    const ON_FAILURE: OnFailure = OnFailure::Stop;
    async fn receive(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
        self.0.pick(message, context).await
    }
}

struct ParksOne(Picky);
impl Receive for ParksOne {
    const NAME: &'static str = "parks_one";
    const KNOWS: &'static [(&'static str, u32)] = Mirrors::KNOWS;
    const ON_FAILURE: OnFailure = OnFailure::Park { streams_max: 1 };
    async fn receive(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
        self.0.pick(message, context).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_stops_says_so_and_goes_on_from_there() {
    let (store, broker, yields) = (MemoryStore::new(), MemoryBroker::new(), Arc::new(AtomicBool::new(false)));
    for (gauge, number) in [("a", 2), ("b", 2), ("b", 3), ("c", 2), ("b", 4)] {
        broker.put(format!("gauge-{gauge}"), measured(gauge, 1, number));
    }
    let picky = Picky { parks: "panic", yields: yields.clone(), mirrors: Mirrors::new(&store) };
    let mut inbox = Inbox::new(&store, broker.clone(), Stops(picky)).start().unwrap();
    let stopped = inbox.until(|status| matches!(status.state, InboxState::Stopped { .. }), SOON).await.unwrap();
    let InboxState::Stopped { error } = stopped.state else { unreachable!() };
    assert_eq!(&*error, "message 3 of gauge-b: receiving it panicked");
    assert_eq!(stopped.taken_to.unwrap().sequence, 2);
    assert_eq!(told(&store, "b").await, [2]);
    yields.store(true, Relaxed);
    inbox.restart().await;
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == 5), SOON).await;
    assert_eq!(taken.unwrap().state, InboxState::Running);
    // That of gauge c was received before, and is not twice.
    assert_eq!((told(&store, "b").await, told(&store, "c").await), (vec![2, 3, 4], vec![2]));
}

#[tokio::test(start_paused = true)]
async fn an_inbox_without_room_for_letters_stops() {
    let (store, broker, yields) = (MemoryStore::new(), MemoryBroker::new(), Arc::new(AtomicBool::new(false)));
    for (gauge, number) in [("a", 1), ("b", 2), ("b", 3), ("a", 2), ("c", 2)] {
        broker.put(format!("gauge-{gauge}"), measured(gauge, 1, number));
    }
    let picky = Picky { parks: "refuse", yields: yields.clone(), mirrors: Mirrors::new(&store) };
    let mut inbox = Inbox::new(&store, broker.clone(), ParksOne(picky)).start().unwrap();
    let stopped = inbox.until(|status| matches!(status.state, InboxState::Stopped { .. }), SOON).await.unwrap();
    let InboxState::Stopped { error } = stopped.state else { unreachable!() };
    assert!(error.contains("no room for message 3 of gauge-b: 1 letters of 1 subjects"), "{error}");
    assert_eq!((stopped.taken_to.unwrap().sequence, inbox.letters().await.unwrap().len()), (2, 1));
    // An operator makes room while it stands.
    yields.store(true, Relaxed);
    assert_eq!(inbox.redrive("gauge-a").await.unwrap(), 1);
    inbox.restart().await;
    assert!(inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == 5), SOON).await.is_some());
    assert_eq!((told(&store, "a").await, told(&store, "b").await), (vec![1, 2], vec![2, 3]));
}
