//! Writing: the sequencer, the one task of a process that sends appends to the server. Fed by the handles through a
//! bounded queue.
//!
//! It takes all that waits as one batch, sends it as one call of a function, publishes the head, and answers each
//! append by itself. The function is `append_foreseen` where each append finds what it expects unless somebody else has
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
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use indelible_core::{
    AppendOutcome, Appended, Cause, EventId, InvalidInput, Judgement, Position, QueueRoom, StoreError, Token, judge,
};
use tokio::{sync::mpsc, task, time};
use tokio_postgres::{
    Error, Row,
    error::SqlState,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{
    Durability, bugs,
    connect::{ConnectError, Connector, Patience, Session, SharedCause, may_pass},
    read::Reader,
    statistics,
    store::Shared,
    subscription::Publisher,
};

mod answer;
pub(crate) mod batch;
mod foreseen;
mod group;
mod known;

use answer::{Answer, Outcome};
use batch::Batch;
use foreseen::Foreseen;
pub(crate) use foreseen::Kinds;
use group::Group;
pub(crate) use group::Waiting;
use known::Recorded;

/// What stops the store when the function finds another event where the last one was that this process has seen.
const LOST_EVENTS: &str = "the log has lost events that this process has seen";

/// What is handed to the sequencer, with its room in the queue until it is answered.
pub(crate) enum Job {
    Append(Waiting),
    /// Answers what came before, and ends.
    Close,
}

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connector: Connector,
    pub(crate) reader: Reader,
    pub(crate) publisher: Publisher,
    pub(crate) jobs: mpsc::UnboundedReceiver<Job>,
    pub(crate) room: QueueRoom,
    /// `None` where the last call failed.
    pub(crate) session: Option<Session>,
    pub(crate) kinds: Kinds,
    /// Whether the last batch found something that it did not expect: then the next one may, too.
    pub(crate) is_contended: bool,
    /// Calls that may write yet, until a call that fences them is answered.
    pub(crate) given_up: Vec<Uuid>,
}

