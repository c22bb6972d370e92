//! Publishing from one store to another over a NATS server, while publisher, consumer and server are killed at random: what
//! the consumer has made of it is what the log says. And that this would be seen otherwise.
//!
//! `INDELIBLE_PUBLISHING_EVENTS` says how many events (6,000), `INDELIBLE_PUBLISHING_KILLS` how many kills (12).

use std::{process::Stdio, time::Duration};

use indelible_core::conformance::fault::{self, Line, seeded};
use indelible_postgres::{Durability, PostgresModel, PostgresStore};
use indelible_publishing::{
    bugs::{self, Bug},
    testing::{
        NatsServer,
        killed::{self, Judged, Side, Writer, kill_at_random, run_consumer, run_publisher, take_all_and_judge},
    },
};

use crate::{
    child,
    cluster::{fresh_schema, shared_url},
    read_model::fixture::fresh_model,
};

const FAULT: &str = "publisher, consumer or broker killed";

/// The child: one of the sides.
pub(crate) fn run(url: &str, job: &str) {
    let [side, store, model, nats, seed, events, pause, bug] = job.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{job}")
    };
    // A bug is its thread's.
    let mut runtime = match bug.parse::<Bug>() {
        Ok(bug) => {
            bugs::choose(Some(bug));
            tokio::runtime::Builder::new_current_thread()
        }
        Err(_) => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.enable_all().build().unwrap().block_on(async {
        let store = open(url, store).await;
        if side == "consumer" {
            return run_consumer(&store, nats).await;
        }
        let lease = Duration::from_secs(1);
        let model = PostgresModel::options().schema(model).lease(lease).open(url).await.unwrap();
        let (events, pause) = (events.parse().unwrap(), Duration::from_millis(pause.parse().unwrap()));
        let writer = Writer::new(seed.parse().unwrap(), streams(events)).in_blocks(block(events));
        run_publisher((&store, &model), nats, writer, (events, pause)).await;
    });
}

/// The database's server is not killed here, so that nothing it has taken is lost.
async fn open(url: &str, schema: &str) -> PostgresStore {
    let options = PostgresStore::options().schema(schema).durability(Durability::Asynchronous);
    options.connections(4).open(url).await.unwrap()
}

/// Enough to have many messages under way.
fn streams(events: u64) -> usize {
    (events / 60).clamp(10, 2_000) as usize
}

fn block(events: u64) -> u64 {
    (events / 60).clamp(100, 2_000)
}

/// What came of it, and how often each was killed.
fn campaign(seed: u64, kills: u64, events: u64, bug: Option<Bug>) -> (Result<Judged, String>, [u64; 3]) {
    let (url, dir) = (shared_url(), tempfile::tempdir().unwrap());
    let mut server = NatsServer::start(dir.path());
    let (log, consumer, model) = (fresh_schema(), fresh_schema(), fresh_model());
    // Long enough for all kills to strike; and where there is much to publish, they are spread over that.
    let gap = (events / 5 / kills).max(450);
    let pause = kills * gap * 3 / 4 * block(events) / events;
    let nats = server.url();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let stream = killed::jetstream(&nats).await;
        stream.create(stream.config()).await.unwrap();
    });
    let bug = bug.map_or("none".into(), |bug| format!("{bug:?}"));
    let start = |side| {
        let (side, schema) = match side {
            Side::Publisher => ("publisher", &log),
            Side::Consumer => ("consumer", &consumer),
        };
        let job = format!("publishing {side} {schema} {model} {nats} {seed} {events} {pause} {bug}");
        let mut command = child::command(&job, &url);
        std::os::unix::process::CommandExt::process_group(command.stderr(Stdio::inherit()), 0);
        fault::Running::start(command)
    };
    let killed = kill_at_random(&mut server, (seed, kills, Duration::from_millis(gap)), start);
    let judged = runtime.block_on(async {
        let (log, consumer) = (open(&url, &log).await, open(&url, &consumer).await);
        take_all_and_judge(&log, &consumer, &nats).await
    });
    (judged, killed)
}

#[test]
fn what_is_published_through_kills_is_what_the_log_says() {
    let events = child::number("INDELIBLE_PUBLISHING_EVENTS").unwrap_or(6_000);
    let kills = child::number("INDELIBLE_PUBLISHING_KILLS").unwrap_or(12);
    let (seed, began) = (child::seed(), std::time::Instant::now());
    let (judged, killed) = campaign(seed, kills, events, None);
    let judged = judged.unwrap_or_else(|wrong| panic!("INDELIBLE_SEED={seed}: {wrong}"));
    let rate = judged.events as f64 / began.elapsed().as_secs_f64();
    let controls = format!(
        "killed {} times; {rate:.0} events/s with all of that",
        killed.map(|times| times.to_string()).join(", ")
    );
    Line::clean(FAULT, kills, killed.iter().sum(), judged.events, &controls).seed(seed).print();
    assert_eq!(judged.events, events);
    assert!(killed.iter().sum::<u64>() >= kills / 2, "only {killed:?} kills struck them at work");
}

/// One of them, whichever it is, and where the kills are said all of them: each kill strikes where one of them shows by
/// chance. (`publishing/tests/it/order.rs` finds each for certain.)
#[test]
fn seeded_bugs_of_publishing_are_caught() {
    let enough = if child::number("INDELIBLE_PUBLISHING_KILLS").is_some() { Bug::ALL.len() } else { 1 };
    let mut unseen = Bug::ALL.to_vec();
    for seed in 1..=20 {
        for bug in unseen.clone() {
            if let Err(wrong) = campaign(seed, 12, 4_000, Some(bug)).0 {
                seeded(FAULT, &format!("{bug:?}"), true, &wrong);
                unseen.retain(|other| *other != bug);
            }
            if Bug::ALL.len() - unseen.len() >= enough {
                return;
            }
        }
    }
    seeded(FAULT, &format!("{unseen:?}"), false, &"twenty campaigns found nothing");
}
