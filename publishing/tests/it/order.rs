//! Once, and in order, whatever the broker loses and repeats, and whenever an inbox is lost. And that these tests would see
//! it otherwise.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use indelible_core::{Append, CommandContext, ContentType, EventStore, NewEvent, store::memory::MemoryStore};
use indelible_projections::{Waited, Worker, memory::MemoryModel};
use indelible_publishing::{
    Inbox, Message, Publisher, Receive,
    bugs::{self, Bug},
    testing::{
        Fault, MemoryBroker,
        killed::{Judged, Measurements, Mirrors, Writer, judge},
    },
};
use indelible_sagas::Failure;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};

use crate::fixture::SOON;

const EVENTS: u64 = 2_000;
const GAUGES: usize = 20;

/// Takes its time, so that an inbox is lost while it receives.
struct Slowly(Mirrors);

impl Receive for Slowly {
    const NAME: &'static str = Mirrors::NAME;
    const KNOWS: &'static [(&'static str, u32)] = Mirrors::KNOWS;
    async fn receive(&self, message: &Message, context: CommandContext) -> Result<(), Failure> {
        sleep(Duration::from_millis(1)).await;
        self.0.receive(message, context).await
    }
}

/// Publishes a log through a broker that loses and repeats messages, to an inbox that is lost again and again.
async fn publish_through_trouble(seed: u64) -> Result<Judged, String> {
    let (log, consumer) = (MemoryStore::new(), MemoryStore::new());
    let mut faults = StdRng::seed_from_u64(seed);
    let broker = MemoryBroker::failing(move |_| match faults.random_range(0..100) {
        0..3 => Fault::Lost,
        3..6 => Fault::Unanswered,
        _ => Fault::None,
    });
    let mut writer = Writer::new(seed, GAUGES);
    writer.write(&log, EVENTS / 2).await;
    let publisher = Publisher::new(&log, broker.clone(), Measurements);
    let running = Worker::new(&log).add(&MemoryModel::new(), publisher).start().await.unwrap();
    writer.write(&log, EVENTS / 2).await;
    let head = log.head().await.unwrap();
    let published = running.wait_for(&head, SOON);
    let received = async {
        let mirrors = || Slowly(Mirrors::new(&consumer));
        let mut random = StdRng::seed_from_u64(seed + 1);
        for _ in 0..20 {
            let inbox = Inbox::new(&consumer, broker.clone(), mirrors()).start().unwrap();
            sleep(Duration::from_millis(random.random_range(0..50))).await;
            drop(inbox);
        }
        Inbox::new(&consumer, broker.clone(), mirrors()).start().unwrap()
    };
    let (published, mut inbox) = tokio::join!(published, received);
    assert_eq!(published.unwrap(), Waited::Reached);
    // Bugs may leave some that are under way behind.
    sleep(Duration::from_secs(30)).await;
    let all = broker.messages().len() as u64;
    let taken = inbox.until(|status| status.taken_to.as_ref().is_some_and(|to| to.sequence == all), SOON).await;
    let status = taken.ok_or("the inbox does not end")?;
    assert_eq!(status.parked, 0);
    assert!(all > EVENTS * 9 / 10 && inbox.drain(SOON).await && running.drain(SOON).await);
    judge(&log, &consumer).await
}

#[tokio::test(start_paused = true)]
async fn each_comes_once_and_in_order() {
    for seed in 0..5 {
        let judged = publish_through_trouble(seed).await.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        assert_eq!((judged.events, judged.gauges), (EVENTS, GAUGES as u64), "{judged:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn seeded_bugs_are_caught() {
    for bug in Bug::ALL {
        bugs::choose(Some(bug));
        let judged = timeout(20 * SOON, publish_through_trouble(0)).await;
        bugs::choose(None);
        let wrong = judged.expect("it ends").expect_err(&format!("{bug:?} went unseen"));
        println!("{bug:?}: {wrong}");
    }
}

/// What a process that is killed has published is known behind each batch, which is no longer than what may be under way.
#[tokio::test(start_paused = true)]
async fn a_killed_publisher_repeats_no_more_than_a_batch() {
    let (log, model) = (MemoryStore::new(), MemoryModel::new());
    Writer::new(5, GAUGES).write(&log, 950).await;
    let mut taken = 0;
    let broker = MemoryBroker::failing(move |_| {
        taken += 1;
        if taken <= 700 { Fault::None } else { Fault::Lost }
    });
    let publisher = Publisher::new(&log, broker.clone(), Measurements);
    let running = Worker::new(&log).add(&model, publisher).start().await.unwrap();
    while broker.messages().len() < 700 {
        sleep(Duration::from_millis(1)).await;
    }
    drop(running);
    let again = MemoryBroker::new();
    let publisher = Publisher::new(&log, again.clone(), Measurements);
    let running = Worker::new(&log).add(&model, publisher).start().await.unwrap();
    assert_eq!(running.wait_for(&log.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
    let mut ids: Vec<_> = broker.messages().iter().chain(&again.messages()).map(|m| m.id().to_owned()).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert!((1..=256).contains(&(all - ids.len())), "{} came again", all - ids.len());
}

/// Events of two stores may have the same id: it is made of the stream and the command's key.
#[tokio::test(start_paused = true)]
async fn the_keys_of_two_stores_differ() {
    let keys: Arc<Mutex<Vec<String>>> = Arc::default();
    let event = NewEvent::new("Rumoured".parse().unwrap(), ContentType::JSON, r#"{"value":1}"#);
    for _ in 0..2 {
        let log = MemoryStore::new();
        log.append(Append::new().event("gauge-a".parse().unwrap(), event.clone())).await.unwrap();
        let seen = keys.clone();
        let broker = MemoryBroker::failing(move |message| {
            seen.lock().unwrap().push(message.key().to_owned());
            Fault::None
        });
        let publisher = Publisher::new(&log, broker, Measurements);
        let running = Worker::new(&log).add(&MemoryModel::new(), publisher).start().await.unwrap();
        assert_eq!(running.wait_for(&log.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
    }
    let keys = keys.lock().unwrap();
    assert!(keys.len() == 2 && keys[0] != keys[1], "{keys:?}");
}

/// An outbox leaves nothing out.
#[tokio::test(start_paused = true)]
async fn history_is_published() {
    let (log, broker) = (MemoryStore::new(), MemoryBroker::new());
    Writer::new(1, 3).write(&log, 50).await;
    let publisher = Publisher::new(&log, broker.clone(), Measurements);
    let running = Worker::new(&log).add(&MemoryModel::new(), publisher).start().await.unwrap();
    assert_eq!(running.wait_for(&log.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
    let published = broker.messages();
    assert!(published.len() > 30 && published.iter().all(|message| message.source().starts_with("urn:uuid:")));
}
