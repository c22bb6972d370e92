//! A store that stopped itself and is resumed on a log that has lost something, as one with weak durability may have: whoever
//! has seen what is lost, or is at work on the files of the opening before, is told.

use std::{
    fs,
    sync::{Arc, PoisonError, mpsc},
    time::Duration,
};

use indelible_core::{
    Append, AppendOutcome, Category, ContentType, Delivery, EventStore, EventType, ExpectedVersion, Filter, NewEvent,
    StartFrom, StoreError, StreamId, Subscription,
};
use tempfile::TempDir;
use tokio::{
    task::{JoinHandle, spawn, spawn_blocking},
    time::{sleep, timeout},
};

use crate::{Backups, Durability, RocksStore, Verification, anchor, backup, engine, verify::Watch};

const SOON: Duration = Duration::from_secs(20);

/// A store, and a copy of what it held at first.
struct Lossy {
    store: RocksStore,
    dir: TempDir,
    first: TempDir,
}

impl Lossy {
    async fn of(events: usize) -> Self {
        let [dir, backups, first] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
        append(&store, events).await;
        let backup = store.backup(backups.path()).await.unwrap();
        Backups::at(backups.path()).restore(backup.id, first.path()).unwrap();
        Self { store, dir, first }
    }

    /// Resumes it with what it held at first.
    async fn lose(&self) {
        let handle = &self.store.handle;
        handle.shared.fail("seeded".into());
        handle.shared.with_run(|run| run.wake_sequencer()).unwrap();
        drop(handle.end(&mut handle.threads.lock().unwrap_or_else(PoisonError::into_inner)));
        let (dir, first) = (self.dir.path(), self.first.path());
        for part in [engine::log_dir, engine::index_dir] {
            fs::remove_dir_all(part(dir)).unwrap();
            fs::rename(part(first), part(dir)).unwrap();
        }
        fs::rename(first.join(anchor::NAME), dir.join(anchor::NAME)).unwrap();
        self.store.resume().await.unwrap();
    }
}

async fn append(store: &RocksStore, events: usize) {
    write(store, &"s-1".parse().unwrap(), events).await;
}

async fn write(store: &RocksStore, stream: &StreamId, events: usize) {
    let events = (0..events).map(|_| NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}"));
    let append = Append::to(stream.clone(), ExpectedVersion::Any, events);
    assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
}

/// Delivers what there is.
async fn catch_up(subscription: &mut Subscription<RocksStore>) {
    while !matches!(subscription.next().await.unwrap(), Delivery::CaughtUp(_)) {}
}

#[tokio::test]
async fn a_subscription_does_not_go_on_without_what_it_delivered() {
    let lossy = Lossy::of(3).await;
    append(&lossy.store, 3).await;
    let subscribed = async |from| Subscription::new(lossy.store.clone(), Filter::all(), from).await.unwrap();
    // One that waits, one that has more to read, one in the middle of a page, and one that has seen nothing yet.
    let mut waiting = subscribed(StartFrom::Beginning).await;
    catch_up(&mut waiting).await;
    let mut behind = subscribed(StartFrom::Beginning).await.pages_of(5);
    let mut amid = subscribed(StartFrom::Beginning).await;
    for _ in 0..5 {
        behind.next().await.unwrap().into_event().unwrap();
        amid.next().await.unwrap().into_event().unwrap();
    }
    let mut new = subscribed(StartFrom::Now).await;
    lossy.lose().await;
    append(&lossy.store, 9).await;

    for lost in [&mut waiting, &mut behind, &mut amid, &mut new] {
        let told = async {
            loop {
                match lost.next().await {
                    // What it had read already.
                    Ok(Delivery::Event(event)) => assert_eq!(event.position.get(), 6),
                    other => break other,
                }
            }
        };
        let told = timeout(SOON, told).await.expect("it is told");
        assert!(matches!(told, Err(StoreError::Diverged { .. })), "{told:?}");
    }
}

