//! P3: an event that cannot be handled is parked with all that follow it in its stream, and nothing is skipped in silence.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{Cause, EventStore, Position};
use indelible_postgres::{PostgresModel, PostgresTx};
use indelible_projections::{
    Envelope, OnFailure, Order, PartitionState, Project, Projection, ProjectionId, ReadModel, Registration, Retry,
    Waited, Wants, Worker,
};

use super::fixture::*;
use crate::{cluster::shared_url, writing::client};

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum How {
    Says,
    Panics,
    /// Its statement is refused, which shows with the commit.
    Writes,
    Reads,
}

/// The tally, that cannot handle [`POISON`] until it is mended.
#[derive(Clone)]
pub(super) struct Picky {
    how: How,
    is_mended: Arc<AtomicBool>,
}
impl Picky {
    pub(super) fn new(how: How, is_mended: bool) -> Self {
        Self { how, is_mended: Arc::new(is_mended.into()) }
    }

    pub(super) fn mend(&self) {
        self.is_mended.store(true, SeqCst);
    }
}
impl Projection for Picky {
    const NAME: &'static str = "tally";
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    const ON_FAILURE: OnFailure = OnFailure::Park { streams_max: 2 };
    const RETRY: Retry =
        Retry { attempts_max: 2, pause_first: Duration::from_millis(1), pause_max: Duration::from_millis(2) };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<PostgresModel> for Picky {
    const SETUP: &'static str = TABLES;
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        tally(envelope, tx).await?;
        match (&envelope.event, self.how) {
            _ if self.is_mended.load(SeqCst) => {}
            (AccountEvent::Deposited { cents: POISON }, How::Says) => return Err("13\0 is bad luck".into()),
            (AccountEvent::Deposited { cents: POISON }, How::Panics) => panic!("13"),
            (AccountEvent::Deposited { cents: POISON }, How::Writes) => tx.execute("SELECT 1 / 0", ()).await?,
            (AccountEvent::Deposited { cents: POISON }, How::Reads) => {
                tx.query("SELECT 1 / 0", ()).await.map_err(|error| format!("wrapped: {error}"))?;
            }
            _ => {}
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_event_is_parked_with_those_behind_it_and_redriven() {
    let url = shared_url();
    for how in [How::Says, How::Panics, How::Writes, How::Reads] {
        let (store, name) = (store(&url).await, fresh_model());
        let model = PostgresModel::options().schema(&name).open(&url).await.unwrap();
        let picky = Picky::new(how, false);
        for (account, cents) in [("a", 1), ("a", 13), ("b", 3), ("a", 2), ("c", 4), ("b", 5)] {
            deposit(&store, account, cents).await;
        }
        let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
        let waited = running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
        assert_eq!(waited, Waited::Reached, "{how:?}");
        let later = deposit(&store, "a", 6).await;
        let waited = running.wait_for(&later, SOON).await.unwrap();
        assert_eq!(waited, Waited::Parked(stream("a")), "{how:?}: skipped without a letter");
        let head = deposit(&store, "b", 7).await;
        assert_eq!(running.wait_for_stream(&head, &stream("b"), SOON).await.unwrap(), Waited::Reached);

        let projection = ProjectionId::of::<Picky>();
        let until = std::time::Instant::now() + SOON / 4;
        let letters = loop {
            let letters = model.letters(&projection, Some(&stream("a")), Position::START, 10).await.unwrap();
            if letters.len() == 3 {
                break letters;
            }
            assert!(std::time::Instant::now() < until, "events were skipped without a letter, {how:?}: {letters:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(model.letters(&projection, None, Position::START, 10).await.unwrap(), letters);
        assert_eq!(model.letters(&projection, None, letters[0].position, 1).await.unwrap(), letters[1..2]);
        assert_eq!(letters.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [2, 0, 0]);
        assert!(letters[0].error.as_ref().is_some_and(|error| !error.is_empty()), "{letters:?}");
        let parked: usize = model.partitions(&projection).await.unwrap().iter().map(|row| row.parked).sum();
        assert_eq!(parked, 1);
        let mut views = model.query::<Picky>().await.unwrap();
        let sums = views.query("SELECT account, sum::bigint FROM sums ORDER BY 1", ()).await.unwrap();
        let sums: Vec<(String, i64)> = sums.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert_eq!(sums, [("a".into(), 1), ("b".into(), 15), ("c".into(), 4)]);
        drop(views);

        // It still can't, and another worker finds what is parked.
        assert!(running.redrive::<Picky>(&stream("a")).await.is_err());
        assert!(running.drain(SOON).await);
        let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
        picky.mend();
        let redriven = loop {
            // Its partitions are being taken.
            match running.redrive::<Picky>(&stream("a")).await {
                Ok(redriven) => break redriven,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        assert_eq!(redriven, 3);
        let head = deposit(&store, "a", 8).await;
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached, "{how:?}");
        running.drain(SOON).await;

        let clean = fresh_model();
        let other = PostgresModel::options().schema(&clean).open(&url).await.unwrap();
        let running = Worker::new(&store).add(&other, Tally).start().await.unwrap();
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
        assert_eq!(contents(&url, &name, 1).await, contents(&url, &clean, 1).await, "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_many_parked_streams_it_stops_and_what_is_discarded_is_kept_with_its_reason() {
    let url = shared_url();
    let (store, model) = (store(&url).await, model(&url).await);
    let picky = Picky::new(How::Says, false);
    let home = |n: &u64| indelible_projections::Partition::of(&stream(n), PARTITIONS);
    let mates: Vec<u64> = (0..).filter(|n| home(n) == home(&0)).take(3).collect();
    let mut head = store.head().await.unwrap();
    for mate in &mates {
        head = deposit(&store, mate, 13).await;
    }
    let running = Worker::new(&store).add(&model, picky).start().await.unwrap();
    assert!(matches!(running.wait_for(&head, SOON).await.unwrap(), Waited::Stopped(_)));
    let projection = ProjectionId::of::<Picky>();
    let letters = model.letters(&projection, None, Position::START, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    running.discard::<Picky>(&letters[0], "it never happened").await.unwrap();
    assert!(running.discard::<Picky>(&letters[0], "twice").await.is_err());
    assert_eq!(model.letters(&projection, None, Position::START, 10).await.unwrap(), letters[1..]);
    let discarded = model.discarded(&projection, Position::START, 10).await.unwrap();
    assert_eq!(discarded, [(letters[0].clone(), "it never happened".to_owned())]);
    let stopped = running.status().into_iter().flat_map(|(_, lanes)| lanes);
    assert_eq!(stopped.filter(|lane| matches!(lane.state, PartitionState::Stopped { .. })).count(), 1);

    // It goes with its version.
    let next = ProjectionId { version: 2, ..projection.clone() };
    let registration = Registration { projection: next.clone(), partitions: 1, head, setup: "" };
    model.register(&registration).await.unwrap();
    drop(running);
    model.reset(&projection, head).await.unwrap();
    model.take_over(&next).await.unwrap();
    assert_eq!(model.discarded(&projection, Position::START, 10).await.unwrap().len(), 1, "through resets too");
    model.drop_version(&projection).await.unwrap();
    assert_eq!(model.discarded(&projection, Position::START, 10).await.unwrap(), []);
}

/// A batch in one statement, which the server refuses where there is poison in it. With how large the batches were.
#[derive(Clone, Default)]
struct Sets {
    batches: Arc<Mutex<Vec<usize>>>,
}
impl Projection for Sets {
    const NAME: &'static str = "sets";
    const ORDER: Order = Order::PerStream { partitions: 1 };
    const ON_FAILURE: OnFailure = Picky::ON_FAILURE;
    const RETRY: Retry = Picky::RETRY;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<PostgresModel> for Sets {
    const SETUP: &'static str =
        "CREATE TABLE deposits (account text NOT NULL, version bigint NOT NULL, cents bigint NOT NULL,
            PRIMARY KEY (account, version), CONSTRAINT no_poison CHECK (cents <> 13))";
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        Project::<PostgresModel>::apply_batch(self, std::slice::from_ref(envelope), tx).await
    }
    async fn apply_batch(&self, envelopes: &[Envelope<AccountEvent>], tx: &mut PostgresTx) -> Result<(), Cause> {
        self.batches.lock().unwrap().push(envelopes.len());
        let rows = envelopes.iter().map(|envelope| {
            let AccountEvent::Deposited { cents } = envelope.event;
            (envelope.recorded.stream.id(), (envelope.recorded.version.get() as i64, cents))
        });
        let (accounts, (versions, cents)): (Vec<&str>, (Vec<i64>, Vec<i64>)) = rows.unzip();
        let insert = "INSERT INTO deposits SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])";
        Ok(tx.execute(insert, (accounts, versions, cents)).await?)
    }
}

/// The batch is tried again event by event, the poison is found and parked with what is behind it, and nothing else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_refused_is_taken_apart_until_the_poison_is_found() {
    let url = shared_url();
    let (store, name) = (store(&url).await, fresh_model());
    let model = PostgresModel::options().schema(&name).open(&url).await.unwrap();
    for n in 0..50 {
        deposit(&store, n % 7, if n == 23 { POISON } else { 100 + n }).await;
    }
    let sets = Sets::default();
    let running = Worker::new(&store).add(&model, sets.clone()).start().await.unwrap();
    let reached = running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
    assert_eq!(reached, Waited::Reached);
    let projection = ProjectionId::of::<Sets>();
    let letters = model.letters(&projection, None, Position::START, 99).await.unwrap();
    let parked: Vec<_> = letters.iter().map(|letter| (letter.position.get(), letter.attempts)).collect();
    assert_eq!(parked, [(24, 2), (31, 0), (38, 0), (45, 0)]);
    let client = client(&url).await;
    let rows = async || {
        let query = format!("SELECT account || ' ' || version || ' ' || cents FROM \"{name}_sets_1\".deposits");
        client.query(&query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect::<BTreeSet<String>>()
    };
    let mut expected: BTreeSet<String> =
        (0..50).filter(|n| n % 7 != 2 || *n < 23).map(|n| format!("{} {} {}", n % 7, n / 7 + 1, 100 + n)).collect();
    assert_eq!(rows().await, expected);
    // In one go, then each by itself, and the poison twice.
    let batches = std::mem::take(&mut *sets.batches.lock().unwrap());
    assert!(batches[0] > 1 && batches[1..].iter().all(|events| *events == 1), "{batches:?}");

    // What comes after it goes on in sets, between those that wait.
    let mut append = indelible_core::Append::new();
    for n in 50..60 {
        append = append.event(stream(n % 7), deposited(100 + n));
        if n % 7 != 2 {
            expected.insert(format!("{} {} {}", n % 7, n / 7 + 1, 100 + n));
        }
    }
    store.append(append).await.unwrap();
    running.wait_for_stream(&store.head().await.unwrap(), &stream(59 % 7), SOON).await.unwrap();
    assert_eq!(rows().await, expected);
    assert!(sets.batches.lock().unwrap().iter().any(|events| *events > 1), "{:?}", sets.batches);
    let drop = format!("ALTER TABLE \"{name}_sets_1\".deposits DROP CONSTRAINT no_poison");
    client.batch_execute(&drop).await.unwrap();
    running.redrive::<Sets>(&stream(2)).await.unwrap();
    let later = (0..60).filter(|n| n % 7 == 2 && *n >= 23);
    expected.extend(later.map(|n| format!("2 {} {}", n / 7 + 1, if n == 23 { POISON } else { 100 + n })));
    assert_eq!(rows().await, expected);
}
