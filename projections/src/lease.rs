//! Sharing a projection's partitions with other workers, by leases (P4): a heartbeat renews what is held, takes what is
//! this worker's share, and hands over what is more.
//!
//! Nothing here makes a commit safe: the fenced checkpoint does. Leases only see to it that each partition has an owner
//! soon, and the workers about as many each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    Epoch, Lease, Partition, PartitionState, PartitionStatus, ReadModel, ReadModelError, Roster, WorkerId, WorkerRow,
    errand::Errands, partition::fnv, runner::Command,
};

/// How long after a lease has run out it is asked for.
const GRACE: Duration = Duration::from_millis(10);

/// Keeps a worker's share of the partitions of a projection.
pub(crate) struct Keeper<M> {
    pub model: M,
    pub errands: Errands<M>,
    /// Does what others wish, one thing after the other.
    pub at_errands: Option<JoinHandle<()>>,
    pub worker: WorkerRow,
    pub partitions: u32,
    pub lease: Duration,
    pub tell: mpsc::Sender<Command>,
    pub seen: watch::Receiver<Vec<PartitionStatus>>,
    /// No partition is taken any more; those that are held are still renewed, until the runner has ended.
    pub draining: Arc<AtomicBool>,
    /// What the runner was given, and with which epoch.
    pub held: BTreeMap<Partition, Epoch>,
    /// Where to begin to look for more: behind the last that could not be had, however long that takes.
    pub first: u32,
}

impl<M: ReadModel> Keeper<M> {
    /// Beats until the runner has ended, and takes the worker out of the registry then.
    pub async fn run(mut self, mut next: Instant) {
        let mut time = self.lease / 3;
        loop {
            // Sooner where a partition was lost, since others may be free; but not in a circle.
            let soonest = Instant::now() + self.lease / 30;
            tokio::select! {
                () = self.tell.closed() => break,
                () = sleep_until(next) => {}
                () = self.loss() => sleep_until(soonest).await,
            }
            // What it has done when its time is over, it has done; the next one goes on from there.
            let beaten = timeout(time, self.beat()).await;
            // A longer one then: where all is slow, or has to be connected to anew, each would be cut off as the one before.
            time = if beaten.is_err() { self.lease.min(time * 2) } else { self.lease / 3 };
            next = match beaten {
                Ok(Ok(next)) => next,
                Ok(Err(error)) => self.soon(&error),
                Err(late) => self.soon(&late),
            };
        }
        if let Some(at_errands) = self.at_errands {
            let _ = at_errands.await; // it ends with the runner, but for an answer
        }
        if !matches!(timeout(self.lease, self.model.leave(&self.worker.id, &self.worker.runs)).await, Ok(Ok(()))) {
            tracing::warn!(projection = %self.worker.runs, "could not leave the registry; the leases will run out");
        }
    }

    /// Waits until the runner is fenced off a partition.
    async fn loss(&self) {
        let mut seen = self.seen.clone();
        if seen.wait_for(|lanes| lanes.iter().any(|lane| self.has_lost(lane))).await.is_err() {
            std::future::pending::<()>().await; // it has ended
        }
    }

    /// Renews, gives up, takes; and says when to do so again.
    pub async fn beat(&mut self) -> Result<Instant, ReadModelError> {
        let next = Instant::now() + self.lease / 3;
        self.worker.troubled = self.seen.borrow().iter().filter(|lane| is_troubled(lane)).count() as u32;
        let Roster { workers, leases } = self.model.renew(&self.worker).await?;
        let (mine, others): (Vec<&Lease>, Vec<&Lease>) =
            leases.iter().partition(|lease| lease.worker == self.worker.id);
        // Who dies renews no more: so there is something to look at when the first of theirs runs out.
        let soonest = others.iter().map(|lease| Instant::now() + lease.expires_in + GRACE).min();

        let mine: BTreeSet<Partition> = mine.iter().map(|lease| lease.partition).collect();
        let lost: Vec<_> =
            self.seen.borrow().iter().filter(|lane| self.has_lost(lane)).map(|lane| lane.partition).collect();
        let gone = |partition: &Partition| !mine.contains(partition) || lost.contains(partition);
        for partition in self.held.keys().copied().filter(gone).collect::<Vec<_>>() {
            self.disown(partition);
        }
        let mut is_wished = false;
        if !self.draining.load(Ordering::Acquire) {
            let share = share(&workers, &self.worker, self.partitions);
            let surplus = self.held.len().saturating_sub(share);
            for partition in self.held.keys().rev().take(surplus).copied().collect::<Vec<_>>() {
                self.disown(partition);
            }
            // First, since to take one may take long.
            is_wished = self.see_to_wishes().await?;
            self.take(share, &others).await?;
        }
        let next = soonest.map_or(next, |soonest| next.min(soonest));
        // Where one thing is wished, another may follow.
        Ok(if is_wished { next.min(Instant::now() + self.lease / 30) } else { next })
    }

