//! P5: a version is built while events come in, takes over and is reset; and a kill leaves one of two.
//!
//! `INDELIBLE_REBUILD_EVENTS` says how many events a version is built from (2,000), and `INDELIBLE_TAKE_OVER_KILLS`
//! how many kills (12).

use std::time::Instant;

use indelible_core::conformance::fault::Line;

use super::{
    poison::{append, rows},
    *,
};

pub(super) const REBUILT: &str = "rebuild under live traffic, RocksDB";
const KILLED: &str = "process that takes over killed";

/// The next version.
struct Next;
impl Projection for Next {
    const NAME: &'static str = Tally::NAME;
    const VERSION: u32 = 2;
    const ORDER: Order = Order::PerStream { partitions: 2 };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<RocksModel> for Next {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        tally(envelope, tx)
    }
}

/// A version is built beside the one that is current, and takes over; then it is reset where it is. Events come in all the
/// time, and queries look all the time. With how that went.
pub(super) async fn take_over(dir: &Path) -> (Verdict, String) {
    let mut verdict = Verdict::default();
    let first = number("INDELIBLE_REBUILD_EVENTS").unwrap_or(2_000);
    let patience = SOON + Duration::from_millis(first);
    let store = RocksStore::open(dir.join("log")).unwrap();
    // Small, so that tables are written; but not thousands of them.
    let model = RocksModel::open_buffering(dir.join("views"), 64 * (1024 + first as usize)).unwrap();
    fill(&store, first).await;
    let old = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    old.wait_for(&store.head().await.unwrap(), patience).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn({
        let (store, is_over) = (store.clone(), is_over.clone());
        async move {
            for n in 0.. {
                if is_over.load(SeqCst) {
                    return;
                }
                append(&store, &format!("{}", n % 89), n).await;
            }
        }
    });
    let queries = tokio::task::spawn_blocking({
        let (model, is_over) = (model.clone(), is_over.clone());
        move || {
            let (mut verdict, mut looks, mut last) = (Verdict::default(), 0_u64, first);
            while !is_over.load(SeqCst) {
                match model.query::<Tally>() {
                    Ok(views) => {
                        let all = views.scan(&SUMS, .., usize::MAX).unwrap();
                        let (sums, counted) =
                            all.iter().fold((0, 0), |(sums, counted), (_, row)| (sums + row.0, counted + row.1));
                        if counted < last || views.get(&TOTAL, &()).unwrap() != Some(sums) {
                            verdict.wrong("half built", || format!("{counted} events after {last}"));
                        }
                        (looks, last) = (looks + 1, counted);
                    }
                    Err(error) => verdict.wrong("no answer", || error.to_string()),
                }
            }
            (verdict, looks)
        }
    });
    let started = Instant::now();
    let new = Worker::new(&store).add(&model, Next).start().await.unwrap();
    let (current, second) = (ProjectionId::of::<Tally>(), ProjectionId::of::<Next>());
    let is_current = async || {
        let versions = model.versions(Tally::NAME).await.unwrap();
        versions.iter().any(|version| version.projection == second && version.state == VersionState::Current)
    };
    let mut behind = 0;
    while !is_current().await {
        assert!(started.elapsed() < patience, "it never takes over");
        // By itself, or by us: whoever comes first.
        match model.take_over(&second).await {
            Ok(()) => {}
            Err(ReadModelError::Behind { .. }) => {
                behind += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let built_in = started.elapsed();
    drop(old);
    model.drop_version(&current).await.unwrap();
    new.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
    is_over.store(true, SeqCst);
    let (seen, looks) = queries.await.unwrap();
    verdict.add(seen);
    assert!(looks > 5, "only {looks} queries");
    traffic.await.unwrap();

    assert!(new.drain(SOON).await);
    let head = append(&store, "1", 1).await;
    verdict.events = head.position.get();
    let live = verdict.events - first;
    let told = format!(
        "of {first} events in {built_in:.1?}, while {live} came in; {looks} queries; behind at {behind} attempts to take over"
    );
    model.reset(&second, head).await.unwrap();
    if !matches!(model.query::<Next>(), Err(ReadModelError::Rebuilding { .. })) {
        verdict.wrong("no reset", String::new);
    }
    let new = Worker::new(&store).add(&model, Next).start().await.unwrap();
    let waited = new.wait_for(&head, patience).await.unwrap();
    if waited != Waited::Reached {
        verdict.wrong("not reached", || format!("{waited:?}"));
        return (verdict, told);
    }
    model.caught_up(&second).await.unwrap();
    let clean = RocksModel::open(dir.join("clean")).unwrap();
    let again = Worker::new(&store).add(&clean, Tally).start().await.unwrap();
    again.wait_for(&head, patience).await.unwrap();
    if rows(&model) != rows(&clean) {
        verdict.wrong("not what a clean pass gives", String::new);
    }
    (verdict, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_takes_over_under_live_traffic_and_is_reset() {
    let (mut verdict, told) = take_over(tempfile::tempdir().unwrap().path()).await;
    verdict.acknowledged = verdict.events;
    Line::new(REBUILT, 1, 1, &verdict, &told).print();
    assert!(verdict.is_clean(), "{verdict}");
}

/// Two versions take over from one another until the process is killed.
pub(super) async fn take_turns(dir: &Path) -> Verdict {
    let model = RocksModel::open(dir).unwrap();
    let versions = [1, 2].map(|version| ProjectionId { name: Tally::NAME.into(), version });
    let head = Token::start(StoreId::new());
    for projection in versions.clone() {
        model.register(&Registration { projection, partitions: 1, head, setup: "" }).await.unwrap();
    }
    for version in versions.iter().cycle() {
        say("turns");
        model.take_over(version).await.unwrap();
        say("turned");
    }
    Verdict::default()
}

/// How many of some kills left not exactly one current version, and how many struck amid a take-over.
fn kill_take_overs(kills: u64, bug: Option<&str>) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(seed());
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut found, mut amid) = (0, 0);
    for _ in 0..kills {
        let mut command = command("take turns", dir.path(), &[]);
        command.envs(bug.map(|bug| ("INDELIBLE_BUG", bug)));
        let mut child = Child::start(command);
        let mut last = None;
        for _ in 0..random.random_range(1..16) {
            last = child.line();
            assert!(last.is_some(), "it ended by itself");
        }
        std::thread::sleep(Duration::from_micros(random.random_range(0..2_000)));
        child.kill();
        last = std::iter::from_fn(|| child.line()).last().or(last);
        drop(child);
        amid += u64::from(last.as_deref() == Some("turns"));
        let model = RocksModel::open(dir.path()).unwrap();
        let versions = runtime.block_on(model.versions(Tally::NAME)).unwrap();
        found += u64::from(versions.iter().filter(|version| version.state == VersionState::Current).count() != 1);
    }
    (found, amid)
}

#[test]
fn a_kill_leaves_one_current_version() {
    let kills = number("INDELIBLE_TAKE_OVER_KILLS").unwrap_or(12);
    let mut verdict = Verdict::default();
    let (found, amid) = kill_take_overs(kills, None);
    (0..found).for_each(|_| verdict.wrong("not one current version", String::new));
    Line::new(KILLED, kills, amid, &verdict, "seen: amid a take-over").print();
    assert!(verdict.is_clean(), "{verdict}");
    assert!(amid * 2 >= kills, "only {amid} of {kills} kills struck amid a take-over");
}

#[cfg(feature = "bugs")]
#[test]
fn kills_find_a_take_over_in_two() {
    let found = (0..5).map(|_| kill_take_overs(8, Some("take-over-in-two")).0).find(|found| *found > 0).unwrap_or(0);
    let mut verdict = Verdict::default();
    (0..found).for_each(|_| verdict.wrong("no current version", String::new));
    seeded(KILLED, "take-over-in-two", found > 0, &verdict);
}
