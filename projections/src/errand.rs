//! What operators want, whoever owns the partition: a version paused, a dead letter handled after all.
//!
//! What is wanted of a version is kept in the read model, where each worker's overseer sees it. What is wanted of a
//! partition is done here where it is this process's, and else written down as a [`Wish`], which its owner finds with its
//! next heartbeat. Workers know of each other by the read model alone, so a wish needs no other way to the owner, and
//! outlives it: who takes the partition over finds the same rows. It costs a look at a table that is empty, a heartbeat.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use indelible_core::{Cause, Position, StreamId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use crate::{
    DeadLetter, Done, Errand, LetterEnd, Partition, ProjectionId, ReadModel, ReadModelError, Want, Wish,
    runner::{Command, told},
    version::Life,
    wait::{PAUSE_FIRST, PAUSE_MAX},
};

/// For how long an owner is asked beyond twice the lease's time, however busy it is and the read model.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Runs errands at the partitions of a projection.
#[derive(Clone)]
pub(crate) struct Errands<M> {
    pub model: M,
    pub id: ProjectionId,
    pub life: Arc<Life>,
    pub tell: mpsc::Sender<Command>,
}

impl<M: ReadModel> Errands<M> {
    /// Does it here at once, and has others do it; where the read model keeps no such thing, here alone.
    async fn want(&self, want: Want) -> Result<(), ReadModelError> {
        let kept = match self.model.want(&self.id, want).await {
            Ok(()) => true,
            Err(ReadModelError::Unsupported { .. }) => false,
            Err(error) => return Err(error),
        };
        match want {
            Want::Paused(paused) => {
                if kept {
                    self.life.paused.store(paused, Ordering::Release);
                }
                let _ = self.tell.send(Command::Pause(paused)).await; // one that has ended takes none anyway
            }
            Want::BuildingEventsPerSecondMax(max) => self.life.events_per_second_max.store(max, Ordering::Relaxed),
        }
        Ok(())
    }

    /// Counts the letters that it ends.
    async fn run(&self, partition: Partition, errand: Errand, ended: &mut u64) -> Result<(), Cause> {
        match self.run_here(&errand, ended).await {
            Some(done) => done,
            None => {
                self.run_elsewhere(partition, errand, ended).await?;
                // The one that was found here is gone, whoever has seen to that.
                *ended = (*ended).max(1);
                Ok(())
            }
        }
    }

    /// Starts what has stopped, here and, as far as others are known to have stopped, elsewhere.
    async fn restart(&self, here: &[Partition]) -> Result<(), Cause> {
        let _ = self.tell.send(Command::Restart).await;
        if self.model.lease().is_none() {
            return Ok(());
        }
        // One that nobody owns goes on with whoever takes it.
        let rows = self.model.partitions(&self.id).await?.into_iter();
        let stopped = rows.filter(|row| row.stopped.is_some() && row.owner.is_some() && !here.contains(&row.partition));
        let restarts =
            stopped.map(|row| async move { self.run_elsewhere(row.partition, Errand::Restart, &mut 0).await });
        join_all(restarts).await.into_iter().collect()
    }

    /// Does what others wish, one thing after the other. What is answered by nobody, since the partition has moved on, its
    /// next owner finds.
    pub async fn fulfil(self, wishes: Vec<Wish>) {
        for wish in wishes {
            let mut letters = 0;
            let Some(done) = self.run_here(&wish.errand, &mut letters).await else { continue };
            let done = Done { letters, error: done.err().map(|cause| told(&*cause).to_string()) };
            if let Err(error) = self.model.answer(&self.id, wish.id, &done).await {
                tracing::warn!(projection = %self.id, partition = %wish.partition, %error,
                    "what came of a wish could not be said");
            }
        }
    }