    /// Has done what others wish of partitions that are held, and says whether there was anything.
    async fn see_to_wishes(&mut self) -> Result<bool, ReadModelError> {
        if self.at_errands.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(true);
        }
        let wishes = self.model.wishes(&self.worker.runs).await?;
        let any = wishes.iter().any(|wish| self.held.contains_key(&wish.partition));
        let held = || self.held.keys().copied().collect();
        self.at_errands = any.then(|| tokio::spawn(self.errands.clone().fulfil(held())));
        Ok(any)
    }

    /// When to try again what failed.
    pub fn soon(&self, error: &dyn std::error::Error) -> Instant {
        tracing::warn!(projection = %self.worker.runs, %error, "the leases could not be renewed");
        Instant::now() + self.lease / 12
    }

    /// Takes what is free, up to the share. One that can't be had now may take up a beat, and is the last to be tried then.
    async fn take(&mut self, share: usize, others: &[&Lease]) -> Result<(), ReadModelError> {
        let mut busy = None;
        let free = |partition: &Partition| others.iter().all(|lease| lease.partition != *partition);
        let (first, partitions) = (self.first, self.partitions);
        for partition in (0..partitions).map(|n| Partition((first + n) % partitions)).filter(free) {
            if self.held.len() >= share {
                break;
            }
            if self.held.contains_key(&partition) {
                continue;
            }
            // Where there is no room, the runner is at work, and gets the partition at a later beat.
            let Ok(room) = self.tell.try_reserve() else { break };
            self.first = (partition.0 + 1) % partitions;
            match self.model.take(&self.worker.runs, partition, &self.worker.id).await {
                Ok(Some(claim)) => {
                    self.held.insert(partition, claim.epoch);
                    room.send(Command::Own(claim));
                }
                Ok(None) => {}
                Err(error) if error.is_retryable() => busy = Some(error),
                Err(error) => return Err(error),
            }
        }
        busy.map_or(Ok(()), Err)
    }

    /// The runner gives a partition up when it has committed what is under way.
    fn disown(&mut self, partition: Partition) {
        if self.tell.try_send(Command::Disown(partition)).is_ok() {
            self.held.remove(&partition);
        }
    }

    /// Whether the runner was fenced off a partition, and nobody has told it to give it up.
    fn has_lost(&self, lane: &PartitionStatus) -> bool {
        lane.state == PartitionState::Lost && self.held.get(&lane.partition).is_some_and(|held| *held <= lane.epoch)
    }
}

fn is_troubled(lane: &PartitionStatus) -> bool {
    matches!(lane.state, PartitionState::Retrying { .. } | PartitionState::Stopped { .. })
}

/// How many partitions are a worker's, so that those of all add up. What can't be divided goes to other workers with
/// each projection.
fn share(workers: &[WorkerRow], worker: &WorkerRow, partitions: u32) -> usize {
    let rank = |id: &WorkerId| (fnv(id.0.bytes().chain(worker.runs.to_string().bytes())), id.clone());
    let mine = rank(&worker.id);
    let (count, place) = (workers.len().max(1), workers.iter().filter(|other| rank(&other.id) < mine).count());
    partitions as usize / count + usize::from(place < partitions as usize % count)
}

#[cfg(test)]
mod tests {
    use indelible_core::Timestamp;

    use super::*;
    use crate::ProjectionId;

    #[test]
    fn shares_are_fair_and_add_up() {
        let row = |n: usize| WorkerRow {
            id: WorkerId(format!("worker {n}")),
            host: String::new(),
            since: Timestamp::now(),
            runs: ProjectionId { name: "tally".into(), version: 1 },
            troubled: 0,
        };
        for count in 1..10 {
            let workers: Vec<WorkerRow> = (0..count).map(row).collect();
            for partitions in 1..20 {
                let shares: Vec<usize> = workers.iter().map(|worker| share(&workers, worker, partitions)).collect();
                assert_eq!(shares.iter().sum::<usize>(), partitions as usize);
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                assert!(most - least <= 1, "{shares:?}");
            }
        }
    }
}
