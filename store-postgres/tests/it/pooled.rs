//! The whole contract once more behind a pooler in transaction mode, where each transaction may meet another server
//! process: nothing that the store does may depend on the session.

use std::{sync::Arc, time::Instant};

use futures::{StreamExt, stream};
use indelible_core::conformance::{CASES, Case};

use crate::{
    cluster::{Cluster, Pooler},
    conformance::Postgres,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_is_kept_behind_a_pooler() {
    let cluster = tokio::task::block_in_place(|| Cluster::start(""));
    let pooler = Arc::new(Pooler::before(&cluster));
    let started = Instant::now();
    let failed: Vec<&Case> = stream::iter(CASES)
        .map(|case| {
            let url = pooler.url();
            let run = tokio::spawn(async move { case.run(Box::new(Postgres::new(url).await)).await });
            async move { (case, run.await) }
        })
        .buffer_unordered(4)
        .filter_map(async |(case, outcome)| outcome.is_err().then_some(case))
        .collect()
        .await;
    println!("{} cases behind a pooler in {:?}", CASES.len(), started.elapsed());
    assert!(failed.is_empty(), "{failed:?}");
}
