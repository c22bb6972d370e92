//! Projections that run: where they are, waiting for them, and what an operator tells them.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{
    StreamExt, TryStreamExt,
    future::join_all,
    stream::{self, FuturesUnordered},
};
use indelible_core::{AnyStore, Cause, Position, StreamId, Token};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{
    DeadLetter, Done, Errand, Partition, PartitionStatus, Progress, Project, Projection, ProjectionId, ReadModel,
    VersionStatus, WaitError, Waited, Want,
    errand::RunErrands,
    runner::Command,
    version::{Life, behind_since},
    wait::{Goal, Look, within},
};

/// How often is looked whether a version has taken over that was asked to.
const TAKE_OVER_EVERY: Duration = Duration::from_millis(50);
/// Of how many streams dead letters are redriven at a time, and how many letters are looked up in one go.
const STREAMS_AT_ONCE: usize = 16;
const LETTERS_AT_ONCE: usize = 1_000;
/// For how long is waited until a reset is seen.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// A projection that runs. Ends with the handle.
pub(crate) struct Handle {
    pub id: ProjectionId,
    pub partitions: u32,
    pub tell: mpsc::Sender<Command>,
    pub seen: watch::Receiver<Vec<PartitionStatus>>,
    pub draining: Arc<AtomicBool>,
    pub life: Arc<Life>,
    pub progress: watch::Receiver<Progress>,
    pub rate: watch::Receiver<f64>,
    pub watched: Box<dyn Look>,
    pub errands: Box<dyn RunErrands>,
    pub task: JoinHandle<()>,
    /// Looks after its version.
    pub overseer: JoinHandle<()>,
    /// Keeps the leases, and gives them back when the runner has ended.
    pub keeper: Option<JoinHandle<()>>,
}

impl Handle {
    /// Tells the runner something; one that has ended needs to be told nothing.
    pub async fn tell(&self, command: Command) {
        let _ = self.tell.send(command).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
        self.overseer.abort();
    }
}

/// Projections that run, until they are [drained](Self::drain), or this is dropped: then what is under way is undone.
pub struct Running {
    store: AnyStore,
    handles: Vec<Handle>,
}

impl Running {
    pub(crate) fn new(store: AnyStore, handles: Vec<Handle>) -> Self {
        Self { store, handles }
    }

    /// Where each projection is.
    pub fn status(&self) -> Vec<(ProjectionId, Vec<PartitionStatus>)> {
        self.handles.iter().map(|handle| (handle.id.clone(), handle.seen.borrow().clone())).collect()
    }

    /// How many events each projection handles in this process in a second: the mean of the last 25 looks, of which there
    /// is one a second, and five while a version is built.
    pub fn rates(&self) -> Vec<(ProjectionId, f64)> {
        self.handles.iter().map(|handle| (handle.id.clone(), *handle.rate.borrow())).collect()
    }

    /// Whether all its projections run. One that has stopped does, and one that is paused; one whose task is gone does not,
    /// and nothing but another start helps. That takes a bug here, so it is for a process that wants to be told dead then.
    pub fn is_alive(&self) -> bool {
        let ends = |handle: &Handle| {
            let keeper = handle.keeper.as_ref().is_some_and(JoinHandle::is_finished);
            handle.task.is_finished() || handle.overseer.is_finished() || keeper
        };
        !self.handles.iter().any(ends)
    }

    /// Waits until every projection has seen an append (P6): all partitions of the version that queries see have looked
    /// that far, whoever owns them, and the stream of its event is not parked. The first answer but [`Waited::Reached`]
    /// is the answer. Partitions that other workers own may say only once a second how far they have looked, where none
    /// of the events was wanted.
    ///
    /// # Errors
    /// [`Diverged`](indelible_core::StoreError::Diverged) for a token of another log; those of the store and the read
    /// model.
    pub async fn wait_for(&self, token: &Token, time: Duration) -> Result<Waited, WaitError> {
        self.wait(token, time, None, |_| true).await
    }

    /// As [`wait_for`](Self::wait_for), of one projection.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for), and [`NotHere`](WaitError::NotHere).
    pub async fn wait_for_projection<P: Projection>(&self, token: &Token, time: Duration) -> Result<Waited, WaitError> {
        self.running::<P>()?;
        self.wait(token, time, None, |handle| handle.id == ProjectionId::of::<P>()).await
    }

