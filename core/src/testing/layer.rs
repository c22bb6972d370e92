//! Stores with a difference.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Append, AppendOutcome, Category, CheckpointStore, Codec, EventId, EventStore, Limits, Page, Position, ReadLog,
    ReadStream, RecordedEvent, Snapshot, SnapshotStore, Store, StoreError, StoreId, StreamHead, StreamId, Token,
    Version,
};

/// A store over another one, with a difference that a test wants: all that is not said here is handed on.
///
/// ```
/// # use async_trait::async_trait;
/// # use indelible_core::{*, store::memory::MemoryStore, testing::Layer};
/// #[derive(Clone)]
/// struct Full(MemoryStore);
///
/// #[async_trait]
/// impl Layer for Full {
///     fn beneath(&self) -> &dyn Store {
///         &self.0
///     }
///     async fn append(&self, _: Append) -> Result<AppendOutcome, StoreError> {
///         Err(StoreError::unavailable("appending", "the disk is full"))
///     }
/// }
/// # fn is_store(_: &impl Store) {}
/// is_store(&Full(MemoryStore::new()));
/// ```
#[async_trait]
pub trait Layer: Send + Sync + 'static {
    /// The other store.
    fn beneath(&self) -> &dyn Store;

    /// [`EventStore::append`].
    ///
    /// # Errors
    /// As there.
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        self.beneath().append(append).await
    }

    /// Comes before each read of events, streams and heads.
    ///
    /// # Errors
    /// What the read comes to instead.
    async fn before_read(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// [`EventStore::check`].
    ///
    /// # Errors
    /// As there.
    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        self.beneath().check(token).await
    }
}

#[async_trait]
impl<L: Layer> EventStore for L {
    fn id(&self) -> StoreId {
        self.beneath().id()
    }
    fn limits(&self) -> &Limits {
        self.beneath().limits()
    }
    fn default_codec(&self) -> &'static dyn Codec {
        self.beneath().default_codec()
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        Layer::append(self, append).await
    }
    async fn read_stream(&self, read: &ReadStream) -> Result<Page<Version>, StoreError> {
        self.before_read().await?;
        self.beneath().read_stream(read).await
    }
    async fn read_log(&self, read: &ReadLog) -> Result<Page<Position>, StoreError> {
        self.before_read().await?;
        self.beneath().read_log(read).await
    }
    async fn event(&self, id: EventId) -> Result<Option<RecordedEvent>, StoreError> {
        self.before_read().await?;
        self.beneath().event(id).await
    }
    async fn head(&self) -> Result<Token, StoreError> {
        self.before_read().await?;
        self.beneath().head().await
    }
    async fn token(&self, position: Position) -> Result<Token, StoreError> {
        self.before_read().await?;
        self.beneath().token(position).await
    }
    async fn stream_head(&self, stream: &StreamId) -> Result<StreamHead, StoreError> {
        self.before_read().await?;
        self.beneath().stream_head(stream).await
    }
    async fn streams(
        &self,
        category: Option<&Category>,
        after: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        self.before_read().await?;
        self.beneath().streams(category, after, limit).await
    }
    async fn categories(&self, after: Option<&Category>, limit: usize) -> Result<Vec<Category>, StoreError> {
        self.before_read().await?;
        self.beneath().categories(after, limit).await
    }
    fn published(&self) -> watch::Receiver<Position> {
        self.beneath().published()
    }
    async fn check(&self, token: &Token) -> Result<(), StoreError> {
        Layer::check(self, token).await
    }
}

#[async_trait]
impl<L: Layer> SnapshotStore for L {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        self.beneath().load_snapshot(stream).await
    }
    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        self.beneath().save_snapshot(snapshot).await
    }
    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.beneath().delete_snapshot(stream).await
    }
}

#[async_trait]
impl<L: Layer> CheckpointStore for L {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        self.beneath().load_checkpoint(reader).await
    }
    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        self.beneath().save_checkpoint(reader, token).await
    }
}
