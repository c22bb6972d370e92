//! How fast it publishes, beside a loop that does nothing else: the same payloads to the same server, as many under way.
//! `INDELIBLE_PUBLISHED` says how many events (2,000).

use std::{env, time::Instant};

use futures::{StreamExt, TryStreamExt, stream};
use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{Waited, Worker, memory::MemoryModel};
use indelible_publishing::{
    Feed, Publish, Publisher,
    nats::{
        JetStream,
        async_nats::{self, HeaderMap, jetstream},
    },
    testing::{
        NatsServer,
        killed::{Measurements, Writer},
    },
};

use crate::fixture::SOON;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_beside_a_bare_loop() {
    let events = env::var("INDELIBLE_PUBLISHED").map_or(2_000, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path());
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for (streams, rounds) in [(2_000, 3), (20, 1)] {
        let log = MemoryStore::new();
        Writer::new(7, streams).write(&log, events).await;
        for round in 0..rounds {
            let broker = JetStream::new(context.clone(), format!("published-{streams}-{round}")).unwrap();
            broker.create(broker.config()).await.unwrap();
            let publisher = Publisher::new(&log, broker.clone(), Measurements);
            let began = Instant::now();
            let running = Worker::new(&log).add(&MemoryModel::new(), publisher).start().await.unwrap();
            assert_eq!(running.wait_for(&log.head().await.unwrap(), 20 * SOON).await.unwrap(), Waited::Reached);
            let publishing = began.elapsed();
            assert!(running.drain(SOON).await);

            let count =
                context.get_stream(format!("published-{streams}-{round}")).await.unwrap().cached_info().state.messages;
            let published = broker.read(None).await.unwrap().take(count as usize);
            let began = Instant::now();
            let published: Vec<_> = published.try_collect().await.unwrap();
            let reading = began.elapsed();
            let bare = JetStream::new(context.clone(), format!("bare-{streams}-{round}")).unwrap();
            bare.create(bare.config()).await.unwrap();
            let began = Instant::now();
            stream::iter(&published)
                .for_each_concurrent(Measurements::UNACKNOWLEDGED_MAX, |message| async {
                    let mut headers = HeaderMap::new();
                    headers.insert("Nats-Msg-Id", message.place.sequence.to_string());
                    let subject = message.subject.replacen("published", "bare", 1);
                    let sent = context.publish_with_headers(subject, headers, message.payload.clone()).await;
                    sent.unwrap().await.unwrap();
                })
                .await;
            let looping = began.elapsed();
            let rate = |time: std::time::Duration| count as f64 / time.as_secs_f64();
            println!(
                "{events} events, {count} published, {streams} streams: {:.0} messages/s; bare loop {:.0} ({:.2}); read {:.0}",
                rate(publishing),
                rate(looping),
                rate(publishing) / rate(looping),
                rate(reading),
            );
        }
    }
}
