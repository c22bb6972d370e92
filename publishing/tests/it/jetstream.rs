//! On a NATS server, which is killed, loses what it has stored, and refuses.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use indelible_core::{
    Append, Category, Cause, ContentType, EventStore, NewEvent, Position, StreamId, store::memory::MemoryStore,
};
use indelible_projections::{
    Envelope, OnFailure, PartitionState, ProjectionId, ReadModel, Retry, Running, Waited, Wants, Worker,
    memory::MemoryModel,
};
use indelible_publishing::{
    Delivery, Feed, FeedError, InboxState, IntegrationEvent, Publish, Publisher, RunningInbox,
    nats::{
        JetStream,
        async_nats::{self, jetstream},
    },
    testing::{
        NatsServer,
        killed::{Gauge, GaugeEvent, Measurements, Writer, jetstream as connect, judge, publish, receive},
    },
};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::fixture::SOON;

async fn server() -> (NatsServer, JetStream, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path());
    let stream = connect(&server.url()).await;
    stream.create(stream.config()).await.unwrap();
    (server, stream, dir)
}

fn gauge(id: &str) -> StreamId {
    StreamId::new(&Category::from_static("gauge"), id).unwrap()
}

async fn write(store: &MemoryStore, id: &str, value: u64) {
    let data = format!(r#"{{"number":1,"value":{value}}}"#);
    let event = NewEvent::new("Measured".parse().unwrap(), ContentType::JSON, data);
    store.append(Append::new().event(gauge(id), event)).await.unwrap();
}

async fn all_published(running: &Running, log: &MemoryStore) {
    assert_eq!(running.wait_for(&log.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
}

/// Until the inbox has taken so many messages.
async fn taken(inbox: &mut RunningInbox, to: u64) {
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|taken| taken.sequence >= to), SOON).await;
    assert!(taken.is_some(), "{:?}", inbox.status());
}

#[tokio::test]
async fn no_two_streams_share_a_subject() {
    let (_server, stream, _dir) = server().await;
    let log = MemoryStore::new();
    let ids =
        ["a.b", "a", "*", ">", " ", "a b", "%20", "%2520", "ü", "-", "_", "a%b", "%", "a.*.>", "\u{2028}", "日本"];
    for id in ids {
        write(&log, id, 0).await;
    }
    let running = publish(&log, &MemoryModel::new(), stream.clone()).await;
    all_published(&running, &log).await;
    let published: Vec<_> = stream.read(None).await.unwrap().take(ids.len()).try_collect().await.unwrap();
    let subjects: std::collections::HashSet<_> = published.iter().map(|message| message.subject.as_str()).collect();
    assert_eq!(subjects.len(), ids.len(), "{subjects:?}");
    assert!(subjects.iter().all(|subject| subject.split('.').count() == 3 && subject.is_ascii()), "{subjects:?}");
    assert_eq!(stream.subject(&gauge("a.b")), "measurements.gauge.a%2Eb");
}

#[tokio::test]
async fn what_is_published_again_counts_once_within_the_servers_window_and_beyond() {
    let (server, stream, _dir) = server().await;
    let (log, consumer) = (MemoryStore::new(), MemoryStore::new());
    Writer::new(1, 10).write(&log, 200).await;
    let first = publish(&log, &MemoryModel::new(), stream.clone()).await;
    all_published(&first, &log).await;
    let once = stream.last().await.unwrap();
    // With a read model that knows nothing it begins at the start, in time for the server to notice …
    let again = publish(&log, &MemoryModel::new(), stream.clone()).await;
    all_published(&again, &log).await;
    assert_eq!(stream.last().await.unwrap(), once);
    // … or too late, by a window that is over.
    let client = async_nats::connect(server.url()).await.unwrap();
    let brief = jetstream::stream::Config { duplicate_window: Duration::from_millis(100), ..stream.config() };
    jetstream::new(client).update_stream(brief).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let late = publish(&log, &MemoryModel::new(), stream.clone()).await;
    all_published(&late, &log).await;
    assert_eq!(stream.last().await.unwrap(), 2 * once);
    let mut inbox = receive(&consumer, stream);
    taken(&mut inbox, 2 * once).await;
    println!("{once} messages twice: {:?}", judge(&log, &consumer).await.unwrap());
}

/// Says much of some.
struct Wordy;

impl Publish for Wordy {
    const NAME: &'static str = "wordy";
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    const RETRY: Retry = Retry::NEVER;
    type Event = GaugeEvent;
    fn wants() -> Wants<GaugeEvent> {
        Wants::of::<Gauge>()
    }
    fn map(&self, envelope: &Envelope<GaugeEvent>) -> Result<Option<IntegrationEvent>, Cause> {
        let GaugeEvent::Measured { value, .. } = envelope.event else { return Ok(None) };
        Ok(Some(IntegrationEvent::new("test.words", 1, &"x".repeat(value as usize))?))
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_says_why() {
    let (_server, stream, _dir) = server().await;
    let small = stream.config();
    let client = async_nats::connect(_server.url()).await.unwrap();
    let small = jetstream::stream::Config { max_message_size: 100_000, ..small };
    jetstream::new(client).update_stream(small).await.unwrap();
    let (log, model) = (MemoryStore::new(), MemoryModel::new());
    for (id, bytes) in [("a", 2_000_000), ("b", 200_000), ("c", 10)] {
        write(&log, id, bytes).await;
    }
    let publisher = Publisher::new(&log, stream.clone(), Wordy);
    let running = Worker::new(&log).add(&model, publisher).start().await.unwrap();
    all_published(&running, &log).await;
    let letters =
        model.letters(&ProjectionId::of::<Publisher<Wordy, JetStream>>(), None, Position::START, 9).await.unwrap();
    let errors: Vec<_> = letters.iter().map(|letter| letter.error.clone().unwrap()).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("Payload size limit of 1048576 exceeded"), "{}", errors[0]);
    assert!(errors[1].contains("message size exceeds maximum allowed"), "{}", errors[1]);
    let arrived = stream.read(None).await.unwrap().next().await.unwrap().unwrap();
    assert_eq!(arrived.subject, "measurements.gauge.c");
}

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let (mut server, stream, _dir) = server().await;
    let (log, consumer, model) = (MemoryStore::new(), MemoryStore::new(), MemoryModel::new());
    let mut writer = Writer::new(2, 10);
    let running = publish(&log, &model, stream.clone()).await;
    let mut inbox = receive(&consumer, stream.clone());
    writer.write(&log, 500).await;
    all_published(&running, &log).await;
    server.kill();
    writer.write(&log, 500).await;
    assert!(inbox.until(|status| matches!(status.state, InboxState::Waiting { .. }), SOON).await.is_some());
    server.launch();
    all_published(&running, &log).await;
    let all = stream.last().await.unwrap();
    taken(&mut inbox, all).await;
    println!("{:?}", judge(&log, &consumer).await.unwrap());
}

fn retrying(running: &Running) -> Option<String> {
    running.status()[0].1.iter().find_map(|partition| match &partition.state {
        PartitionState::Retrying { error, .. } => Some(error.to_string()),
        _ => None,
    })
}

async fn until_retrying(running: &Running) -> String {
    let error = async {
        loop {
            match retrying(running) {
                Some(error) => return error,
                None => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(SOON, error).await.expect("it says what it waits for")
}

#[tokio::test]
async fn a_server_that_has_lost_its_store_is_not_passed_over() {
    let (mut server, stream, _dir) = server().await;
    let (log, consumer, model) = (MemoryStore::new(), MemoryStore::new(), MemoryModel::new());
    let mut writer = Writer::new(3, 10);
    writer.write(&log, 500).await;
    let running = publish(&log, &model, stream.clone()).await;
    let mut inbox = receive(&consumer, stream.clone());
    all_published(&running, &log).await;
    let all = stream.last().await.unwrap();
    taken(&mut inbox, all).await;
    server.kill();
    server.lose_all();
    server.launch();
    writer.write(&log, 500).await;
    let error = until_retrying(&running).await;
    assert!(error.contains("no stream found"), "{error}");

    stream.create(stream.config()).await.unwrap();
    let stopped = inbox.until(|status| matches!(status.state, InboxState::Stopped { .. }), SOON).await;
    let Some(InboxState::Stopped { error }) = stopped.map(|status| status.state) else { panic!("it goes on") };
    assert!(error.contains("the stream was made anew"), "{error}");
    // The sequence numbers begin anew: this handle goes on with nothing.
    let error = until_retrying(&running).await;
    assert!(error.contains("gone back") || error.contains("no stream found"), "{error}");
    drop(running);
    let running = publish(&log, &model, connect(&server.url()).await).await;
    running.reset::<Publisher<Measurements, JetStream>, _>(&model).await.unwrap();
    all_published(&running, &log).await;
    inbox.rewind().await.unwrap();
    let all = stream.last().await.unwrap();
    taken(&mut inbox, all).await;
    println!("{:?}", judge(&log, &consumer).await.unwrap());
}

/// Puts messages there, of so many bytes each.
async fn put(server: &NatsServer, messages: u64, bytes: usize) -> jetstream::stream::Stream {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let sent = futures::stream::iter(0..messages).map(|_| async {
        context.publish("measurements.gauge.a", vec![b'x'; bytes].into()).await.unwrap().await.unwrap()
    });
    sent.buffer_unordered(16).collect::<Vec<_>>().await;
    context.get_stream("measurements").await.unwrap()
}

/// The next one, soon.
async fn next(feed: &mut BoxStream<'static, Result<Delivery, FeedError>>) -> Result<u64, FeedError> {
    let next = tokio::time::timeout(Duration::from_secs(30), feed.next()).await.expect("something comes");
    Ok(next.expect("a feed has no end")?.place.sequence)
}

#[tokio::test]
async fn who_reads_slowly_misses_nothing() {
    let (server, stream, _dir) = server().await;
    put(&server, 20, 10).await;
    let mut feed = stream.read(None).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), 1);
    // Longer than the client's timer: the time passes at once.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    assert!(matches!(next(&mut feed).await, Err(FeedError::Unavailable { .. })));
}

#[tokio::test]
async fn what_is_dropped_ahead_of_a_reader_is_noticed_and_what_is_deleted_passed_over() {
    let (server, stream, _dir) = server().await;
    let admin = put(&server, 1_200, 10).await;
    let mut feed = stream.read(None).await.unwrap();
    assert_eq!(next(&mut feed).await.unwrap(), 1);
    // All that was asked for at once is on its way, or here.
    admin.delete_message(600).await.unwrap();
    for expected in (2..600).chain(601..=605) {
        assert_eq!(next(&mut feed).await.unwrap(), expected);
    }
    admin.purge().sequence(1_100).await.unwrap();
    let lost = loop {
        match next(&mut feed).await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(&lost, FeedError::Lost { what } if what.contains("begins at 1100")), "{lost}");
    let all: Vec<_> = stream.read(None).await.unwrap().take(101).try_collect().await.unwrap();
    assert_eq!((all[0].place.sequence, all[100].place.sequence), (1_100, 1_200));
}

/// More bytes than are asked for at once, and each of the messages as large as the server takes.
#[tokio::test]
async fn large_messages_come_too() {
    let (server, stream, _dir) = server().await;
    put(&server, 12, 1024 * 1024).await;
    let mut feed = stream.read(None).await.unwrap();
    for expected in 1..=12 {
        assert_eq!(next(&mut feed).await.unwrap(), expected);
    }
}
