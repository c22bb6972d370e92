//! The aggregate, the projections and the read models that the tests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{
    Aggregate, Append, Apply, ContentType, Event, EventStore, ExpectedVersion, NewEvent, Position, StreamId, Token,
    codec::Json, store::memory::MemoryStore,
};
use indelible_projections::{
    memory::{MemoryModel, MemorySnapshot, MemoryTx},
    *,
};
use serde::{Deserialize, Deserializer, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum AccountEvent {
    Deposited {
        #[serde(deserialize_with = "readable")]
        cents: u64,
    },
    Renamed {
        name: String,
    },
}

/// What the code that reads it panics at.
pub const UNREADABLE: u64 = 1_313;

fn readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let cents = u64::deserialize(deserializer)?;
    assert_ne!(cents, UNREADABLE, "who wrote that?");
    Ok(cents)
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
pub struct Account {}
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

pub const SUMS: Table<String, (u64, u64)> = Table::new("sums");
pub const LISTS: Table<String, Vec<u64>> = Table::new("lists");
pub const TOTAL: Table<(), u64> = Table::new("total");

/// Sums, counts, and appends to a list per stream; and one row that all streams share.
pub async fn tally(envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
    let account = envelope.recorded.stream.id().to_owned();
    let AccountEvent::Deposited { cents } = envelope.event else { return Err("was not asked for".into()) };
    let (sum, count) = tx.get(&SUMS, &account)?.unwrap_or_default();
    tx.put(&SUMS, &account, &(sum + cents, count + 1))?;
    let mut list = tx.get(&LISTS, &account)?.unwrap_or_default();
    // Others have their turn in the middle of a handler.
    tokio::task::yield_now().await;
    list.push(envelope.recorded.version.get());
    tx.put(&LISTS, &account, &list)?;
    let total = tx.get(&TOTAL, &())?.unwrap_or_default();
    Ok(tx.put(&TOTAL, &(), &(total + cents))?)
}

#[derive(Clone)]
pub struct Tally;
impl Projection for Tally {
    const NAME: &'static str = "tally";
    const ORDER: Order = Order::PerStream { partitions: 4 };
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::types::<Account>([AccountEvent::DEPOSITED])
    }
}
impl Project<MemoryModel> for Tally {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
}

/// The same projection, as the next release has it.
#[derive(Clone)]
pub struct Next;
impl Projection for Next {
    const NAME: &'static str = Tally::NAME;
    const VERSION: u32 = 2;
    const ORDER: Order = Tally::ORDER;
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Tally::wants()
    }
}
impl Project<MemoryModel> for Next {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
}

pub fn deposited(cents: u64) -> NewEvent {
    new(AccountEvent::Deposited { cents })
}

pub fn new(event: AccountEvent) -> NewEvent {
    NewEvent::new(event.event_type(), ContentType::JSON, event.encode(&Json).unwrap())
}

pub fn stream(account: impl std::fmt::Display) -> StreamId {
    format!("account-{account}").parse().unwrap()
}

pub async fn append(store: &MemoryStore, account: impl std::fmt::Display, event: NewEvent) -> Token {
    store.append(Append::to(stream(account), ExpectedVersion::Any, [event])).await.unwrap();
    store.head().await.unwrap()
}

/// Deposits of all amounts up to `events`, in 20 accounts, with events among them that nobody asked for.
pub async fn deposits(store: &MemoryStore, events: u64) -> Token {
    for cents in 1..=events {
        append(store, cents * 7 % 20, deposited(cents)).await;
        if cents % 5 == 0 {
            append(store, cents % 20, new(AccountEvent::Renamed { name: "n".into() })).await;
        }
    }
    store.head().await.unwrap()
}

pub const SOON: Duration = Duration::from_secs(20);

/// What one clean pass comes to.
pub async fn clean_pass(store: &MemoryStore) -> MemorySnapshot {
    let model = MemoryModel::new();
    let running = Worker::new(store).add(&model, Tally).start().await.unwrap();
    assert_eq!(running.wait_for(&store.head().await.unwrap(), SOON).await.unwrap(), Waited::Reached);
    model.query::<Tally>().unwrap()
}

/// Where a worker dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    BeforeTake,
    AfterTake,
    BeforeBegin,
    AfterBegin,
    BeforeCommit,
    AfterCommit,
    BeforeLetters,
}
/// Those of a worker whose events can all be handled.
pub const POINTS: [Point; 6] = [
    Point::BeforeTake,
    Point::AfterTake,
    Point::BeforeBegin,
    Point::AfterBegin,
    Point::BeforeCommit,
    Point::AfterCommit,
];

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing goes on from there.
    Death,
    /// The connection is lost.
    Outage,
}

/// A read model that fails at the n-th time that it comes to a point.
#[derive(Clone)]
pub struct Faulty {
    pub model: MemoryModel,
    pub point: Point,
    pub fault: Fault,
    pub left: Arc<AtomicUsize>,
    pub struck: Arc<tokio::sync::Notify>,
}

impl Faulty {
    pub fn new(model: &MemoryModel, point: Point, fault: Fault, nth: usize) -> Self {
        Self { model: model.clone(), point, fault, left: Arc::new(AtomicUsize::new(nth)), struck: Arc::default() }
    }

    async fn pass(&self, point: Point) -> Result<(), ReadModelError> {
        if point != self.point || self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)) != Ok(1) {
            return Ok(());
        }
        self.struck.notify_one();
        match self.fault {
            Fault::Death => std::future::pending().await,
            Fault::Outage => Err(ReadModelError::unavailable("a test", "the connection is lost")),
        }
    }
}

impl ReadModel for Faulty {
    type Tx = MemoryTx;
    const PARKS: bool = true;
    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        self.model.register(registration).await
    }
    async fn take(&self, id: &ProjectionId, at: Partition, worker: &WorkerId) -> Result<Option<Claim>, ReadModelError> {
        self.pass(Point::BeforeTake).await?;
        let claim = self.model.take(id, at, worker).await?;
        self.pass(Point::AfterTake).await?;
        Ok(claim)
    }
    async fn begin(&self, advance: &Advance) -> Result<MemoryTx, ReadModelError> {
        self.pass(Point::BeforeBegin).await?;
        let tx = self.model.begin(advance).await?;
        self.pass(Point::AfterBegin).await?;
        Ok(tx)
    }
    async fn commit(&self, tx: MemoryTx) -> Result<(), ReadModelError> {
        self.pass(Point::BeforeCommit).await?;
        self.model.commit(tx).await?;
        self.pass(Point::AfterCommit).await
    }
    async fn park(&self, tx: &mut MemoryTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
        self.model.park(tx, letter).await
    }
    async fn letters(
        &self,
        id: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        self.pass(Point::BeforeLetters).await?;
        self.model.letters(id, stream, after, limit).await
    }
    async fn unpark(&self, tx: &mut MemoryTx, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        self.model.unpark(tx, letter, end).await
    }
    async fn partitions(&self, id: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        self.model.partitions(id).await
    }
    fn lease(&self) -> Option<Duration> {
        self.model.lease()
    }
    async fn renew(&self, worker: &WorkerRow) -> Result<Roster, ReadModelError> {
        self.model.renew(worker).await
    }
}
impl Project<Faulty> for Tally {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
}
