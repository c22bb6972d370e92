//! Runs any number of projections over a store, in tasks of this process.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use indelible_core::{AnyStore, AsStore, Cause, InvalidInput, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::{
    OnFailure, Partition, Project, ProjectionId, ReadModel, ReadModelError, Registration, RunnerOptions, Running,
    WorkerId, WorkerRow,
    errand::Errands,
    lease::Keeper,
    projection,
    runner::{Command, Runner, Shared},
    running::Handle,
    version::{Life, Overseer, Progress},
    wait::Watched,
};

/// Projections that are to be run.
///
/// Where their read model can be shared, workers in any number of processes share the partitions of a projection: who
/// comes takes its part, who drains hands its own over, and who dies is missed when its leases have run out. A worker
/// only takes partitions of the versions that it was given, so that old code and new may run at once.
///
/// ```
/// # use indelible_core::store::memory::MemoryStore;
/// # use indelible_projections::{Worker, memory::MemoryModel};
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = MemoryStore::new();
/// let running = Worker::new(&store).start().await?; // after `.add(&model, Balances)` and so on
/// running.drain(Duration::from_secs(10)).await;
/// # Ok(()) }
/// ```
pub struct Worker {
    store: AnyStore,
    id: WorkerId,
    host: String,
    options: RunnerOptions,
    start: Vec<Start>,
}

type Start = Box<dyn FnOnce(Context) -> BoxFuture<'static, Result<Handle, StartError>> + Send>;

#[derive(Clone)]
struct Context {
    store: AnyStore,
    worker: WorkerId,
    host: String,
    options: RunnerOptions,
}

impl Worker {
    /// A worker without projections.
    pub fn new(store: &impl AsStore) -> Self {
        Self {
            store: store.as_store(),
            id: WorkerId(format!("{}-{:08x}", std::process::id(), rand::random::<u32>())),
            host: host(),
            options: RunnerOptions::default(),
            start: Vec::new(),
        }
    }

    /// With a name of the caller's, unlike any other worker's.
    #[must_use]
    pub fn with_id(mut self, id: WorkerId) -> Self {
        self.id = id;
        self
    }

    /// With another name of the machine than its own, for the registry.
    #[must_use]
    pub fn on_host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// With options for all its projections.
    #[must_use]
    pub fn with_options(mut self, options: RunnerOptions) -> Self {
        self.options = options;
        self
    }

    /// That keeps a projection in a read model.
    #[must_use]
    pub fn add<P: Project<M>, M: ReadModel>(mut self, model: &M, projection: P) -> Self {
        let model = model.clone();
        self.start.push(Box::new(move |context| Box::pin(start(projection, model, context))));
        self
    }

    /// Starts them: each is made known to its read model, takes its partitions, and goes on from its checkpoints.
    ///
    /// # Errors
    /// [`StartError`], naming the projection; those that were started are stopped again.
    pub async fn start(self) -> Result<Running, StartError> {
        let Self { store, id, host, options, start } = self;
        let context = Context { store: store.clone(), worker: id, host, options };
        let mut handles: Vec<Handle> = Vec::new();
        for start in start {
            let handle = start(context.clone()).await?;
            if let Some(twin) = handles.iter().find(|known| known.id == handle.id) {
                let twice = InvalidInput::new("worker", format!("{} was added twice", twin.id));
                return Err(StartError { projection: twin.id.clone(), cause: twice.into() });
            }
            handles.push(handle);
        }
        Ok(Running::new(store, handles))
    }
}

async fn start<P: Project<M>, M: ReadModel>(projection: P, model: M, context: Context) -> Result<Handle, StartError> {
    let id = ProjectionId::of::<P>();
    let failed = |cause: Cause| StartError { projection: ProjectionId::of::<P>(), cause };
    let query = projection::check::<P>().map_err(|error| failed(error.into()))?;
    if !M::PARKS && P::ON_FAILURE != OnFailure::Stop {
        return Err(failed(ReadModelError::unsupported("dead letters").into()));
    }
    let partitions = P::ORDER.partitions();
    let head = context.store.head().await.map_err(|error| failed(error.into()))?;
    let registration = Registration { projection: id.clone(), partitions, head, setup: P::SETUP };
    let version = model.register(&registration).await.map_err(|error| failed(error.into()))?;

    // Room for each partition to be given and taken, beside what an operator says.
    let (tell, commands) = mpsc::channel(64 + 2 * partitions as usize);
    let (statuses, seen) = watch::channel(Vec::new());
    let life = Arc::new(Life::of(&version, &context.options));
    let shared = Shared {
        projection,
        model: model.clone(),
        id: id.clone(),
        partitions,
        worker: context.worker.clone(),
        options: context.options,
        life: life.clone(),
    };
    let task = tokio::spawn(Runner::new(shared, context.store.clone(), query, statuses).run(commands));
    let (progress, progressed) = watch::channel(Progress::of(&version));
    let (rate, rated) = watch::channel(0.0);
    let overseer = Overseer {
        model: model.clone(),
        store: context.store,
        id: id.clone(),
        life: life.clone(),
        tell: tell.clone(),
        progress,
        rate,
        owned: seen.clone(),
    };
    let errands = Errands { model: model.clone(), id: id.clone(), life: life.clone(), tell: tell.clone() };
    let watched = Watched { model: model.clone(), id: id.clone(), partitions, owned: Some(seen.clone()) };
    let mut handle = Handle {
        id,
        partitions,
        tell,
        seen,
        draining: Arc::default(),
        life,
        progress: progressed,
        rate: rated,
        watched: Box::new(watched),
        errands: Box::new(errands.clone()),
        task,
        overseer: tokio::spawn(overseer.run()),
        keeper: None,
    };
    match model.lease() {
        None => take_all(&model, &handle, &context.worker).await.map_err(|error| failed(error.into()))?,
        Some(lease) => {
            let worker = WorkerRow {
                id: context.worker,
                host: context.host,
                since: Timestamp::now(),
                runs: handle.id.clone(),
                troubled: 0,
            };
            let mut keeper = Keeper {
                model,
                errands,
                at_errands: None,
                worker,
                partitions,
                lease,
                tell: handle.tell.clone(),
                seen: handle.seen.clone(),
                draining: handle.draining.clone(),
                held: BTreeMap::new(),
                first: 0,
            };
            let next = match keeper.beat().await {
                // As of one who is at work in a partition that this one is to have.
                Err(error) if error.is_retryable() => keeper.soon(&error),
                next => next.map_err(|error| failed(error.into()))?,
            };
            handle.keeper = Some(tokio::spawn(keeper.run(next)));
        }
    }
    Ok(handle)
}

/// Takes every partition, where the read model is this process's alone.
async fn take_all<M: ReadModel>(model: &M, handle: &Handle, worker: &WorkerId) -> Result<(), ReadModelError> {
    for partition in (0..handle.partitions).map(Partition) {
        if let Some(claim) = model.take(&handle.id, partition, worker).await? {
            handle.tell(Command::Own(claim)).await;
        }
    }
    Ok(())
}

/// The name of this machine.
fn host() -> String {
    let told = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"));
    told.map_or_else(|_| "unknown".into(), |host| host.trim().into())
}

/// Why a projection could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{projection} could not be started")]
pub struct StartError {
    /// Which.
    pub projection: ProjectionId,
    /// Why.
    #[source]
    pub cause: Cause,
}