    /// `None` where the partition is another's by now.
    async fn run_here(&self, errand: &Errand, ended: &mut u64) -> Option<Result<(), Cause>> {
        let (stream, after, to, end) = match errand {
            Errand::Restart => return self.tell.send(Command::Restart).await.ok().map(Ok),
            Errand::Redrive { stream, to } => (stream, Position::START, *to, LetterEnd::Redriven),
            Errand::Discard { stream, position, reason } => {
                (stream, before(*position), *position, LetterEnd::Discarded(reason.clone()))
            }
        };
        loop {
            let first = self.model.letters(&self.id, Some(stream), after, 1).await;
            match first.map(|first| first.into_iter().next()) {
                Ok(Some(letter)) if letter.position <= to => {
                    let (answer, answered) = oneshot::channel();
                    let command = Command::End(Box::new(letter), end.clone(), answer);
                    self.tell.send(command).await.ok()?;
                    if let Err(cause) = answered.await.ok()? {
                        return Some(Err(cause));
                    }
                    *ended += 1;
                }
                Ok(_) => return Some(Ok(())),
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    /// Asks the owner. A lease's time may pass until one that has died is missed, and another has the partition.
    async fn run_elsewhere(&self, partition: Partition, errand: Errand, ended: &mut u64) -> Result<(), Cause> {
        let Some(lease) = self.model.lease() else {
            return Err(format!("partition {partition} of {} does not run here", self.id).into());
        };
        let wish = Wish { id: rand::random(), partition, errand, answer: None };
        self.model.wish(&self.id, &wish).await?;
        let patience = 2 * lease + ANSWERS_WITHIN;
        let (until, mut pause) = (Instant::now() + patience, PAUSE_FIRST);
        while Instant::now() < until {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            match self.model.wishes(&self.id).await {
                Ok(wishes) if wishes.iter().any(|known| known.id == wish.id && known.answer.is_some()) => break,
                Err(error) if !error.is_retryable() => return Err(error.into()),
                _ => {}
            }
        }
        let Some(done) = self.model.withdraw(&self.id, wish.id).await?.and_then(|wish| wish.answer) else {
            let Self { id, .. } = self;
            let silent = format!("the owner of partition {partition} of {id} does not answer for {patience:?}");
            return Err(format!("{silent}; it is asked no more").into());
        };
        *ended += done.letters;
        done.error.map_or(Ok(()), |error| Err(error.into()))
    }
}

fn before(position: Position) -> Position {
    Position::new(position.get().saturating_sub(1))
}

/// [`Errands`], whatever the read model is.
pub(crate) trait RunErrands: Send + Sync {
    fn want(&self, want: Want) -> BoxFuture<'_, Result<(), ReadModelError>>;
    fn run<'a>(&'a self, partition: Partition, errand: Errand, ended: &'a mut u64) -> BoxFuture<'a, Result<(), Cause>>;
    /// `here` are the partitions that this process owns.
    fn restart<'a>(&'a self, here: &'a [Partition]) -> BoxFuture<'a, Result<(), Cause>>;
    fn letters<'a>(
        &'a self,
        stream: Option<&'a StreamId>,
        after: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, ReadModelError>>;
}

impl<M: ReadModel> RunErrands for Errands<M> {
    fn want(&self, want: Want) -> BoxFuture<'_, Result<(), ReadModelError>> {
        Box::pin(self.want(want))
    }

    fn run<'a>(&'a self, partition: Partition, errand: Errand, ended: &'a mut u64) -> BoxFuture<'a, Result<(), Cause>> {
        Box::pin(self.run(partition, errand, ended))
    }

    fn restart<'a>(&'a self, here: &'a [Partition]) -> BoxFuture<'a, Result<(), Cause>> {
        Box::pin(self.restart(here))
    }

    fn letters<'a>(
        &'a self,
        stream: Option<&'a StreamId>,
        after: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<DeadLetter>, ReadModelError>> {
        Box::pin(self.model.letters(&self.id, stream, after, limit))
    }
}
