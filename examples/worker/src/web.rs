//! What probes and Prometheus are answered; what operators are, [`operator`] says.

use std::{
    mem,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use indelible::{AnyStore, Running, projections::PartitionState};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::operator::{self, Refused};

/// How long the database may take to answer a probe.
const DATABASE_TIME_MAX: Duration = Duration::from_secs(2);

/// The life of a worker.
pub enum Stage {
    Starting,
    Working { store: AnyStore, running: Arc<Running> },
    Draining,
}

#[derive(Clone)]
pub struct Web {
    stage: Arc<RwLock<Stage>>,
    /// So that nobody waits for what an operator asks.
    drains: watch::Sender<bool>,
    metrics: PrometheusHandle,
}

impl Web {
    pub fn new(metrics: PrometheusHandle) -> Self {
        Self { stage: Arc::new(RwLock::new(Stage::Starting)), drains: watch::Sender::new(false), metrics }
    }

    /// Goes on to a stage, and says what was before.
    pub fn enter(&self, stage: Stage) -> Stage {
        self.drains.send_replace(matches!(stage, Stage::Draining));
        mem::replace(&mut *self.stage.write().unwrap_or_else(PoisonError::into_inner), stage)
    }

    fn at<T>(&self, look: impl FnOnce(&Stage) -> T) -> T {
        look(&self.stage.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has something done by the worker, unless it drains meanwhile: what other workers were asked for, they do then.
    pub async fn working<T>(&self, work: impl AsyncFnOnce(&Running) -> Result<T, Refused>) -> Result<T, Refused> {
        let running = self.at(|stage| match stage {
            Stage::Starting => Err(Refused::Away("starting")),
            Stage::Draining => Err(Refused::Away("draining")),
            Stage::Working { running, .. } => Ok(running.clone()),
        })?;
        let mut drains = self.drains.subscribe();
        tokio::select! {
            done = work(&running) => done,
            _ = drains.wait_for(|drains| *drains) => Err(Refused::Away("draining")),
        }
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route("/live", get(live))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .merge(operator::routes())
            .with_state(self.clone())
    }

    /// Why it does not do its work.
    async fn trouble(&self) -> Result<(), String> {
        let store = self.at(|stage| match stage {
            Stage::Starting => Err("starting".into()),
            Stage::Draining => Err("draining".into()),
            Stage::Working { store, running } => stopped(running).map_or(Ok(store.clone()), Err),
        })?;
        match timeout(DATABASE_TIME_MAX, store.head()).await {
            Ok(head) => head.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err("the database doesn't answer".into()),
        }
    }
}

/// Ends what was running, when nobody has it in hand any more.
pub async fn drain(mut running: Arc<Running>, deadline: Duration) -> bool {
    loop {
        match Arc::try_unwrap(running) {
            Ok(running) => return running.drain(deadline).await,
            Err(shared) => running = shared,
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// A partition that has stopped, and why.
fn stopped(running: &Running) -> Option<String> {
    running.status().into_iter().find_map(|(projection, partitions)| {
        partitions.into_iter().find_map(|partition| match partition.state {
            PartitionState::Stopped { error } => {
                Some(format!("partition {} of {projection} has stopped: {error}", partition.partition))
            }
            _ => None,
        })
    })
}

/// A worker that another start would help is not alive. One whose database is away, or that has stopped at an event, is.
async fn live(State(web): State<Web>) -> impl IntoResponse {
    match web.at(|stage| matches!(stage, Stage::Working { running, .. } if !running.is_alive())) {
        true => (StatusCode::SERVICE_UNAVAILABLE, "a projection runs no more\n"),
        false => (StatusCode::OK, "live\n"),
    }
}

async fn ready(State(web): State<Web>) -> impl IntoResponse {
    match web.trouble().await {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
    }
}

async fn metrics(State(web): State<Web>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], web.metrics.render())
}

#[cfg(test)]
mod tests {
    use std::future::IntoFuture;

    use bank::account::{Account, AccountEvent, Open};
    use indelible::{
        AsStore, Cause, Envelope, MemoryModel, MemoryStore, Project, Projection, Repository, Retry, Worker,
        projections::memory::MemoryTx,
    };
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::net::TcpListener;

    use super::*;
    use crate::demo::{get, until};

    #[derive(Projection)]
    #[projection(name = "broken", of = Account, retry = Retry::NEVER)]
    struct Broken;
    impl Project<MemoryModel> for Broken {
        async fn apply(&self, _: &Envelope<AccountEvent>, _: &mut MemoryTx) -> Result<(), Cause> {
            Err("nothing helps".into())
        }
    }

    #[tokio::test]
    async fn probes_tell_what_a_worker_is_at() {
        let web = Web::new(PrometheusBuilder::new().build_recorder().handle());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(axum::serve(listener, web.router()).into_future());
        let told = async |path| get(&address, path).await.unwrap();
        let live = (200, "live\n".to_owned());

        assert_eq!((told("/live").await, told("/ready").await), (live.clone(), (503, "starting\n".into())));
        let store = MemoryStore::new();
        let running = Worker::new(&store).add(&MemoryModel::new(), Broken).start().await.unwrap();
        web.enter(Stage::Working { store: store.as_store(), running: Arc::new(running) });
        assert_eq!((told("/live").await, told("/ready").await), (live.clone(), (200, "ready\n".into())));

        Repository::<Account>::new(&store).execute("ada", Open { owner: "Ada".into() }).await.unwrap();
        until("it is not ready", async || Ok((told("/ready").await.0 != 200).then_some(()))).await.unwrap();
        let stopped = (503, "partition 0 of broken@1 has stopped: nothing helps\n".into());
        assert_eq!((told("/live").await, told("/ready").await), (live.clone(), stopped));

        web.enter(Stage::Draining);
        assert_eq!((told("/live").await, told("/ready").await), (live, (503, "draining\n".into())));
    }
}
