//! A log that doesn't answer: what isn't known of it yet isn't believed, and nobody waits for it longer than they said.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use indelible_core::{store::memory::MemoryStore, testing::Layer, *};
use indelible_projections::{memory::MemoryModel, *};
use tokio::time::Instant;

use crate::{chaos::Chaos, fixture::*};

/// A memory store that says for a while that it can't tell whether a token is of this log; or says nothing at all.
#[derive(Clone)]
struct Hesitant {
    log: MemoryStore,
    refuses: Arc<AtomicUsize>,
    hangs: bool,
    /// Where it is asked about this event's place.
    hangs_at: Option<EventId>,
}

#[async_trait]
impl Layer for Hesitant {
    fn beneath(&self) -> &dyn Store {
        &self.log
    }
    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        if self.hangs || self.hangs_at == Some(token.event) {
            std::future::pending::<()>().await;
        }
        match self.refuses.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(StoreError::unavailable("a test", "it is away")),
            Err(_) => self.log.check(token).await,
        }
    }
}

/// One partition has seen what this log lost, and the others have not: it stops, however long the log can't be asked; and
/// where it never can be asked about that one, the others go on all the same.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_checked_though_the_log_was_away_at_first() {
    for (refuses, hangs) in [(0, false), (1, false), (5, false), (9, false), (0, true)] {
        let (log, model) = (MemoryStore::new(), MemoryModel::new());
        let head = deposits(&log, 40).await;
        let (id, partitions) = (ProjectionId::of::<Tally>(), Tally::ORDER.partitions());
        model.register(&Registration { projection: id.clone(), partitions, head, setup: "" }).await.unwrap();
        let claim = model.take(&id, Partition(3), &WorkerId("before".into())).await.unwrap().unwrap();
        let lost = Token { event: EventId::new(), ..head };
        let step =
            Advance { projection: id, partition: Partition(3), epoch: claim.epoch, from: claim.position, to: lost };
        model.commit(model.begin(&step).await.unwrap()).await.unwrap();

        let hangs_at = hangs.then_some(lost.event);
        let store = Hesitant { log, refuses: Arc::new(refuses.into()), hangs: false, hangs_at };
        let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
        let states = async {
            loop {
                let lanes = running.status().remove(0).1;
                let are_there = lanes.len() == 4 && lanes[..3].iter().all(|lane| lane.looked_to == head);
                let is_told = |state: &PartitionState| match hangs {
                    true => matches!(state, PartitionState::Retrying { attempts: 2.., .. }),
                    false => matches!(state, PartitionState::Stopped { error } if error.starts_with("diverged")),
                };
                if are_there && is_told(&lanes[3].state) {
                    return lanes.into_iter().map(|lane| lane.state).collect::<Vec<_>>();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let states = tokio::time::timeout(SOON, states).await;
        let states = states.unwrap_or_else(|_| panic!("{refuses}, {hangs}: {:?}", running.status()));
        assert!(states[..3].iter().all(|state| *state == PartitionState::Running), "{states:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_they_said() {
    let (log, model) = (MemoryStore::new(), MemoryModel::new());
    let head = append(&log, 1, deposited(1)).await;
    let second = Duration::from_secs(1);
    let waits = async |store: &Hesitant, model: &Chaos| {
        let running = Worker::new(store).add(model, Tally).start().await.unwrap();
        model.stall();
        let asked = Instant::now();
        assert_eq!(running.wait_for(&head, second).await.unwrap(), Waited::TimedOut);
        let views = Views::new(store, model);
        assert_eq!(views.wait_for::<Tally>(&head, None, second).await.unwrap(), Waited::TimedOut);
        assert_eq!(asked.elapsed(), 2 * second);
    };
    let within = async {
        waits(
            &Hesitant { log: log.clone(), refuses: Arc::default(), hangs: false, hangs_at: None },
            &Chaos::new(&model),
        )
        .await;
        waits(
            &Hesitant { log: log.clone(), refuses: Arc::default(), hangs: true, hangs_at: None },
            &Chaos::new(&model),
        )
        .await;
    };
    tokio::time::timeout(SOON, within).await.expect("somebody waits for ever");
}

/// One that has stopped is answered at once, though another will never come so far.
#[tokio::test(start_paused = true)]
async fn the_first_answer_is_the_answer() {
    struct Broken;
    impl Projection for Broken {
        const NAME: &'static str = "broken";
        const RETRY: Retry = Retry::NEVER;
        type Event = AccountEvent;
        fn wants() -> Wants<AccountEvent> {
            Tally::wants()
        }
    }
    impl Project<MemoryModel> for Broken {
        async fn apply(&self, _: &Envelope<AccountEvent>, _: &mut memory::MemoryTx) -> Result<(), Cause> {
            Err("nothing helps".into())
        }
    }
    let (log, model) = (MemoryStore::new(), MemoryModel::new());
    let head = append(&log, 1, deposited(1)).await;
    let late = Chaos::new(&MemoryModel::new());
    let running = Worker::new(&log).add(&late, Tally).add(&model, Broken).start().await.unwrap();
    late.stall();
    let asked = Instant::now();
    let waited = tokio::time::timeout(SOON, running.wait_for(&head, SOON)).await.expect("it waits for ever");
    assert!(matches!(waited.unwrap(), Waited::Stopped(_)));
    assert!(asked.elapsed() < Duration::from_secs(1));
}