/// Why a call was not answered.
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
    pub(crate) async fn run(mut self) {
        let mut held = None;
        let mut is_closing = false;
        while !is_closing && self.shared.failure().is_none() {
            let first = match held.take() {
                Some(first) => first,
                None => {
                    let next = tokio::select! {
                        next = self.jobs.recv() => next,
                        () = self.shared.failed() => None,
                    };
                    match next {
                        Some(Job::Append(first)) => first,
                        Some(Job::Close) | None => break,
                    }
                }
            };
            self.let_others_come().await;
            let mut group = Group::default();
            let mut next = Some(first);
            while let Some(waiting) = next.take() {
                match self.in_time(waiting).map_or(Ok(()), |waiting| group.take(waiting)) {
                    Err(full) => {
                        held = Some(*full);
                        break;
                    }
                    Ok(()) if group.is_full() => break,
                    Ok(()) => {}
                }
                match self.jobs.try_recv() {
                    Ok(Job::Append(waiting)) => next = Some(waiting),
                    Ok(Job::Close) => is_closing = true,
                    Err(_) => {}
                }
            }
            self.write(group).await;
            if is_closing && let Some(waiting) = held.take() {
                let mut group = Group::default();
                // An empty group takes whatever comes.
                if group.take(waiting).is_ok() {
                    self.write(group).await;
                }
            }
        }
        self.room.close();
        self.jobs.close();
        let held = held.map(Job::Append);
        for job in held.into_iter().chain(std::iter::from_fn(|| self.jobs.try_recv().ok())) {
            if let Job::Append(waiting) = job {
                // Sending fails where the caller has gone away, here and below.
                let _ = waiting.answer.send(Err(self.shared.stopped()));
            }
        }
    }

    /// Gives an append back whose caller can still be answered in time, and refuses the others: while the server was away,
    /// those before them have used up their patience.
    fn in_time(&self, waiting: Waiting) -> Option<Waiting> {
        let patience = self.shared.options.patience;
        if waiting.handed_over.elapsed() <= patience {
            return Some(waiting);
        }
        let what = format!("no server took the appends before this one within {patience:?}");
        let _ = waiting.answer.send(Err(StoreError::Unavailable { what, source: None }));
        None
    }

    /// Those who were answered just now often have the next append at hand. Gives them their turn, as long as each turn
    /// brings more: otherwise half of the callers would always wait for the batch of the other half. A lone caller gains by it,
    /// too (0.34 ms an append instead of 0.55): it keeps the runtime's threads awake.
    async fn let_others_come(&self) {
        let mut waiting = 0;
        loop {
            task::yield_now().await;
            if self.jobs.len() <= waiting {
                return;
            }
            waiting = self.jobs.len();
        }
    }

    /// Sends a group, in parts where it must, and answers all that are in it.
    async fn write(&mut self, group: Group) {
        let mut parts = if group.waiting.is_empty() { Vec::new() } else { vec![group] };
        while let Some(mut part) = parts.pop() {
            let started = Instant::now();
            let batch = match Batch::new(part.waiting.iter().map(|waiting| &waiting.append), &part.rivals) {
                Ok(batch) => batch,
                Err(error) => {
                    part.fail(|_| StoreError::unavailable("encoding a batch", error.to_string()));
                    continue;
                }
            };
            match self.call(&batch).await {
                Ok(answer) => {
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
    async fn call(&mut self, batch: &Batch<'_>) -> Result<Answer, Lost> {
        let mut patience = Patience::new(self.shared.options.patience);
        let until = patience.until();
        // Whether a call may have written this batch, or write it yet.
        let mut is_sent = false;
        // Only `append` brings fences.
        let may_foresee = self.given_up.is_empty() && !self.is_contended;
        let mut foreseen = if may_foresee { Foreseen::of(batch, &self.kinds) } else { None };
        loop {
            let call = Uuid::new_v4();
            let lost: Cause = match time::timeout_at(until, self.session()).await {
                Err(elapsed) => elapsed.into(),
                Ok(Err(error)) => error.into(),
                Ok(Ok(_)) => match time::timeout_at(until, self.send(call, batch, foreseen.as_ref())).await {
                    Ok(Ok(row)) => {
                        let answer = match foreseen.take() {
                            Some(foreseen) => Answer::foreseen(&row, &foreseen),
                            None => {
                                self.shared.counters.judged();
                                Answer::decode(&row).map(Some)
                            }
                        };
                        let Some(answer) = answer.map_err(|error| Lost::Unknown(Some(error.into())))? else { continue };
                        self.is_contended = answer.outcomes.iter().any(|outcome| *outcome != Outcome::Written);
                        self.given_up.clear();
                        self.kinds.learn(batch, &answer.kinds);
                        return Ok(answer);
                    }
                    Ok(Err(error)) if was_refused(&error) && !is_sent && !may_pass(&error) => {
                        return Err(Lost::Refused(error));
                    }
                    Ok(Err(error)) if is_of_another_log(&error) => {
                        self.shared.fail(LOST_EVENTS.into());
                        return Err(Lost::Unknown(Some(error.into())));
                    }
                    // The call that was refused wrote nothing, its fences neither.
                    Ok(Err(error)) if was_refused(&error) => error.into(),
                    Ok(Err(error)) => {
                        self.lose(call);
                        tracing::warn!(%error, "a connection was lost in the middle of a call; its outcome is looked for");
                        if bugs::is_on(bugs::LOST_MEANS_NO) {
                            return Err(Lost::Unreachable(Some(error.into())));
                        }
                        is_sent = true;
                        foreseen = None;
                        error.into()
                    }
                    Err(_elapsed) => {
                        self.lose(call);
                        return Err(Lost::Unknown(None));
                    }
                },
            };
            if !patience.wait().await {
                return Err(if is_sent { Lost::Unknown(Some(lost)) } else { Lost::Unreachable(Some(lost)) });
            }
        }
    }

    /// Sends a batch once, on the connection that there is.
    async fn send(&mut self, call: Uuid, batch: &Batch<'_>, foreseen: Option<&Foreseen<'_>>) -> Result<Row, Error> {
        let Self { session, shared, publisher, given_up, .. } = self;
        let session = session.as_mut().expect("the caller has asked for one");
        let seen = publisher.seen();
        let (position, id) = (batch::bigint(seen.position.get()), seen.event.as_uuid());
        let asynchronous = shared.options.durability == Durability::Asynchronous;
        let mut params: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&call, Type::UUID)];
        if foreseen.is_none() {
            params.push((&*given_up, Type::UUID_ARRAY));
        }
        params.extend([(&position as &(dyn ToSql + Sync), Type::INT8), (&id, Type::UUID), (&asynchronous, Type::BOOL)]);
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
        match shared.options.prepared {
            true => session.ask_prepared(statement, &params).await,
            false => session.client.query_typed_one(statement, &params).await,
        }
    }

    /// Nobody will hear what became of a call.
    fn lose(&mut self, call: Uuid) {
        self.session = None;
        self.shared.counters.lost();
        if !bugs::is_on(bugs::NO_FENCE) {
            self.given_up.push(call);
        }
    }

    /// The connection, a new one where there is none.
    async fn session(&mut self) -> Result<&mut Session, ConnectError> {
        if self.session.as_ref().is_none_or(|session| session.client.is_closed()) {
            self.session = None;
            self.session = Some(Session::open(&self.connector).await?);
        }
        Ok(self.session.as_mut().expect("it was opened just now"))
    }

    /// What each append is told, and the head behind the batch, which is published then.
    fn told(&self, batch: &Batch<'_>, waiting: &[Waiting], mut answer: Answer) -> Vec<Told> {
        let token = |(position, event)| Token { store: self.shared.id, position, event };
        let before = token(answer.head);
        let mut head = before;
        let mut known: HashMap<usize, Vec<(EventId, Position)>> = HashMap::new();
        for (event, position) in &answer.known {
            let (append, index) = batch.owner(*event);
            known.entry(append).or_default().push((waiting[append].append.events()[index].1.id, *position));
        }
        let mut told = Vec::with_capacity(waiting.len());
        for (index, Waiting { append, .. }) in waiting.iter().enumerate() {
            told.push(match answer.outcomes[index] {
                Outcome::Written => {
                    let events = answer.recorded(batch, index, append);
                    let appended = Appended::new(self.shared.id, events, false);
                    head = appended.token;
                    Told::Answer(Ok(AppendOutcome::Appended(appended)))
                }
                Outcome::Conflict => {
                    let failed = answer.failed(index).into_iter().map(|failed| batch.failed(index, append, &failed));
                    Told::Answer(Ok(AppendOutcome::Conflict(failed.collect())))
                }
                Outcome::BeyondHead => {
                    // The last that failed is the one that ended the judgement.
                    let reason = answer.failed(index).pop().map(|failed| {
                        let condition = &append.conditions()[batch.condition(index, failed.index)];
                        format!("looks after position {}, the head is {}", condition.after, failed.found)
                    });
                    Told::Answer(Err(InvalidInput::new("condition", reason.unwrap_or_default()).into()))
                }
                Outcome::Known => Told::Known(known.remove(&index).unwrap_or_default()),
            });
        }
        self.publisher.publish(head);
        if head != before {
            self.publisher.announce();
        }
        told
    }

    fn answer(&self, waiting: Vec<Waiting>, told: Vec<Told>) {
        for (waiting, told) in waiting.into_iter().zip(told) {
            match told {
                Told::Answer(outcome) => drop(waiting.answer.send(outcome)),
                Told::Known(ids) => drop(tokio::spawn(tell_known(self.reader.clone(), waiting, ids))),
            }
        }
    }
}

/// What an append is told.
enum Told {
    Answer(Result<AppendOutcome, StoreError>),
    /// Ids of its events were recorded before, there.
    Known(Vec<(EventId, Position)>),
}

/// Answers an append of which an id is recorded already: as a repetition, or not. The log only grows, so that needs no
/// lock.
async fn tell_known(reader: Reader, waiting: Waiting, ids: Vec<(EventId, Position)>) {
    let Waiting { append, answer, room, .. } = waiting;
    let told = async {
        let recorded = Recorded::read(&reader, &append, ids).await?;
        match judge(&append, &recorded)? {
            Judgement::Repeated(events) => Ok(AppendOutcome::Appended(Appended::new(reader.store(), events, true))),
            Judgement::IdConflict(id, position) => Err(StoreError::IdConflict { id, position }),
            other => Err(StoreError::corrupted(format!("an id that was recorded is not: {other:?}"))),
        }
    };
    let told = told.await;
    let _ = answer.send(told);
    drop(room);
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

/// Whether an error may be the fault of one append, and not of the server or the role.
fn may_be_of_one(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        let class = &code.code()[..2];
        matches!(class, "21" | "22" | "23" | "42" | "54" | "P0" | "XX") && *code != SqlState::INSUFFICIENT_PRIVILEGE
    })
}