    /// As [`wait_for`](Self::wait_for), of the one partition in each projection that has this stream.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_for_stream(&self, token: &Token, stream: &StreamId, time: Duration) -> Result<Waited, WaitError> {
        self.wait(token, time, Some(stream), |_| true).await
    }

    async fn wait(
        &self,
        token: &Token,
        time: Duration,
        stream: Option<&StreamId>,
        which: impl Fn(&Handle) -> bool,
    ) -> Result<Waited, WaitError> {
        let which = || self.handles.iter().filter(|handle| which(handle));
        within(time, async {
            let goal = Goal::of(&self.store, token, stream).await?;
            let waits = which().map(|handle| async {
                let (current, _) = handle.watched.current().await?;
                // What the current version does here, its own handle knows at once.
                let knows = which().find(|other| current != handle.id && other.id == current);
                knows.unwrap_or(handle).watched.reach(&goal).await
            });
            let mut waits: FuturesUnordered<_> = waits.collect();
            while let Some(waited) = waits.try_next().await? {
                if waited != Waited::Reached {
                    return Ok(waited);
                }
            }
            Ok(Waited::Reached)
        })
        .await
    }

    /// The versions of its projections, those too that nobody feeds any more: where each partition is, who owns it, how
    /// far it is behind. For a page that is looked at: it asks the read models and the log.
    ///
    /// # Errors
    /// Those of the read model and the log.
    pub async fn versions(&self) -> Result<Vec<VersionStatus>, WaitError> {
        let here: Vec<&ProjectionId> = self.handles.iter().map(|handle| &handle.id).collect();
        let mut versions: Vec<VersionStatus> = Vec::new();
        for handle in &self.handles {
            if versions.iter().any(|known| known.version.projection.name == handle.id.name) {
                continue;
            }
            let head = *self.store.published().borrow();
            for mut version in handle.watched.versions(&here, head).await? {
                if version.lag_events() > 0 {
                    version.behind_since = behind_since(&self.store, version.position()).await?;
                }
                versions.push(version);
            }
        }
        Ok(versions)
    }

    /// How far those have come that are built beside the current version, or rebuilt.
    pub fn progress(&self) -> Vec<Progress> {
        // A version that is older than the current one is fed, and does not take over by itself.
        let built = self.handles.iter().filter(|handle| handle.life.builds.load(Ordering::Acquire));
        built.map(|handle| handle.progress.borrow().clone()).filter(Progress::is_built).collect()
    }

    /// Lets a projection take so many events a second at the most while it is built or rebuilt, in each worker that runs
    /// it; `None`: as many as it can. Events that come live are never throttled. It is kept as a [pause](Self::pause) is.
    ///
    /// # Errors
    /// Those of the read model, and where the projection is not run here.
    pub async fn throttle<P: Projection>(&self, events_per_second_max: Option<u32>) -> Result<(), Cause> {
        self.want::<P>(Want::BuildingEventsPerSecondMax(events_per_second_max.unwrap_or(0))).await
    }

    /// Goes back to a version, or on to one: it catches up first, then it is what queries see. `false` when it has not
    /// come so far in time, and then it won't. A version that is newer than the current one does so by itself.
    ///
    /// A version that is left goes on being fed here until its code is gone, and is kept until it is
    /// [dropped](ReadModel::drop_version).
    ///
    /// # Errors
    /// [`NotHere`](WaitError::NotHere).
    pub async fn take_over<P: Projection>(&self, time: Duration) -> Result<bool, WaitError> {
        let handle = self.running::<P>()?;
        handle.life.wanted.store(true, Ordering::Release);
        let took = timeout(time, async {
            while !handle.watched.current().await.is_ok_and(|(current, _)| current == handle.id) {
                sleep(TAKE_OVER_EVERY).await;
            }
        });
        let took = took.await.is_ok();
        handle.life.wanted.store(false, Ordering::Release);
        Ok(took)
    }

    /// Empties a projection and builds it anew, in its place: queries answer
    /// [`Rebuilding`](crate::ReadModelError::Rebuilding) until it has caught up, and [`progress`](Self::progress) tells how
    /// far it is. To keep answering, give it a new version instead. One that is [paused](Self::pause) is emptied all the
    /// same, stays paused, and so answers nothing until it is resumed and has caught up then.
    ///
    /// # Errors
    /// Those of the read model and the log.
    pub async fn reset<P: Project<M>, M: ReadModel>(&self, model: &M) -> Result<(), WaitError> {
        model.reset(&ProjectionId::of::<P>(), self.store.head().await?).await?;
        if let Some(handle) = self.handle::<P>() {
            let (seen, retaken) = oneshot::channel();
            handle.tell(Command::Retake(seen)).await;
            let _ = retaken.await;
            handle.life.reset.notify_one();
            // What is rebuilt is told as that from now on, unless the read model is away.
            let mut progress = handle.progress.clone();
            let _ = timeout(SEEN_WITHIN, progress.wait_for(|progress| progress.is_built())).await;
        }
        Ok(())
    }

    /// Takes no more events into a projection: into this version of it, in all workers that run it. The read model keeps
    /// that, so it holds for workers that come later too, until somebody [resumes](Self::resume) it. Here it is so when this
    /// returns, elsewhere about a second later; what is under way is committed first, and until then its partition is not
    /// told as [`Paused`](crate::PartitionState::Paused). A read model that doesn't [keep](ReadModel::want) it, as
    /// [`AtLeastOnce`](crate::AtLeastOnce), pauses here alone, until the worker ends.
    ///
    /// # Errors
    /// Those of the read model, after which it may be paused or not, and where the projection is not run here.
    pub async fn pause<P: Projection>(&self) -> Result<(), Cause> {
        self.want::<P>(Want::Paused(true)).await
    }

    /// Goes on with a projection, in all workers that run it, whoever has paused it.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn resume<P: Projection>(&self) -> Result<(), Cause> {
        self.want::<P>(Want::Paused(false)).await
    }

    async fn want<P: Projection>(&self, want: Want) -> Result<(), Cause> {
        Ok(self.running::<P>()?.errands.want(want).await?)
    }

    /// Starts the partitions of a projection that have stopped, from their checkpoints, whoever owns them.
    ///
    /// # Errors
    /// Those of the read model, and where the projection is not run here, or the owner of a partition
    /// [does not answer](Self::redrive).
    pub async fn restart<P: Projection>(&self) -> Result<(), Cause> {
        let handle = self.running::<P>()?;
        let here = handle.seen.borrow().iter().map(|status| status.partition).collect::<Vec<_>>();
        handle.errands.restart(here).await
    }

    fn handle<P: Projection>(&self) -> Option<&Handle> {
        self.handles.iter().find(|handle| handle.id == ProjectionId::of::<P>())
    }

    /// As [`handle`](Self::handle), or an error that says so.
    fn running<P: Projection>(&self) -> Result<&Handle, WaitError> {
        self.handle::<P>().ok_or_else(|| WaitError::NotHere(ProjectionId::of::<P>()))
    }

    /// Up to `limit` dead letters of a projection by position, those after `after`, of one stream or of all.
    ///
    /// # Errors
    /// Those of the read model, and where the projection is not run here.
    pub async fn letters<P: Projection>(
        &self,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, Cause> {
        Ok(self.running::<P>()?.watched.letters(stream, after, limit).await?)
    }

    /// Handles the [dead letters](Self::letters) of a stream after all, in order, and says how many.
    ///
    /// It is done by the worker that owns the stream's partition. Where that is another, it is asked through the read
    /// model, finds the wish with its next heartbeat (within a third of the lease), and answers; should it die before that,
    /// so does who takes the partition over. After twice the lease's time and 5 s it is asked no more, and the answer is an
    /// error: what it had begun by then may still come about. Dropping the call takes nothing back, as when this process ends or
    /// loses the read model: a worker that finds the wish within an hour fulfils it.
    ///
    /// # Errors
    /// Why the first that is left could not be handled; those before it are done. Also where the projection is not run
    /// here, and where the owner does not answer.
    pub async fn redrive<P: Projection>(&self, stream: &StreamId) -> Result<u64, Cause> {
        let done = redrive_to(self.running::<P>()?, stream, Position::MAX).await?;
        done.error.map_or(Ok(done.letters), |error| Err(error.into()))
    }

    /// As [`redrive`](Self::redrive), of all streams, some at a time: how many were handled, and which streams have some
    /// left, with the reason. One of those is in no other's way, but where the owner of its partition does not answer: that
    /// one is not asked for others.
    ///
    /// # Errors
    /// Those of the read model, and where the projection is not run here.
    pub async fn redrive_all<P: Projection>(&self) -> Result<(u64, Vec<(StreamId, Cause)>), Cause> {
        let handle = self.running::<P>()?;
        let (mut streams, mut known, mut after) = (Vec::new(), HashSet::new(), Position::START);
        loop {
            let letters = handle.watched.letters(None, after, LETTERS_AT_ONCE).await?;
            let Some(last) = letters.last() else { break };
            after = last.position;
            streams
                .extend(letters.into_iter().map(|letter| letter.stream).filter(|stream| known.insert(stream.clone())));
        }
        let silent = Mutex::new(HashMap::<Partition, String>::new());
        let silent = || silent.lock().unwrap_or_else(PoisonError::into_inner);
        let redrive = async |stream: StreamId| {
            let partition = Partition::of(&stream, handle.partitions);
            let known = silent().get(&partition).cloned();
            let done = match known {
                Some(error) => Done { letters: 0, error: Some(error) },
                None => redrive_to(handle, &stream, Position::MAX).await.unwrap_or_else(|cause| {
                    silent().insert(partition, cause.to_string());
                    Done { letters: 0, error: Some(cause.to_string()) }
                }),
            };
            (stream, done)
        };
        let (mut done, mut left): (u64, Vec<(StreamId, Cause)>) = (0, Vec::new());
        let mut redrives = stream::iter(streams).map(redrive).buffered(STREAMS_AT_ONCE);
        while let Some((stream, Done { letters, error })) = redrives.next().await {
            done += letters;
            left.extend(error.map(|error| (stream, error.into())));
        }
        Ok((done, left))
    }

    /// Handles one dead letter after all: the first of its stream. As [`redrive`](Self::redrive), whoever owns its
    /// partition.
    ///
    /// # Errors
    /// Why it could not be handled, that another comes before it, or that it is there no more.
    pub async fn redrive_one<P: Projection>(&self, letter: &DeadLetter) -> Result<(), Cause> {
        let handle = self.running::<P>()?;
        let first = handle.watched.letters(Some(&letter.stream), Position::START, 1).await?;
        if first.iter().any(|first| first.position < letter.position) {
            return Err(format!("an earlier event of {} is parked, and comes first", letter.stream).into());
        }
        one(redrive_to(handle, &letter.stream, letter.position).await?)
    }

    /// Gives a dead letter up. Those behind it stay until they are redriven. As [`redrive`](Self::redrive), whoever owns
    /// its partition.
    ///
    /// # Errors
    /// That it is there no more, those of the read model, and those of asking its owner.
    pub async fn discard<P: Projection>(&self, letter: &DeadLetter, reason: impl Into<String>) -> Result<(), Cause> {
        let DeadLetter { partition, stream, position, .. } = letter.clone();
        let errand = Errand::Discard { stream, position, reason: reason.into() };
        one(self.running::<P>()?.errands.run(partition, errand).await?)
    }

    /// Commits what is under way, gives the partitions back, and ends. What takes longer than `deadline` is undone, and
    /// `false`.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        let drained = self.handles.iter_mut().map(|handle| async {
            timeout_at(deadline, async {
                handle.draining.store(true, Ordering::Release);
                handle.tell(Command::Drain).await;
                let drained = (&mut handle.task).await.is_ok();
                let _ = (&mut handle.overseer).await; // it has the store and the read model, and ends with the runner
                match &mut handle.keeper {
                    Some(keeper) => keeper.await.is_ok() && drained,
                    None => drained,
                }
            })
            .await
            .unwrap_or(false)
        });
        join_all(drained).await.into_iter().all(|drained| drained)
    }
}

async fn redrive_to(handle: &Handle, stream: &StreamId, to: Position) -> Result<Done, Cause> {
    let errand = Errand::Redrive { stream: stream.clone(), to };
    handle.errands.run(Partition::of(stream, handle.partitions), errand).await
}

/// Of one letter.
fn one(Done { letters, error }: Done) -> Result<(), Cause> {
    match error {
        Some(error) => Err(error.into()),
        None if letters == 0 => Err("the dead letter is there no more".into()),
        None => Ok(()),
    }
}
