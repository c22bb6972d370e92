//! A store whose appends fail when a test says so.

use std::sync::Arc;

use async_trait::async_trait;
use indelible_core::{store::memory::MemoryStore, *};
use tokio::sync::watch;

type Faults = Arc<dyn Fn(&Append) -> Option<StoreError> + Send + Sync>;

/// A memory store that answers an append so where this says, and writes nothing of it.
#[derive(Clone)]
pub(crate) struct Faulty {
    pub log: MemoryStore,
    faults: Faults,
}

impl Faulty {
    pub fn new(log: &MemoryStore, faults: impl Fn(&Append) -> Option<StoreError> + Send + Sync + 'static) -> Self {
        Self { log: log.clone(), faults: Arc::new(faults) }
    }
}

/// Whether an append has an event of this type.
pub(crate) fn has(append: &Append, event_type: &str) -> bool {
    append.events().iter().any(|(_, event)| event.event_type.as_str() == event_type)
}

#[async_trait]
impl EventStore for Faulty {
    fn id(&self) -> StoreId {
        self.log.id()
    }
    fn limits(&self) -> &Limits {
        self.log.limits()
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        match (self.faults)(&append) {
            Some(error) => Err(error),
            None => self.log.append(append).await,
        }
    }
    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        self.log.read_stream(read).await
    }
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        self.log.read_log(read).await
    }
    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.log.event(id).await
    }
    async fn head(&self) -> Result<Token, StoreError> {
        self.log.head().await
    }
    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.log.token(position).await
    }
    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.log.stream_head(stream).await
    }
    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.log.streams(category, after, limit).await
    }
    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.log.categories(after, limit).await
    }
    fn published(&self) -> watch::Receiver<Position> {
        self.log.published()
    }
}

#[async_trait]
impl SnapshotStore for Faulty {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.log.load_snapshot(stream).await
    }
    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.log.save_snapshot(snapshot).await
    }
    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.log.delete_snapshot(stream).await
    }
}

#[async_trait]
impl CheckpointStore for Faulty {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        self.log.load_checkpoint(reader).await
    }
    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        self.log.save_checkpoint(reader, token).await
    }
}
