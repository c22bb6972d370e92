//! The memory store keeps the contract.

use std::sync::Arc;

use indelible_core::{AnyStore, Limits, Position, conformance::Harness, store::memory::MemoryStore};

struct Memory(MemoryStore);

#[async_trait::async_trait]
impl Harness for Memory {
    fn store(&self) -> AnyStore {
        Arc::new(self.0.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        self.0 = self.0.reopened(limits, Position::MAX);
    }

    async fn crash(&mut self) {
        self.reopen(Limits::default()).await;
    }
}

indelible_core::conformance!(Memory(MemoryStore::new()));
