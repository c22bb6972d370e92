//! The conformance suite: the contract of [`EventStore`](crate::EventStore), clause by clause, as tests that any store
//! can run.
//!
//! A store joins by a development dependency on this crate with the feature `conformance`, a [`Harness`], which says how
//! to open the store, stop it and cut its power, and one line, which makes a `#[test]` of every case there is:
//!
//! ```
//! use indelible_core::{AnyStore, Limits, Position, conformance::Harness, store::memory::MemoryStore};
//!
//! struct Memory(MemoryStore);
//!
//! #[async_trait::async_trait]
//! impl Harness for Memory {
//!     fn store(&self) -> AnyStore {
//!         std::sync::Arc::new(self.0.clone())
//!     }
//!     async fn reopen(&mut self, limits: Limits) {
//!         self.0 = self.0.reopened(limits, Position::MAX);
//!     }
//!     async fn crash(&mut self) {
//!         self.reopen(Limits::default()).await;
//!     }
//! }
//!
//! indelible_core::conformance!(Memory(MemoryStore::new()));
//! # fn main() {
//! #     indelible_core::conformance::run("l1_an_append_is_answered_as_it_is_recorded", || async {
//! #         Box::new(Memory(MemoryStore::new())) as Box<dyn Harness>
//! #     });
//! # }
//! ```
//!
//! There is no picking: a store that cannot pass a case does not keep the contract. Cases are named by the clause that
//! they prove, lean on no other where that can be helped, and end within [`CASE_TIME_MAX`], one way or the other. Those
//! named `all` mix the clauses: random load, whose [history] is checked. That broken stores fail the cases is
//! itself a test: `core/tests/it/broken.rs`.

use std::{fmt, panic, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::{AnyStore, Limits};

mod append;
mod checkpoint;
mod close;
mod concurrent;
mod condition;
mod durable;
mod envelope;
mod error;
pub mod fault;
mod fixture;
pub mod history;
pub mod hostile;
mod limits;
mod list;
mod order;
pub mod parity;
mod read;
pub mod remote;
mod repeat;
mod snapshot;
mod subscribe;
mod token;

/// How long one case may take before it counts as failed.
pub const CASE_TIME_MAX: Duration = Duration::from_secs(30);

/// A store under test, and what can happen to it. It starts empty, with the default [`Limits`].
#[async_trait]
pub trait Harness: Send + Sync {
    /// A handle to the store as it is open now.
    fn store(&self) -> AnyStore;

    /// Stops the store cleanly and opens it on the same data, with these limits. The case has dropped its handles.
    async fn reopen(&mut self, limits: Limits);

    /// Opens what a power cut or a kill at this moment leaves: what is durable, and nothing else. Appends are under
    /// way, and handles to the store before are still in use; what becomes of them no longer matters.
    async fn crash(&mut self);

    /// Another handle to the same log: where it can be shared, that of [another process](remote).
    async fn another(&self) -> AnyStore {
        self.store()
    }

    /// How long a case may take: longer than [`CASE_TIME_MAX`] where a crash takes long.
    fn case_time_max(&self) -> Duration {
        CASE_TIME_MAX
    }
}

/// One test of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it proves, with the clause in front: `l3_positions_have_no_holes`.
    pub name: &'static str,
    run: for<'a> fn(&'a mut dyn Harness) -> BoxFuture<'a, ()>,
}

impl Case {
    /// The clause that it proves: `l3`; `all` for what mixes them.
    pub fn clause(&self) -> &'static str {
        self.name.split_once('_').map_or(self.name, |(clause, _)| clause)
    }

    /// Runs it on a store that is empty.
    ///
    /// # Panics
    /// Where the store doesn't keep the clause, or doesn't come to an end within [`CASE_TIME_MAX`].
    pub async fn run(&self, mut harness: Box<dyn Harness>) {
        let (run, limit) = (self.run, harness.case_time_max());
        // In a task of its own: the time ends also for a store that never lets go of its thread.
        let mut task = tokio::spawn(async move { run(&mut *harness).await });
        match tokio::time::timeout(limit, &mut task).await {
            Ok(Ok(())) => {}
            Ok(Err(failed)) => panic::resume_unwind(failed.into_panic()),
            Err(_elapsed) => {
                task.abort();
                panic!("{} did not end within {limit:?}", self.name);
            }
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! table {
    (() $($file:ident: $($name:ident)+;)+) => {
        /// All cases, in the order of the suite's files.
        pub const CASES: &[Case] = &[$($(
            Case { name: stringify!($name), run: |harness| Box::pin($file::$name(harness)) },
        )+)+];
    };
}
crate::conformance_cases!([table]);

/// Runs the case of a name in a runtime of its own; [`conformance!`](crate::conformance!) calls it.
///
/// # Panics
/// Where no case has the name, and as [`Case::run`].
pub fn run<F>(name: &str, open: impl FnOnce() -> F)
where
    F: Future<Output = Box<dyn Harness>> + Send + 'static,
{
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.unwrap_or_else(|| panic!("the suite has no case {name}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let harness = open();
    let task = runtime.spawn(async move { case.run(harness.await).await });
    let outcome = runtime.block_on(task);
    runtime.shutdown_background();
    if let Err(failed) = outcome {
        panic::resume_unwind(failed.into_panic());
    }
}

/// Makes a `#[test]` of every case of the [suite](mod@crate::conformance), each on the harness that the expression
/// gives; it may `await`.
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance_cases!([$crate::conformance_tests] $harness);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    (($harness:expr) $($file:ident: $($name:ident)+;)+) => {
        $($(
            #[test]
            fn $name() {
                let open = || async { Box::new($harness) as Box<dyn $crate::conformance::Harness> };
                $crate::conformance::run(stringify!($name), open);
            }
        )+)+
    };
}
