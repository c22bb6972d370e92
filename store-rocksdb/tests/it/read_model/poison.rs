//! P3: poison is parked, kept, and redriven.

use super::*;

const POISON: u64 = 1_000_013;

/// Cannot handle deposits of that until it is mended.
#[derive(Clone, Default)]
pub(super) struct Parks {
    mended: Arc<AtomicBool>,
}
impl Projection for Parks {
    const NAME: &'static str = Tally::NAME;
    const ORDER: Order = Tally::ORDER;
    const ON_FAILURE: OnFailure = OnFailure::PARK;
    const RETRY: Retry = Retry { attempts_max: 2, pause_first: Duration::from_millis(1), pause_max: SOON };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<RocksModel> for Parks {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
        tally(envelope, tx)?;
        match envelope.event {
            AccountEvent::Deposited { cents: POISON } if !self.mended.load(SeqCst) => Err("it is poison".into()),
            _ => Ok(()),
        }
    }
}

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
