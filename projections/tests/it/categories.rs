//! A projection of the events of several aggregates: each stream in its order, whichever category it is of.

use std::collections::BTreeMap;

use indelible_core::{
    Aggregate, Append, Apply, Event, EventStore, ExpectedVersion, ReadLog, store::memory::MemoryStore,
};
use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};
use serde::{Deserialize, Serialize};

use crate::fixture::*;

/// Has a type of the same name as an account has, and of another shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum CardEvent {
    Deposited { cents: u64, at: String },
    Charged { cents: u64 },
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "card")]
struct Card {}
impl Apply for Card {
    type Event = CardEvent;
    fn apply(&mut self, _: &CardEvent) {}
}

#[derive(Clone, Event)]
enum BankEvent {
    #[event(category = "account")]
    Account(AccountEvent),
    #[event(category = "card")]
    Card(CardEvent),
}

const MOVED: Table<String, Vec<(u64, i64)>> = Table::new("moved");

/// What moved in each stream, by version.
#[derive(Clone)]
struct Movements;
impl Projection for Movements {
    const NAME: &'static str = "movements";
    const ORDER: Order = Order::PerStream { partitions: 4 };
    type Event = BankEvent;
    fn wants() -> Wants<BankEvent> {
        Wants::named([
            AccountEvent::DEPOSITED.of::<Account>(),
            CardEvent::DEPOSITED.of::<Card>(),
            CardEvent::CHARGED.of::<Card>(),
        ])
    }
}
impl Project<MemoryModel> for Movements {
    async fn apply(&self, envelope: &Envelope<BankEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        let cents = match &envelope.event {
            BankEvent::Account(AccountEvent::Deposited { cents }) => *cents as i64,
            BankEvent::Card(CardEvent::Deposited { cents, at }) if at == "a till" => *cents as i64,
            BankEvent::Card(CardEvent::Charged { cents }) => -(*cents as i64),
            _ => return Err("was not asked for, or is not what was written".into()),
        };
        let stream = envelope.recorded.stream.to_string();
        let mut moved = tx.get(&MOVED, &stream)?.unwrap_or_default();
        tokio::task::yield_now().await;
        moved.push((envelope.recorded.version.get(), cents));
        Ok(tx.put(&MOVED, &stream, &moved)?)
    }
}

/// Accounts and cards of the same ids, in turns, and in one append now and then.
async fn grow(store: &MemoryStore, expected: &mut BTreeMap<String, Vec<(u64, i64)>>) {
    let card = |event: CardEvent| {
        use indelible_core::{ContentType, NewEvent, codec::Json};
        NewEvent::new(event.event_type(), ContentType::JSON, event.encode(&Json).unwrap())
    };
    for n in 0..200 {
        let cents = n + 1;
        let (id, turn) = (n * 7 % 10, n % 4);
        let events = match turn {
            0 => vec![deposited(cents)],
            1 => vec![new(AccountEvent::Renamed { name: "n".into() })],
            2 => vec![card(CardEvent::Deposited { cents, at: "a till".into() }), card(CardEvent::Charged { cents: 1 })],
            _ => vec![card(CardEvent::Charged { cents })],
        };
        let stream = format!("{}-{id}", if turn < 2 { "account" } else { "card" });
        let before = store.read_log(&ReadLog::all()).await.unwrap().events;
        let version = before.iter().filter(|event| event.stream.as_str() == stream).count() as u64;
        let cents = cents as i64;
        let moved: &[(u64, i64)] = match turn {
            0 => &[(1, cents)],
            1 => &[],
            2 => &[(1, cents), (2, -1)],
            _ => &[(1, -cents)],
        };
        let row = expected.entry(stream.clone()).or_default();
        row.extend(moved.iter().map(|(nth, cents)| (version + nth, *cents)));
        store.append(Append::to(stream.parse().unwrap(), ExpectedVersion::Any, events)).await.unwrap();
    }
}

#[tokio::test]
async fn the_streams_of_several_aggregates_each_come_in_order() {
    let (store, model, mut expected) = (MemoryStore::new(), MemoryModel::new(), BTreeMap::new());
    grow(&store, &mut expected).await;
    let mut options = RunnerOptions::default();
    options.batch_events_max = 7;
    let running = Worker::new(&store).with_options(options).add(&model, Movements).start().await.unwrap();
    grow(&store, &mut expected).await;
    assert_eq!(running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
    expected.retain(|_, moved| !moved.is_empty());
    let moved: BTreeMap<_, _> =
        model.query::<Movements>().unwrap().scan(&MOVED, .., usize::MAX).unwrap().into_iter().collect();
    assert_eq!(moved, expected);
    assert!(running.status()[0].1.iter().all(|lane| lane.events > 0), "a partition had nothing to do");
}
