//! Read models without transactions: each event at least once, made harmless by its position.

use std::sync::{Arc, Mutex, PoisonError};

use indelible_core::{AnyStore, AsStore, Cause, Timestamp};

use crate::{
    Advance, Claim, Epoch, Partition, PartitionRow, ProjectionId, ReadModel, ReadModelError, Registration, VersionRow,
    VersionState, WorkerId,
};

/// Any client as a read model, of one process: Redis, a search engine, a database behind an interface of its own.
///
/// The handler's transaction is a clone of the client, and what it does is done at once. The checkpoint is kept in the
/// log's store, behind it. So after a crash the events since the last checkpoint come again, in order: *at least once*.
/// Write the event's position beside each value, and skip what is not newer than it. It has one partition, no dead
/// letters, and one version at a time.
#[derive(Clone)]
pub struct AtLeastOnce<C> {
    client: C,
    store: AnyStore,
    versions: Arc<Mutex<Vec<(VersionRow, PartitionRow)>>>,
}

impl<C: Clone + Send + Sync + 'static> AtLeastOnce<C> {
    /// A read model of this client, with its checkpoints in this store.
    pub fn new(client: C, store: &impl AsStore) -> Self {
        Self { client, store: store.as_store(), versions: Arc::default() }
    }

    fn with<T>(
        &self,
        projection: &ProjectionId,
        look: impl FnOnce(&mut (VersionRow, PartitionRow)) -> Result<T, ReadModelError>,
    ) -> Result<T, ReadModelError> {
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        match versions.iter_mut().find(|(version, _)| version.projection == *projection) {
            Some(known) => look(known),
            None => Err(ReadModelError::Unknown { projection: projection.to_string() }),
        }
    }

    fn step(&self, advance: &Advance, take: bool) -> Result<(), ReadModelError> {
        let fenced = || ReadModelError::Fenced { projection: advance.projection.clone(), partition: advance.partition };
        self.with(&advance.projection, |(_, row)| {
            if (row.epoch, row.position) != (advance.epoch, advance.from) {
                return Err(fenced());
            }
            if take {
                (row.position, row.updated_at) = (advance.to, Timestamp::now());
            }
            Ok(())
        })
    }
}

/// What a handler writes through: the client itself.
pub struct DirectTx<C> {
    /// The client.
    pub client: C,
    advance: Advance,
}

impl<C: Clone + Send + Sync + 'static> ReadModel for AtLeastOnce<C> {
    type Tx = DirectTx<C>;

    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        let Registration { projection, partitions, head, .. } = registration;
        if *partitions != 1 {
            return Err(ReadModelError::unsupported("more than one partition"));
        }
        // Where its history ends is a checkpoint too.
        let history = format!("{projection} history");
        let known = self.store.load_checkpoint(&history).await.map_err(failed)?;
        if known.is_none() {
            self.store.save_checkpoint(&history, *head).await.map_err(failed)?;
        }
        let position = self.store.load_checkpoint(&projection.to_string()).await.map_err(failed)?;
        let mut row = registration.rows().remove(0);
        row.position = position.unwrap_or(row.position);
        let mut version = registration.version(VersionState::Current);
        version.replays_to = known.unwrap_or(*head).position;
        let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
        versions.retain(|(known, _)| known.projection != *projection);
        versions.push((version.clone(), row));
        Ok(version)
    }

    async fn take(
        &self,
        projection: &ProjectionId,
        partition: Partition,
        worker: &WorkerId,
    ) -> Result<Option<Claim>, ReadModelError> {
        self.with(projection, |(version, row)| {
            (row.epoch, row.owner) = (Epoch(row.epoch.0 + 1), Some(worker.clone()));
            Ok(Some(Claim {
                projection: projection.clone(),
                partition,
                epoch: row.epoch,
                position: row.position,
                parked: Vec::new(),
                replays_to: version.replays_to,
            }))
        })
    }

    async fn begin(&self, advance: &Advance) -> Result<DirectTx<C>, ReadModelError> {
        self.step(advance, false)?;
        Ok(DirectTx { client: self.client.clone(), advance: advance.clone() })
    }

    async fn commit(&self, tx: DirectTx<C>) -> Result<(), ReadModelError> {
        self.step(&tx.advance, false)?;
        self.store.save_checkpoint(&tx.advance.projection.to_string(), tx.advance.to).await.map_err(failed)?;
        self.step(&tx.advance, true)
    }

    async fn partitions(&self, projection: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        self.with(projection, |(_, row)| Ok(vec![row.clone()]))
    }
}

fn failed(error: indelible_core::StoreError) -> ReadModelError {
    // A store that has stopped may go on.
    let retryable = error.is_retryable() || matches!(error, indelible_core::StoreError::Stopped { .. });
    let (what, cause) = ("keeping a checkpoint in the store of the log", Cause::from(error));
    if retryable { ReadModelError::unavailable(what, cause) } else { ReadModelError::rejected(what, cause) }
}
