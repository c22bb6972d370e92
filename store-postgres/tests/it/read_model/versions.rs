//! P5: versions beside each other, each in its schema, and views before the one that queries see.
//!
//! `INDELIBLE_REBUILD_EVENTS` says how many events a version is built from while others come in (3,000).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{Cause, EventStore, Token, conformance::fault::Line};
use indelible_postgres::{PostgresModel, PostgresTx};
use indelible_projections::{
    Envelope, Order, Project, Projection, ProjectionId, ReadModel, ReadModelError, Registration, VersionState, Waited,
    Wants, Worker,
};

use super::{
    fixture::*,
    process::{Process, Site, patience},
};
use crate::{child::number, cluster::shared_url, writing::client};

pub(super) const REBUILT: &str = "rebuild under live traffic, PostgreSQL";

/// The tally, as the next release has it: another table, and another column.
#[derive(Clone)]
struct Next;
impl Projection for Next {
    const NAME: &'static str = "tally";
    const VERSION: u32 = 2;
    const ORDER: Order = Order::PerStream { partitions: 2 };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<PostgresModel> for Next {
    const SETUP: &'static str =
        "CREATE TABLE sums (account text PRIMARY KEY, dollars numeric NOT NULL, count bigint NOT NULL);
        CREATE TABLE largest (account text PRIMARY KEY, cents bigint NOT NULL)";
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let AccountEvent::Deposited { cents } = envelope.event;
        let account = envelope.recorded.stream.id();
        tx.execute(
            "INSERT INTO sums VALUES ($1, $2::bigint / 100.0, 1) ON CONFLICT (account)
             DO UPDATE SET dollars = sums.dollars + excluded.dollars, count = sums.count + 1",
            (account, cents),
        )
        .await?;
        Ok(())
    }
}

async fn states(model: &PostgresModel, name: &str) -> Vec<(u32, VersionState)> {
    model.versions(name).await.unwrap().into_iter().map(|row| (row.projection.version, row.state)).collect()
}

const ONE: &str = "CREATE TABLE t (n bigint); CREATE TABLE old (n bigint)";
const TWO: &str =
    "CREATE TABLE t (n text, m bigint); CREATE TABLE new (n bigint); CREATE VIEW doubled AS SELECT m * 2 AS m FROM t";
const SAME: &str = "CREATE TABLE t (n bigint, m bigint)";

struct P;
impl Projection for P {
    const NAME: &'static str = "p";
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}

