//! The loop of one type of saga: looks into the agenda's partitions that this process owns, and has done what is due, so
//! many at once.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use indelible_core::{AnyStore, Cause, StoreError, Timestamp};
use indelible_projections::{Partition, PartitionState, ProjectionId, ReadModelError, Running};
use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    Agenda, AgendaModel, Clock, Perform, Saga, SagaOptions,
    agenda::{Entry, Item},
    desk::{Answer, Desk, Turn, message},
};

/// How long an agenda is left alone at least, also after it was told of something: its batch may not be committed yet.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// For how long an entry that was done is remembered: the agenda follows behind the journal.
const REMEMBERED: Duration = Duration::from_secs(2);
/// How soon an entry is tried again that the store or the code stood in the way of; and at the latest, as the time doubles.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);
const TROUBLE_MAX: Duration = Duration::from_secs(60);
/// The longest that a performer can put a call off.
const LATER_MAX: Duration = Duration::from_secs(3600);
/// How many entries of a partition are read at once, and in a look, at the most.
const ENTRIES_A_PAGE: usize = 1_024;
const ENTRIES_A_LOOK: usize = 4_096;

/// Where a saga's errands are done.
pub(super) struct Office<S: Saga, M, P> {
    pub desk: Desk<S, P>,
    pub store: AnyStore,
    pub model: M,
    pub clock: Arc<dyn Clock>,
    pub options: SagaOptions,
}

pub(super) struct Errands<S: Saga, M, P> {
    office: Arc<Office<S, M, P>>,
    agendas: Arc<Running>,
    bell: Arc<Notify>,
    draining: Arc<AtomicBool>,
    /// What is known of attempts.
    known: HashMap<(String, Item, u32), Known>,
    at_work: JoinSet<Errand>,
    /// Entries that a turn here led to, before the agenda has them.
    next: Vec<Entry>,
    /// How many looks there were.
    looks: usize,
    /// Where the next look into a partition goes on, if not at its beginning.
    looked_to: HashMap<Partition, Entry>,
    /// What time it is by the log, and when that was heard.
    log_time: Option<Timestamp>,
    log_time_heard: Option<Instant>,
}

/// What is known of an attempt.
enum Known {
    /// It is not begun again, in whatever entry it comes.
    UnderWay,
    /// It rests, in the entry that is due then; and how often on end it came to nothing, with an answer that could not be
    /// written, if there was one.
    Rests { until: Instant, due: Timestamp, tries: u32, answer: Option<Answer> },
}

impl Known {
    /// Whether it can be forgotten: what comes to nothing has time to be tried again.
    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::UnderWay => false,
            Self::Rests { until, tries: 0, .. } => *until <= now,
            Self::Rests { until, .. } => *until + TROUBLE_MAX <= now,
        }
    }
}

/// An entry, and what came of it; no turn where it could not be done.
struct Errand {
    entry: Entry,
    turn: Option<Turn>,
    tries: u32,
    answer: Option<Answer>,
}

impl<S: Saga, M: AgendaModel, P: Perform<S>> Errands<S, M, P> {
    pub fn new(office: Office<S, M, P>, agendas: Arc<Running>, bell: Arc<Notify>, draining: Arc<AtomicBool>) -> Self {
        Self {
            office: Arc::new(office),
            agendas,
            bell,
            draining,
            known: HashMap::new(),
            at_work: JoinSet::new(),
            next: Vec::new(),
            looks: 0,
            looked_to: HashMap::new(),
            log_time: None,
            log_time_heard: None,
        }
    }

    /// Runs until it is to drain, and what was under way is done.
    pub async fn run(mut self) {
        let (mut looks_at, mut rests_until) = (Instant::now(), Instant::now());
        while !self.draining.load(Ordering::Acquire) {
            for entry in std::mem::take(&mut self.next) {
                self.begin(entry);
            }
            let began = Instant::now();
            if self.room() > 0 && looks_at <= began {
                let wait = self.look().await.unwrap_or_else(|error| {
                    tracing::warn!(saga = S::NAME, %error, "the agenda could not be read");
                    AFTER_TROUBLE
                });
                // However much is there to look at, most of the time is for doing it.
                rests_until = Instant::now() + BETWEEN_LOOKS.max(4 * began.elapsed());
                looks_at = rests_until.max(began + wait);
            }
            let (bell, has_room) = (self.bell.clone(), self.room() > 0);
            tokio::select! {
                Some(done) = self.at_work.join_next() => self.done(done),
                () = bell.notified(), if has_room => looks_at = looks_at.min(rests_until.max(Instant::now() + BETWEEN_LOOKS)),
                () = sleep_until(looks_at), if has_room => {}
            }
            while let Some(done) = self.at_work.try_join_next() {
                self.done(done);
            }
        }
        while self.at_work.join_next().await.is_some() {}
    }

    fn room(&self) -> usize {
        self.office.options.calls_max.saturating_sub(self.at_work.len())
    }

