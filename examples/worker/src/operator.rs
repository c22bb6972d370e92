//! What an operator can tell the workers. Each of these goes for all of them, so that any one may be asked:
//!
//! - `GET /views`: where each view is, and who keeps it;
//! - `POST /views/balances/pause`, `…/resume`, and `…/restart` for what has stopped;
//! - `GET /views/balances/letters`: the first hundred events that could not be taken in, or wait behind such;
//! - `POST /views/balances/redrive`, or `…/redrive/account-ada` for one stream: takes them in after all;
//! - `POST /views/balances/discard/17`: gives up the one at position 17, for the reason in the body.
//!
//! Whoever reaches the port may do so.

use std::fmt::Write;

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bank::views::{Balances, Statements, Totals};
use indelible::{Cause, Position, Projection, Running, StreamId};

use crate::web::Web;

const LETTERS_MAX: usize = 100;

pub fn routes() -> Router<Web> {
    Router::new()
        .route("/views", get(views))
        .route("/views/{view}/letters", get(letters))
        .route("/views/{view}/{order}", post(tell))
        .route("/views/{view}/{order}/{which}", post(tell_of))
}

/// Something that an operator wants of a view.
enum Order {
    Letters,
    Pause,
    Resume,
    Restart,
    RedriveAll,
    Redrive(StreamId),
    Discard(Position, String),
}

/// Finds the type that is called so.
async fn give(running: &Running, view: &str, order: Order) -> Result<String, Refused> {
    match view {
        Balances::NAME => carry_out::<Balances>(running, order).await,
        Statements::NAME => carry_out::<Statements>(running, order).await,
        Totals::NAME => carry_out::<Totals>(running, order).await,
        _ => Err(Refused::Unknown),
    }
}

async fn carry_out<P: Projection>(running: &Running, order: Order) -> Result<String, Refused> {
    match order {
        Order::Pause => running.pause::<P>().await?,
        Order::Resume => running.resume::<P>().await?,
        Order::Restart => running.restart::<P>().await?,
        Order::Letters => {
            let mut told = String::new();
            for letter in running.letters::<P>(None, Position::START, LETTERS_MAX).await? {
                let why = letter.error.as_deref().unwrap_or("waits");
                let _ = writeln!(told, "{} {} {}: {why}", letter.position, letter.stream, letter.event_type);
            }
            return Ok(told);
        }
        Order::RedriveAll => {
            let (done, left) = running.redrive_all::<P>().await?;
            let left: String = left.iter().map(|(stream, cause)| format!("{stream}: {cause}\n")).collect();
            return if left.is_empty() { Ok(format!("{done} taken in\n")) } else { Err(Refused::Failed(left)) };
        }
        Order::Redrive(stream) => return Ok(format!("{} taken in\n", running.redrive::<P>(&stream).await?)),
        Order::Discard(position, reason) => {
            let before = Position::new(position.get().saturating_sub(1));
            let letters = running.letters::<P>(None, before, 1).await?;
            let letter = letters.first().filter(|letter| letter.position == position).ok_or(Refused::Unknown)?;
            running.discard::<P>(letter, reason).await?;
        }
    }
    Ok("done\n".into())
}

async fn views(State(web): State<Web>) -> Result<String, Refused> {
    let versions = web.working(async |running: &Running| Ok(running.versions().await.map_err(Cause::from)?)).await?;
    let mut told = String::new();
    for status in versions {
        let (version, paused) = (&status.version, if status.version.wanted.paused { ", paused" } else { "" });
        let _ = writeln!(told, "{}: {:?}{paused}, {} behind", version.projection, version.state, status.lag_events());
        for row in &status.partitions {
            let owner = row.owner.as_ref().map_or("nobody", |worker| &worker.0);
            let stopped = row.stopped.as_ref().map(|error| format!(", stopped: {error}")).unwrap_or_default();
            let _ = writeln!(told, "  {} {owner}, {} streams parked{stopped}", row.partition, row.parked);
        }
    }
    Ok(told)
}

async fn letters(State(web): State<Web>, Path(view): Path<String>) -> Result<String, Refused> {
    web.working(async |running: &Running| give(running, &view, Order::Letters).await).await
}

async fn tell(State(web): State<Web>, Path((view, order)): Path<(String, String)>) -> Result<String, Refused> {
    let order = match &*order {
        "pause" => Order::Pause,
        "resume" => Order::Resume,
        "restart" => Order::Restart,
        "redrive" => Order::RedriveAll,
        _ => return Err(Refused::Unknown),
    };
    web.working(async |running: &Running| give(running, &view, order).await).await
}

