//! Writing: the sequencer, the one task of a process that sends appends to the server. Fed by the handles through a
//! bounded queue.
//!
//! It takes all that waits as one batch, sends it as one call of a function, publishes the head, and answers each append by
//! itself. The function is `append_foreseen` where each append finds what it expects unless somebody else has
//! written to its streams, and `append`, which judges them one by one, where not, or where somebody has. No two calls
//! of a process are under way at once, so that appends are judged in the order in which they were handed over; the
//! order among processes is that in which they come to the lock.
//!
//! **A call that was refused** wrote nothing. Where one append may be to blame, the batch is halved until it stands alone.
//!
//! **A call whose answer is lost** may have written, or write yet. It is sent again, with the same event ids, behind a
//! *fence*: the new call comes to the lock after the old one, or the old one finds itself fenced when it comes there, and
//! writes nothing. What the old one has written, the new one finds by its ids, and is answered as a repetition. So each append is answered for what
//! became of it, whichever of the calls did it; only where no call is answered in time its outcome is unknown. The next
//! call, of whatever appends, then brings the fences: an append that is sent again is answered for good.
//!
//! **No caller waits for ever.** An append waits for its turn as long as there is patience, and as long again for its
//! answer.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use indelible_core::{Cause, EventId, LogTime, Position, QueueRoom, StoreError, Timestamp, Token};
use tokio::{sync::mpsc, time};
use tokio_postgres::{
    Error, Row,
    error::{DbError, SqlState},
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{
    Durability, bugs,
    connect::{Connector, Patience, Session, SharedCause, may_pass},
    read::Reader,
    sql::bigint,
    statistics,
    store::Shared,
    subscription::Publisher,
};

mod answer;
mod batch;
mod foreseen;
mod group;
mod known;
mod queue;
mod told;

use answer::{Answer, Outcome};
use batch::Batch;
pub(crate) use foreseen::Known;
use foreseen::{Facts, Foreseen};
use group::Group;
pub(crate) use group::Waiting;
pub(crate) use queue::Job;
use queue::Queue;

/// What stops the store when the function finds another event where the last one was that this process has seen.
const LOST_EVENTS: &str = "the log has lost events that this process has seen";

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connector: Connector,
    pub(crate) reader: Reader,
    pub(crate) publisher: Publisher,
    pub(crate) room: QueueRoom,
    /// `None` where there was none yet, or it was lost.
    pub(crate) session: Option<Session>,
    pub(crate) known: Known,
    /// Whether the last batch found something that it did not expect: then the next one may, too.
    pub(crate) is_contended: bool,
    /// Calls that may write yet, until a call that fences them is answered.
    pub(crate) given_up: Vec<Uuid>,
    /// What time it is by what was heard of the log, if anything was.
    pub(crate) time: Option<LogTime>,
}

/// How a call was answered.
enum Called {
    /// All is written, nothing was judged.
    AsForeseen(Facts),
    Judged(Answer),
}

/// What became of one call.
enum Attempt {
    Answered(Row),
    /// The server said no; nothing was written.
    Refused(Error),
    NotSent(Cause),
    /// It may have written, or write yet. Without a cause: it ran out of time.
    Lost(Option<Cause>),
}

/// Why a batch was not answered.
enum Lost {
    /// The server said no; nothing was written.
    Refused(Error),
    /// Nothing was sent.
    Unreachable(Option<Cause>),
    /// It may have written.
    Unknown(Option<Cause>),
}

impl Sequencer {
    /// Serves until the store is closed, or the log turns out to be another.
    pub(crate) async fn run(mut self, jobs: mpsc::UnboundedReceiver<Job>) {
        let mut queue = Queue::new(jobs, self.shared.options.patience);
        while self.shared.failure().is_none() {
            let group = tokio::select! {
                group = queue.next() => group,
                () = self.shared.failed() => None,
            };
            let Some(group) = group else { break };
            self.write(group).await;
        }
        self.room.close();
        queue.close(|| self.shared.stopped());
    }

