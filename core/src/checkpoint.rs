//! Checkpoints: how far a reader of the log has come.

use async_trait::async_trait;

use crate::{StoreError, Token};

/// Keeps a token for each reader, by name.
///
/// A read model that can be written in a transaction keeps its checkpoint there and not here. A checkpoint in the
/// store of the log is for readers without a database of their own: they get each event at least once.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// How far a reader has come, `None` when it never said so.
    ///
    /// # Errors
    /// Those of the engine, and [`StoreError::Invalid`] for a name that is not 1 to 255 bytes of text.
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError>;

    /// Keeps how far a reader has come. It is durable when this returns.
    ///
    /// # Errors
    /// As [`load_checkpoint`](Self::load_checkpoint), and [`StoreError::Diverged`] for a token that is not of this
    /// log.
    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError>;
}

/// Refuses a reader's name that is empty, longer than 255 bytes or contains control characters; for stores.
///
/// # Errors
/// [`crate::InvalidInput`], naming the rule.
pub fn check_reader(reader: &str) -> Result<(), crate::InvalidInput> {
    crate::text::check_name("reader", reader)
}
