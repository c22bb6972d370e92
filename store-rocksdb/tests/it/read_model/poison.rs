//! P3: poison is parked, kept, and redriven.

use super::*;
use crate::projecting::{POISON, Parks};

pub(super) async fn append(store: &RocksStore, name: &str, cents: u64) -> Token {
    store.append(Append::to(account(name), ExpectedVersion::Any, [deposited(cents)])).await.unwrap();
    store.head().await.unwrap()
}

/// Poison is parked, outlives the process's handle, is redriven, and comes to what a clean pass does.
pub(super) async fn park(dir: &Path) -> Verdict {
    let mut verdict = Verdict::default();
    let (store, parks) = (RocksStore::open(dir.join("log")).unwrap(), Parks::default());
    let id = ProjectionId::of::<Parks>();
    fill(&store, 200).await;
    for (name, cents) in [("ada", 1), ("ada", POISON), ("bob", POISON), ("ada", 2), ("bob", 3), ("eve", 4)] {
        append(&store, name, cents).await;
    }
    {
        let model = RocksModel::open(dir.join("views")).unwrap();
        let running = Worker::new(&store).add(&model, parks.clone()).start().await.unwrap();
        running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
        assert!(running.drain(SOON).await);
    }
    let model = reopened(&dir.join("views")).await;
    let letters = model.letters(&id, None, Position::START, 99).await.unwrap();
    let kept: Vec<_> =
        letters.iter().map(|letter| (letter.stream.id(), letter.version.get(), letter.attempts)).collect();
    if kept != [("ada", 2, 2), ("bob", 1, 2), ("ada", 3, 0), ("bob", 2, 0)] {
        verdict.wrong("parked", || format!("{kept:?}"));
    }
    let parked: usize = model.partitions(&id).await.unwrap().iter().map(|row| row.parked).sum();
    if parked != 2 {
        verdict.wrong("parked streams", || parked.to_string());
    }
    // Those that come behind a parked one wait.
    let running = Worker::new(&store).add(&model, parks.clone()).start().await.unwrap();
    let later = append(&store, "ada", 5).await;
    let waited = running.wait_for(&later, SOON).await.unwrap();
    if waited != Waited::Parked(account("ada")) {
        verdict.wrong("goes on in a parked stream", || format!("{waited:?}"));
    }
    running.wait_for(&append(&store, "eve", 1).await, SOON).await.unwrap();
    parks.mended.store(true, SeqCst);
    for name in ["ada", "bob"] {
        if let Err(error) = running.redrive::<Parks>(&account(name)).await {
            verdict.wrong("redrive", || format!("{error:?}"));
        }
    }
    let head = append(&store, "bob", 7).await;
    let waited = running.wait_for(&head, SOON).await.unwrap();
    if waited != Waited::Reached {
        verdict.wrong("not reached", || format!("{waited:?}"));
    }
    let clean = RocksModel::open(dir.join("clean")).unwrap();
    let again = Worker::new(&store).add(&clean, Tally).start().await.unwrap();
    again.wait_for(&head, SOON).await.unwrap();
    if rows(&model) != rows(&clean) {
        verdict.wrong("not what a clean pass gives", || format!("{:?}", rows(&model).0));
    }
    verdict
}

/// Once what the worker left behind has let it go.
async fn reopened(dir: &Path) -> RocksModel {
    let opened = async {
        loop {
            match RocksModel::open(dir) {
                Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(1)).await,
                opened => return opened.unwrap(),
            }
        }
    };
    tokio::time::timeout(SOON, opened).await.unwrap()
}

pub(super) type All = (Vec<(String, (u64, u64, u128))>, Vec<((String, u64), u64)>, Option<u64>);

pub(super) fn rows(model: &RocksModel) -> All {
    let views = model.query::<Tally>().unwrap();
    let all = usize::MAX;
    (views.scan(&SUMS, .., all).unwrap(), views.scan(&LISTS, .., all).unwrap(), views.get(&TOTAL, &()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_parked_and_redriven() {
    let verdict = park(tempfile::tempdir().unwrap().path()).await;
    assert!(verdict.is_clean(), "{verdict}");
}

/// As [`Parks`], in sets: all of a batch is written before it fails. With how large the batches were.
#[derive(Clone, Default)]
struct Sets {
    mended: Arc<AtomicBool>,
    batches: Arc<Mutex<Vec<usize>>>,
}
impl Projection for Sets {
    const NAME: &'static str = Tally::NAME;
    const ORDER: Order = Order::PerStream { partitions: 1 };
    const ON_FAILURE: OnFailure = Parks::ON_FAILURE;
    const RETRY: Retry = Parks::RETRY;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<RocksModel> for Sets {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        Project::<RocksModel>::apply_batch(self, std::slice::from_ref(envelope), tx).await
    }
    async fn apply_batch(&self, envelopes: &[Envelope<AccountEvent>], tx: &mut RocksTx) -> Result<(), Cause> {
        self.batches.lock().unwrap().push(envelopes.len());
        envelopes.iter().try_for_each(|envelope| tally(envelope, tx))?;
        let poison = |envelope: &Envelope<AccountEvent>| envelope.event == AccountEvent::Deposited { cents: POISON };
        match envelopes.iter().any(poison) && !self.mended.load(SeqCst) {
            true => Err("there is poison in it".into()),
            false => Ok(()),
        }
    }
}

/// The batch is tried again event by event, the poison is found and parked with what is behind it, and nothing else is.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_fails_is_taken_apart_until_the_poison_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (store, sets) = (RocksStore::open(dir.path().join("log")).unwrap(), Sets::default());
    for (name, cents) in [("ada", 1), ("bob", 2), ("ada", POISON), ("bob", 3), ("ada", 4), ("eve", 5)] {
        append(&store, name, cents).await;
    }
    fill(&store, 30).await;
    let model = RocksModel::open(dir.path().join("views")).unwrap();
    let running = Worker::new(&store).add(&model, sets.clone()).start().await.unwrap();
    running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
    let letters = model.letters(&ProjectionId::of::<Sets>(), None, Position::START, 99).await.unwrap();
    let parked: Vec<_> = letters.iter().map(|letter| (letter.position.get(), letter.attempts)).collect();
    assert_eq!(parked, [(3, 2), (5, 0)]);
    assert_eq!(rows(&model).1.len(), 34);
    // All in one go, then each by itself, and the poison twice.
    let batches = sets.batches.lock().unwrap().clone();
    assert!(batches[0] > 1 && batches[1..].iter().all(|events| *events == 1), "{batches:?}");
    // What comes after it goes on in sets.
    fill(&store, 30).await;
    running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
    assert!(sets.batches.lock().unwrap().last().is_some_and(|events| *events > 1), "{:?}", sets.batches);
    sets.mended.store(true, SeqCst);
    running.redrive::<Sets>(&account("ada")).await.unwrap();
    let clean = RocksModel::open(dir.path().join("clean")).unwrap();
    let again = Worker::new(&store).add(&clean, Tally).start().await.unwrap();
    again.wait_for(&store.head().await.unwrap(), SOON).await.unwrap();
    assert_eq!(rows(&model), rows(&clean));
}