/// Whatever was lost that it has not seen, and however much came since.
#[tokio::test]
async fn a_subscription_that_has_seen_nothing_of_that_goes_on() {
    let other = Filter::categories([Category::new("other").unwrap()]);
    for (filter, wanted) in [(Filter::all(), true), (other, false)] {
        for later in [1, 9] {
            let lossy = Lossy::of(3).await;
            let subscribed = async |from| Subscription::new(lossy.store.clone(), filter.clone(), from).await.unwrap();
            let mut live = subscribed(StartFrom::Beginning).await;
            catch_up(&mut live).await;
            let mut behind = subscribed(StartFrom::After(lossy.store.head().await.unwrap())).await;
            append(&lossy.store, 3).await;
            lossy.lose().await;
            append(&lossy.store, later).await;
            for subscription in [&mut live, &mut behind] {
                let mut seen = Vec::new();
                let caught_up = async {
                    loop {
                        match subscription.next().await.unwrap() {
                            Delivery::Event(event) => seen.push(event.position.get()),
                            Delivery::Progress(_) => {}
                            Delivery::CaughtUp(token) if token.position.get() == 3 + later as u64 => break,
                            Delivery::CaughtUp(token) => assert_eq!(token.position.get(), 3),
                        }
                    }
                };
                timeout(SOON, caught_up).await.expect("it goes on");
                let all = (4..=3 + later as u64).filter(|_| wanted);
                assert!(seen.iter().copied().eq(all), "{seen:?}");
            }
        }
    }
}

