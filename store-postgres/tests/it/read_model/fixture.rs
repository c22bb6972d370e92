//! The aggregate, the projection, and the log that the tests share.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use indelible_core::{
    Aggregate, Append, AppendOutcome, Apply, Cause, ContentType, Event, EventStore, ExpectedVersion, NewEvent,
    Position, RecordedEvent, StreamId, Token, codec::Json, conformance::fault::Verdict,
};
use indelible_postgres::{PostgresModel, PostgresStore, PostgresTx};
use indelible_projections::{
    Advance, Claim, Envelope, Order, Partition, Project, Projection, ProjectionId, ReadModel, Registration,
    RunnerOptions, VersionRow, Wants, WorkerId,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::{cluster::fresh_schema, writing::client};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub(crate) enum AccountEvent {
    Deposited { cents: i64 },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
pub(crate) struct Account {}
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let until = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < until, "it does not come about: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) const PARTITIONS: u32 = 4;
/// In cents: what those cannot handle who park.
pub(crate) const POISON: i64 = 13;

/// Sums, counts, and appends to a list per stream, in that order; and says where it has seen an earlier event later.
#[derive(Clone)]
pub(crate) struct Tally;
impl Projection for Tally {
    const NAME: &'static str = "tally";
    const ORDER: Order = Order::PerStream { partitions: PARTITIONS };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}

pub(crate) const TABLES: &str = "
    CREATE TABLE sums (account text PRIMARY KEY, sum bigint NOT NULL, count bigint NOT NULL, seen bigint NOT NULL,
                       inversions bigint NOT NULL DEFAULT 0);
    CREATE TABLE lists (account text, nth bigint, version bigint NOT NULL, cents bigint NOT NULL,
                        PRIMARY KEY (account, nth))";

impl Project<PostgresModel> for Tally {
    const SETUP: &'static str = TABLES;
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
}

pub(crate) async fn tally(envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
    let AccountEvent::Deposited { cents } = envelope.event;
    let (account, version) = (envelope.recorded.stream.id(), envelope.recorded.version.get() as i64);
    tx.execute(
        "INSERT INTO sums (account, sum, count, seen) VALUES ($1, $2, 1, $3)
         ON CONFLICT (account) DO UPDATE SET sum = sums.sum + excluded.sum, count = sums.count + 1,
             inversions = sums.inversions + (excluded.seen <= sums.seen)::int, seen = excluded.seen",
        (account, cents, version),
    )
    .await?;
    tx.execute(
        "INSERT INTO lists (account, nth, version, cents)
         SELECT $1, coalesce(max(nth), 0) + 1, $2, $3 FROM lists WHERE account = $1",
        (account, version, cents),
    )
    .await?;
    Ok(())
}

pub(crate) fn stream(account: impl std::fmt::Display) -> StreamId {
    format!("account-{account}").parse().unwrap()
}

pub(crate) fn deposited(cents: i64) -> NewEvent {
    let event = AccountEvent::Deposited { cents };
    NewEvent::new(event.event_type(), ContentType::JSON, event.encode(&Json).unwrap())
}

/// Deposits into 40 accounts, in one append.
pub(crate) async fn deposits(store: &PostgresStore, events: u64) -> Vec<RecordedEvent> {
    let mut all = Vec::new();
    let mut next = store.head().await.unwrap().position.get();
    let end = next + events;
    while next < end {
        let some = (next..end.min(next + 2_000)).map(|n| (stream(n * 7 % 40), deposited(n as i64 % 100 - 20)));
        let mut append = Append::new();
        for (stream, event) in some {
            append = append.event(stream, event);
        }
        let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("nothing was expected") };
        next += done.events.len() as u64;
        all.extend(done.events);
    }
    all
}

pub(crate) async fn deposit(store: &PostgresStore, account: impl std::fmt::Display, cents: i64) -> Token {
    let append = Append::to(stream(account), ExpectedVersion::Any, [deposited(cents)]);
    let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("nothing was expected") };
    done.token
}

/// A name for a read model's schema that nobody has used.
pub(crate) fn fresh_model() -> String {
    let long = fresh_schema();
    format!("m{}", &long[long.len().saturating_sub(28)..])
}

pub(crate) async fn store(url: &str) -> PostgresStore {
    PostgresStore::options().schema(fresh_schema()).connections(4).open(url).await.unwrap()
}

pub(crate) async fn model(url: &str) -> PostgresModel {
    PostgresModel::options().schema(fresh_model()).open(url).await.unwrap()
}

pub(crate) fn batches_of(events: usize) -> RunnerOptions {
    let mut options = RunnerOptions::default();
    options.batch_events_max = events;
    options
}

// ---- a read model without a worker -----------------------------------------------------------------------------------

pub(crate) fn id(name: &str, version: u32) -> ProjectionId {
    ProjectionId { name: name.into(), version }
}

pub(crate) async fn register(
    model: &PostgresModel,
    projection: &ProjectionId,
    partitions: u32,
    setup: &'static str,
) -> (VersionRow, Token) {
    let start = Token::start(indelible_core::StoreId::new());
    let registration = Registration { projection: projection.clone(), partitions, head: start, setup };
    (model.register(&registration).await.unwrap(), start)
}

