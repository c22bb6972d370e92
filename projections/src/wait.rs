//! Waiting until a read model has seen an append (P6), whoever owns its partitions.
//!
//! What this process owns is known at once. For the rest the read model's rows are asked, more and more seldom.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use indelible_core::{AnyStore, Position, StoreError, StreamId, Token};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    DeadLetter, Partition, PartitionState, PartitionStatus, ProjectionId, ReadModel, ReadModelError, VersionRow,
    VersionState, VersionStatus, Wanted,
};

/// The pauses between two looks at the rows of partitions that other processes own.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_millis(5);
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What waiting came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Every partition that counts has looked that far.
    Reached,
    /// Its event, or one before it in its stream, is parked: it will not be reached before they are redriven or discarded.
    Parked(StreamId),
    /// A partition has stopped before it.
    Stopped(Arc<str>),
    /// The time is over.
    TimedOut,
}

/// Why waiting was not possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The token is of another log, or the log can't be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The read model can't be asked, or doesn't know the projection.
    #[error(transparent)]
    ReadModel(#[from] ReadModelError),
    /// The projection is none of this worker's.
    #[error("{0} does not run here")]
    NotHere(ProjectionId),
}

/// What waiting comes to, or that the time is over, whatever doesn't answer.
pub(crate) async fn within(
    time: Duration,
    waits: impl Future<Output = Result<Waited, WaitError>>,
) -> Result<Waited, WaitError> {
    timeout(time, waits).await.unwrap_or(Ok(Waited::TimedOut))
}

/// What is waited for.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    position: Position,
    /// Only the partition of this stream counts.
    only_of: Option<StreamId>,
    /// Where this stream is parked, the answer is that.
    stream: Option<StreamId>,
}

impl Goal {
    /// An append, which the log must hold; in one partition where a stream is named.
    pub async fn of(store: &AnyStore, token: &Token, stream: Option<&StreamId>) -> Result<Self, StoreError> {
        store.check(token).await?;
        // An append that nobody named a stream of is found in that of its event.
        let found = match stream {
            None => store.event(token.event).await?.map(|event| event.stream),
            Some(stream) => Some(stream.clone()),
        };
        Ok(Self { position: token.position, only_of: stream.cloned(), stream: found })
    }
}

/// A projection in a read model, and what of it this process owns.
#[derive(Clone)]
pub(crate) struct Watched<M> {
    pub model: M,
    pub id: ProjectionId,
    pub partitions: u32,
    pub owned: Option<watch::Receiver<Vec<PartitionStatus>>>,
}

/// Where a partition stands, whoever owns it.
struct Stand {
    partition: Partition,
    position: Position,
    /// The stream that counts may be parked: whether it is from where it counts, the letters say.
    parked: bool,
    stopped: Option<Arc<str>>,
}

impl<M: ReadModel> Watched<M> {
    /// The version that queries see.
    pub async fn current(&self) -> Result<(ProjectionId, u32), ReadModelError> {
        let current = self.version_rows().await?.into_iter().find(|row| row.state.is_current());
        current
            .map(|row| (row.projection, row.partitions))
            .ok_or_else(|| ReadModelError::Unknown { projection: self.id.name.to_string() })
    }

    async fn version_rows(&self) -> Result<Vec<VersionRow>, ReadModelError> {
        match self.model.versions(&self.id.name).await {
            // It has one at a time.
            Err(ReadModelError::Unsupported { .. }) => Ok(vec![VersionRow {
                projection: self.id.clone(),
                partitions: self.partitions,
                replays_to: Position::START,
                state: VersionState::Current,
                wanted: Wanted::default(),
            }]),
            answer => answer,
        }
    }

    /// Whether the stream is parked from the event on that is waited for, or one before it.
    async fn is_parked(&self, version: &ProjectionId, goal: &Goal) -> Result<bool, ReadModelError> {
        let first = self.model.letters(version, goal.stream.as_ref(), Position::START, 1).await?;
        Ok(first.first().is_some_and(|first| first.position <= goal.position))
    }