    /// Sends a group, in parts where it must, and answers all that are in it.
    async fn write(&mut self, group: Group) {
        let mut parts = if group.waiting.is_empty() { Vec::new() } else { vec![group] };
        let mut patience = Patience::new(self.shared.options.patience);
        while let Some(mut part) = parts.pop() {
            let started = Instant::now();
            let batch = match Batch::new(part.waiting.iter().map(|waiting| &waiting.append), &part.rivals) {
                Ok(batch) => batch,
                Err(error) => {
                    part.fail(|_| StoreError::unavailable("encoding a batch", error.to_string()));
                    continue;
                }
            };
            match self.call(&batch, &mut patience).await {
                Ok(Called::AsForeseen(facts)) => {
                    let (appends, events) = (part.waiting.len() as u64, batch.e_id.len() as u64);
                    self.shared.counters.batch(appends, events, started.elapsed());
                    self.publish(facts.head(&batch));
                    drop(batch);
                    told::written(self.shared.id, facts, part.waiting);
                }
                Ok(Called::Judged(answer)) => {
                    let events = answer.outcomes.iter().zip(&part.waiting).filter(|(o, _)| **o == Outcome::Written);
                    let counts = events.fold((0, 0), |(appends, events), (_, waiting)| {
                        (appends + 1, events + waiting.append.events().len() as u64)
                    });
                    self.shared.counters.batch(counts.0, counts.1, started.elapsed());
                    let told = self.told(&batch, &part.waiting, answer);
                    drop(batch);
                    self.answer(part.waiting, told);
                }
                Err(Lost::Refused(error)) if part.waiting.len() > 1 && may_be_of_one(&error) => {
                    tracing::warn!(%error, appends = part.waiting.len(), "a batch was refused, and is halved");
                    drop(batch);
                    let rest = part.split();
                    parts.extend([rest, part]);
                }
                Err(Lost::Refused(error)) => {
                    drop(batch);
                    if is_of_another_log(&error) {
                        self.shared.fail(LOST_EVENTS.into());
                        part.fail(|_| self.shared.stopped());
                    } else {
                        let cause = SharedCause::new(error);
                        part.fail(|_| StoreError::unavailable("an append was refused by the server", cause.clone()));
                    }
                }
                Err(Lost::Unreachable(error)) => {
                    drop(batch);
                    let cause = error.map(SharedCause::new);
                    part.fail(|_| StoreError::Unavailable {
                        what: format!("no server took appends within {:?}", self.shared.options.patience),
                        source: cause.clone().map(Into::into),
                    });
                }
                Err(Lost::Unknown(error)) => {
                    drop(batch);
                    let cause = error.map(SharedCause::new);
                    part.fail(|append| StoreError::OutcomeUnknown {
                        append: Box::new(append),
                        source: cause.clone().map(Into::into),
                    });
                }
            }
        }
        statistics::tell(&self.shared.counters.snapshot(self.room.taken(), self.publisher.seen().position));
    }

