//! A read model as a process with a bad day sees it: answers are late, connections are lost before or after the work is
//! done, and sometimes the process stands still.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    *,
};
use rand::{Rng, rngs::StdRng};
use tokio::{sync::watch, time::sleep};

use crate::fixture::*;

#[derive(Clone)]
pub struct Chaos {
    pub model: MemoryModel,
    stalled: Arc<watch::Sender<bool>>,
    faults: Option<Arc<Mutex<StdRng>>>,
    /// How long it takes to it, and how long back.
    way: Duration,
    pub seen: Arc<Seen>,
}

/// How often what was meant to happen did.
#[derive(Default)]
pub struct Seen {
    pub outages: AtomicUsize,
    pub fenced: AtomicUsize,
    pub commits: AtomicUsize,
    pub takes: AtomicUsize,
}

impl Chaos {
    /// One that only stands still when it is told to.
    pub fn new(model: &MemoryModel) -> Self {
        let stalled = Arc::new(watch::Sender::new(false));
        Self { model: model.clone(), stalled, faults: None, way: Duration::ZERO, seen: Arc::default() }
    }

    /// One that is far away: so long there, and so long back.
    pub fn far(model: &MemoryModel, way: Duration) -> Self {
        Self { way, ..Self::new(model) }
    }

    /// One with faults of its own.
    pub fn with_faults(model: &MemoryModel, faults: &Arc<Mutex<StdRng>>, seen: &Arc<Seen>) -> Self {
        Self { faults: Some(faults.clone()), seen: seen.clone(), ..Self::new(model) }
    }

    pub fn stall(&self) {
        self.stalled.send_replace(true);
    }

    pub fn go_on(&self) {
        self.stalled.send_replace(false);
    }

    async fn pass(&self) -> Result<(), ReadModelError> {
        if let Some(faults) = &self.faults {
            let (late, lost) = {
                let mut random = faults.lock().unwrap();
                (random.random_bool(0.3).then(|| random.random_range(0..40)), random.random_bool(0.02))
            };
            if let Some(late) = late {
                sleep(Duration::from_millis(late)).await;
            }
            if lost {
                self.seen.outages.fetch_add(1, Relaxed);
                return Err(ReadModelError::unavailable("a test", "the connection is lost"));
            }
        }
        if !self.way.is_zero() {
            sleep(self.way).await;
        }
        let mut stalled = self.stalled.subscribe();
        stalled.wait_for(|stalled| !stalled).await.unwrap();
        Ok(())
    }

    /// Calls the read model, between two places where anything may happen.
    async fn call<T>(&self, call: impl Future<Output = Result<T, ReadModelError>>) -> Result<T, ReadModelError> {
        self.pass().await?;
        let answer = call.await;
        if matches!(answer, Err(ReadModelError::Fenced { .. })) {
            self.seen.fenced.fetch_add(1, Relaxed);
        }
        self.pass().await?;
        answer
    }
}

impl ReadModel for Chaos {
    type Tx = MemoryTx;
    const PARKS: bool = true;
    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        self.model.register(registration).await
    }
    async fn take(&self, id: &ProjectionId, at: Partition, worker: &WorkerId) -> Result<Option<Claim>, ReadModelError> {
        self.seen.takes.fetch_add(1, Relaxed);
        self.call(self.model.take(id, at, worker)).await
    }
    async fn begin(&self, advance: &Advance) -> Result<MemoryTx, ReadModelError> {
        self.call(self.model.begin(advance)).await
    }
    async fn commit(&self, tx: MemoryTx) -> Result<(), ReadModelError> {
        self.seen.commits.fetch_add(1, Relaxed);
        self.call(self.model.commit(tx)).await
    }
    async fn partitions(&self, id: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        self.call(self.model.partitions(id)).await
    }
    async fn versions(&self, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
        self.call(self.model.versions(name)).await
    }
    fn lease(&self) -> Option<Duration> {
        self.model.lease()
    }
    async fn renew(&self, worker: &WorkerRow) -> Result<Roster, ReadModelError> {
        self.call(self.model.renew(worker)).await
    }
    async fn release(&self, claim: &Claim) -> Result<(), ReadModelError> {
        self.call(self.model.release(claim)).await
    }
    async fn leave(&self, worker: &WorkerId, id: &ProjectionId) -> Result<(), ReadModelError> {
        self.call(self.model.leave(worker, id)).await
    }
}

impl Project<Chaos> for Tally {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        tally(envelope, tx).await
    }
}
