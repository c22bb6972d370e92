//! Workers in processes of their own, and what they have come to.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use indelible_core::{EventStore, conformance::fault::Verdict};
use indelible_postgres::{PostgresModel, PostgresStore};
use indelible_projections::{Epoch, Partition, PartitionRow, PartitionState, ReadModel, Waited, Worker, WorkerId};
use tokio::{task::block_in_place, time::sleep};

use super::{
    fixture::*,
    letters::{How, Picky},
};
use crate::child;

pub(super) const LEASE: Duration = Duration::from_secs(1);

/// What a child does: runs the tally until it is killed. Its job names the schemas of the store and the read model, the
/// most events of a batch, what it does with poison, and itself.
pub(crate) async fn project(url: &str, job: &str) {
    let [store, model, batch, way, name] = job.split(' ').collect::<Vec<_>>()[..] else { panic!("{job}") };
    let url = &format!("{url}{}application_name=worker", if url.contains('?') { '&' } else { '?' });
    let store = PostgresStore::options().schema(store).connections(2).open(url).await.unwrap();
    let model = PostgresModel::options().schema(model).lease(LEASE).open(url).await.unwrap();
    let worker = Worker::new(&store).with_options(batches_of(batch.parse().unwrap())).with_id(WorkerId(name.into()));
    let worker = match way {
        "counts" => worker.add(&model, Tally),
        _ => worker.add(&model, Picky::new(How::Writes, way == "redrives")),
    };
    let running = worker.start().await.unwrap();
    println!("running {name}");
    if way == "redrives" {
        println!("{:?}", running.redrive_all::<Picky>().await);
    }
    loop {
        let lanes = &running.status()[0].1;
        if !lanes.is_empty() && lanes.iter().all(|lane| lane.state == PartitionState::Paused) {
            println!("paused {name}");
            std::future::pending::<()>().await;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What a worker does with poison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    /// It handles it as any other event.
    Counts,
    /// It cannot handle it, and parks it.
    Parks,
    /// It can by now, and begins with what was parked.
    Redrives,
}

/// A log and a read model of it, which processes project into.
pub(super) struct Site {
    pub(super) url: String,
    pub(super) store: PostgresStore,
    pub(super) model: PostgresModel,
    store_schema: String,
    pub(super) model_schema: String,
}

impl Site {
    pub(super) async fn new(url: &str) -> Self {
        Self::with(url, None).await
    }

    /// The read model is made with a seeded bug, if one is named.
    pub(super) async fn with(url: &str, bug: Option<&str>) -> Self {
        let (store_schema, model_schema) = (crate::cluster::fresh_schema(), fresh_model());
        if let Some(bug) = bug {
            let mut maker = child::command(&format!("model {model_schema}"), url);
            let made = block_in_place(|| maker.env("INDELIBLE_BUG", bug).output()).unwrap();
            assert!(made.status.success(), "{}", child::said(&made));
        }
        let store = PostgresStore::options().schema(&store_schema).connections(4).open(url).await.unwrap();
        let model = PostgresModel::options().schema(&model_schema).lease(LEASE).open(url).await.unwrap();
        Self { url: url.into(), store, model, store_schema, model_schema }
    }

    /// A worker that takes batches of so many events, and may not have begun yet.
    pub(super) fn start(&self, batch: usize, name: &str) -> Process {
        self.start_as(Way::Counts, batch, name)
    }

    pub(super) fn start_as(&self, way: Way, batch: usize, name: &str) -> Process {
        let way = format!("{way:?}").to_lowercase();
        let job = format!("project {} {} {batch} {way} {name}", self.store_schema, self.model_schema);
        let mut child = child::command(&job, &self.url).stderr(Stdio::inherit()).spawn().unwrap();
        let (lines, (tell, told)) = (BufReader::new(child.stdout.take().unwrap()).lines(), mpsc::channel());
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Process { child, told, name: name.into() }
    }

    /// Whoever ends all connections ends this one, too.
    pub(super) async fn rows(&self) -> Vec<PartitionRow> {
        let until = Instant::now() + SOON;
        loop {
            match self.model.partitions(&id("tally", 1)).await {
                Err(error) if error.is_retryable() && Instant::now() < until => sleep(Duration::from_millis(20)).await,
                rows => return rows.unwrap(),
            }
        }
    }

    /// How far all partitions are, added up.
    pub(super) async fn come_to(&self) -> u64 {
        self.rows().await.iter().map(|row| row.position.position.get()).sum()
    }

    /// What a worker has.
    pub(super) async fn held_by(&self, worker: &Process) -> Vec<(Partition, Epoch)> {
        let owned = |row: &PartitionRow| row.owner.as_ref().is_some_and(|owner| owner.0 == worker.name);
        self.rows().await.iter().filter(|row| owned(row)).map(|row| (row.partition, row.epoch)).collect()
    }

    /// Waits until the workers have so many partitions each.
    pub(super) async fn is_shared(&self, workers: &[Process], each: usize) {
        let until = Instant::now() + SOON;
        loop {
            let mut fair = true;
            for worker in workers {
                fair &= self.held_by(worker).await.len() == each;
            }
            if fair {
                return;
            }
            assert!(Instant::now() < until, "the workers do not share: {:?}", self.rows().await);
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all partitions are at the end of the log.
    pub(super) async fn catches_up(&self, time: Duration) {
        let (until, end) = (Instant::now() + time, self.store.head().await.unwrap().position);
        loop {
            let rows = self.rows().await;
            if rows.iter().all(|row| row.position.position >= end) {
                return;
            }
            assert!(Instant::now() < until, "the read model does not catch up with {end}: {rows:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Judges what it holds, byte by byte, by what a clean pass over the log gives.
    pub(super) async fn beside_a_clean_pass(&self, verdict: &mut Verdict) {
        let name = fresh_model();
        let clean = PostgresModel::options().schema(&name).open(&self.url).await.unwrap();
        let running = Worker::new(&self.store).add(&clean, Tally).start().await.unwrap();
        let head = self.store.head().await.unwrap();
        assert_eq!(running.wait_for(&head, patience(head.position.get())).await.unwrap(), Waited::Reached);
        running.drain(SOON).await;
        let (kept, clean) = (contents(&self.url, &self.model_schema, 1).await, contents(&self.url, &name, 1).await);
        if kept != clean {
            // One of perhaps millions.
            let differs = kept.iter().zip(&clean).find(|(kept, clean)| kept != clean);
            let (rows, all) = (kept.len(), clean.len());
            verdict.wrong("not what a clean pass gives", || format!("{rows} rows, and not {all}: {differs:?}"));
        }
    }

    pub(super) async fn is_as_after_a_clean_pass(&self) {
        let mut verdict = Verdict::default();
        self.beside_a_clean_pass(&mut verdict).await;
        assert!(verdict.is_clean(), "{verdict}");
    }
}

/// How long it may take to project so many events.
pub(super) fn patience(events: u64) -> Duration {
    10 * SOON + Duration::from_millis(events)
}

/// A worker in a process of its own, which dies with this.
pub(super) struct Process {
    child: Child,
    told: mpsc::Receiver<String>,
    name: String,
}

impl Process {
    /// Waits until it has its projection started.
    pub(super) fn is_running(&self) {
        self.tells("running");
    }

    /// Waits until all its partitions are paused, of which it has some.
    pub(super) fn is_paused(&self) {
        self.tells("paused");
    }

    /// Waits until it says so of itself.
    fn tells(&self, what: &str) {
        let what = format!("{what} {}", self.name);
        let told = || block_in_place(|| self.told.recv_timeout(10 * SOON));
        while !told().unwrap_or_else(|_| panic!("it is not told: {what}")).contains(&what) {}
    }

    pub(super) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success(), "{signal} to {}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
