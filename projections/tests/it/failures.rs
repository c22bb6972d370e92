//! P3: nothing is skipped in silence.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{ContentType, EventStore, EventType, NewEvent, Position, store::memory::MemoryStore};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};

use tokio::time::Instant;

use crate::fixture::*;

/// Cannot handle deposits of 13 until it is mended, and panics at 666.
#[derive(Clone, Default)]
struct Picky<const PARK: bool> {
    mended: Arc<AtomicBool>,
}
impl<const PARK: bool> Projection for Picky<PARK> {
    const NAME: &'static str = "tally";
    const ORDER: Order = Order::PerStream { partitions: 4 };
    const ON_FAILURE: OnFailure = if PARK { OnFailure::Park { streams_max: 2 } } else { OnFailure::Stop };
    const RETRY: Retry =
        Retry { attempts_max: 3, pause_first: Duration::from_millis(1), pause_max: Duration::from_millis(2) };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl<const PARK: bool> Project<MemoryModel> for Picky<PARK> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await?;
        match &envelope.event {
            AccountEvent::Deposited { cents: 13 } if !self.mended.load(SeqCst) => Err("13 is bad luck".into()),
            AccountEvent::Deposited { cents: 666 } if !self.mended.load(SeqCst) => panic!("the beast"),
            _ => Ok(()),
        }
    }
}
impl Project<Faulty> for Picky<true> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        Project::<MemoryModel>::apply(self, envelope, tx).await
    }
}

