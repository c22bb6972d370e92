//! The store keeps the contract. Each case has a schema of its own, and where it asks for another handle, that of another
//! process.

use std::{sync::Arc, time::Duration};

use indelible_core::{
    AnyStore, Limits,
    conformance::{CASE_TIME_MAX, Harness, remote::Remote},
};
use indelible_postgres::{Options, PostgresStore};

use crate::{
    child,
    cluster::{fresh_schema, shared_url},
};

pub(crate) struct Postgres {
    url: String,
    schema: String,
    options: Options,
    store: PostgresStore,
}

impl Postgres {
    pub(crate) async fn new(url: String) -> Self {
        Self::with(url, PostgresStore::options()).await
    }

    pub(crate) async fn with(url: String, options: Options) -> Self {
        let schema = fresh_schema();
        let options = options.schema(&schema);
        let store = options.clone().open(&url).await.unwrap();
        Self { url, schema, options, store }
    }

    pub(crate) async fn verify(&self) {
        self.store.verify().await.unwrap();
    }

    async fn open(&self, limits: Limits) -> PostgresStore {
        self.options.clone().limits(limits).open(&self.url).await.unwrap()
    }
}

#[async_trait::async_trait]
impl Harness for Postgres {
    /// Cases share a server, and the machine with all other tests: this is for those that hang.
    fn case_time_max(&self) -> Duration {
        3 * CASE_TIME_MAX
    }

    fn store(&self) -> AnyStore {
        Arc::new(self.store.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        self.store.close().await.unwrap();
        self.store = self.open(limits).await;
    }

    /// The process dies: whatever its connections are doing, another goes on without it. (What a crash of the server
    /// leaves is for `crash`.)
    async fn crash(&mut self) {
        self.store = self.open(Limits::default()).await;
    }

    async fn another(&self) -> AnyStore {
        let (url, schema) = (self.url.clone(), self.schema.clone());
        let start = move || Remote::start(|port| child::server(&url, &schema, port));
        Arc::new(tokio::task::spawn_blocking(start).await.unwrap())
    }
}

indelible_core::conformance!(Postgres::new(shared_url()).await);