pub(crate) async fn take(model: &PostgresModel, projection: &ProjectionId, partition: u32, worker: &str) -> Claim {
    let taken = model.take(projection, Partition(partition), &WorkerId(worker.into())).await.unwrap();
    taken.expect("it is free")
}

/// The next step of a claim, to so much further.
pub(crate) fn step(claim: &Claim, by: u64) -> Advance {
    let from = claim.position;
    let to = Token { position: Position::new(from.position.get() + by), event: indelible_core::EventId::new(), ..from };
    Advance { projection: claim.projection.clone(), partition: claim.partition, epoch: claim.epoch, from, to }
}

/// What the tally makes of an event, for those who work it out themselves.
pub(crate) struct Known {
    pub(crate) position: u64,
    pub(crate) partition: u32,
    account: String,
    cents: i64,
}

impl From<RecordedEvent> for Known {
    fn from(event: RecordedEvent) -> Self {
        let AccountEvent::Deposited { cents } = event.decode().unwrap();
        let partition = Partition::of(&event.stream, PARTITIONS).0;
        Self { position: event.position.get(), partition, account: event.stream.id().to_owned(), cents }
    }
}

// ---- what a read model must hold -------------------------------------------------------------------------------------

/// All that a version of the tally holds, a line a row.
pub(crate) async fn contents(url: &str, model: &str, version: u32) -> Vec<String> {
    let client = client(url).await;
    let mut lines = Vec::new();
    for table in ["sums", "lists"] {
        let query = format!("SELECT t::text FROM \"{model}_tally_{version}\".{table} t ORDER BY 1");
        lines.extend(
            client.query(&query, &[]).await.unwrap().iter().map(|row| format!("{table} {}", row.get::<_, &str>(0))),
        );
    }
    lines
}

/// Judges what the tally holds by what the log gives up to each partition's checkpoint, as of one moment, whoever works
/// meanwhile: each event once, but for the dead letters, which are the last ones of streams with poison in them. Says how
/// far the partitions are, added up, and where the events are that there are letters of.
pub(crate) async fn judge(
    client: &mut Client,
    model: &str,
    events: &[Known],
    verdict: &mut Verdict,
) -> (u64, BTreeSet<u64>) {
    let tx = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let tx = tx.start().await.unwrap();
    let query = format!("SELECT partition, position FROM \"{model}\".indelible_partitions WHERE projection = 'tally'");
    let positions = tx.query(&query, &[]).await.unwrap();
    let positions: BTreeMap<u32, u64> =
        positions.iter().map(|row| (row.get::<_, i32>(0) as u32, row.get::<_, i64>(1) as u64)).collect();
    let letters = tx.query(&format!("SELECT position FROM \"{model}\".indelible_dead_letters"), &[]).await.unwrap();
    let letters: BTreeSet<u64> = letters.iter().map(|row| row.get::<_, i64>(0) as u64).collect();
    let mut unknown = letters.clone();
    let mut expected: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    let (mut poisoned, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    for event in events.iter().filter(|event| event.position <= positions[&event.partition]) {
        let account = &*event.account;
        if event.cents == POISON {
            poisoned.insert(account);
        }
        if unknown.remove(&event.position) {
            waiting.insert(account);
            if !poisoned.contains(account) {
                verdict.wrong("parked without poison", || format!("{account} at {}", event.position));
            }
            continue;
        }
        if waiting.contains(account) {
            verdict.wrong("overtook a parked one", || format!("{account} at {}", event.position));
        }
        let sum = expected.entry(account).or_default();
        *sum = (sum.0 + event.cents, sum.1 + 1, 0);
    }
    if !unknown.is_empty() {
        verdict.wrong("letters of no event", || format!("{unknown:?}"));
    }
    let query = format!(
        "SELECT account, sum, count, inversions, (SELECT count(*) FROM \"{model}_tally_1\".lists l WHERE l.account = s.account)
         FROM \"{model}_tally_1\".sums s"
    );
    let rows = tx.query(&query, &[]).await.unwrap();
    let mut found = BTreeMap::new();
    for row in &rows {
        let (account, count, listed): (&str, i64, i64) = (row.get(0), row.get(2), row.get(4));
        if count != listed {
            verdict.wrong("another list", || format!("that of {account} has {listed} entries, and not {count}"));
        }
        found.insert(account, (row.get::<_, i64>(1), count, row.get::<_, i64>(3)));
    }
    if found != expected {
        let differs = expected.iter().find(|(account, sums)| found.get(*account) != Some(sums));
        let differs = differs.map_or("rows of no event".into(), |(account, sums)| {
            format!("{account} has {:?}, and not {sums:?}", found.get(account))
        });
        verdict.wrong("other sums", || {
            format!("it is not what the log gives up to its checkpoints, {positions:?}: {differs}")
        });
    }
    (positions.values().sum(), letters)
}

pub(crate) const SOON: Duration = Duration::from_secs(60);