async fn tell_of(
    State(web): State<Web>,
    Path((view, order, which)): Path<(String, String, String)>,
    reason: String,
) -> Result<String, Refused> {
    let order = match (&*order, which.parse(), which.parse()) {
        ("redrive", Ok(stream), _) => Order::Redrive(stream),
        ("discard", _, Ok(position)) => Order::Discard(Position::new(position), reason),
        _ => return Err(Refused::Unknown),
    };
    web.working(async |running: &Running| give(running, &view, order).await).await
}

/// Why something is not done.
pub enum Refused {
    /// There is no such view, letter, or order.
    Unknown,
    /// It does not work, or no more.
    Away(&'static str),
    Failed(String),
}

impl From<Cause> for Refused {
    fn from(cause: Cause) -> Self {
        Self::Failed(format!("{cause}\n"))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => StatusCode::NOT_FOUND.into_response(),
            Self::Away(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
            Self::Failed(why) => (StatusCode::CONFLICT, why).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::IntoFuture, sync::Arc, time::Duration};

    use bank::{Bank, Teller, account::Open};
    use indelible::{
        Append, ContentType, EventStore, EventType, ExpectedVersion, MemoryModel, MemoryStore, NewEvent,
        projections::WorkerId,
    };
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        demo::{get, post, until},
        web::Stage,
    };

    /// A worker of the bank, and where it listens.
    async fn worker(bank: &Bank<MemoryModel>, name: &str) -> (Web, String) {
        let web = Web::new(PrometheusBuilder::new().build_recorder().handle());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(axum::serve(listener, web.router()).into_future());
        assert_eq!(post(&address, "/views/balances/pause", "").await.unwrap(), (503, "starting\n".into()));
        let running = bank.worker().with_id(WorkerId(name.into())).start().await.unwrap();
        web.enter(Stage::Working { store: bank.store().clone(), running: Arc::new(running) });
        (web, address)
    }

    #[tokio::test]
    async fn any_worker_takes_an_operators_orders_for_all() {
        let store = MemoryStore::new();
        let bank = Bank::new(&store, &MemoryModel::shared(Duration::from_millis(600)));
        let (one, two) = (worker(&bank, "one").await, worker(&bank, "two").await);
        let shared = async || {
            let (_, told) = get(&one.1, "/views").await?;
            Ok(["one", "two"].iter().all(|name| told.matches(&format!("{name}, 0 str")).count() >= 4).then_some(()))
        };
        until("they share the views", shared).await.unwrap();

        assert_eq!(post(&one.1, "/views/balances/pause", "").await.unwrap(), (200, "done\n".into()));
        let (_, told) = get(&two.1, "/views").await.unwrap();
        assert!(told.contains("balances@1: Current, paused, ") && told.contains("totals@1: Current, 0"), "{told}");
        bank.accounts.execute("ada", Open { owner: "Ada".into() }).await.unwrap();
        let head = bank.store().head().await.unwrap();
        assert_eq!(post(&two.1, "/views/balances/resume", "").await.unwrap(), (200, "done\n".into()));
        bank.wait_for(&head, Duration::from_secs(10)).await.unwrap();

        // Nobody can read this one.
        let opened = NewEvent::new(EventType::from_static("Opened"), ContentType::JSON, "{}");
        let eve = Append::to("account-eve".parse().unwrap(), ExpectedVersion::Any, [opened]);
        store.append(eve).await.unwrap();
        for (_, address) in [&one, &two] {
            for view in ["balances", "statements"] {
                let parked = async || {
                    let (_, told) = get(address, &format!("/views/{view}/letters")).await?;
                    Ok(told.starts_with("2 account-eve Opened: ").then_some(()))
                };
                until("it is parked", parked).await.unwrap();
            }
            for path in ["/views/statements/redrive", "/views/statements/redrive/account-eve"] {
                let (status, why) = post(address, path, "").await.unwrap();
                assert!(status == 409 && why.contains("cannot decode Opened"), "{status} {why}");
            }
        }
        for (_, address) in [&one, &two] {
            // One of them owns it, and the other does not.
            let view = if address == &one.1 { "balances" } else { "statements" };
            let path = format!("/views/{view}/discard/2");
            assert_eq!(post(address, &path, "nobody can read it").await.unwrap(), (200, "done\n".into()));
            assert_eq!(post(address, &path, "twice").await.unwrap().0, 404);
            assert_eq!(
                post(address, &format!("/views/{view}/redrive"), "").await.unwrap(),
                (200, "0 taken in\n".into())
            );
        }
        for unknown in ["/views/balances/explode", "/views/nothing/pause", "/views/balances/discard/all"] {
            assert_eq!(post(&one.1, unknown, "").await.unwrap().0, 404, "{unknown}");
        }
        one.0.enter(Stage::Draining);
        assert_eq!(post(&one.1, "/views/balances/restart", "").await.unwrap(), (503, "draining\n".into()));
    }
}