#[tokio::test]
async fn a_version_is_built_beside_takes_over_goes_back_and_is_dropped() {
    let url = shared_url();
    let name = fresh_model();
    let model = PostgresModel::options().schema(&name).open(&url).await.unwrap();
    let client = client(&url).await;
    let shows =
        async |what: &str| client.query(&format!("SELECT * FROM \"{name}\".{what}"), &[]).await.map(|rows| rows.len());
    assert!(matches!(model.query::<P>().await, Err(ReadModelError::Unknown { .. })));
    register(&model, &id("p", 1), 1, ONE).await;
    register(&model, &id("p", 2), 1, TWO).await;
    assert_eq!(states(&model, "p").await, [(1, VersionState::Current), (2, VersionState::Building)]);
    let mut claims = [take(&model, &id("p", 1), 0, "a").await, take(&model, &id("p", 2), 0, "a").await];
    let mut write = async |version: usize, sql: &str| {
        let on = step(&claims[version - 1], 1);
        let mut tx = model.begin(&on).await.unwrap();
        tx.execute(sql, ()).await.unwrap();
        model.commit(tx).await.unwrap();
        claims[version - 1].position = on.to;
    };
    write(1, "INSERT INTO t VALUES (1), (2)").await;
    assert_eq!(shows("t").await.unwrap(), 2);
    assert_eq!(shows("old").await.unwrap(), 0);
    assert!(shows("doubled").await.is_err());
    // Not before it has seen what the current one has.
    let early = model.take_over(&id("p", 2)).await;
    assert!(matches!(early, Err(ReadModelError::Behind { .. })), "{early:?}");
    write(2, "INSERT INTO t VALUES ('x', 21)").await;
    client
        .batch_execute(&format!("CREATE ROLE \"r{name}\"; SELECT \"{name}\".indelible_grant_reader('r{name}')"))
        .await
        .unwrap();

    model.take_over(&id("p", 2)).await.unwrap();
    model.take_over(&id("p", 2)).await.unwrap();
    assert_eq!(states(&model, "p").await, [(1, VersionState::Former), (2, VersionState::Current)]);
    assert!(shows("old").await.is_err() && shows("new").await.is_ok());
    let mut views = model.query::<P>().await.unwrap();
    assert_eq!(views.query_opt("SELECT m FROM doubled", ()).await.unwrap().unwrap().get::<_, i64>(0), 42);
    drop(views);
    let reads =
        client.batch_execute(&format!("SET ROLE \"r{name}\"; SELECT * FROM \"{name}\".doubled; RESET ROLE")).await;
    reads.expect("the role reads what came later");

    write(1, "INSERT INTO t VALUES (3)").await;
    model.take_over(&id("p", 1)).await.unwrap();
    assert_eq!(shows("t").await.unwrap(), 3);
    // Who looks at another projection is in nobody's way; and who looks then finds the views of then.
    register(&model, &id("tally", 1), 1, "CREATE TABLE another (n bigint)").await;
    let mut another = model.query::<Tally>().await.unwrap();
    model.take_over(&id("p", 2)).await.unwrap_err();
    write(2, "INSERT INTO t VALUES ('y', 1)").await;
    tokio::time::timeout(Duration::from_secs(5), model.take_over(&id("p", 2))).await.expect("it waits").unwrap();
    another.query("SELECT * FROM another", ()).await.unwrap();
    for (version, doubled) in [(2, true), (1, false)] {
        model.take_over(&id("p", version)).await.unwrap();
        let mut views = model.query::<P>().await.unwrap();
        assert_eq!(views.query("SELECT * FROM doubled", ()).await.is_ok(), doubled);
    }

    let current = model.drop_version(&id("p", 1)).await;
    assert!(matches!(current, Err(ReadModelError::Rejected { .. })), "{current:?}");
    model.drop_version(&id("p", 2)).await.unwrap();
    assert!(matches!(model.drop_version(&id("p", 2)).await, Err(ReadModelError::Unknown { .. })));
    assert!(matches!(model.take_over(&id("p", 2)).await, Err(ReadModelError::Unknown { .. })));
    let on = step(&claims[1], 1);
    assert!(matches!(model.commit(model.begin(&on).await.unwrap()).await, Err(ReadModelError::Fenced { .. })));
    let homes = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE $1";
    let homes = client.query_one(homes, &[&format!("{name}\\_%")]).await.unwrap();
    assert_eq!(homes.get::<_, i64>(0), 2);
    client.batch_execute(&format!("DROP OWNED BY \"r{name}\"; DROP ROLE \"r{name}\"")).await.unwrap();
}

