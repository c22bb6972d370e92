//! The read model in memory: the contract at its simplest, and what applications test with. Nothing outlives the process.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indelible_core::{Position, StreamId, Token};
use tokio::time::Instant;

use crate::{
    Advance, Claim, DeadLetter, Done, LetterEnd, Partition, PartitionRow, Projection, ProjectionId, ReadModel,
    ReadModelError, Registration, Roster, VersionRow, VersionState, Want, Wish, WorkerId, WorkerRow,
};

mod kept;
mod tables;

use kept::{Kept, Wished};
pub use tables::{MemorySnapshot, MemoryTx};

/// A read model in memory. Clones share it; it ends with the last of them.
#[derive(Clone, Debug, Default)]
pub struct MemoryModel {
    versions: Arc<Mutex<BTreeMap<ProjectionId, Kept>>>,
    lease: Option<Duration>,
}

impl MemoryModel {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one that several workers share, as they would share a database: for tests of that.
    pub fn shared(lease: Duration) -> Self {
        Self { lease: Some(lease), ..Self::default() }
    }

    /// A consistent copy of what a projection holds: its current version.
    ///
    /// # Errors
    /// [`ReadModelError::Unknown`] for a projection that never ran here, [`ReadModelError::Rebuilding`] while it is
    /// being reset.
    pub fn query<P: Projection>(&self) -> Result<MemorySnapshot, ReadModelError> {
        let versions = self.lock();
        let mut named = versions.values().filter(|kept| *kept.version.projection.name == *P::NAME);
        match named.find(|kept| kept.is_current()) {
            None => Err(ReadModelError::Unknown { projection: P::NAME.into() }),
            Some(kept) if kept.version.state == VersionState::Rebuilding => {
                Err(ReadModelError::Rebuilding { projection: kept.version.projection.clone() })
            }
            Some(kept) => Ok(MemorySnapshot { tables: kept.tables.clone() }),
        }
    }