    /// Waits for the version that queries see, also when another takes over meanwhile; for ever, if need be.
    pub async fn reach(&self, goal: &Goal) -> Result<Waited, ReadModelError> {
        loop {
            match self.reach_in_current(goal).await {
                Ok(Some(waited)) => return Ok(waited),
                Ok(None) => {}
                Err(error) if error.is_retryable() => sleep(PAUSE_MAX).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// `None` when another version has taken over in the meantime.
    async fn reach_in_current(&self, goal: &Goal) -> Result<Option<Waited>, ReadModelError> {
        let (version, partitions) = self.current().await?;
        let waited = self.reach_in(&version, partitions, goal).await?;
        let stands = waited != Waited::Reached || self.current().await?.0 == version;
        Ok(stands.then_some(waited))
    }

    async fn reach_in(&self, version: &ProjectionId, partitions: u32, goal: &Goal) -> Result<Waited, ReadModelError> {
        let only = goal.only_of.as_ref().map(|stream| Partition::of(stream, partitions));
        let counting: Vec<Partition> =
            (0..partitions).map(Partition).filter(|partition| only.is_none_or(|only| *partition == only)).collect();
        let mut owned = self.owned.clone().filter(|_| *version == self.id);
        let mut pause = PAUSE_FIRST;
        loop {
            let mut stands = owned.as_mut().map_or_else(Vec::new, |owned| stands(&owned.borrow_and_update(), goal));
            let is_known = |stands: &[Stand], partition| stands.iter().any(|stand| stand.partition == partition);
            let all_owned = counting.iter().all(|partition| is_known(&stands, *partition));
            if !all_owned {
                match self.rows(version, goal).await {
                    Ok(rows) => stands
                        .extend(rows.into_iter().filter(|row| !is_known(&stands, row.partition)).collect::<Vec<_>>()),
                    Err(error) if error.is_retryable() => {}
                    Err(error) => return Err(error),
                }
            }
            stands.retain(|stand| counting.contains(&stand.partition));
            for stand in stands.iter_mut().filter(|stand| stand.parked) {
                stand.parked = self.is_parked(version, goal).await?;
            }
            if let Some(answer) = answer(&stands, counting.len(), goal) {
                return Ok(answer);
            }
            let changed = async {
                match &mut owned {
                    Some(owned) => owned.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                goes_on = changed => if !goes_on {
                    owned = None; // others may go on, where there can be others
                    if self.model.lease().is_none() {
                        return Ok(Waited::Stopped("the worker has ended".into()));
                    }
                },
                () = sleep(pause), if !all_owned => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    /// The partitions as the read model knows them.
    async fn rows(&self, version: &ProjectionId, goal: &Goal) -> Result<Vec<Stand>, ReadModelError> {
        let mut stands = Vec::new();
        let rows = self.model.partitions(version).await?;
        let home = goal.stream.as_ref().map(|stream| Partition::of(stream, rows.len() as u32));
        for row in rows {
            let parked = row.parked > 0 && Some(row.partition) == home;
            let (partition, position) = (row.partition, row.position.position);
            stands.push(Stand { partition, position, parked, stopped: row.stopped.map(Into::into) });
        }
        Ok(stands)
    }
}

/// The partitions that this process owns.
fn stands(statuses: &[PartitionStatus], goal: &Goal) -> Vec<Stand> {
    let mine = statuses.iter().filter(|status| status.state != PartitionState::Lost);
    mine.map(|status| Stand {
        partition: status.partition,
        position: status.looked_to.position,
        parked: goal.stream.as_ref().is_some_and(|stream| status.parked.contains(stream)),
        stopped: match &status.state {
            PartitionState::Stopped { error } => Some(error.clone()),
            _ => None,
        },
    })
    .collect()
}

fn answer(stands: &[Stand], expected: usize, goal: &Goal) -> Option<Waited> {
    if let Some(stream) = goal.stream.as_ref().filter(|_| stands.iter().any(|stand| stand.parked)) {
        return Some(Waited::Parked(stream.clone()));
    }
    let behind = || stands.iter().filter(|stand| stand.position < goal.position);
    let stopped = behind().find_map(|stand| stand.stopped.clone());
    let reached = stands.len() == expected && behind().next().is_none();
    stopped.map(Waited::Stopped).or(reached.then_some(Waited::Reached))
}

/// [`Watched`], whatever the read model is.
pub(crate) trait Look: Send + Sync {
    fn current(&self) -> BoxFuture<'_, Result<(ProjectionId, u32), ReadModelError>>;
    fn reach<'a>(&'a self, goal: &'a Goal) -> BoxFuture<'a, Result<Waited, ReadModelError>>;
    fn letters<'a>(
        &'a self,
        stream: Option<&'a StreamId>,
        after: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, ReadModelError>>;
    /// All versions of the projection; `here` are those that this process runs.
    fn versions<'a>(
        &'a self,
        here: &'a [&'a ProjectionId],
        head: Position,
    ) -> BoxFuture<'a, Result<Vec<VersionStatus>, ReadModelError>>;
}

impl<M: ReadModel> Look for Watched<M> {
    fn current(&self) -> BoxFuture<'_, Result<(ProjectionId, u32), ReadModelError>> {
        Box::pin(self.current())
    }

    fn reach<'a>(&'a self, goal: &'a Goal) -> BoxFuture<'a, Result<Waited, ReadModelError>> {
        Box::pin(self.reach(goal))
    }

    fn letters<'a>(
        &'a self,
        stream: Option<&'a StreamId>,
        after: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, ReadModelError>> {
        Box::pin(self.model.letters(&self.id, stream, after, limit))
    }

    fn versions<'a>(
        &'a self,
        here: &'a [&'a ProjectionId],
        head: Position,
    ) -> BoxFuture<'a, Result<Vec<VersionStatus>, ReadModelError>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for version in self.version_rows().await? {
                let partitions = self.model.partitions(&version.projection).await?;
                let fed = match self.model.lease() {
                    Some(_) => partitions.iter().any(|row| row.owner.is_some()),
                    None => here.contains(&&version.projection),
                };
                found.push(VersionStatus { version, partitions, fed, head, behind_since: None });
            }
            Ok(found)
        })
    }
}
