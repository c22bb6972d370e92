//! P5: versions are built beside the current one, take over, go back, and are reset.

use std::time::Duration;

use indelible_core::{EventStore, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};
use tokio::time::{Instant, sleep};

use crate::fixture::*;

fn id<P: Projection>() -> ProjectionId {
    ProjectionId::of::<P>()
}

async fn state<P: Projection>(model: &MemoryModel) -> VersionState {
    let versions = model.versions(P::NAME).await.unwrap();
    versions.into_iter().find(|row| row.projection == id::<P>()).unwrap().state
}

/// A total never goes down, and what was waited for is in it.
async fn look(running: &Running, store: &MemoryStore, model: &MemoryModel, seen: &mut u64) {
    let head = store.head().await.unwrap();
    let read = store.read_log(&indelible_core::ReadLog::all()).await.unwrap();
    assert!(read.next.is_none());
    let deposits = read.events.into_iter().filter(|event| event.event_type.as_str() == "Deposited");
    let expected: u64 = deposits
        .map(|event| match event.decode::<AccountEvent>().unwrap() {
            AccountEvent::Deposited { cents } => cents,
            AccountEvent::Renamed { .. } => 0,
        })
        .sum();
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let total = model.query::<Tally>().unwrap().get(&TOTAL, &()).unwrap().unwrap_or_default();
    assert!(total >= expected && total >= *seen, "{total}, and {expected} were to be seen");
    *seen = total;
}

