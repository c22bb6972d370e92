//! What operators want, whoever owns the partition: a version paused, a dead letter handled after all.
//!
//! What is wanted of a version is kept in the read model, where each worker's overseer sees it. What is wanted of a
//! partition is done here where it is this process's, and else written down as a [`Wish`], which its owner finds with its
//! next heartbeat. Workers know of each other by the read model alone, so a wish needs no other way to the owner, and
//! outlives it: who takes the partition over finds the same rows. It costs a look at a table that is empty, a heartbeat.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use indelible_core::{Cause, Position};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};

use crate::{
    Done, Errand, LetterEnd, Partition, ProjectionId, ReadModel, ReadModelError, Retry, Want, Wish,
    runner::{Command, told},
    version::Life,
    wait::{PAUSE_FIRST, PAUSE_MAX},
};

/// For how long an owner is asked beyond twice the lease's time, however busy it is and the read model.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Runs errands at the partitions of a projection, whatever its read model is.
pub(crate) trait RunErrands: Send + Sync {
    /// Does it here at once, and has others do it; where the read model keeps no such thing, here alone.
    fn want(&self, want: Want) -> BoxFuture<'_, Result<(), ReadModelError>>;

    /// Does it where the partition is. An error: nobody could be asked, or nobody has answered.
    fn run(&self, partition: Partition, errand: Errand) -> BoxFuture<'_, Result<Done, Cause>>;

    /// Starts what has stopped: here, where these partitions are, and as far as others are known to have stopped, elsewhere.
    fn restart(&self, here: Vec<Partition>) -> BoxFuture<'_, Result<(), Cause>>;
}

#[derive(Clone)]
pub(crate) struct Errands<M> {
    pub model: M,
    pub id: ProjectionId,
    pub life: Arc<Life>,
    pub tell: mpsc::Sender<Command>,
}

impl<M: ReadModel> RunErrands for Errands<M> {
    fn want(&self, want: Want) -> BoxFuture<'_, Result<(), ReadModelError>> {
        Box::pin(async move {
            let turn = self.life.turn.lock().await;
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
                    let (seen, is_so) = oneshot::channel();
                    let _ = self.tell.send(Command::Pause(paused, Some(seen))).await;
                    drop(turn);
                    let _ = is_so.await; // one that has ended takes none anyway
                }
                Want::BuildingEventsPerSecondMax(max) => self.life.events_per_second_max.store(max, Ordering::Relaxed),
            }
            Ok(())
        })
    }

    fn run(&self, partition: Partition, errand: Errand) -> BoxFuture<'_, Result<Done, Cause>> {
        Box::pin(async move {
            let mut done = Done::default();
            if !self.run_here(&errand, &mut done).await {
                let Done { letters, error } = self.run_elsewhere(partition, errand).await?;
                done = Done { letters: done.letters + letters, error };
                if done.error.is_none() {
                    // The one that was found here is gone, whoever has seen to that.
                    done.letters = done.letters.max(1);
                }
            }
            Ok(done)
        })
    }

    fn restart(&self, here: Vec<Partition>) -> BoxFuture<'_, Result<(), Cause>> {
        Box::pin(async move {
            let _ = self.tell.send(Command::Restart).await;
            if self.model.lease().is_none() {
                return Ok(());
            }
            // Who is asked for one starts all; and one that nobody owns goes on with whoever takes it.
            let mut stopped = BTreeMap::new();
            for row in self.model.partitions(&self.id).await?.into_iter().filter(|row| row.stopped.is_some()) {
                if let Some(owner) = row.owner.filter(|_| !here.contains(&row.partition)) {
                    stopped.entry(owner).or_insert(row.partition);
                }
            }
            let restarts = stopped.into_values().map(|partition| self.run_elsewhere(partition, Errand::Restart));
            join_all(restarts).await.into_iter().try_for_each(|done| match done?.error {
                Some(error) => Err(error.into()),
                None => Ok(()),
            })
        })
    }
}