    /// What was discarded of a projection, with the reasons.
    ///
    /// # Errors
    /// [`ReadModelError::Unknown`].
    pub fn discarded(&self, projection: &ProjectionId) -> Result<Vec<(DeadLetter, String)>, ReadModelError> {
        self.with(projection, |kept| Ok(kept.discarded.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProjectionId, Kept>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        projection: &ProjectionId,
        look: impl FnOnce(&mut Kept) -> Result<T, ReadModelError>,
    ) -> Result<T, ReadModelError> {
        match self.lock().get_mut(projection) {
            Some(kept) => look(kept),
            None => Err(unknown(projection)),
        }
    }
}

fn unknown(projection: &ProjectionId) -> ReadModelError {
    ReadModelError::Unknown { projection: projection.to_string() }
}

impl ReadModel for MemoryModel {
    type Tx = MemoryTx;
    const PARKS: bool = true;

    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        let projection = &registration.projection;
        let mut versions = self.lock();
        let first = !versions.keys().any(|known| known.name == projection.name);
        let kept = match versions.entry(projection.clone()) {
            Entry::Occupied(kept) => kept.into_mut(),
            Entry::Vacant(room) => {
                let state = if first { VersionState::Current } else { VersionState::Building };
                room.insert(Kept::new(registration, state))
            }
        };
        match kept.version.partitions == registration.partitions {
            true => Ok(kept.version.clone()),
            false => Err(ReadModelError::Partitions {
                projection: projection.clone(),
                stored: kept.version.partitions,
                asked: registration.partitions,
            }),
        }
    }

    async fn take(
        &self,
        projection: &ProjectionId,
        partition: Partition,
        worker: &WorkerId,
    ) -> Result<Option<Claim>, ReadModelError> {
        self.with(projection, |kept| kept.take(partition, worker, self.lease))
    }

    async fn begin(&self, advance: &Advance) -> Result<MemoryTx, ReadModelError> {
        let turn = self.with(&advance.projection, |kept| Ok(kept.turn.clone()))?.lock_owned().await;
        // The step itself is taken with the commit.
        self.with(&advance.projection, |kept| kept.fenced(advance).map(|_| ()))?;
        Ok(MemoryTx::new(self.clone(), advance.clone(), turn))
    }

    async fn commit(&self, tx: MemoryTx) -> Result<(), ReadModelError> {
        let projection = tx.advance.projection.clone();
        self.with(&projection, |kept| kept.commit(tx))
    }

    async fn partitions(&self, projection: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        self.with(projection, |kept| Ok(kept.rows()))
    }

    async fn stopped(&self, claim: &Claim, error: &str) -> Result<(), ReadModelError> {
        self.with(&claim.projection, |kept| {
            if let Some(row) = kept.held(claim)? {
                row.stopped = Some(error.to_owned());
            }
            Ok(())
        })
    }

    async fn park(&self, tx: &mut MemoryTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
        tx.parked.push(letter.clone());
        Ok(())
    }

    async fn letters(
        &self,
        projection: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        self.with(projection, |kept| {
            let behind = kept.letters.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, letter)| letter);
            let wanted = behind.filter(|letter| stream.is_none_or(|stream| letter.stream == *stream));
            Ok(wanted.take(limit).cloned().collect())
        })
    }

    async fn unpark(&self, tx: &mut MemoryTx, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        tx.ended.push((letter.clone(), end.clone()));
        Ok(())
    }

    async fn versions(&self, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
        let versions = self.lock();
        Ok(versions.values().map(|kept| &kept.version).filter(|v| *v.projection.name == *name).cloned().collect())
    }

    async fn take_over(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let mut versions = self.lock();
        let next = versions.get(projection).ok_or_else(|| unknown(projection))?;
        let current =
            versions.values().find(|kept| kept.version.projection.name == projection.name && kept.is_current());
        let reached = next.rows().iter().map(|row| row.position.position).min();
        let seen = current.and_then(|kept| kept.rows().iter().map(|row| row.position.position).max());
        let behind = seen > reached;
        #[cfg(feature = "bugs")]
        let behind = behind && !crate::bugs::is(crate::bugs::Bug::TakesOverBehind);
        match (next.is_current(), behind) {
            (true, _) => return Ok(()),
            (false, true) => return Err(ReadModelError::Behind { projection: projection.clone() }),
            (false, false) => {}
        }
        for kept in versions.values_mut().filter(|kept| kept.version.projection.name == projection.name) {
            kept.version.state = match kept.version.state {
                _ if kept.version.projection == *projection => VersionState::Current,
                VersionState::Building => VersionState::Building,
                _ => VersionState::Former,
            };
        }
        Ok(())
    }

    async fn drop_version(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let mut versions = self.lock();
        match versions.get(projection) {
            Some(kept) if kept.is_current() => {
                Err(ReadModelError::rejected(format!("dropping {projection}"), "it is the current version"))
            }
            Some(_) => {
                versions.remove(projection);
                Ok(())
            }
            None => Err(unknown(projection)),
        }
    }

    async fn reset(&self, projection: &ProjectionId, head: Token) -> Result<(), ReadModelError> {
        self.with(projection, |kept| {
            kept.reset(head);
            Ok(())
        })
    }

    async fn caught_up(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        self.with(projection, |kept| {
            kept.caught_up();
            Ok(())
        })
    }

    async fn want(&self, projection: &ProjectionId, want: Want) -> Result<(), ReadModelError> {
        self.with(projection, |kept| {
            kept.version.wanted.apply(want);
            Ok(())
        })
    }

    fn lease(&self) -> Option<Duration> {
        self.lease
    }

    async fn renew(&self, worker: &WorkerRow) -> Result<Roster, ReadModelError> {
        let Some(lease) = self.lease else { return Ok(Roster::default()) };
        self.with(&worker.runs, |kept| Ok(kept.renew(worker, lease)))
    }

    async fn release(&self, claim: &Claim) -> Result<(), ReadModelError> {
        self.with(&claim.projection, |kept| {
            if let Some(row) = kept.held(claim)? {
                row.owner = None;
            }
            Ok(())
        })
    }

    async fn leave(&self, worker: &WorkerId, projection: &ProjectionId) -> Result<(), ReadModelError> {
        self.with(projection, |kept| {
            kept.leave(worker);
            Ok(())
        })
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, ReadModelError> {
        Ok(self.lock().values().flat_map(Kept::workers).collect())
    }

    async fn wish(&self, projection: &ProjectionId, wish: &Wish) -> Result<(), ReadModelError> {
        self.with(projection, |kept| {
            kept.wishes().push((wish.clone(), None, Instant::now()));
            Ok(())
        })
    }

    async fn wishes(&self, projection: &ProjectionId) -> Result<Vec<Wish>, ReadModelError> {
        self.with(projection, |kept| {
            let open = kept.wishes().iter().filter(|(_, answer, _)| answer.is_none());
            Ok(open.take(1_000).map(|(wish, ..)| wish.clone()).collect())
        })
    }

    async fn answer(&self, projection: &ProjectionId, wish: u64, answer: &Done) -> Result<(), ReadModelError> {
        self.with(projection, |kept| {
            if let Some((_, known, _)) = kept.wishes().iter_mut().find(|(known, ..)| known.id == wish) {
                known.get_or_insert_with(|| answer.clone());
            }
            Ok(())
        })
    }

    async fn outcome(
        &self,
        projection: &ProjectionId,
        wish: u64,
        is_last: bool,
    ) -> Result<Option<Done>, ReadModelError> {
        self.with(projection, |kept| {
            let ends = |(known, answer, _): &Wished| known.id == wish && (is_last || answer.is_some());
            let at = kept.wishes().iter().position(ends);
            Ok(at.and_then(|at| kept.wishes().remove(at).1))
        })
    }
}