#[tokio::test]
async fn a_version_with_the_same_columns_keeps_what_depends_on_its_views() {
    let url = shared_url();
    let name = fresh_model();
    let model = PostgresModel::options().schema(&name).open(&url).await.unwrap();
    let client = client(&url).await;
    register(&model, &id("p", 1), 1, SAME).await;
    client.batch_execute(&format!("CREATE VIEW \"{name}\".report AS SELECT sum(n) FROM \"{name}\".t")).await.unwrap();
    register(&model, &id("p", 2), 1, SAME).await;
    model.take_over(&id("p", 2)).await.unwrap();
    client.query(&format!("SELECT * FROM \"{name}\".report"), &[]).await.unwrap();
    // Another projection's table of that name is refused, and leaves nothing behind.
    let another = Registration {
        projection: id("q", 1),
        partitions: 1,
        head: Token::start(indelible_core::StoreId::new()),
        setup: "CREATE TABLE t (n bigint)",
    };
    let refused = model.register(&another).await;
    assert!(matches!(refused, Err(ReadModelError::Rejected { .. })), "{refused:?}");
    assert!(model.versions("q").await.unwrap().is_empty());
    register(&model, &id("q", 1), 1, "CREATE TABLE u (n bigint)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_are_told_that_a_reset_one_is_being_rebuilt() {
    let url = shared_url();
    let (store, name) = (store(&url).await, fresh_model());
    let model = PostgresModel::options().schema(&name).open(&url).await.unwrap();
    let events = deposits(&store, 300).await;
    let head = store.head().await.unwrap();
    let tally = ProjectionId::of::<Tally>();
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    running.drain(SOON).await;
    let built = contents(&url, &name, 1).await;
    // Who looks sees it as it was, and a reset waits for them.
    let mut views = model.query::<Tally>().await.unwrap();
    assert_eq!(views.query("SELECT * FROM lists", ()).await.unwrap().len(), events.len());
    // And who is about to look.
    let mut unasked = model.query::<Tally>().await.unwrap();
    let reset = tokio::spawn({
        let (model, tally) = (model.clone(), tally.clone());
        async move { model.reset(&tally, head).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(views.query("SELECT * FROM lists", ()).await.unwrap().len(), events.len());
    drop(views);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(unasked.query("SELECT * FROM lists", ()).await.unwrap().len(), events.len());
    drop(unasked);
    reset.await.unwrap().unwrap();
    assert!(contents(&url, &name, 1).await.is_empty());
    model.caught_up(&tally).await.unwrap();
    assert!(matches!(model.query::<Tally>().await, Err(ReadModelError::Rebuilding { .. })));
    let client = client(&url).await;
    for table in ["sums", "lists"] {
        let told = client.query(&format!("SELECT * FROM \"{name}\".{table}"), &[]).await.unwrap_err();
        assert_eq!(told.code().map(|code| code.code()), Some("INDM4"), "{told}");
    }
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    assert_eq!(contents(&url, &name, 1).await, built);
    until("it is built anew", async || !matches!(model.query::<Tally>().await, Err(ReadModelError::Rebuilding { .. })))
        .await;
    let mut views = model.query::<Tally>().await.unwrap();
    assert_eq!(views.query("SELECT * FROM lists", ()).await.unwrap().len(), events.len());
}

/// Waits until a worker has half of the partitions, and another the rest.
async fn is_shared(site: &Site, worker: &Process) {
    let until = std::time::Instant::now() + SOON;
    while site.held_by(worker).await.len() != 2 || site.rows().await.iter().any(|row| row.owner.is_none()) {
        assert!(std::time::Instant::now() < until, "the workers do not share: {:?}", site.rows().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One of two workers, each with half of the partitions, resets it in its place while events come in. The other is fenced
/// off what it had, both begin anew, and no query sees it before it has caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_is_reset_while_two_workers_run_and_events_come_in() {
    let site = Site::new(&shared_url()).await;
    let (store, model) = (site.store.clone(), site.model.clone());
    let first = 2_000;
    deposits(&store, first).await;
    let other = site.start(25, "other");
    other.is_running();
    let running = Worker::new(&store).with_options(batches_of(25)).add(&model, Tally).start().await.unwrap();
    is_shared(&site, &other).await;
    site.catches_up(patience(first)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            while !is_over.load(SeqCst) {
                deposits(&store, 20).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let asking = tokio::spawn({
        let (model, is_over) = (model.clone(), Arc::clone(&is_over));
        async move {
            let (mut before, mut rebuilding, mut after, mut seen) = (0, 0, 0, first as i64);
            while !is_over.load(SeqCst) {
                let asked = async {
                    let query = "SELECT coalesce(sum(count), 0)::bigint FROM sums";
                    model.query::<Tally>().await?.query_opt(query, ()).await
                };
                match asked.await {
                    Ok(row) => {
                        let count: i64 = row.unwrap().get(0);
                        assert!(count >= seen, "a query saw {count} events, after another had seen {seen}");
                        seen = count;
                        *if rebuilding == 0 { &mut before } else { &mut after } += 1;
                    }
                    Err(ReadModelError::Rebuilding { .. }) => rebuilding += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (before, rebuilding, after)
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let is_built_anew = async |within| {
        running.reset::<Tally, _>(&model).await.unwrap();
        let until = std::time::Instant::now() + within;
        while !states(&model, "tally").await.contains(&(1, VersionState::Current)) {
            assert!(std::time::Instant::now() < until, "it is not built anew: {:?}", site.rows().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    is_built_anew(patience(first)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    is_over.store(true, SeqCst);
    writing.await.unwrap();
    let (before, rebuilding, after) = asking.await.unwrap();
    assert!(before > 0 && rebuilding > 0 && after > 0, "{before} queries, {rebuilding} refused, {after}");
    site.catches_up(patience(first)).await;
    is_shared(&site, &other).await;
    // And where nothing comes in that the other would be fenced off by.
    is_built_anew(SOON).await;
    running.drain(SOON).await;
    drop(other);
    site.is_as_after_a_clean_pass().await;
}

/// While events come, a new version is built and takes over: no query sees anything but the one or the other, each with
/// all that was there when it was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_takes_over_under_live_traffic() {
    let url = shared_url();
    let (store, model) = (store(&url).await, model(&url).await);
    let first = number("INDELIBLE_REBUILD_EVENTS").unwrap_or(3_000);
    let batch = if first > 100_000 { 1_000 } else { 50 };
    for part in (0..first).step_by(100_000) {
        deposits(&store, 100_000.min(first - part)).await;
    }
    let old = Worker::new(&store).with_options(batches_of(batch)).add(&model, Tally).start().await.unwrap();
    let reached = old.wait_for(&store.head().await.unwrap(), patience(first)).await.unwrap();
    assert_eq!(reached, Waited::Reached);
    let is_over = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (store, is_over) = (store.clone(), Arc::clone(&is_over));
        async move {
            let mut some = 0;
            while !is_over.load(SeqCst) {
                some += deposits(&store, 20).await.len() as u64;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            some
        }
    });
    let asking = tokio::spawn({
        let (model, is_over) = (model.clone(), Arc::clone(&is_over));
        async move {
            let (mut asked, mut seen) = (0, first as i64);
            while !is_over.load(SeqCst) {
                let mut views = model.query::<Tally>().await.unwrap();
                let row =
                    views.query_opt("SELECT coalesce(sum(count), 0)::bigint FROM sums", ()).await.unwrap().unwrap();
                let count: i64 = row.get(0);
                assert!(count >= seen, "a query saw {count} events, after another had seen {seen}");
                (asked, seen) = (asked + 1, count);
            }
            asked
        }
    });
    let new = Worker::new(&store).add(&model, Next).start().await.unwrap();
    let next = ProjectionId::of::<Next>();
    let started = std::time::Instant::now();
    let mut refused = 0;
    loop {
        match model.take_over(&next).await {
            Ok(()) => break,
            Err(ReadModelError::Behind { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(started.elapsed() < patience(first), "it never takes over");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let built_in = started.elapsed();
    tokio::time::sleep(Duration::from_millis(200)).await;
    is_over.store(true, SeqCst);
    let live = writing.await.unwrap();
    let (all, queries) = (first + live, asking.await.unwrap());
    let head = store.head().await.unwrap();
    for running in [old, new] {
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    }
    let controls = format!(
        "of {first} events in {built_in:.1?}, while {live} came in; {queries} queries; behind at {refused} attempts to take over"
    );
    Line::clean(REBUILT, 1, 1, all, &controls).print();
    // With the seeded bug it is not told so, and mostly a query sees it.
    assert!(refused > 0 || std::env::var_os("INDELIBLE_BUG").is_some(), "it never was behind");
    let mut views = model.query::<Next>().await.unwrap();
    let row = views.query_opt("SELECT sum(count)::bigint, round(sum(dollars) * 100)::bigint FROM sums", ()).await;
    let row = row.unwrap().unwrap();
    let cents: i64 = (0..all as i64).map(|n| n % 100 - 20).sum();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (all as i64, cents));
}