/// Panics when it is called, and not when what it returns is awaited.
struct Rash;
impl Projection for Rash {
    const NAME: &'static str = "rash";
    const RETRY: Retry = Picky::<false>::RETRY;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<MemoryModel> for Rash {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
    fn apply_batch(
        &self,
        envelopes: &[Envelope<AccountEvent>],
        _: &mut MemoryTx,
    ) -> impl Future<Output = Result<(), Cause>> + Send {
        assert!(envelopes.is_empty(), "the beast");
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn a_handler_that_panics_at_once_takes_nothing_else_down() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = deposits(&store, 3).await;
    let running = Worker::new(&store).add(&model, Rash).add(&model, Tally).start().await.unwrap();
    let Waited::Stopped(error) = running.wait_for(&head, SOON).await.unwrap() else { panic!("went on") };
    assert!(error.contains("the beast"), "{error}");
    assert!(running.is_alive());
    assert!(running.drain(SOON).await);
}

#[tokio::test]
async fn a_poison_event_stops_its_partition_and_no_other_and_restarts() {
    for poison in [13, 666] {
        let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<false>::default());
        append(&store, "a", deposited(1)).await;
        let poisoned = append(&store, "a", deposited(poison)).await;
        append(&store, "a", deposited(2)).await;
        let head = deposits(&store, 12).await;
        let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
        let Waited::Stopped(error) = running.wait_for(&head, SOON).await.unwrap() else { panic!("went on") };
        assert!(error.contains("bad luck") || error.contains("the beast"), "{error}");
        let home = Partition::of(&stream("a"), 4);
        let free = (0..20).map(stream).find(|other| Partition::of(other, 4) != home).unwrap();
        assert_eq!(running.wait_for_stream(&head, &free, SOON).await.unwrap(), Waited::Reached);
        let rows = model.partitions(&ProjectionId::of::<Tally>()).await.unwrap();
        assert!(rows[home.0 as usize].position.position < poisoned.position);
        let retries: u64 = running.status()[0].1.iter().map(|status| status.retries).sum();
        assert_eq!(retries, 2);

        picky.mended.store(true, SeqCst);
        running.restart::<Picky<false>>().await.unwrap();
        tokio::time::timeout(SOON, async {
            while running.wait_for(&head, SOON).await.unwrap() != Waited::Reached {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
    }
}

#[tokio::test]
async fn a_poison_event_is_parked_with_all_that_follow_in_its_stream_and_redriven() {
    let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<true>::default());
    let first = append(&store, "a", deposited(1)).await;
    append(&store, "a", deposited(13)).await;
    append(&store, "b", deposited(3)).await;
    append(&store, "a", deposited(2)).await;
    let head = deposits(&store, 12).await;
    let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let later = append(&store, "a", deposited(5)).await;
    assert_eq!(running.wait_for(&later, SOON).await.unwrap(), Waited::Parked(stream("a")));
    // What was handled before it is in the read model.
    assert_eq!(running.wait_for(&first, SOON).await.unwrap(), Waited::Reached);

    let id = ProjectionId::of::<Tally>();
    let wait = || async { model.letters(&id, None, Position::START, 10).await.unwrap() };
    let letters = tokio::time::timeout(SOON, async {
        loop {
            let letters = wait().await;
            if letters.len() == 3 {
                return letters;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(letters.iter().all(|letter| letter.stream == stream("a")));
    assert_eq!(letters.iter().map(|letter| letter.attempts).collect::<Vec<_>>(), [3, 0, 0]);
    assert_eq!(letters[0].error.as_deref(), Some("13 is bad luck"));
    let sums = model.query::<Tally>().unwrap();
    assert_eq!(sums.get(&SUMS, &"a".to_owned()).unwrap(), Some((1, 1)));
    assert_eq!(sums.get(&SUMS, &"b".to_owned()).unwrap(), Some((3, 1)));

    assert!(running.redrive::<Picky<true>>(&stream("a")).await.is_err());
    assert_eq!(wait().await.len(), 3);
    // What is parked outlives the worker.
    assert!(running.drain(SOON).await);
    let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
    append(&store, "a", deposited(6)).await;
    picky.mended.store(true, SeqCst);
    let head = append(&store, "b", deposited(6)).await;
    running.wait_for(&head, SOON).await.unwrap();
    let letters = wait().await;
    let second = running.redrive_one::<Picky<true>>(&letters[1]).await.unwrap_err();
    assert!(second.to_string().contains("comes first"), "{second}");
    running.redrive_one::<Picky<true>>(&letters[0]).await.unwrap();
    assert!(running.redrive::<Picky<true>>(&stream("a")).await.unwrap() >= 2);
    let head = append(&store, "a", deposited(7)).await;
    let waited = running.wait_for(&head, SOON).await.unwrap();
    assert_eq!(waited, Waited::Reached);
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
}

/// What is committed is done, whatever comes of what is asked behind it.
#[tokio::test(start_paused = true)]
async fn the_last_letter_of_a_stream_ends_its_parking_though_the_read_model_is_away_right_after() {
    let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<true>::default());
    let away = Faulty::new(&model, Point::BeforeLetters, Fault::Outage, 0);
    let running = Worker::new(&store).add(&away, picky.clone()).start().await.unwrap();
    let poisoned = append(&store, "a", deposited(13)).await;
    tokio::time::sleep(SOON).await;
    assert_eq!(running.wait_for(&poisoned, SOON).await.unwrap(), Waited::Parked(stream("a")));
    picky.mended.store(true, SeqCst);
    // The first to ask is who looks for the letter.
    away.left.store(2, SeqCst);
    assert_eq!(running.redrive::<Picky<true>>(&stream("a")).await.unwrap(), 1);
    assert_eq!(away.left.load(SeqCst), 0);
    tokio::time::sleep(SOON).await;
    let later = append(&store, "a", deposited(1)).await;
    assert_eq!(running.wait_for(&later, SOON).await.unwrap(), Waited::Reached);
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
}

#[tokio::test]
async fn all_are_redriven_but_for_streams_that_still_fail() {
    let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<true>::default());
    let mut head = store.head().await.unwrap();
    for (account, cents) in [("a", 13), ("b", 666), ("a", 1), ("b", 2), ("c", 3)] {
        head = append(&store, account, deposited(cents)).await;
    }
    let running = Worker::new(&store).add(&model, picky.clone()).start().await.unwrap();
    let id = ProjectionId::of::<Tally>();
    tokio::time::timeout(SOON, async {
        while model.letters(&id, None, Position::START, 10).await.unwrap().len() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let (done, left) = running.redrive_all::<Picky<true>>().await.unwrap();
    let left: Vec<_> = left.iter().map(|(stream, cause)| (stream.to_string(), cause.to_string())).collect();
    assert_eq!((done, left.len()), (0, 2), "{left:?}");
    assert!(left[0].1.contains("bad luck") && left[1].1.contains("the beast"), "{left:?}");

    picky.mended.store(true, SeqCst);
    let (done, left) = running.redrive_all::<Picky<true>>().await.unwrap();
    assert_eq!((done, left.len()), (4, 0));
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    assert_eq!(model.query::<Tally>().unwrap(), clean_pass(&store).await);
}

#[tokio::test]
async fn with_too_many_parked_streams_it_stops_and_a_discarded_event_is_kept_with_its_reason() {
    let (store, model, picky) = (MemoryStore::new(), MemoryModel::new(), Picky::<true>::default());
    let mut head = store.head().await.unwrap();
    let home = Partition::of(&stream(0), 4);
    let mates: Vec<u64> = (0..).filter(|n| Partition::of(&stream(n), 4) == home).take(3).collect();
    for mate in &mates {
        head = append(&store, mate, deposited(13)).await;
    }
    let running = Worker::new(&store).add(&model, picky).start().await.unwrap();
    assert!(matches!(running.wait_for(&head, SOON).await.unwrap(), Waited::Stopped(_)));
    let id = ProjectionId::of::<Tally>();
    let letters = model.letters(&id, None, Position::START, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
    running.discard::<Picky<true>>(&letters[0], "it never happened").await.unwrap();
    assert!(running.discard::<Picky<true>>(&letters[0], "twice").await.is_err());
    assert_eq!(model.letters(&id, None, Position::START, 10).await.unwrap(), letters[1..]);
    assert_eq!(model.discarded(&id).unwrap().len(), 1);
    assert_eq!(model.discarded(&id).unwrap()[0].1, "it never happened");
}

#[tokio::test]
async fn an_event_that_does_not_decode_is_a_failure_and_one_that_nobody_asked_for_is_none() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let broken = |name: &str| NewEvent::new(EventType::new(name).unwrap(), ContentType::JSON, r#"{"cents":"many"}"#);
    let head = append(&store, 1, broken("Renamed")).await;
    let running = Worker::new(&store).add(&model, Picky::<false>::default()).start().await.unwrap();
    assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
    let head = append(&store, 1, broken("Deposited")).await;
    let Waited::Stopped(error) = running.wait_for(&head, SOON).await.unwrap() else { panic!("went on") };
    assert!(error.contains("cannot decode Deposited"), "{error}");
}

/// Handles nothing, and remembers when it was asked to.
#[derive(Clone, Default)]
struct Hopeless(Arc<Mutex<Vec<Instant>>>);
impl Projection for Hopeless {
    const NAME: &'static str = "hopeless";
    const RETRY: Retry =
        Retry { attempts_max: 12, pause_first: Duration::from_millis(100), pause_max: Duration::from_secs(5) };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<MemoryModel> for Hopeless {
    async fn apply(&self, _: &Envelope<AccountEvent>, _: &mut MemoryTx) -> Result<(), Cause> {
        self.0.lock().unwrap().push(Instant::now());
        Err("nothing helps".into())
    }
}

#[tokio::test(start_paused = true)]
async fn the_pauses_between_attempts_double_up_to_the_longest_and_no_two_are_alike() {
    let Retry { attempts_max, pause_first, pause_max } = Hopeless::RETRY;
    let mut shares = Vec::new();
    for _ in 0..4 {
        let (store, hopeless) = (MemoryStore::new(), Hopeless::default());
        let head = append(&store, "a", deposited(1)).await;
        let running = Worker::new(&store).add(&MemoryModel::new(), hopeless.clone()).start().await.unwrap();
        let waited = running.wait_for(&head, Duration::from_secs(600)).await.unwrap();
        assert_eq!(waited, Waited::Stopped("nothing helps".into()));
        let attempts = hopeless.0.lock().unwrap().clone();
        assert_eq!(attempts.len(), attempts_max as usize);
        for (nth, pause) in attempts.windows(2).map(|pair| pair[1] - pair[0]).enumerate() {
            let longest = (pause_first * 2_u32.pow(nth as u32)).min(pause_max);
            // Timers go by milliseconds.
            let allowed = longest / 2..=longest + Duration::from_millis(2);
            assert!(allowed.contains(&pause), "{pause:?} after attempt {}, and not {allowed:?}", nth + 1);
            shares.push(pause.as_secs_f64() / longest.as_secs_f64());
        }
    }
    shares.sort_by(f64::total_cmp);
    assert!(shares[shares.len() - 1] - shares[0] > 0.25, "hardly any jitter: {shares:?}");
}
