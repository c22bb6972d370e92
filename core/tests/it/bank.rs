//! The aggregate and the stores that the tests of commands share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use indelible_core::{
    Aggregate, Append, AppendOutcome, Apply, Category, CheckpointStore, Context, Event, EventId, EventStore, Events,
    Handle, Limits, Page, Position, ReadLog, ReadStream, RecordedEvent, Snapshot, SnapshotStore, StoreError, StoreId,
    StreamHead, StreamId, Token, Version, store::memory::MemoryStore,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum AccountEvent {
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account", snapshot(every = 10))]
pub struct Account {
    pub balance: u64,
    pub events: u64,
}

impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, event: &AccountEvent) {
        self.events += 1;
        match event {
            // Both wrap, so that a seeded bug shows as another state and not as a panic.
            AccountEvent::Deposited { cents } => self.balance = self.balance.wrapping_add(*cents),
            AccountEvent::Withdrawn { cents } => self.balance = self.balance.wrapping_sub(*cents),
            AccountEvent::Closed => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Deposit(pub u64);
#[derive(Clone, Copy, Debug)]
pub struct Withdraw(pub u64);
pub struct Close;
/// Decides that nothing happens while there is money.
pub struct Touch;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("only {0} cents are there")]
pub struct Insufficient(pub u64);

type Decided = Result<Events<AccountEvent>, Insufficient>;

impl Handle<Deposit> for Account {
    type Error = Insufficient;
    fn handle(&self, command: &Deposit, _: &Context<Self>) -> Decided {
        Ok(AccountEvent::Deposited { cents: command.0 }.into())
    }
}
impl Handle<Withdraw> for Account {
    type Error = Insufficient;
    fn handle(&self, command: &Withdraw, _: &Context<Self>) -> Decided {
        if command.0 > self.balance {
            return Err(Insufficient(self.balance));
        }
        Ok(AccountEvent::Withdrawn { cents: command.0 }.into())
    }
}
impl Handle<Close> for Account {
    type Error = Insufficient;
    fn handle(&self, _: &Close, _: &Context<Self>) -> Decided {
        Ok(Events::from(AccountEvent::Closed).closing())
    }
}
impl Handle<Touch> for Account {
    type Error = Insufficient;
    fn handle(&self, _: &Touch, _: &Context<Self>) -> Decided {
        if self.balance > 0 { Ok(Events::none()) } else { Err(Insufficient(0)) }
    }
}

/// What happens to an append on its way.
type OnAppend = dyn Fn(usize, Append, MemoryStore) -> futures::future::BoxFuture<'static, Answer> + Send + Sync;
type Answer = Result<AppendOutcome, StoreError>;

/// A memory store that counts what is asked of it, and lets a test come between.
#[derive(Clone)]
pub struct Watched {
    pub inner: MemoryStore,
    pub appends: Arc<AtomicUsize>,
    pub reads: Arc<AtomicUsize>,
    pub page_events_max: Arc<AtomicUsize>,
    on_append: Arc<OnAppend>,
}

impl Watched {
    pub fn new() -> Self {
        Self::intercepting(|_, append, store| Box::pin(async move { store.append(append).await }))
    }

    /// `on_append` is told how many appends came before.
    pub fn intercepting(
        on_append: impl Fn(usize, Append, MemoryStore) -> futures::future::BoxFuture<'static, Answer>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self {
            inner: MemoryStore::new(),
            appends: Arc::default(),
            reads: Arc::default(),
            page_events_max: Arc::default(),
            on_append: Arc::new(on_append),
        }
    }

    fn read<P>(&self, page: Result<Page<P>, StoreError>) -> Result<Page<P>, StoreError> {
        self.count_read();
        let page = page?;
        self.page_events_max.fetch_max(page.events.len(), Ordering::Relaxed);
        Ok(page)
    }

    fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl EventStore for Watched {
    fn id(&self) -> StoreId {
        self.inner.id()
    }
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        let before = self.appends.fetch_add(1, Ordering::Relaxed);
        (self.on_append)(before, append, self.inner.clone()).await
    }
    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        self.read(self.inner.read_stream(read).await)
    }
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        self.read(self.inner.read_log(read).await)
    }
    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.count_read();
        self.inner.event(id).await
    }
    async fn head(&self) -> Result<Token, StoreError> {
        self.count_read();
        self.inner.head().await
    }
    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.count_read();
        self.inner.token(position).await
    }
    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.count_read();
        self.inner.stream_head(stream).await
    }
    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.inner.streams(category, after, limit).await
    }
    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.inner.categories(after, limit).await
    }
    fn published(&self) -> watch::Receiver<Position> {
        self.inner.published()
    }
}

#[async_trait]
impl SnapshotStore for Watched {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.inner.load_snapshot(stream).await
    }
    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.inner.save_snapshot(snapshot).await
    }
    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.inner.delete_snapshot(stream).await
    }
}

#[async_trait]
impl CheckpointStore for Watched {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        self.inner.load_checkpoint(reader).await
    }
    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        self.inner.save_checkpoint(reader, token).await
    }
}
