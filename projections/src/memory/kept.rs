//! A version of a projection in memory, with all that it holds: rows, leases, tables, dead letters.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use indelible_core::{Position, StreamId, Timestamp, Token};
use tokio::time::Instant;

use super::tables::{Contents, MemoryTx};
use crate::{
    Advance, Claim, DeadLetter, Done, Epoch, Lease, LetterEnd, Partition, PartitionRow, ReadModelError, Registration,
    Roster, VersionRow, VersionState, Wish, WorkerId, WorkerRow,
};

/// For how long a wish stands.
const WISH_STANDS: Duration = Duration::from_secs(3_600);

/// A wish, what came of it, and when it was written down.
pub(super) type Wished = (Wish, Option<Done>, Instant);

#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub version: VersionRow,
    rows: Vec<PartitionRow>,
    /// Until when each partition is its owner's; `None` without leases.
    leased_until: Vec<Option<Instant>>,
    workers: BTreeMap<WorkerId, (WorkerRow, Instant)>,
    pub tables: Contents,
    pub letters: BTreeMap<Position, DeadLetter>,
    pub discarded: Vec<(DeadLetter, String)>,
    wishes: Vec<Wished>,
    /// Held by a transaction: one after the other, so that what one has read is so until it commits.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Kept {
    pub fn new(registration: &Registration, state: VersionState) -> Self {
        let rows = registration.rows();
        Self {
            version: registration.version(state),
            leased_until: vec![None; rows.len()],
            rows,
            workers: BTreeMap::new(),
            tables: Contents::new(),
            letters: BTreeMap::new(),
            discarded: Vec::new(),
            wishes: Vec::new(),
            turn: Arc::default(),
        }
    }

    /// The partitions, with the owners whose lease has not run out.
    pub fn rows(&self) -> Vec<PartitionRow> {
        let now = Instant::now();
        let row = |(row, until): (&PartitionRow, &Option<Instant>)| PartitionRow {
            owner: row.owner.clone().filter(|_| until.is_none_or(|until| until > now)),
            ..row.clone()
        };
        self.rows.iter().zip(&self.leased_until).map(row).collect()
    }

    pub fn is_current(&self) -> bool {
        self.version.state.is_current()
    }

    pub fn take(
        &mut self,
        partition: Partition,
        worker: &WorkerId,
        lease: Option<Duration>,
    ) -> Result<Option<Claim>, ReadModelError> {
        let now = Instant::now();
        let parked = self.parked(partition);
        let row = self.row(partition)?;
        let others = row.owner.as_ref().is_some_and(|owner| owner != worker);
        if others && lease.is_some() && self.leased_until[partition.0 as usize].is_some_and(|until| until > now) {
            return Ok(None);
        }
        let row = self.row(partition)?;
        (row.epoch, row.owner, row.stopped) = (Epoch(row.epoch.0 + 1), Some(worker.clone()), None);
        let (epoch, position) = (row.epoch, row.position);
        self.leased_until[partition.0 as usize] = lease.map(|lease| now + lease);
        let (projection, replays_to) = (self.version.projection.clone(), self.version.replays_to);
        Ok(Some(Claim { projection, partition, epoch, position, parked, replays_to }))
    }

    /// The row that a claim still holds.
    pub fn held(&mut self, claim: &Claim) -> Result<Option<&mut PartitionRow>, ReadModelError> {
        Ok(Some(self.row(claim.partition)?).filter(|row| row.epoch == claim.epoch))
    }

    /// Checks that the row of a step is where the step believes it.
    pub fn fenced(&mut self, step: &Advance) -> Result<&mut PartitionRow, ReadModelError> {
        let row = self.row(step.partition)?;
        let holds = (row.epoch, row.position) == (step.epoch, step.from);
        #[cfg(feature = "bugs")]
        let holds = holds || crate::bugs::is(crate::bugs::Bug::LeaseWithoutFencing);
        match holds {
            true => Ok(row),
            false => Err(ReadModelError::Fenced { projection: step.projection.clone(), partition: step.partition }),
        }
    }

    pub fn commit(&mut self, mut tx: MemoryTx) -> Result<(), ReadModelError> {
        if tx.ended.iter().any(|(letter, _)| !self.letters.contains_key(&letter.position)) {
            return Err(ReadModelError::rejected("a dead letter", "it is there no more"));
        }
        let row = self.fenced(&tx.advance)?;
        (row.position, row.updated_at) = (tx.advance.to, Timestamp::now());
        tx.write_to(&mut self.tables);
        self.letters.extend(tx.parked.drain(..).map(|letter| (letter.position, letter)));
        for (letter, end) in tx.ended.drain(..) {
            self.letters.remove(&letter.position);
            if let LetterEnd::Discarded(reason) = end {
                self.discarded.push((letter, reason));
            }
        }
        let parked = self.parked(tx.advance.partition).len();
        self.row(tx.advance.partition)?.parked = parked;
        Ok(())
    }

    pub fn reset(&mut self, head: Token) {
        self.version.replays_to = head.position;
        self.version.state = if self.is_current() { VersionState::Rebuilding } else { VersionState::Building };
        self.tables.clear();
        self.letters.clear();
        for row in &mut self.rows {
            row.epoch = Epoch(row.epoch.0 + 1);
            (row.position, row.parked, row.updated_at) = (Token::start(head.store), 0, Timestamp::now());
            // Whoever has it finds out with the next heartbeat, also where it stands still and writes nothing.
            (row.owner, row.stopped) = (None, None);
        }
    }

    /// But where it was reset once more since somebody looked.
    pub fn caught_up(&mut self) {
        let there = self.rows.iter().all(|row| row.position.position >= self.version.replays_to);
        if self.version.state == VersionState::Rebuilding && there {
            self.version.state = VersionState::Current;
        }
    }

    pub fn renew(&mut self, worker: &WorkerRow, lease: Duration) -> Roster {
        let now = Instant::now();
        self.workers.retain(|_, (_, until)| *until > now);
        self.workers.insert(worker.id.clone(), (worker.clone(), now + lease));
        let mut leases = Vec::new();
        for (row, until) in self.rows.iter_mut().zip(&mut self.leased_until) {
            let mine = row.owner.as_ref() == Some(&worker.id) && until.is_some_and(|until| until > now);
            #[cfg(feature = "bugs")]
            let mine = mine || crate::bugs::renew_after_expiry(row, &worker.id);
            if mine {
                *until = Some(now + lease);
            }
            if let (Some(worker), Some(until)) = (row.owner.clone(), until.filter(|until| *until > now)) {
                leases.push(Lease { partition: row.partition, worker, expires_in: until - now });
            }
        }
        Roster { workers: self.workers(), leases }
    }

    pub fn workers(&self) -> Vec<WorkerRow> {
        let now = Instant::now();
        self.workers.values().filter(|(_, until)| *until > now).map(|(worker, _)| worker.clone()).collect()
    }

    pub fn leave(&mut self, worker: &WorkerId) {
        self.workers.remove(worker);
        for row in self.rows.iter_mut().filter(|row| row.owner.as_ref() == Some(worker)) {
            row.owner = None;
        }
    }

    /// Those that still stand.
    pub fn wishes(&mut self) -> &mut Vec<Wished> {
        self.wishes.retain(|(.., since)| since.elapsed() < WISH_STANDS);
        &mut self.wishes
    }

    fn row(&mut self, partition: Partition) -> Result<&mut PartitionRow, ReadModelError> {
        let projection = self.version.projection.to_string();
        self.rows.get_mut(partition.0 as usize).ok_or(ReadModelError::Unknown { projection })
    }

    fn parked(&self, partition: Partition) -> Vec<StreamId> {
        let mut streams: Vec<StreamId> =
            self.letters.values().filter(|l| l.partition == partition).map(|l| l.stream.clone()).collect();
        streams.sort();
        streams.dedup();
        streams
    }
}