#[cfg(feature = "projections")]
mod projecting {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };

    use indelible_core::{Aggregate, Apply, Cause, Event};
    use indelible_projections::{
        Envelope, Order, Partition, PartitionState, PartitionStatus, Project, Projection, Retry, Wants, Worker,
        memory::{MemoryModel, MemoryTx},
    };
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
    enum Happened {
        Written,
    }

    #[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
    #[aggregate(category = "s")]
    struct Stream {}
    impl Apply for Stream {
        type Event = Happened;
        fn apply(&mut self, _: &Happened) {}
    }

    /// One of its two partitions waits at what may be lost.
    struct Seen {
        waits: Arc<AtomicBool>,
    }
    impl Projection for Seen {
        const NAME: &'static str = "seen";
        const ORDER: Order = Order::PerStream { partitions: 2 };
        const RETRY: Retry = Retry { attempts_max: u32::MAX, pause_max: Duration::from_millis(10), ..Retry::DEFAULT };
        type Event = Happened;
        fn wants() -> Wants<Happened> {
            Wants::types::<Stream>([Happened::WRITTEN])
        }
    }
    impl Project<MemoryModel> for Seen {
        async fn apply(&self, envelope: &Envelope<Happened>, _: &mut MemoryTx) -> Result<(), Cause> {
            let waits = Partition::of(&envelope.recorded.stream, 2) == Partition(0);
            match envelope.recorded.position.get() > 4 && waits && self.waits.load(SeqCst) {
                true => Err("it waits".into()),
                false => Ok(()),
            }
        }
    }

    fn at(status: &PartitionStatus) -> u64 {
        status.looked_to.position.get()
    }

    /// One partition has seen what is lost, and another has not: the one stops, the other goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_partition_that_has_seen_what_is_lost_stops() {
        let lossy = Lossy::of(4).await;
        let stream = |partition| {
            let mut streams = (0..).map(|n| format!("s-{n}").parse::<StreamId>().unwrap());
            streams.find(|stream| Partition::of(stream, 2) == Partition(partition)).unwrap()
        };
        let [waiting, other] = [0, 1].map(stream);
        let waits = Arc::new(AtomicBool::new(true));
        let projection = Seen { waits: Arc::clone(&waits) };
        let running = Worker::new(&lossy.store).add(&MemoryModel::new(), projection).start().await.unwrap();
        write(&lossy.store, &waiting, 1).await;
        write(&lossy.store, &other, 1).await;
        let states = async |wanted: fn(&[PartitionStatus]) -> bool| {
            let reached = async {
                loop {
                    let states = running.status().remove(0).1;
                    if states.len() == 2 && wanted(&states) {
                        return states;
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(SOON, reached).await.unwrap_or_else(|_| panic!("{:?}", running.status()))
        };
        states(|states| at(&states[0]) <= 4 && states[0].retries > 0 && at(&states[1]) == 6).await;
        lossy.lose().await;
        for stream in [&waiting, &other, &waiting, &other] {
            write(&lossy.store, stream, 1).await;
        }
        waits.store(false, SeqCst);
        let states = states(|states| at(&states[0]) == 8 && at(&states[1]) != 4).await;
        let PartitionState::Stopped { error } = &states[1].state else { panic!("{states:?}") };
        assert!(error.starts_with("diverged"), "{error}");
        assert_eq!(states[0].state, PartitionState::Running);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_work_does_not_go_on_with_another_opening() {
    let lossy = Lossy::of(2_000).await;
    append(&lossy.store, 2_000).await;
    let (verification, amid, go_on) = verification(&lossy.store);
    amid.await.unwrap();
    let shared = Arc::clone(lossy.store.shared());
    let (opening, head) = shared.with_run(|run| (run.opening, run.seen.last().position)).unwrap();
    let copied =
        spawn_blocking(move || backup::published(&shared, opening, head.plus(1), &Watch::new(&|| Ok(()), &mut |_| {})));
    lossy.lose().await;
    drop(go_on);

    let verified = verification.await.unwrap();
    assert!(matches!(verified, Err(StoreError::Unavailable { .. })), "{verified:?}");
    // Or it saw that the store had stopped.
    let copied = timeout(SOON, copied).await.expect("what is lost is not waited for").unwrap();
    assert!(matches!(copied, Err(StoreError::Unavailable { .. } | StoreError::Stopped { .. })), "{copied:?}");
    let reopened = lossy.store.handle().reopen(opening, |_| panic!("it is another opening's"));
    assert!(matches!(reopened, Err(StoreError::Unavailable { .. })), "{reopened:?}");
    // Begun anew, all of it works.
    lossy.store.rebuild_indexes().await.unwrap();
    let found = lossy.store.verify(|_| {}).await.unwrap();
    assert!(found.is_clean() && found.events == 2_000, "{found:?}");
}

/// A directory that is free has nobody at work in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_long_work_and_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    append(&store, 4_000).await;
    let (verification, amid, go_on) = verification(&store);
    amid.await.unwrap();
    let closing = spawn(async move { store.close().await });
    sleep(Duration::from_millis(200)).await;
    assert!(!closing.is_finished(), "somebody is at work");
    drop(go_on);
    closing.await.unwrap().unwrap();
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("frozen-")), "{left:?}");
    let verified = verification.await.unwrap();
    assert!(matches!(verified, Err(StoreError::Stopped { .. })), "{verified:?}");
}

/// Also when it holds the last handle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_work_that_nobody_waits_for_leaves_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    append(&store, 4_000).await;
    let mut rebuilding = Box::pin(store.rebuild_indexes());
    assert!(futures::poll!(&mut rebuilding).is_pending());
    sleep(Duration::from_millis(20)).await;
    drop(rebuilding);
    drop(store);
    let reopened = async {
        while RocksStore::open(dir.path()).is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, reopened).await.expect("nobody keeps it open");
}

/// Begins one, which waits at its first step until it may go on.
fn verification(
    store: &RocksStore,
) -> (JoinHandle<Result<Verification, StoreError>>, JoinHandle<()>, mpsc::Sender<()>) {
    let (store, (come, amid), (go_on, wait)) = (store.clone(), mpsc::channel(), mpsc::channel::<()>());
    let verification = spawn(async move {
        let progress = move |_| {
            let _ = come.send(());
            let _ = wait.recv();
        };
        store.verify(progress).await
    });
    (verification, spawn_blocking(move || amid.recv().unwrap()), go_on)
}