/// What queries see never goes back, whichever version they see.
async fn never_goes_down(model: MemoryModel) {
    let mut seen = 0;
    loop {
        let total = model.query::<Tally>().unwrap().get(&TOTAL, &()).unwrap().unwrap_or_default();
        assert!(total >= seen, "{total} after {seen}");
        seen = total;
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_is_built_beside_the_current_one_under_traffic_and_takes_over() {
    for leased in [false, true] {
        let lease = Duration::from_secs(9);
        let model = if leased { MemoryModel::shared(lease) } else { MemoryModel::new() };
        let store = MemoryStore::new();
        deposits(&store, 300).await;
        let mut options = RunnerOptions::default();
        options.batch_events_max = 5;
        let old = Worker::new(&store).with_options(options).add(&model, Tally).start().await.unwrap();
        let mut seen = 0;
        look(&old, &store, &model, &mut seen).await;
        options.building_events_per_second_max = Some(1_000);
        let both = Worker::new(&store).with_options(options).add(&model, Tally).add(&model, Next);
        let running = if leased {
            both.start().await.unwrap() // old code and new at once
        } else {
            assert!(old.drain(SOON).await);
            both.start().await.unwrap()
        };
        assert_eq!(state::<Next>(&model).await, VersionState::Building);
        let watcher = tokio::spawn(never_goes_down(model.clone()));
        let (started, mut rounds) = (Instant::now(), 0);
        while state::<Next>(&model).await == VersionState::Building {
            for burst in 0..20 {
                append(&store, burst, deposited(rounds)).await;
                sleep(Duration::from_millis(3)).await;
            }
            look(&running, &store, &model, &mut seen).await;
            rounds += 1;
            assert!(rounds < 2_000, "it never took over");
        }
        assert!(started.elapsed() > Duration::from_millis(300), "{:?}", started.elapsed());
        assert_eq!(state::<Tally>(&model).await, VersionState::Former);
        look(&running, &store, &model, &mut seen).await;
        assert!(!watcher.is_finished(), "{:?}", watcher.await);
        watcher.abort();

        // The old one is fed, and queries can go back to it.
        append(&store, 3, deposited(1)).await;
        assert!(running.take_over::<Tally>(SOON).await.unwrap());
        look(&running, &store, &model, &mut seen).await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(state::<Tally>(&model).await, VersionState::Current, "it stays what somebody wanted");
        assert!(running.take_over::<Next>(SOON).await.unwrap());
        assert!(running.drain(SOON).await);
    }
}

#[test]
fn a_version_that_takes_over_though_it_is_behind_is_caught() {
    bugs::choose(Some(bugs::Bug::TakesOverBehind));
    let found = std::panic::catch_unwind(a_version_is_built_beside_the_current_one_under_traffic_and_takes_over);
    bugs::choose(None);
    assert!(found.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_version_that_stands_is_told_and_catches_up_before_it_takes_over() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let stood = deposits(&store, 50).await;
    let old = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    old.wait_for(&stood, SOON).await.unwrap();
    assert!(old.drain(SOON).await);
    let running = Worker::new(&store).add(&model, Next).start().await.unwrap();
    let head = deposits(&store, 50).await;
    sleep(Duration::from_secs(3)).await;
    let versions = running.versions().await.unwrap();
    let told: Vec<_> = versions.iter().map(|v| (v.version.state, v.fed, v.position(), v.lag_events())).collect();
    let lag = head.position.get() - stood.position.get();
    assert_eq!(
        told,
        [(VersionState::Former, false, stood.position, lag), (VersionState::Current, true, head.position, 0)]
    );
    assert!(versions[0].behind_since.is_some() && versions[1].behind_since.is_none());
    assert!(matches!(model.take_over(&id::<Tally>()).await, Err(ReadModelError::Behind { .. })));
    drop(running);

    let running = Worker::new(&store).add(&model, Next).add(&model, Tally).start().await.unwrap();
    assert!(running.take_over::<Tally>(SOON).await.unwrap());
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
    model.drop_version(&id::<Next>()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_tells_how_far_it_is_and_goes_as_fast_as_it_may() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    deposits(&store, 1).await;
    let old = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(old.progress(), []);
    assert!(old.drain(SOON).await);
    let head = deposits(&store, 1_000).await;
    let mut options = RunnerOptions::default();
    options.building_events_per_second_max = Some(100);
    let started = Instant::now();
    let running = Worker::new(&store).with_options(options).add(&model, Next).start().await.unwrap();
    let mut told = Vec::new();
    let look = async {
        while state::<Next>(&model).await == VersionState::Building {
            sleep(Duration::from_millis(500)).await;
            told.extend(running.progress());
            assert!(started.elapsed() < Duration::from_secs(30));
        }
    };
    futures::join!(look, bars::draw(&running));
    let took = started.elapsed().as_secs_f64();
    assert!((9.0..12.0).contains(&took), "1,000 events at 100 a second took {took} s");
    assert!(told.is_sorted_by(|a, b| a.done <= b.done));
    let half = told.iter().find(|progress| progress.done > head.position.get() / 2).unwrap();
    assert_eq!(half.done + half.to_go, head.position.get());
    // The log holds 1.2 events for each that is wanted.
    assert!((100.0..140.0).contains(&half.events_per_second), "{half:?}");
    assert!(half.left.unwrap() < Duration::from_secs(6), "{half:?}");
    assert_eq!(running.progress(), []);

    // Without a throttle it is through at once.
    let started = Instant::now();
    running.reset::<Next, _>(&model).await.unwrap();
    let told = running.progress();
    assert_eq!(told.iter().map(|progress| progress.state).collect::<Vec<_>>(), [VersionState::Rebuilding]);
    running.throttle::<Next>(None).await.unwrap();
    while state::<Next>(&model).await != VersionState::Current {
        assert!(matches!(model.query::<Next>(), Err(ReadModelError::Rebuilding { .. })));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(model.query::<Next>().unwrap(), clean_pass(&store).await);
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_obeyed_by_all_workers() {
    let lease = Duration::from_secs(9);
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(lease));
    let a = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    let b = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    sleep(lease).await;
    assert_eq!((a.status()[0].1.len(), b.status()[0].1.len()), (2, 2));
    let head = deposits(&store, 100).await;
    assert_eq!(a.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let built = model.query::<Tally>().unwrap();
    a.reset::<Tally, _>(&model).await.unwrap();
    model.caught_up(&id::<Tally>()).await.unwrap();
    let early = model.query::<Tally>();
    assert!(matches!(early, Err(ReadModelError::Rebuilding { .. })), "who says that must have looked before the reset");
    // Nothing comes in that they would be fenced off by.
    sleep(lease).await;
    assert_eq!(model.query::<Tally>().unwrap(), built);
    assert_eq!((a.status()[0].1.len(), b.status()[0].1.len()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_older_version_that_comes_late_is_fed_and_nothing_waits_for_it() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = deposits(&store, 100).await;
    let next = Worker::new(&store).add(&model, Next).start().await.unwrap();
    assert_eq!(next.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let late = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    tokio::time::timeout(SOON, bars::draw(&late)).await.expect("it will never take over");
    sleep(Duration::from_secs(5)).await;
    assert_eq!((late.progress(), state::<Tally>(&model).await), (vec![], VersionState::Building));
    assert_eq!(late.status()[0].1.iter().map(|status| status.events).sum::<u64>(), 100);
}

/// The same projection in more partitions, as a release has it that is to be run by more workers.
#[derive(Clone)]
struct Wider;
impl Projection for Wider {
    const NAME: &'static str = Tally::NAME;
    const VERSION: u32 = 2;
    const ORDER: Order = Order::PerStream { partitions: 7 };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<MemoryModel> for Wider {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut memory::MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
}

#[tokio::test(start_paused = true)]
async fn another_number_of_partitions_comes_with_another_version() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    deposits(&store, 100).await;
    let running = Worker::new(&store).add(&model, Tally).add(&model, Wider).start().await.unwrap();
    for cents in 0..300 {
        let token = append(&store, cents % 20, deposited(cents)).await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!(running.wait_for(&token, SOON).await.unwrap(), Waited::Reached);
    }
    assert_eq!(state::<Wider>(&model).await, VersionState::Current);
    let partitions = |version: usize| running.status()[version].1.len();
    assert_eq!((partitions(0), partitions(1)), (4, 7));
    assert_eq!(model.query::<Wider>().unwrap(), clean_pass(&store).await);
}