    /// Calls the function until it answers, as long as there is patience.
    async fn call(&mut self, batch: &Batch<'_>, patience: &mut Patience) -> Result<Called, Lost> {
        // Whether a call may have written this batch, or write it yet.
        let mut is_sent = false;
        // Only `append` brings fences.
        let mut may_foresee = self.given_up.is_empty() && !self.is_contended;
        loop {
            let call = Uuid::new_v4();
            let connected = self.connect(patience.until()).await;
            // Once it is connected, since it knows nothing then of a server that it was not connected to.
            let foreseen = if may_foresee { Foreseen::of(batch, &self.known) } else { None };
            let attempt = match connected {
                Ok(()) => self.attempt(patience.until(), call, batch, foreseen.as_ref()).await,
                Err(cause) => Attempt::NotSent(cause),
            };
            let lost = match attempt {
                Attempt::Answered(row) => {
                    let unreadable = |error: Error| Lost::Unknown(Some(error.into()));
                    if let Some(foreseen) = foreseen {
                        may_foresee = false;
                        let Some(facts) = foreseen.written(&row).map_err(unreadable)? else { continue };
                        self.known.wrote(batch, &facts);
                        self.hear(facts.recorded_at);
                        return Ok(Called::AsForeseen(facts));
                    }
                    self.shared.counters.judged();
                    let answer = Answer::decode(&row).map_err(unreadable)?;
                    self.is_contended = answer.outcomes.iter().any(|outcome| *outcome != Outcome::Written);
                    self.given_up.clear();
                    self.known.judged(batch, &answer);
                    self.hear(answer.recorded_at);
                    return Ok(Called::Judged(answer));
                }
                // An id is in the log already, or others have written a stream.
                Attempt::Refused(error) if foreseen.is_some() && error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
                    may_foresee = false;
                    if is_of_version(&error) {
                        self.known.was_wrong();
                    }
                    continue;
                }
                // Its fences were not written either.
                Attempt::Refused(error) => {
                    let may_pass = may_pass(&error) || is_stale(&error);
                    if !may_pass && !is_sent {
                        return Err(Lost::Refused(error));
                    } else if is_of_another_log(&error) {
                        self.shared.fail(LOST_EVENTS.into());
                        return Err(Lost::Unknown(Some(error.into())));
                    } else if is_stale(&error) {
                        self.session = None;
                    }
                    Some(error.into())
                }
                Attempt::NotSent(cause) => Some(cause),
                Attempt::Lost(cause) => {
                    self.lose(call);
                    if bugs::is_on(bugs::LOST_MEANS_NO) {
                        return Err(Lost::Unreachable(cause));
                    }
                    (is_sent, may_foresee) = (true, false);
                    cause
                }
            };
            if !patience.wait().await {
                return Err(if is_sent { Lost::Unknown(lost) } else { Lost::Unreachable(lost) });
            }
        }
    }

    /// Calls it once, on the connection that there is.
    async fn attempt(
        &mut self,
        until: time::Instant,
        call: Uuid,
        batch: &Batch<'_>,
        foreseen: Option<&Foreseen<'_>>,
    ) -> Attempt {
        let mut is_under_way = false;
        let lost: Option<Cause> =
            match time::timeout_at(until, self.send(call, batch, foreseen, &mut is_under_way)).await {
                Ok(Ok(row)) => return Attempt::Answered(row),
                Ok(Err(error)) if was_refused(&error) => return Attempt::Refused(error),
                Ok(Err(error)) => {
                    tracing::warn!(%error, is_under_way, "the connection for appends was lost");
                    Some(error.into())
                }
                Err(elapsed) if !is_under_way => Some(elapsed.into()),
                Err(_elapsed) => None,
            };
        match lost {
            Some(cause) if !is_under_way => {
                self.session = None;
                Attempt::NotSent(cause)
            }
            lost => Attempt::Lost(lost),
        }
    }

    /// Sends a batch on the connection that there is, and says from when on it may be written.
    async fn send(
        &mut self,
        call: Uuid,
        batch: &Batch<'_>,
        foreseen: Option<&Foreseen<'_>>,
        is_under_way: &mut bool,
    ) -> Result<Row, Error> {
        let Self { session, shared, publisher, given_up, time, .. } = self;
        let session = session.as_mut().expect("the caller has asked for one");
        let seen = publisher.seen();
        let (position, id) = (bigint(seen.position.get()), seen.event.as_uuid());
        let asynchronous = shared.options.durability == Durability::Asynchronous;
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&call, Type::UUID)];
        if foreseen.is_none() {
            params.push((&*given_up, Type::UUID_ARRAY));
        }
        let at_least = time.map(|mut time| SystemTime::from(time.now(SystemTime::UNIX_EPOCH.into())));
        params.extend([(&position as &(dyn ToSql + Sync), Type::INT8), (&id, Type::UUID), (&asynchronous, Type::BOOL)]);
        params.push((&at_least, Type::TIMESTAMPTZ));
        let statement = match foreseen {
            Some(foreseen) => {
                params.extend(foreseen.params());
                &shared.statements.call_append_foreseen
            }
            None => {
                params.extend(batch.params());
                &shared.statements.call_append
            }
        };
        if bugs::is_on(bugs::ANSWER_BEFORE_COMMIT) {
            // Long enough for something to strike between the answer and the commit.
            time::sleep(Duration::from_millis(5)).await;
            session.client.batch_execute("COMMIT; BEGIN").await?;
        }
        if shared.options.prepared {
            let prepared = session.prepare(statement, &params).await?;
            let values: Vec<&(dyn ToSql + Sync)> = params.iter().map(|(value, _)| *value).collect();
            *is_under_way = true;
            session.client.query_one(&prepared, &values).await
        } else {
            *is_under_way = true;
            session.client.query_typed_one(statement, &params).await
        }
    }

    /// Hears what time it is by the log.
    fn hear(&mut self, time: Timestamp) {
        self.time.get_or_insert_with(|| LogTime::from(time)).now(time);
    }

    /// Nobody will hear what became of a call.
    fn lose(&mut self, call: Uuid) {
        self.session = None;
        self.shared.counters.lost();
        if !bugs::is_on(bugs::NO_FENCE) {
            self.given_up.push(call);
        }
    }

    /// Opens a connection where there is none.
    async fn connect(&mut self, until: time::Instant) -> Result<(), Cause> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = None;
            self.session = Some(time::timeout_at(until, Session::open(&self.connector)).await??);
            // The log's end may have been lost, or another server have taken over without it: ids of commands by key come
            // again, and then not even the last event says that all before it is as it was. Behind a pooler it is seen by
            // when the server was started.
            self.known = Known::default();
        }
        Ok(())
    }

    /// The log is known to hold what this process has written up to there.
    fn publish(&self, (position, event): (Position, EventId)) {
        self.publisher.publish(Token { store: self.shared.id, position, event });
        self.publisher.announce();
    }
}

/// Whether the server refused a call for good: it wrote nothing. One that is ended from outside may have committed.
fn was_refused(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| {
        matches!(error.parsed_severity(), Some(tokio_postgres::error::Severity::Error)) || error.severity() == "ERROR"
    })
}

/// Whether the function found another event where the last one was that this process has seen.
fn is_of_another_log(error: &Error) -> bool {
    error.code().is_some_and(|code| code.code() == "INDE4")
}

/// Whether there is an event of that version in a stream.
fn is_of_version(error: &Error) -> bool {
    error.as_db_error().and_then(DbError::constraint) == Some("log_version")
}

/// Whether a statement was prepared before its function changed: on another connection it is right again.
fn is_stale(error: &Error) -> bool {
    error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
}

/// Whether an error may be the fault of one append, and not of the server or the role.
fn may_be_of_one(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        let class = &code.code()[..2];
        matches!(class, "21" | "22" | "23" | "42" | "54" | "P0" | "XX") && *code != SqlState::INSUFFICIENT_PRIVILEGE
    })
}
