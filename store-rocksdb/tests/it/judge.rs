//! What is left in a directory, opened and judged.

use std::path::Path;

use indelible_core::conformance::fault::{Journal, Verdict, judge_store};
use indelible_rocksdb::RocksStore;

/// Opens the store in a directory and judges it, with what it answers to appends that are sent again, and its indexes against
/// its log.
pub(crate) fn verify(dir: &Path, journal: &Journal) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    match RocksStore::open(dir) {
        Ok(store) => runtime.block_on(async {
            let mut verdict = judge_store(&store, journal).await;
            match store.verify(|_| {}).await {
                Ok(found) => {
                    found.problems.iter().for_each(|problem| verdict.wrong("verified", || problem.to_string()));
                }
                Err(error) => verdict.wrong("not verified", || format!("{error:?}")),
            }
            verdict
        }),
        Err(error) => Verdict::of("refused to open", format!("{error}: {error:?}")),
    }
}
