//! Runs sagas: keeps their agendas, and has done what is due in the partitions that it owns.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use futures::future::join_all;
use indelible_core::{AnyStore, AsStore, InvalidInput};
use indelible_projections::{ProjectionId, Running, StartError, Worker, WorkerId};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    Agenda, AgendaModel, Clock, Perform, Saga, Sagas, SystemClock,
    desk::Desk,
    worker::errands::{Errands, Office},
};

mod errands;

/// How sagas are run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SagaOptions {
    /// The most calls at once, for each type of saga: 256. Timers whose time has come wait for none of them.
    pub calls_max: usize,
    /// How long an agenda is left alone at the most, and how often it is heard what time it is by the log: 500 ms. Who hears of entries looks at once.
    pub look_every: Duration,
}

impl Default for SagaOptions {
    fn default() -> Self {
        Self { calls_max: 256, look_every: Duration::from_millis(500) }
    }
}

impl SagaOptions {
    /// With at most so many calls at once.
    #[must_use]
    pub const fn with_calls_max(mut self, calls: usize) -> Self {
        self.calls_max = calls;
        self
    }
}

/// Sagas that are to be run: their agendas are kept in a read model, and what is due is brought about by their
/// [performers](Perform).
///
/// Where the read model can be shared, workers in any number of processes share the sagas, by the leases of the agenda's
/// partitions. What two of them do at once, since one was thought dead, counts once: in the journal by the saga's version,
/// outside by the [key](crate::Call::key).
///
/// ```
/// # use indelible_core::store::memory::MemoryStore;
/// # use indelible_projections::memory::MemoryModel;
/// # use indelible_sagas::{Call, Failure, Outcome, Past, Perform, Plan, Saga, SagaWorker, Sagas, Step};
/// # use serde::{Deserialize, Serialize};
/// # use serde_json::{Value, json};
/// # use std::time::Duration;
/// # #[derive(Clone, Serialize, Deserialize)]
/// # struct Hello;
/// # impl Saga for Hello {
/// #     const NAME: &'static str = "hello";
/// #     type Effect = String;
/// #     fn plan(&self, _: &Past) -> Plan<String> { Plan::new().step(Step::new("greet", "hello".into())) }
/// # }
/// # struct Greeter;
/// # impl Perform<Hello> for Greeter {
/// #     async fn perform(&self, effect: String, _: &Call) -> Result<Value, Failure> { Ok(json!(effect)) }
/// # }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (store, model) = (MemoryStore::new(), MemoryModel::new());
/// let running = SagaWorker::new(&store).add(&model, Greeter).start().await?;
/// let hellos = Sagas::<Hello>::new(&store);
/// hellos.start("world", Hello).await?;
/// assert_eq!(hellos.ended("world", Duration::from_secs(5)).await?, Some(Outcome::Completed));
/// running.drain(Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
pub struct SagaWorker {
    store: AnyStore,
    agendas: Worker,
    options: SagaOptions,
    clock: Arc<dyn Clock>,
    offices: Vec<(ProjectionId, OpenOffice)>,
}

/// How many entries that are due at once may wait to be begun, beside the agenda.
const FRESH_MAX: usize = 1_024;

type OpenOffice = Box<dyn FnOnce(Arc<Running>, SagaOptions, Arc<dyn Clock>) -> Errand + Send>;

/// What has the errands of one type of saga done.
struct Errand {
    draining: Arc<AtomicBool>,
    bell: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Errand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SagaWorker {
    /// A worker without sagas.
    pub fn new(store: &impl AsStore) -> Self {
        let store = store.as_store();
        let agendas = Worker::new(&store);
        Self { store, agendas, options: SagaOptions::default(), clock: Arc::new(SystemClock), offices: Vec::new() }
    }

    /// With a name of the caller's, unlike any other worker's.
    #[must_use]
    pub fn with_id(mut self, id: WorkerId) -> Self {
        self.agendas = self.agendas.with_id(id);
        self
    }

    /// With options for all its sagas.
    #[must_use]
    pub fn with_options(mut self, options: SagaOptions) -> Self {
        self.options = options;
        self
    }

    /// By another clock than the system's, where the read model has none of its own: in tests that skip time that of a
    /// [`MemoryStore`](indelible_core::store::memory::MemoryStore#method.skip).
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// That runs the sagas of a type, with their agenda in this read model. A performer of several types is added once for
    /// each: `add::<Trip, _>(&model, agency)`.
    #[must_use]
    pub fn add<S: Saga, M: AgendaModel>(mut self, model: &M, performer: impl Perform<S>) -> Self {
        let (bell, (tell, fresh)) = (Arc::new(Notify::new()), mpsc::channel(FRESH_MAX));
        self.agendas = self.agendas.add(model, Agenda::<S>::new(bell.clone(), tell));
        let (store, model, sagas) = (self.store.clone(), model.clone(), Sagas::new(&self.store));
        let open: OpenOffice = Box::new(move |agendas, options, clock| {
            let draining = Arc::new(AtomicBool::new(false));
            let desk = Desk { sagas, performer };
            let office = Office { desk, store, model, clock, options };
            let errands = Errands::new(office, agendas, bell.clone(), fresh, draining.clone());
            Errand { draining, bell, task: tokio::spawn(errands.run()) }
        });
        self.offices.push((ProjectionId::of::<Agenda<S>>(), open));
        self
    }

    /// Starts.
    ///
    /// # Errors
    /// [`StartError`], as of a projections' worker; and where no call at all is allowed at once.
    pub async fn start(self) -> Result<RunningSagas, StartError> {
        if let (0, Some((agenda, _))) = (self.options.calls_max, self.offices.first()) {
            let cause = InvalidInput::new("sagas", "calls_max is 0, and nothing would be done");
            return Err(StartError { projection: agenda.clone(), cause: cause.into() });
        }
        let agendas = Arc::new(self.agendas.start().await?);
        let errands = self.offices.into_iter().map(|(_, open)| open(agendas.clone(), self.options, self.clock.clone()));
        Ok(RunningSagas { errands: errands.collect(), agendas })
    }
}

/// Sagas that run, until they are [drained](Self::drain), or this is dropped: then what is under way is done again by
/// whoever comes next.
pub struct RunningSagas {
    errands: Vec<Errand>,
    agendas: Arc<Running>,
}

impl RunningSagas {
    /// The projections of the agendas, to see how far they are and to wait for them.
    pub fn agendas(&self) -> &Running {
        &self.agendas
    }

    /// Whether all of it runs: the agendas, as [`Running::is_alive`] says, and what has done what is due. Where it doesn't,
    /// nothing but another start helps.
    pub fn is_alive(&self) -> bool {
        self.agendas.is_alive() && self.errands.iter().all(|errand| !errand.task.is_finished())
    }

    /// Begins nothing more, awaits the calls that are under way, and gives the partitions back. `false` for what takes
    /// longer than `deadline`.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let drained = self.errands.iter_mut().map(|errand| async {
            errand.draining.store(true, Ordering::Release);
            errand.bell.notify_one();
            timeout_at(until, &mut errand.task).await.is_ok_and(|ended| ended.is_ok())
        });
        let drained = join_all(drained).await.into_iter().all(|drained| drained);
        drop(self.errands);
        match Arc::try_unwrap(self.agendas) {
            Ok(agendas) => agendas.drain(until.saturating_duration_since(Instant::now())).await && drained,
            Err(_) => false,
        }
    }
}
