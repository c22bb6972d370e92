//! The room of a queue that is bounded in bytes (L10): where appends wait for a store's sequencer.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{InvalidInput, StoreError};

/// The room of a store's queue; for stores. Clones share it.
#[derive(Clone, Debug)]
pub struct QueueRoom {
    free: Arc<Semaphore>,
    bytes: usize,
    wait: Duration,
}

impl QueueRoom {
    /// Room for so many bytes, which were [checked](Self::check), and how long one waits for some.
    pub fn new(bytes: usize, wait: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes)), bytes, wait }
    }

    /// Refuses room for nothing, or for more than can be counted.
    ///
    /// # Errors
    /// [`InvalidInput`], naming the rule.
    pub fn check(bytes: usize) -> Result<(), InvalidInput> {
        if bytes == 0 || u32::try_from(bytes).is_err() {
            return Err(InvalidInput::new("queue", "holds at least one byte and less than 4 GiB"));
        }
        Ok(())
    }

    /// Takes room, until what is returned is dropped; more than there is in all, when nobody else has any. `None` where
    /// the queue is [closed](Self::close).
    ///
    /// # Errors
    /// [`StoreError::Overloaded`] where the wait has no end.
    pub async fn take(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, StoreError> {
        if let Some(permit) = self.try_take(bytes) {
            return Ok(Some(permit));
        }
        match timeout(self.wait, self.take_patiently(bytes)).await {
            Ok(permit) => Ok(permit),
            Err(_) => Err(StoreError::Overloaded {
                what: format!("no room for {bytes} bytes in the queue within {:?}", self.wait),
            }),
        }
    }

    /// The same however long it takes: for what was let in once, and is tried again.
    pub async fn take_patiently(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_many_owned(self.permits(bytes)).await.ok()
    }

    /// The same without a wait; `None` where there is no room just now, or none at all any more.
    pub fn try_take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.permits(bytes)).ok()
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.clamp(1, self.bytes)).unwrap_or(u32::MAX)
    }

    /// How many bytes are taken.
    pub fn taken(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }

    /// Lets nobody in any more, and sends away who waits.
    pub fn close(&self) {
        self.free.close();
    }
}
