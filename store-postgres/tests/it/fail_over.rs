//! A server that another takes over from, with all that was acknowledged and without; and reading from a replica.

use std::time::{Duration, Instant};

use indelible_core::{
    Append, AppendOutcome, Category, Delivery, EventId, EventStore, ExpectedVersion, FailedCondition, Filter, Position,
    StartFrom, StoreError, Subscription, Token, Version,
    conformance::fault::{Line, Verdict},
};
use indelible_postgres::{OpenError, PostgresStore};

use crate::{
    cluster::{Cluster, Pooler},
    proxy::Proxy,
    writing::{SOON, append, appended, client, event, stream},
};

/// The log goes back to what it was: whoever has seen more is told so, and writes nothing on what it remembers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_are_told() {
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(""));
    let url = cluster.url();
    let before = PostgresStore::open(&url).await.unwrap();
    let kept = appended(&before, append("a-1", 0)).await.token;
    before.close().await.unwrap();
    let files = tokio::task::block_in_place(|| cluster.keep_files());

    // One that sees by itself that events are lost, and one that appends before it looks.
    let looking = PostgresStore::open(&url).await.unwrap();
    let writing = PostgresStore::options().poll(Duration::from_secs(3_600)).open(&url).await.unwrap();
    let lost = appended(&writing, append("a-1", 1)).await.token;
    let mut subscription = Subscription::new(looking.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    while !matches!(subscription.next().await.unwrap(), Delivery::CaughtUp(token) if token == lost) {}
    tokio::task::block_in_place(|| cluster.restore(&files));

    let told = tokio::time::timeout(SOON, subscription.next()).await.expect("the subscription is told");
    assert!(matches!(told, Err(StoreError::Stopped { .. })), "{told:?}");
    let refused = looking.append(append("a-1", 1)).await;
    assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");
    let refused = writing.append(append("a-1", 1)).await;
    assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");

    let again = PostgresStore::open(&url).await.unwrap();
    assert_eq!(again.head().await.unwrap(), kept, "nothing was written on what is lost");
    again.check(&kept).await.unwrap();
    let told = again.check(&lost).await;
    assert!(matches!(told, Err(StoreError::Diverged { token, found }) if token == lost && found == kept), "{told:?}");
    // Another event in its place doesn't make the token good.
    appended(&again, append("a-1", 1)).await;
    let told = Subscription::new(again, Filter::all(), StartFrom::After(lost)).await.err();
    assert!(matches!(told, Some(StoreError::Diverged { .. })), "{told:?}");
}

/// What a process knows of its streams is of the log that it wrote them to, though an event with the last one's id is where
/// that was, as where a command by key came again: by whatever connection it comes to the server that has another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_knew_is_nothing_where_the_end_of_the_log_was_lost() {
    let mut cluster = tokio::task::block_in_place(|| Cluster::start(""));
    let pooler = Pooler::before(&cluster);
    let options = PostgresStore::options().poll(Duration::from_secs(3_600));
    options.clone().open(&cluster.url()).await.unwrap().close().await.unwrap();
    let files = tokio::task::block_in_place(|| cluster.keep_files());
    let ends = "ALTER TABLE indelible.log DISABLE TRIGGER ALL; DELETE FROM indelible.log";
    // A server that recovers by itself when one of its processes dies is not started again.
    for (url, is_other) in [(cluster.direct_url(), true), (pooler.url(), true), (cluster.direct_url(), false)] {
        let mut is_shown = false;
        for _ in 0..20 {
            let store = options.clone().open(&url).await.unwrap();
            let keyed = event("Keyed");
            let by_key = || Append::to(stream("key-1"), ExpectedVersion::Any, [keyed.clone()]);
            appended(&store, append("a-0", 0)).await;
            appended(&store, append("a-1", 0)).await;
            let last = appended(&store, by_key()).await.token;
            if is_other {
                tokio::task::block_in_place(|| cluster.restore(&files));
            } else {
                client(&cluster.url()).await.batch_execute(ends).await.unwrap();
                tokio::task::block_in_place(|| cluster.kill_one());
            }

            let other = loop {
                match options.clone().open(&cluster.url()).await {
                    Err(OpenError::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    other => break other.unwrap(),
                }
            };
            appended(&other, append("b-0", 0)).await;
            appended(&other, append("b-1", 0)).await;
            assert_eq!(appended(&other, by_key()).await.token, last);
            let told = loop {
                match store.append(append("a-1", 1)).await {
                    Err(error) if error.is_retryable() => {}
                    told => break told,
                }
            };
            other.verify().await.unwrap();
            drop((store, other));
            tokio::task::block_in_place(|| cluster.restore(&files));
            // It may have looked before there was another event where its last one was.
            if !matches!(told, Err(StoreError::Stopped { .. })) {
                let AppendOutcome::Conflict(failed) = told.unwrap() else { panic!("a-1 is not there any more") };
                assert!(matches!(&failed[..], [FailedCondition::Version { actual: Version::NONE, .. }]), "{failed:?}");
                is_shown = true;
                break;
            }
        }
        assert!(is_shown, "it always looked by itself: {url}");
    }
}

