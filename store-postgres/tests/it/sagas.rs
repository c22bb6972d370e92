//! Sagas that workers share, in processes which are killed, or stopped beyond their leases and back: each comes to what it
//! would have come to, and no effect is lost, added or changed.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use indelible_core::{CommandContext, conformance::fault::Line, store::memory::MemoryStore};
use indelible_postgres::{PostgresModel, PostgresStore};
use indelible_projections::{ReadTables, Waited, Worker, WorkerId, memory::MemoryModel};
use indelible_sagas::{
    Act, Call, Failure, Outcome, Past, Perform, Plan, Saga, SagaWorker, Sagas, Step, Tell,
    overview::{COUNTS, Overview, STANDINGS},
    testing::{
        killed::{Errand, KeptOutside, judge_errands, start_errands},
        random::{SMALL, crash_random_sagas_on},
    },
};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    child,
    cluster::{fresh_schema, shared_url},
    read_model::fixture::fresh_model,
    writing::client,
};

const LEASE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);

/// The child: runs sagas until it is killed. Its job names the schemas of the store and the read model, the directory of
/// the world outside, and itself.
pub(crate) async fn run(url: &str, job: &str) {
    let [store, model, outside, name] = job.split(' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let store = PostgresStore::options().schema(store).connections(4).open(url).await.unwrap();
    let model = PostgresModel::options().schema(model).lease(LEASE).open(url).await.unwrap();
    let worker = SagaWorker::new(&store).with_id(WorkerId(name.into()));
    let _running = worker.add(&model, KeptOutside::new(outside)).start().await.unwrap();
    std::future::pending::<()>().await;
}

/// A worker in a process of its own, which dies with this.
struct Process(Child);

impl Process {
    fn start(url: &str, job: &str, name: &str) -> Self {
        let mut command = child::command(&format!("sagas {job} {name}"), url);
        Self(command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_and_stopped_beyond_their_leases_change_nothing() {
    let url = shared_url();
    let rounds = child::number("INDELIBLE_SAGA_ROUNDS").unwrap_or(5);
    let (store_schema, model, outside) = (fresh_schema(), fresh_model(), tempfile::tempdir().unwrap());
    let model = format!("m{}", &model[model.len().saturating_sub(28)..]);
    let job = format!("{store_schema} {model} {}", outside.path().display());
    let store = PostgresStore::options().schema(&store_schema).connections(4).open(&url).await.unwrap();
    let (mut started, mut names) = (0, 0..);
    let mut name = || format!("worker{}", names.next().unwrap_or_default());
    let mut workers = [Process::start(&url, &job, &name()), Process::start(&url, &job, &name())];
    for round in 0..rounds {
        start_errands(&store, started..started + 60).await;
        started += 60;
        let victim = round as usize % 2;
        let a_moment = Duration::from_millis(rand::rng().random_range(50..600));
        sleep(a_moment).await;
        if round % 3 == 2 {
            workers[victim] = Process::start(&url, &job, &name());
        } else {
            workers[victim].signal("-STOP");
            sleep(2 * LEASE + a_moment).await;
            workers[victim].signal("-CONT");
        }
    }
    let judged = judge_errands(&store, outside.path(), 0..started, SOON).await;
    let fault = "one of two workers stopped beyond its lease, or killed";
    Line::clean(fault, rounds, rounds, judged.sagas, &judged.to_string()).print();
    drop(workers);
}

/// Sagas whose processes die at every point, and in pairs, on one store and one read model.
///
/// `INDELIBLE_STORE_SAGAS` says how many random sagas (1), `INDELIBLE_STORE_SAGA_PAIRS` at how many pairs of points each (5);
/// `INDELIBLE_SMALL_SAGA_PAIRS` at how many pairs small ones, which may be all; otherwise it is one of them, and four.
#[tokio::test]
async fn sagas_come_to_the_same_wherever_they_crash() {
    let url = shared_url();
    let store = PostgresStore::options().schema(fresh_schema()).connections(4).open(&url).await.unwrap();
    let model = PostgresModel::options().schema(fresh_model()).open(&url).await.unwrap();
    let number = |variable, default| child::number(variable).unwrap_or(default);
    let (first, count) = (number("INDELIBLE_SEED", 3), number("INDELIBLE_STORE_SAGAS", 1));
    let pairs = number("INDELIBLE_STORE_SAGA_PAIRS", 5) as usize;
    let random = crash_random_sagas_on(&store, &model, "random", first..first + count, pairs).await;
    let asked = child::number("INDELIBLE_SMALL_SAGA_PAIRS");
    let (pairs, few) = asked.map_or((4, 1), |pairs| (pairs as usize, SMALL.len()));
    let small = crash_random_sagas_on(&store, &model, "small", SMALL.into_iter().take(few), pairs).await;
    let (crashes, runs) = ((random.crashes + small.crashes) as u64, (random.runs + small.runs) as u64);
    let controls = format!("of {count} random sagas {random}; of {few} small ones {small}");
    Line::clean("process dies at a point, or at two, PostgreSQL", crashes, crashes, runs, &controls)
        .seed(first)
        .print();
}

/// Two steps, the second a wait of half an hour.
#[derive(Clone, Serialize, Deserialize)]
struct Slow;
impl Saga for Slow {
    const NAME: &'static str = "slow";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::new("work", ())).step(Step::sleep("rest", Duration::from_secs(1800)))
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Quick;
impl Saga for Quick {
    const NAME: &'static str = "quick";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::new("work", ())).step(Step::sleep("rest", Duration::from_millis(20)))
    }
}

struct Works;
impl<S: Saga> Perform<S> for Works {
    async fn perform(&self, _: S::Effect, _: &Call) -> Result<Value, Failure> {
        Ok(Value::Null)
    }
}

/// Types of sagas share a read model, and the database's clock: that of a host which is an hour ahead brings nothing
/// forward.
#[tokio::test]
async fn types_of_sagas_share_a_read_model_and_its_clock() {
    let (store, schema, clock) = (MemoryStore::new(), fresh_model(), MemoryStore::new());
    clock.skip(Duration::from_secs(3600));
    let model = PostgresModel::options().schema(schema).open(&shared_url()).await.unwrap();
    let worker = SagaWorker::new(&store).with_clock(clock);
    let running = worker.add::<Slow, _>(&model, Works).add::<Quick, _>(&model, Works).start().await.unwrap();
    let (slow, quick) = (Sagas::<Slow>::new(&store), Sagas::<Quick>::new(&store));
    slow.start("1", Slow).await.unwrap();
    quick.start("1", Quick).await.unwrap();
    assert_eq!(quick.ended("1", SOON).await.unwrap(), Some(Outcome::Completed));
    assert_eq!(slow.ended("1", Duration::from_secs(1)).await.unwrap(), None);
    assert!(slow.load("1").await.unwrap().past().is_done("work"));
    assert!(running.drain(SOON).await);
}

/// A server's clock that was set back by an hour is not waited for: the log is an hour ahead of it, and goes on from there.
#[tokio::test]
async fn a_server_s_clock_that_was_set_back_is_not_waited_for() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Nap;
    impl Saga for Nap {
        const NAME: &'static str = "nap";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().step(Step::sleep("rest", Duration::from_millis(50))).step(Step::new("wake", ()))
        }
    }
    let (url, schema) = (shared_url(), fresh_schema());
    let open = async || PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    Sagas::<Nap>::new(&open().await).start("before", Nap).await.unwrap();
    let an_hour_later = format!(
        "BEGIN; SET LOCAL search_path = {schema}; ALTER TABLE log DISABLE TRIGGER ALL;
         UPDATE log SET recorded_at = recorded_at + interval '1 hour'; ALTER TABLE log ENABLE TRIGGER ALL; COMMIT"
    );
    client(&url).await.batch_execute(&an_hour_later).await.unwrap();
    let (store, model) = (open().await, PostgresModel::options().schema(fresh_model()).open(&url).await.unwrap());
    let running = SagaWorker::new(&store).add::<Nap, _>(&model, Works).start().await.unwrap();
    let naps = Sagas::<Nap>::new(&store);
    // Nobody has written since.
    sleep(Duration::from_millis(200)).await;
    naps.start("after", Nap).await.unwrap();
    for id in ["before", "after"] {
        assert_eq!(naps.ended(id, SOON).await.unwrap(), Some(Outcome::Completed));
    }
    let journal = naps.journal("after").await.unwrap();
    let rested = journal[2].0.recorded_at.since(journal[0].0.recorded_at);
    assert!(rested >= Duration::from_millis(50), "its time is the log's: {rested:?}");
    let gone_on = journal[0].0.recorded_at.since(naps.journal("before").await.unwrap()[0].0.recorded_at);
    assert!(gone_on >= Duration::from_millis(180), "the log's goes on while nobody writes: {gone_on:?}");
    assert!(running.drain(SOON).await);
}

/// The overview says of PostgreSQL what it says of typed tables.
#[tokio::test]
async fn an_overview_counts_what_runs_and_what_has_ended() {
    let (store, memory, schema) = (MemoryStore::new(), MemoryModel::new(), fresh_model());
    let model = PostgresModel::options().schema(schema).open(&shared_url()).await.unwrap();
    let errands = Sagas::<Errand>::new(&store);
    let dir = tempfile::tempdir().unwrap();
    let running = SagaWorker::new(&store).add(&memory, KeptOutside::new(dir.path())).start().await.unwrap();
    start_errands(&store, 0..30).await;
    judge_errands(&store, dir.path(), 0..30, SOON).await;
    assert!(running.drain(SOON).await);
    // These stand at their first step, since nobody performs it; but one at two that are side by side, of which one has
    // failed, and one at what it was stuck at before.
    start_errands(&store, 30..34).await;
    let tell = async |id: &str, step: &str, act, result| {
        let tell = Tell::Outcome { step: step.into(), act, attempt: 1, result };
        errands.tell(CommandContext::new(), id, tell).await.unwrap();
    };
    for id in ["31", "33"] {
        tell(id, "a", Act::Do, Ok(json!("a"))).await;
    }
    for step in ["b", "c"] {
        tell("33", step, Act::Do, Err(Failure::refused("no"))).await;
    }
    tell("33", "a", Act::Undo, Err(Failure::refused("no"))).await;
    tell("31", "b", Act::Do, Err(Failure::refused("no"))).await;
    errands.retry("33").await.unwrap();
    let head = errands.give_up("32", "it was enough").await.unwrap().token();
    let on = Worker::new(&store).add(&model, Overview::<Errand>::new()).start().await.unwrap();
    let beside = Worker::new(&store).add(&memory, Overview::<Errand>::new()).start().await.unwrap();
    for running in [on, beside] {
        assert_eq!(running.wait_for(&head, SOON).await.unwrap(), Waited::Reached);
        assert!(running.drain(SOON).await);
    }
    let counts = model.counts::<Errand>().await.unwrap();
    let tables = memory.query::<Overview<Errand>>().unwrap();
    assert_eq!(counts, tables.scan(&COUNTS, .., 100).unwrap());
    let at = |doing: &str, at: &str| {
        counts.iter().find(|((is, step), _)| is == doing && step == at).map_or(0, |(_, count)| count.sagas)
    };
    assert_eq!((at("done", "e"), at("undone", "a")), (27, 3));
    let of = |doing| at(doing, "");
    assert_eq!((of("completed"), of("compensated"), of("given up"), of("running")), (27, 3, 1, 2));
    assert_eq!((at("running", "a"), at("failed", "b"), at("running", "c"), at("compensating", "a")), (1, 1, 1, 1));
    assert_eq!((of("compensating"), of("stuck"), at("stuck", "a")), (1, 0, 0));
    let mut standings = model.standings::<Errand>(100).await.unwrap();
    assert!(standings.is_sorted_by_key(|(_, place)| place.since));
    standings.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(standings, tables.scan(&STANDINGS, .., 100).unwrap());
}
