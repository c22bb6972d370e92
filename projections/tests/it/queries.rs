//! Questions, waiting for what other processes own (P6), and answers put together.

use std::time::Duration;

use indelible_core::{EventStore, Token, store::memory::MemoryStore};
use indelible_projections::{memory::MemoryModel, *};
use tokio::time::{Instant, sleep};

use crate::fixture::*;

const LEASE: Duration = Duration::from_secs(9);

#[tokio::test(start_paused = true)]
async fn an_append_is_waited_for_in_partitions_that_others_own() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let a = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    let b = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    sleep(LEASE).await;
    let web = Views::new(&store, &model);
    for round in 0..20 {
        let token = append(&store, round, deposited(1)).await;
        // As it goes over HTTP.
        let token: Token = token.to_string().parse().unwrap();
        let asked = Instant::now();
        let stream = stream(round);
        assert_eq!(web.wait_for::<Tally>(&token, Some(&stream), SOON).await.unwrap(), Waited::Reached);
        assert_eq!(a.wait_for_stream(&token, &stream, SOON).await.unwrap(), Waited::Reached);
        assert_eq!(b.wait_for_stream(&token, &stream, SOON).await.unwrap(), Waited::Reached);
        assert!(asked.elapsed() < Duration::from_millis(50));
        // All the others say so after a second.
        assert_eq!(a.wait_for(&token, SOON).await.unwrap(), Waited::Reached);
        assert_eq!(web.wait_for::<Tally>(&token, None, SOON).await.unwrap(), Waited::Reached);
        assert!(asked.elapsed() < Duration::from_millis(1_500));
    }
    let elsewhere = append(&MemoryStore::new(), 1, deposited(1)).await;
    assert!(matches!(web.wait_for::<Tally>(&elsewhere, None, SOON).await, Err(WaitError::Store(_))));
    assert!(a.drain(SOON).await && b.drain(SOON).await);
    let token = append(&store, 1, deposited(1)).await;
    let asked = Instant::now();
    assert_eq!(web.wait_for::<Tally>(&token, None, SOON).await.unwrap(), Waited::TimedOut);
    assert_eq!(asked.elapsed().as_secs(), SOON.as_secs());
    assert!(matches!(
        Views::new(&store, &MemoryModel::new()).wait_for::<Tally>(&token, None, SOON).await,
        Err(WaitError::ReadModel(ReadModelError::Unknown { .. }))
    ));
}

/// Cannot handle 13, which stops it or is parked.
struct Picky<const PARK: bool>;
impl<const PARK: bool> Projection for Picky<PARK> {
    const NAME: &'static str = "picky";
    const ORDER: Order = Order::PerStream { partitions: 4 };
    const ON_FAILURE: OnFailure = if PARK { OnFailure::PARK } else { OnFailure::Stop };
    const RETRY: Retry = Retry::NEVER;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl<const PARK: bool> Project<MemoryModel> for Picky<PARK> {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut memory::MemoryTx) -> Result<(), Cause> {
        match envelope.event {
            AccountEvent::Deposited { cents: 13 } => Err("13 is bad luck".into()),
            _ => tally(envelope, tx).await,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_stopped_or_is_parked_elsewhere_is_answered_at_once() {
    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let running = Worker::new(&store).add(&model, Picky::<false>).start().await.unwrap();
    let token = append(&store, "a", deposited(13)).await;
    let web = Views::new(&store, &model);
    let Waited::Stopped(error) = web.wait_for::<Picky<false>>(&token, None, SOON).await.unwrap() else { panic!() };
    assert!(error.contains("bad luck"));
    sleep(LEASE).await;
    assert_eq!(model.workers().await.unwrap()[0].troubled, 1);
    assert!(running.drain(SOON).await);

    let (store, model) = (MemoryStore::new(), MemoryModel::shared(LEASE));
    let running = Worker::new(&store).add(&model, Picky::<true>).start().await.unwrap();
    let token = append(&store, "a", deposited(13)).await;
    let web = Views::new(&store, &model);
    assert_eq!(web.wait_for::<Picky<true>>(&token, None, SOON).await.unwrap(), Waited::Parked(stream("a")));
    let token = append(&store, "b", deposited(1)).await;
    assert_eq!(web.wait_for::<Picky<true>>(&token, None, SOON).await.unwrap(), Waited::Reached);
    assert!(running.drain(SOON).await);
}

struct SumOf(String);
impl Question for SumOf {
    type Answer = Option<(u64, u64)>;
}
struct Everything;
impl Question for Everything {
    type Answer = u64;
}

struct Bank(MemoryModel);
impl Answer<SumOf> for Bank {
    async fn answer(&self, SumOf(account): &SumOf) -> Result<Option<(u64, u64)>, Cause> {
        Ok(self.0.query::<Tally>()?.get(&SUMS, account)?)
    }
}
impl Answer<Everything> for Bank {
    async fn answer(&self, _: &Everything) -> Result<u64, Cause> {
        sleep(Duration::from_secs(1)).await;
        Ok(self.0.query::<Tally>()?.get(&TOTAL, &())?.unwrap_or_default())
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_several_read_models_says_what_it_lacks() {
    let (store, model) = (MemoryStore::new(), MemoryModel::new());
    let head = deposits(&store, 20).await;
    let running = Worker::new(&store).add(&model, Tally).start().await.unwrap();
    running.wait_for(&head, SOON).await.unwrap();
    let (bank, asked) = (Bank(model), Instant::now());
    let page = Composed::new();
    let (ms, question) = (Duration::from_millis, SumOf("7".into()));
    let (sum, total, late, broken) = futures::join!(
        page.needed("sum", ms(10), bank.answer(&question)),
        page.or_else("total", ms(1_100), bank.answer(&Everything), || 0),
        page.or_else("late", ms(900), bank.answer(&Everything), || 7),
        page.or_else("broken", ms(900), async { Err("it is down".into()) }, String::new),
    );
    assert_eq!((sum.unwrap(), total, late, broken), (Some((1, 1)), 210, 7, String::new()));
    let missing: Vec<_> = page.missing().iter().map(ToString::to_string).collect();
    assert_eq!(missing, ["broken: it is down", "late: no answer within 900ms"]);
    assert!(asked.elapsed() < ms(1_050), "one after the other");
    let needed = Composed::new().needed("total", ms(900), bank.answer(&Everything)).await;
    assert_eq!(needed.unwrap_err().to_string(), "total: no answer within 900ms");
    drop(store.head().await);
}