/// A server and its standby.
pub(crate) struct Pair {
    pub(crate) primary: Cluster,
    pub(crate) standby: Cluster,
}

/// A server that acknowledges nothing that its standby does not have; or one that does not wait for it.
pub(crate) fn pair(synchronous: bool) -> Pair {
    let primary = Cluster::start("");
    let standby = primary.replica("");
    if synchronous {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let admin = client(&primary.url()).await;
            admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'").await.unwrap();
            admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
            let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            while admin.query_one(sync, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    Pair { primary, standby }
}

impl Pair {
    /// Where whichever of them is the primary is found.
    pub(crate) fn url(&self) -> String {
        let (primary, standby) = (self.primary.port(), self.standby.port());
        format!(
            "postgresql://postgres@127.0.0.1:{primary},127.0.0.1:{standby}/postgres?sslmode=disable&\
             target_session_attrs=read-write"
        )
    }

    pub(crate) fn take_over(&mut self) {
        self.primary.kill();
        self.standby.promote();
    }
}

/// What an asynchronous standby never got is lost. Whoever has seen it is told so, and no position means two events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_asynchronous_standby_lacks_is_told() {
    const KEPT: u64 = 40;
    const LOST: u64 = 7;
    let mut pair = tokio::task::spawn_blocking(|| pair(false)).await.unwrap();
    let store = PostgresStore::open(&pair.url()).await.unwrap();
    let mut subscription = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    let mut tokens = Vec::new();
    for version in 0..KEPT {
        tokens.push(appended(&store, append("a-1", version)).await.token);
    }
    let replayed = client(&pair.standby.url()).await;
    let head = "SELECT count(*) FROM indelible.log";
    // It may not have the table yet.
    let is_there = async || replayed.query_one(head, &[]).await.is_ok_and(|row| row.get::<_, i64>(0) >= KEPT as i64);
    let until = Instant::now() + SOON;
    while !is_there().await {
        assert!(Instant::now() < until, "the standby lags");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(replayed);
    tokio::task::block_in_place(|| pair.standby.kill());
    for version in KEPT..KEPT + LOST {
        tokens.push(appended(&store, append("a-1", version)).await.token);
    }
    tokio::task::block_in_place(|| {
        pair.primary.kill();
        pair.standby.launch();
        pair.standby.promote();
    });
    // The handle that has seen what is lost stops itself, whether it is asked to write or not.
    let told = async {
        loop {
            match subscription.next().await {
                Err(error) if !error.is_retryable() => return error,
                _ => {}
            }
        }
    };
    let told = tokio::time::timeout(SOON, told).await.expect("the subscription is told");
    assert!(matches!(told, StoreError::Stopped { .. }), "{told:?}");
    let refused = store.append(append("a-1", KEPT + LOST)).await;
    assert!(matches!(refused, Err(StoreError::Stopped { .. })), "{refused:?}");

    let again = PostgresStore::open(&pair.url()).await.unwrap();
    let mut lost = 0;
    for token in &tokens {
        match again.check(token).await {
            Ok(()) => assert!(token.position.get() <= KEPT),
            Err(StoreError::Diverged { .. }) => lost += 1,
            other => panic!("{token}: {other:?}"),
        }
    }
    assert_eq!(lost, LOST, "of {} acknowledged", tokens.len());
    // Other events take those positions, and the tokens stay what they are.
    for version in KEPT..KEPT + LOST {
        appended(&again, append("a-1", version)).await;
    }
    for token in &tokens[KEPT as usize..] {
        let told = Subscription::new(again.clone(), Filter::all(), StartFrom::After(*token)).await.err();
        assert!(matches!(told, Some(StoreError::Diverged { .. })), "{told:?}");
    }
    again.verify().await.unwrap();
    let verdict = Verdict { acknowledged: KEPT + LOST, ..Verdict::default() };
    let told = format!("the {lost} events that it never got are lost; each of their tokens is answered with Diverged");
    Line::new("asynchronous standby took over", 1, 1, &verdict, &told).print();
}

/// What only a crashed primary has is acknowledged to nobody before its synchronous standby has it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_waits_for_the_standby() {
    let mut pair = tokio::task::spawn_blocking(|| pair(true)).await.unwrap();
    let options = PostgresStore::options().patience(Duration::from_secs(4));
    let store = options.open(&pair.primary.url()).await.unwrap();
    appended(&store, append("a-1", 0)).await;
    tokio::task::block_in_place(|| pair.standby.kill());
    let Err(StoreError::OutcomeUnknown { append: same, .. }) = store.append(append("a-1", 1)).await else {
        panic!("nobody has it but the primary")
    };
    tokio::task::block_in_place(|| pair.primary.crash_and_launch());
    // After its crash the server shows what it had written.
    let there = "SELECT count(*) FROM indelible.log";
    let there: i64 = client(&pair.primary.url()).await.query_one(there, &[]).await.unwrap().get(0);
    assert_eq!(there, 2);
    let Err(StoreError::OutcomeUnknown { append: same, .. }) = store.append(*same).await else {
        panic!("nobody has it but the primary, still")
    };
    tokio::task::block_in_place(|| pair.standby.launch());
    appended(&store, *same).await;
    tokio::task::block_in_place(|| pair.take_over());
    let taken_over = PostgresStore::open(&pair.standby.url()).await.unwrap();
    assert_eq!(taken_over.head().await.unwrap().position, Position::new(2));
}

/// One replica is ahead of the other: whoever comes from the one to the other misses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_behind_is_waited_for() {
    let primary = tokio::task::block_in_place(|| Cluster::start(""));
    let store = PostgresStore::open(&primary.url()).await.unwrap();
    appended(&store, append("a-1", 0)).await;
    let [ahead, behind] = tokio::task::block_in_place(|| [primary.replica(""), primary.replica("")]);
    client(&behind.url()).await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let proxy = Proxy::before(&ahead.url()).await;
    let reading = PostgresStore::open(&proxy.url(&ahead.url())).await.unwrap();
    let mut end = Position::START;
    for version in 1..20 {
        end = appended(&store, append("a-1", version)).await.token.position;
    }
    let published = async { reading.published().wait_for(|head| *head == end).await.map(|head| *head) };
    tokio::time::timeout(SOON, published).await.expect("the replica is followed").unwrap();
    proxy.lead_to(&behind.url());
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'indelible'";
    client(&ahead.url()).await.execute(cut, &[]).await.unwrap();
    let category = Category::new("a").unwrap();
    let filters = [Filter::all(), Filter::categories([category]), Filter::stream_prefix("a").unwrap()];
    let followed = filters.map(|filter| {
        let reading = reading.clone();
        tokio::spawn(async move {
            let mut subscription = Subscription::new(reading, filter, StartFrom::Beginning).await.unwrap();
            let mut seen = Vec::new();
            loop {
                match subscription.next().await.unwrap() {
                    Delivery::Event(event) => seen.push(event.position.get()),
                    Delivery::Progress(_) => {}
                    Delivery::CaughtUp(_) => return seen,
                }
            }
        })
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    client(&behind.url()).await.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    for seen in followed {
        let seen = tokio::time::timeout(SOON, seen).await.expect("the replica comes to it").unwrap();
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }
}

/// A replica is read from and followed, and refuses appends. It may be behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_read_from() {
    let primary = tokio::task::block_in_place(|| Cluster::start(""));
    let store = PostgresStore::open(&primary.url()).await.unwrap();
    let first = appended(&store, append("a-1", 0)).await;
    let replica = tokio::task::block_in_place(|| primary.replica(""));
    let reading = PostgresStore::options().patience(Duration::from_secs(10)).open(&replica.url()).await.unwrap();
    assert_eq!(reading.id(), store.id());
    let mut subscription = Subscription::new(reading.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    assert_eq!(subscription.next().await.unwrap(), Delivery::Event(first.events[0].clone()));
    let second = appended(&store, append("a-1", 1)).await;
    let mut seen = Vec::new();
    while seen.is_empty() {
        let delivery = tokio::time::timeout(SOON, subscription.next()).await.expect("the replica is followed").unwrap();
        seen.extend(delivery.into_event());
    }
    assert_eq!(seen, second.events);
    assert_eq!(reading.stream_head(&stream("a-1")).await.unwrap().version, Version::new(2));
    // What nobody has seen there yet is waited for, and not taken for another log's.
    let pause = async |how: &str| client(&replica.url()).await.batch_execute(how).await.unwrap();
    pause("SELECT pg_wal_replay_pause()").await;
    let third = appended(&store, append("a-1", 2)).await.token;
    let from = tokio::spawn(Subscription::new(reading.clone(), Filter::all(), StartFrom::After(third)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!from.is_finished());
    pause("SELECT pg_wal_replay_resume()").await;
    tokio::time::timeout(SOON, from).await.expect("the replica comes to it").unwrap().unwrap();
    let another = Token { event: EventId::new(), ..third };
    assert!(matches!(reading.check(&another).await, Err(StoreError::Diverged { found, .. }) if found == third));
    let refused = reading.append(append("a-1", 3)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    assert_eq!(store.head().await.unwrap(), third);
    let told = store.append(append("a-1", 3)).await.unwrap();
    assert!(matches!(told, AppendOutcome::Appended(_)));
}