impl<M: ReadModel> Errands<M> {
    /// Does what others wish of these partitions, one thing after the other, until nothing is wished.
    pub async fn fulfil(self, held: BTreeSet<Partition>) {
        let mut seen_to = HashSet::new();
        while !self.tell.is_closed() {
            // Looked up anew each time: what was taken back meanwhile is not done.
            let wishes = self.model.wishes(&self.id).await;
            let wishes = wishes.unwrap_or_else(|error| {
                tracing::warn!(projection = %self.id, %error, "what is wished could not be looked up");
                Vec::new()
            });
            let mut wishes = wishes.into_iter().filter(|wish| held.contains(&wish.partition));
            let Some(wish) = wishes.find(|wish| seen_to.insert(wish.id)) else { return };
            let mut done = Done::default();
            // Where the partition has moved on, its next owner finds the wish.
            if self.run_here(&wish.errand, &mut done).await {
                self.answer(&wish, &done).await;
            }
        }
    }

    async fn answer(&self, wish: &Wish, done: &Done) {
        for attempts in 1.. {
            match self.model.answer(&self.id, wish.id, done).await {
                Ok(()) => return,
                Err(error) if error.is_retryable() && attempts < Retry::DEFAULT.attempts_max => {
                    sleep(Retry::DEFAULT.pause(attempts)).await;
                }
                Err(error) => {
                    tracing::warn!(projection = %self.id, partition = %wish.partition, %error,
                        "what came of a wish could not be said");
                    return;
                }
            }
        }
    }

    /// `false` where the partition is another's, or is so by now.
    async fn run_here(&self, errand: &Errand, done: &mut Done) -> bool {
        let (stream, after, to, end) = match errand {
            Errand::Restart => return self.tell.send(Command::Restart).await.is_ok(),
            Errand::Redrive { stream, to } => (stream, Position::START, *to, LetterEnd::Redriven),
            Errand::Discard { stream, position, reason } => {
                (stream, position.before(), *position, LetterEnd::Discarded(reason.clone()))
            }
        };
        loop {
            let first = self.model.letters(&self.id, Some(stream), after, 1).await;
            let ended = match first.map(|first| first.into_iter().next()) {
                Ok(Some(letter)) if letter.position <= to => {
                    let (answer, answered) = oneshot::channel();
                    let _ = self.tell.send(Command::End(Box::new(letter), end.clone(), answer)).await;
                    let Ok(ended) = answered.await else { return false };
                    ended
                }
                Ok(_) => return true,
                Err(error) => Err(error.into()),
            };
            match ended {
                Ok(()) => done.letters += 1,
                Err(cause) => {
                    done.error = Some(told(&*cause).to_string());
                    return true;
                }
            }
        }
    }

    /// Asks the owner. A lease's time may pass until one that has died is missed, and another has the partition.
    async fn run_elsewhere(&self, partition: Partition, errand: Errand) -> Result<Done, Cause> {
        let Some(lease) = self.model.lease() else {
            return Err(format!("partition {partition} of {} does not run here", self.id).into());
        };
        let wish = Wish { id: rand::random(), partition, errand };
        self.model.wish(&self.id, &wish).await?;
        let patience = 2 * lease + ANSWERS_WITHIN;
        let (until, mut pause) = (Instant::now() + patience, PAUSE_FIRST);
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
            let is_last = Instant::now() >= until;
            match self.model.outcome(&self.id, wish.id, is_last).await {
                Ok(Some(done)) => return Ok(done),
                Ok(None) if is_last => {
                    let silent = format!("the owner of partition {partition} of {} does not answer", self.id);
                    return Err(format!("{silent} for {patience:?}; it is asked no more").into());
                }
                Err(error) if is_last || !error.is_retryable() => return Err(error.into()),
                _ => {}
            }
        }
    }
}
