//! A store whose appends fail when a test says so.

use std::sync::Arc;

use async_trait::async_trait;
use indelible_core::{
    Append, AppendOutcome, EventStore, Store, StoreError, store::memory::MemoryStore, testing::Layer,
};

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
impl Layer for Faulty {
    fn beneath(&self) -> &dyn Store {
        &self.log
    }
    async fn append(&self, append: Append) -> Result<AppendOutcome, StoreError> {
        match (self.faults)(&append) {
            Some(error) => Err(error),
            None => self.log.append(append).await,
        }
    }
}
