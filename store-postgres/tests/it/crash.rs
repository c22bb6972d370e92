//! The suite on a server that dies.

use std::{sync::Arc, time::Duration};

use indelible_core::{
    AnyStore, Limits,
    conformance::{CASE_TIME_MAX, CASES, Harness},
};
use indelible_postgres::PostgresStore;

use crate::cluster::{Cluster, fresh_schema};

/// The suite's store on a server of its own, so that a crash is the server's.
pub(crate) struct Crashing {
    cluster: Cluster,
    schema: String,
    store: PostgresStore,
}

impl Crashing {
    pub(crate) async fn new(cluster: Cluster) -> Self {
        let schema = fresh_schema();
        let store = PostgresStore::options().schema(&schema).open(&cluster.url()).await.unwrap();
        Self { cluster, schema, store }
    }

    async fn open(&self, limits: Limits) -> PostgresStore {
        PostgresStore::options().schema(&self.schema).limits(limits).open(&self.cluster.url()).await.unwrap()
    }
}

#[async_trait::async_trait]
impl Harness for Crashing {
    fn store(&self) -> AnyStore {
        Arc::new(self.store.clone())
    }

    async fn reopen(&mut self, limits: Limits) {
        self.store.close().await.unwrap();
        self.store = self.open(limits).await;
    }

    async fn crash(&mut self) {
        tokio::task::block_in_place(|| self.cluster.crash_and_launch());
        self.store = self.open(Limits::default()).await;
    }

    async fn another(&self) -> AnyStore {
        Arc::new(self.open(Limits::default()).await)
    }

    fn case_time_max(&self) -> Duration {
        10 * CASE_TIME_MAX
    }
}

/// The suite's cases of durability once more, where the server itself dies with each crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_through_crashes_of_the_server() {
    let cases: Vec<_> = CASES.iter().filter(|case| case.clause() == "l4").collect();
    assert!(cases.len() >= 6, "{cases:?}");
    for case in cases {
        let cluster = tokio::task::block_in_place(|| Cluster::start(""));
        case.run(Box::new(Crashing::new(cluster).await)).await;
    }
}
