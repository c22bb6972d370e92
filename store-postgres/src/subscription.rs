//! The published head, which subscriptions sleep on: moved by this process's own appends, and by those of others as soon
//! as one of them says so.
//!
//! Each process tells the others by `NOTIFY`, after the commit and on a connection of its own, one at a time: what is
//! appended meanwhile is told with the next. (Inside the transaction it would take a lock that all commits of the
//! cluster wait for.) A notification only wakes: where the head is, the log says. Below that lies polling, for servers
//! and poolers that notify nobody.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use indelible_core::{Cause, EventId, Position, StoreId, Token};
use tokio::{
    sync::{Notify, watch},
    time::{self, Instant, MissedTickBehavior},
};
use tokio_postgres::{AsyncMessage, Row, types::Type};
use uuid::Uuid;

use crate::{
    connect::{Connector, Patience, Session},
    sql::bigint,
    store::Shared,
};

/// The first event after a pause is announced at once, and of many that follow each other this often: each announcement
/// is a transaction.
const ANNOUNCEMENTS_APART: Duration = Duration::from_millis(5);

/// Without waiting for a disk: what a crash takes along would have told nothing that the log doesn't say.
const ANNOUNCE: &str = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)";

/// The last event that this process has seen.
#[derive(Clone)]
pub(crate) struct Seen(Arc<Mutex<Token>>);

impl Seen {
    pub(crate) fn token(&self) -> Token {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves the published head. When the last one is dropped, subscriptions end.
#[derive(Clone)]
pub(crate) struct Publisher {
    sender: watch::Sender<Position>,
    seen: Seen,
    to_announce: Arc<ToAnnounce>,
}

/// Whether something is to be announced.
#[derive(Default)]
struct ToAnnounce {
    is_due: AtomicBool,
    /// Wakes whoever announces: once, and not for each append (which cost a lone caller a fifth of its time).
    due: Notify,
}

impl Publisher {
    pub(crate) fn new(store: StoreId) -> (Self, watch::Receiver<Position>) {
        let start = Token::start(store);
        let (sender, published) = watch::channel(start.position);
        (Self { sender, seen: Seen(Arc::new(Mutex::new(start))), to_announce: Arc::default() }, published)
    }

    /// The last event that this process has seen.
    pub(crate) fn seen(&self) -> Token {
        self.seen.token()
    }

    /// That event, for those who don't move it.
    pub(crate) fn place(&self) -> Seen {
        self.seen.clone()
    }

    /// The log is known to hold events up to there.
    pub(crate) fn publish(&self, head: Token) {
        let mut seen = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        if head.position > seen.position {
            *seen = head;
            self.sender.send_replace(head.position);
        }
    }

    /// Tells other processes, soon.
    pub(crate) fn announce(&self) {
        if !self.to_announce.is_due.swap(true, SeqCst) {
            self.to_announce.due.notify_one();
        }
    }
}

pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connector: Connector,
    pub(crate) publisher: Publisher,
    /// Ends when the sequencer does.
    pub(crate) until: watch::Receiver<()>,
}

impl Follower {
    /// Follows the log until the store is closed, over any number of connections.
    pub(crate) async fn run(mut self) {
        let mut until = self.until.clone();
        tokio::select! {
            _ = until.changed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut patience = Patience::new(Duration::MAX);
        while self.shared.failure().is_none() {
            match self.follow_on_a_connection(&mut patience).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the connection that follows the log was lost; connecting again");
                    patience.wait().await;
                }
            }
        }
    }

    async fn follow_on_a_connection(&mut self, patience: &mut Patience) -> Result<(), Cause> {
        let heard = Arc::new(Notify::new());
        let channel = format!("indelible_{}", self.shared.id.as_uuid().simple());
        let hear = {
            let (heard, publisher) = (Arc::clone(&heard), self.publisher.clone());
            move |message| {
                if let AsyncMessage::Notification(told) = message {
                    // What this process has told itself it knows already.
                    let position = told.payload().parse().map_or(Position::MAX, Position::new);
                    if position > publisher.seen().position {
                        heard.notify_one();
                    }
                }
            }
        };
        let session = Session::listening(&self.connector, hear).await?;
        let listen = format!("LISTEN {channel}");
        let listening = time::timeout(self.shared.options.patience, session.client.batch_execute(&listen)).await?;
        if let Err(error) = listening {
            // A replica can't be listened to.
            if error.as_db_error().is_none() {
                return Err(error.into());
            }
        }
        let mut polling = time::interval(self.shared.options.poll);
        polling.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let to_announce = Arc::clone(&self.publisher.to_announce);
        let mut announced_at = Instant::now() - ANNOUNCEMENTS_APART;
        loop {
            tokio::select! {
                () = heard.notified() => self.look(&session).await?,
                () = to_announce.due.notified() => {}
                // What the last connection did not come to is told by this one.
                () = time::sleep_until(announced_at + ANNOUNCEMENTS_APART), if to_announce.is_due.load(SeqCst) => {
                    announced_at = Instant::now();
                    to_announce.is_due.store(false, SeqCst);
                    let position = self.publisher.seen().position.to_string();
                    let params = [(&channel as _, Type::TEXT), (&position as _, Type::TEXT)];
                    let asked = session.client.query_typed(ANNOUNCE, &params);
                    let told = time::timeout(self.shared.options.patience, asked).await;
                    if !matches!(told, Ok(Ok(_))) {
                        self.publisher.announce();
                    }
                    told??;
                }
                _ = polling.tick() => self.look(&session).await?,
            }
            if self.shared.failure().is_some() {
                return Ok(());
            }
            *patience = Patience::new(Duration::MAX);
        }
    }

    /// Looks where the head is, and whether the log is still the one that was seen.
    async fn look(&self, session: &Session) -> Result<(), Cause> {
        let seen = self.publisher.seen();
        let position = bigint(seen.position.get());
        let params = [(&position as _, Type::INT8)];
        let asked = session.client.query_typed_one(&self.shared.statements.follow, &params);
        // A server that doesn't answer is as good as gone.
        let row = time::timeout(self.shared.options.patience, asked).await??;
        let head = head(self.shared.id, &row);
        let (there, is_replica): (Option<Uuid>, bool) = (row.get(2), row.get(3));
        let is_behind = is_replica && head.position < seen.position;
        if seen.position > Position::START && there != Some(seen.event.as_uuid()) && !is_behind {
            let reason = format!("the log has lost events: {} was seen, and now it ends at {head}", seen);
            self.shared.fail(reason);
            return Ok(());
        }
        self.publisher.publish(head);
        Ok(())
    }
}

/// Of what the statement to follow the log by answers.
pub(crate) fn head(store: StoreId, row: &Row) -> Token {
    match (row.get::<_, Option<i64>>(0), row.get::<_, Option<Uuid>>(1)) {
        (Some(position), Some(id)) => {
            Token { store, position: Position::new(position.cast_unsigned()), event: EventId::from_uuid(id) }
        }
        _ => Token::start(store),
    }
}