    /// Begins what is due as far as there is room, and says when to look again. Each look begins at another partition, so
    /// that one with much to do keeps none waiting.
    async fn look(&mut self) -> Result<Duration, Cause> {
        let now = Instant::now();
        self.known.retain(|_, known| !known.is_over(now));
        self.hear_log_time(now).await?;
        let mut partitions = self.owned();
        self.looks = self.looks.wrapping_add(1);
        let first = self.looks % partitions.len().max(1);
        partitions.rotate_left(first);
        let mut wait = self.office.options.look_every;
        for partition in partitions {
            wait = match self.room() {
                0 => Duration::ZERO,
                _ => wait.min(self.look_into(partition).await?),
            };
        }
        Ok(wait)
    }

    /// Begins what is due in a partition. What is known already must not hide what isn't, and what is not due for long must
    /// cost nothing: so a few entries are asked for, and more only while all of them are due. Where they are very many, the
    /// next look goes on behind them.
    async fn look_into(&mut self, partition: Partition) -> Result<Duration, ReadModelError> {
        let (mut after, mut page, mut read) = (self.looked_to.remove(&partition), 32, 0);
        loop {
            let (entries, clock) = self.office.model.earliest::<S>(partition, after.as_ref(), page).await?;
            // A clock that was set back is behind the log's, which the agenda's times are of.
            let clock = clock.unwrap_or_else(|| self.office.clock.now());
            let now = self.log_time.map_or(clock, |time| time.max(clock));
            for entry in &entries {
                if self.room() == 0 {
                    return Ok(Duration::ZERO);
                }
                if entry.due > now {
                    return Ok(entry.due.since(now));
                }
                self.begin(entry.clone());
            }
            if entries.len() < page {
                return Ok(self.office.options.look_every);
            }
            read += page;
            after = entries.into_iter().last().or(after);
            if read >= ENTRIES_A_LOOK {
                self.looked_to.extend(after.map(|after| (partition, after)));
                return Ok(Duration::ZERO);
            }
            page = (2 * page).min(ENTRIES_A_PAGE);
        }
    }

    /// Hears now and then what time it is by the log.
    async fn hear_log_time(&mut self, now: Instant) -> Result<(), StoreError> {
        if self.log_time_heard.is_none_or(|heard| now >= heard + self.office.options.look_every) {
            let store = &self.office.store;
            let head = store.head().await?;
            let last = store.event(head.event).await?;
            self.log_time = self.log_time.max(last.map(|last| last.recorded_at));
            self.log_time_heard = Some(now);
        }
        Ok(())
    }

    /// The partitions of the agenda that are this process's, by what is known of the leases.
    fn owned(&self) -> Vec<Partition> {
        let id = ProjectionId::of::<Agenda<S>>();
        let status = self.agendas.status();
        let lanes = status.iter().filter(|(agenda, _)| *agenda == id).flat_map(|(_, lanes)| lanes);
        lanes.filter(|lane| lane.state != PartitionState::Lost).map(|lane| lane.partition).collect()
    }

    fn begin(&mut self, entry: Entry) {
        let attempt = (entry.saga.clone(), entry.item.clone(), entry.attempt);
        let is_known = match self.known.get(&attempt) {
            Some(Known::UnderWay) => true,
            Some(Known::Rests { until, due, .. }) => *due == entry.due && *until > Instant::now(),
            None => false,
        };
        if is_known || self.room() == 0 {
            return;
        }
        let (tries, mut answer) = match self.known.insert(attempt, Known::UnderWay) {
            Some(Known::Rests { tries, answer, .. }) => (tries, answer),
            _ => (0, None),
        };
        let office = self.office.clone();
        self.at_work.spawn(async move {
            let turn = AssertUnwindSafe(office.desk.turn_again(&entry, &mut answer)).catch_unwind().await;
            let failed = |error: &dyn fmt::Display| {
                tracing::warn!(saga = S::NAME, id = entry.saga, item = %entry.item, %error,
                    "what is due could not be done, and stays due");
            };
            let turn = match turn {
                Ok(turn) => turn.map_err(|error| failed(&error)).ok(),
                Err(panic) => {
                    failed(&format!("it panicked: {}", message(&*panic)));
                    None
                }
            };
            Errand { entry, turn, tries, answer }
        });
    }

    fn done(&mut self, done: Result<Errand, JoinError>) {
        // A panic was caught, so it was not cut off but with all that is here.
        let Ok(Errand { entry, turn, tries, answer }) = done else { return };
        let longer = |time: Duration| time.saturating_mul(1 << tries.min(20)).min(TROUBLE_MAX);
        let (rest, tries) = match turn {
            Some(Turn::Done(next)) => {
                self.next.extend(next);
                (REMEMBERED, 0)
            }
            Some(Turn::Nothing) => (longer(REMEMBERED), tries + 1),
            Some(Turn::Later(time)) => (time.min(LATER_MAX), 0),
            None => (longer(AFTER_TROUBLE), tries + 1),
        };
        let rests = Known::Rests { until: Instant::now() + rest, due: entry.due, tries, answer };
        self.known.insert((entry.saga, entry.item, entry.attempt), rests);
    }
}
