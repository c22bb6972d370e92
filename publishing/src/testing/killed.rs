//! Publishers, inboxes and brokers that are killed: what to run, and what must come of it. For tests of stores.

use std::{collections::HashMap, thread, time::Duration};

use async_nats::jetstream::{self, context::ContextBuilder};
use futures::StreamExt;
use indelible_core::{
    Aggregate, AnyStore, Append, AppendOutcome, Apply, AsStore, Category, Cause, CommandContext, ContentType, Context,
    Event, EventStoreExt, Events, Handle, NewEvent, ReadLog, Repository, StreamId,
    conformance::fault::{self, say},
};
use indelible_projections::{Envelope, ReadModel, Running, Waited, Wants, Worker};
use indelible_sagas::Failure;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::NatsServer;
use crate::{
    Inbox, InboxState, InboxStatus, IntegrationEvent, Message, Publish, Publisher, Receive, RunningInbox,
    nats::{JetStream, async_nats},
};

/// What a gauge says. Not all of it is published, and not all that is published is understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(codec = json, crate = indelible_core)]
pub enum GaugeEvent {
    /// Is published: the gauge's next number, and a value.
    Measured {
        /// 1, 2, 3 …
        number: u64,
        /// Any.
        value: u64,
    },
    /// Is not published.
    Calibrated {
        /// Any.
        value: u64,
    },
    /// Is published, and nobody knows what it is.
    Rumoured {
        /// Any.
        value: u64,
    },
}

/// Where the events are.
#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "gauge", crate = indelible_core)]
pub struct Gauge {}
impl Apply for Gauge {
    type Event = GaugeEvent;
    fn apply(&mut self, _: &GaugeEvent) {}
}

/// Writes events to so many streams, the same each time for a seed.
#[derive(Clone, Debug)]
pub struct Writer {
    seed: u64,
    numbers: Vec<u64>,
    written: u64,
    block: u64,
}

/// Two blocks have no more streams than an append may.
const BLOCK_GAUGES: u64 = 50;

impl Writer {
    /// For this seed.
    pub fn new(seed: u64, streams: usize) -> Self {
        Self { seed, numbers: vec![0; streams], written: 0, block: 100 }
    }

    /// Writes blocks of so many events in an append, instead of a hundred, each to 50 of the streams.
    #[must_use]
    pub fn in_blocks(mut self, events: u64) -> Self {
        self.block = events;
        self
    }

    /// Writes so many more.
    ///
    /// # Panics
    /// Where the store fails.
    pub async fn write(&mut self, store: &impl AsStore, events: u64) {
        self.write_up_to(store, self.written + events, Duration::ZERO).await;
    }

    /// Goes on in a log that this writer alone has written, until it has so many events, with a pause before each block.
    ///
    /// # Panics
    /// Where the store fails.
    pub async fn write_up_to(&mut self, store: &impl AsStore, end: u64, pause: Duration) {
        let store = store.as_store();
        let head = store.head().await.expect("the store is read").position.get();
        while self.written < head {
            self.next();
        }
        while self.written < end {
            sleep(pause).await;
            let mut append = Append::new();
            for _ in 0..self.block.min(end - self.written) {
                let (stream, event) = self.next();
                append = append.event(stream, event);
            }
            match store.append(append).await {
                Ok(AppendOutcome::Appended(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn next(&mut self) -> (StreamId, NewEvent) {
        let (gauges, block) = (self.numbers.len() as u64, self.written / self.block);
        self.written += 1;
        let random = mixed(self.seed ^ mixed(self.written));
        // A block of a hundred has no more streams than that anyway.
        let gauge = if self.block > 100 { mixed(block) % gauges + random % BLOCK_GAUGES } else { random };
        let (gauge, value) = ((gauge % gauges) as usize, random >> 32);
        let (event_type, data) = match random >> 20 & 15 {
            0 => ("Calibrated", format!(r#"{{"value":{value}}}"#)),
            1 => ("Rumoured", format!(r#"{{"value":{value}}}"#)),
            _ => {
                self.numbers[gauge] += 1;
                ("Measured", format!(r#"{{"number":{},"value":{value}}}"#, self.numbers[gauge]))
            }
        };
        let event_type = event_type.parse().expect("a name");
        (gauge_stream(gauge), NewEvent::new(event_type, ContentType::JSON, data))
    }
}

/// Names that a subject can't hold as they are.
fn gauge_stream(gauge: usize) -> StreamId {
    let id = [".", "*", ">", " ", "%2E", "ü", "_", "-"][gauge % 8];
    StreamId::new(&Category::from_static("gauge"), format!("{id}{gauge}{id}")).expect("a name")
}

/// A number that looks like any other.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ number >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ mixed >> 32
}

/// Tells others of measurements.
pub struct Measurements;

#[derive(Serialize, Deserialize)]
struct Measured {
    number: u64,
    value: u64,
}

impl Publish for Measurements {
    const NAME: &'static str = "measurements";
    type Event = GaugeEvent;
    fn wants() -> Wants<GaugeEvent> {
        Wants::of::<Gauge>()
    }
    fn map(&self, envelope: &Envelope<GaugeEvent>) -> Result<Option<IntegrationEvent>, Cause> {
        Ok(match envelope.event {
            GaugeEvent::Measured { number, value } => {
                Some(IntegrationEvent::new("test.measured", 1, &Measured { number, value })?)
            }
            GaugeEvent::Rumoured { value } => Some(IntegrationEvent::new("test.rumoured", 1, &value)?),
            GaugeEvent::Calibrated { .. } => None,
        })
    }
}

/// What a consumer makes of a gauge: all that it was told, in the order in which it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "mirror", snapshot(every = 100), crate = indelible_core)]
pub struct Mirror {
    number: u64,
    hash: u64,
    /// How often something came that was not next.
    disorder: u64,
}

/// What a mirror is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(codec = json, crate = indelible_core)]
pub enum MirrorEvent {
    /// Of one measurement.
    Told {
        /// Its number.
        number: u64,
        /// Its value.
        value: u64,
    },
}

impl Apply for Mirror {
    type Event = MirrorEvent;
    fn apply(&mut self, MirrorEvent::Told { number, value }: &MirrorEvent) {
        self.disorder += u64::from(*number != self.number + 1);
        self.hash = mixed(self.hash ^ mixed(number ^ value << 20));
        self.number = *number;
    }
}

/// Believes all that it is told, so that what is told twice or too late is seen.
impl Handle<Measured> for Mirror {
    type Error = std::convert::Infallible;
    fn handle(&self, told: &Measured, _: &Context<Self>) -> Result<Events<MirrorEvent>, Self::Error> {
        Ok(MirrorEvent::Told { number: told.number, value: told.value }.into())
    }
}

/// Keeps mirrors of the gauges that are told of.
pub struct Mirrors(Repository<Mirror>);

impl Mirrors {
    /// In this store.
    pub fn new(store: &impl AsStore) -> Self {
        Self(Repository::new(store))
    }
}

impl Receive for Mirrors {
    const NAME: &'static str = "mirrors";
    const KNOWS: &'static [(&'static str, u32)] = &[("test.measured", 1)];

    async fn receive(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
        let gauge = message.subject().and_then(|subject| subject.strip_prefix("gauge-"));
        let gauge = gauge.ok_or(Failure::refused("it is of no gauge"))?;
        self.0.execute(gauge, message.data::<Measured>()?).with(context).await?;
        Ok(())
    }
}

/// The stream on a server, with acknowledgements that are soon thought to be lost.
///
/// # Panics
/// Where the server can't be reached.
pub async fn jetstream(url: &str) -> JetStream {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let options = options.reconnect_delay_callback(|attempts| Duration::from_millis(attempts.min(20) as u64 * 5));
    let client = options.connect(url).await.expect("it is tried again");
    let context: jetstream::Context = ContextBuilder::new().timeout(Duration::from_secs(1)).build(client);
    JetStream::new(context, "measurements").expect("a name")
}

/// Publishes a log.
///
/// # Panics
/// Where it can't be started.
pub async fn publish<M: ReadModel>(store: &impl AsStore, model: &M, broker: JetStream) -> Running {
    let publisher = Publisher::new(store, broker, Measurements);
    Worker::new(store).add(model, publisher).start().await.unwrap_or_else(|error| panic!("{error:?}"))
}

/// Receives what is published into another store.
///
/// # Panics
/// Never.
pub fn receive(store: &impl AsStore, feed: JetStream) -> RunningInbox {
    Inbox::new(store, feed, Mirrors::new(store)).start().expect("a name")
}

/// A process to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Writes to a log and publishes it; says `published` when that is through.
    Publisher,
    /// Receives.
    Consumer,
}

/// The publisher's process: writes so many events, publishes them, and says so. Ends only when it is killed.
///
/// # Panics
/// Where something fails.
pub async fn run_publisher<M: ReadModel>(
    (store, model): (&impl AsStore, &M),
    url: &str,
    mut writer: Writer,
    (events, pause): (u64, Duration),
) {
    let running = publish(store, model, jetstream(url).await).await;
    writer.write_up_to(store, events, pause).await;
    let head = store.as_store().head().await.expect("the store is read");
    while running.wait_for(&head, Duration::from_secs(60)).await.expect("it is read") != Waited::Reached {}
    say("published");
    std::future::pending::<()>().await;
}

/// The consumer's process. Ends only when it is killed.
///
/// # Panics
/// Where something fails.
pub async fn run_consumer(store: &impl AsStore, url: &str) {
    let mut inbox = receive(store, jetstream(url).await);
    let stopped = |status: &InboxStatus| matches!(status.state, InboxState::Stopped { .. });
    loop {
        if let Some(status) = inbox.until(stopped, Duration::from_secs(600)).await {
            panic!("{status:?}");
        }
    }
}

/// Kills both processes and the server at random moments, so many times in all, up to so long after each other, and starts
/// each again; then lets the publisher come to its end. Says how often each was killed before all was published: publisher, consumer, server.
///
/// # Panics
/// Where one can't be started.
pub fn kill_at_random(
    server: &mut NatsServer,
    (seed, kills, gap): (u64, u64, Duration),
    start: impl Fn(Side) -> fault::Running,
) -> [u64; 3] {
    let mut random = (0..).map(|n| mixed(seed ^ mixed(n)));
    let mut random = |range: u64| random.next().map_or(0, |number| number % range);
    let (mut publisher, mut consumer) = (start(Side::Publisher), start(Side::Consumer));
    let mut killed = [0; 3];
    let is_published = |publisher: &mut fault::Running| {
        publisher.kill();
        std::iter::from_fn(|| publisher.line()).any(|line| line == "published")
    };
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(50 + random(gap.as_millis() as u64)));
        let victim = random(3) as usize;
        match victim {
            0 => {
                let published = is_published(&mut publisher);
                publisher = start(Side::Publisher);
                if published {
                    break;
                }
            }
            1 => {
                consumer.kill();
                consumer = start(Side::Consumer);
            }
            _ => {
                server.kill();
                thread::sleep(Duration::from_millis(random(200)));
                server.launch();
            }
        }
        killed[victim] += 1;
    }
    loop {
        match publisher.line() {
            Some(line) if line == "published" => return killed,
            Some(_) => {}
            None => publisher = start(Side::Publisher),
        }
    }
}

/// Lets the consumer take all that is there, in this process, and judges.
///
/// # Errors
/// As [`judge`].
///
/// # Panics
/// Where the server can't be reached.
pub async fn take_all_and_judge(log: &impl AsStore, consumer: &impl AsStore, url: &str) -> Result<Judged, String> {
    let broker = jetstream(url).await;
    let last = broker.last().await.expect("the server answers");
    let mut inbox = receive(consumer, broker);
    let all = |status: &InboxStatus| {
        let taken = status.taken_to.as_ref().is_some_and(|to| to.sequence >= last);
        taken || matches!(status.state, InboxState::Stopped { .. })
    };
    match inbox.until(all, Duration::from_secs(1800)).await {
        Some(status) if status.state == InboxState::Running && status.parked == 0 => {}
        _ => return Err(format!("the inbox does not come to its end: {:?}", inbox.status())),
    }
    assert!(inbox.drain(Duration::from_secs(60)).await);
    judge(log, consumer).await
}

/// What publishing came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    /// Gauges, and so many mirrors.
    pub gauges: u64,
    /// Events in the log.
    pub events: u64,
    /// Measurements, each told once and in order.
    pub measured: u64,
}

/// Compares the log with what the consumer has made of it.
///
/// # Errors
/// What is not as it should be.
///
/// # Panics
/// Where a store fails.
pub async fn judge(log: &impl AsStore, consumer: &impl AsStore) -> Result<Judged, String> {
    let (mut judged, log) = (Judged::default(), log.as_store());
    let expected = fold(&log, "gauge", |event| {
        judged.events += 1;
        let Ok(GaugeEvent::Measured { number, value }) = event.decode() else { return None };
        judged.measured += 1;
        Some(MirrorEvent::Told { number, value })
    });
    let expected = expected.await;
    judged.gauges = expected.len() as u64;
    let mirrors = fold(&consumer.as_store(), "mirror", |event| Some(event.decode().expect("a mirror's event"))).await;
    for (gauge, expected) in &expected {
        match mirrors.get(gauge) {
            Some(mirror) if mirror == expected && mirror.disorder == 0 => {}
            other => return Err(format!("{gauge} should be {expected:?}, and its mirror is {other:?}")),
        }
    }
    match mirrors.len() == expected.len() {
        true => Ok(judged),
        false => Err(format!("{} mirrors of {} gauges", mirrors.len(), expected.len())),
    }
}

/// What the events of a category come to, by stream.
async fn fold(
    store: &AnyStore,
    category: &'static str,
    mut told: impl FnMut(&indelible_core::RecordedEvent) -> Option<MirrorEvent>,
) -> HashMap<String, Mirror> {
    let mut mirrors: HashMap<String, Mirror> = HashMap::new();
    let mut events = store.log(ReadLog::all());
    while let Some(event) = events.next().await {
        let event = event.expect("the store is read");
        if event.stream.category_str() != category {
            continue;
        }
        if let Some(told) = told(&event) {
            mirrors.entry(event.stream.id().to_owned()).or_default().apply(&told);
        }
    }
    mirrors
}
