//! The loop of one type of saga: looks into the agenda's partitions that this process owns, and has done what is due, so
//! many at once.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use indelible_core::{AnyStore, Cause, LogTime, StoreError, Timestamp};
use indelible_projections::{Partition, PartitionState, ProjectionId, ReadModelError, Running};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    Agenda, AgendaModel, Clock, Perform, Saga, SagaOptions,
    agenda::{Entry, Item, Work},
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
/// How many timers are acted on at once, beside the calls.
const TIMERS_AT_ONCE: usize = 64;

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
    /// What is due at once, as soon as the agenda hears of it.
    fresh: mpsc::Receiver<Entry>,
    draining: Arc<AtomicBool>,
    attempts: Attempts,
    attempts_seen_to: Instant,
    at_work: JoinSet<Errand>,
    /// How many of them are timers.
    timers: usize,
    /// Whether something of a kind is due that there was no room for.
    had_no_room: [bool; Work::ALL.len()],
    /// Entries that a turn here led to, before the agenda has them.
    next: Vec<Entry>,
    /// How many looks there were.
    looks: usize,
    /// Where the next look into a partition's entries of a kind goes on, if not at its beginning.
    looked_to: HashMap<(Partition, Work), Entry>,
    /// What time it is by the log, and when that was heard.
    log_time: Option<LogTime>,
    log_time_heard: Option<Instant>,
}

/// By saga, item and number.
type KnownAttempts = HashMap<(String, Item, u32), Known>;

/// What is known of attempts.
#[derive(Clone, Default)]
struct Attempts(Arc<Mutex<KnownAttempts>>);

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

impl Attempts {
    fn known(&self) -> MutexGuard<'_, KnownAttempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt: how often on end it came to nothing, and its answer where there is one that could not be written.
    /// `None` where it is under way, or rests.
    fn begin(&self, entry: &Entry) -> Option<(u32, Option<Answer>)> {
        let mut known = self.known();
        if is_known(&known, entry) {
            return None;
        }
        let attempt = (entry.saga.clone(), entry.item.clone(), entry.attempt);
        match known.insert(attempt, Known::UnderWay) {
            Some(Known::Rests { tries, answer, .. }) => Some((tries, answer)),
            _ => Some((0, None)),
        }
    }

    /// Lets an attempt rest, by what came of it. What follows at once is returned.
    fn rest(&self, Errand { entry, turn, tries, answer }: Errand) -> Vec<Entry> {
        let longer = |time: Duration| time.saturating_mul(1 << tries.min(20)).min(TROUBLE_MAX);
        let (rest, tries, next) = match turn {
            Some(Turn::Done(next)) => (REMEMBERED, 0, next),
            Some(Turn::Nothing) => (longer(REMEMBERED), tries + 1, Vec::new()),
            Some(Turn::Later(time)) => (time.min(LATER_MAX), 0, Vec::new()),
            None => (longer(AFTER_TROUBLE), tries + 1, Vec::new()),
        };
        let rests = Known::Rests { until: Instant::now() + rest, due: entry.due, tries, answer };
        self.known().insert((entry.saga, entry.item, entry.attempt), rests);
        next
    }
}

/// Whether an attempt is under way, or rests in this entry.
fn is_known(known: &KnownAttempts, entry: &Entry) -> bool {
    match known.get(&(entry.saga.clone(), entry.item.clone(), entry.attempt)) {
        Some(Known::UnderWay) => true,
        Some(Known::Rests { until, due, .. }) => *due == entry.due && *until > Instant::now(),
        None => false,
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
    pub fn new(
        office: Office<S, M, P>,
        agendas: Arc<Running>,
        bell: Arc<Notify>,
        fresh: mpsc::Receiver<Entry>,
        draining: Arc<AtomicBool>,
    ) -> Self {
        Self {
            office: Arc::new(office),
            agendas,
            bell,
            fresh,
            draining,
            attempts: Attempts::default(),
            attempts_seen_to: Instant::now(),
            at_work: JoinSet::new(),
            timers: 0,
            had_no_room: [false; Work::ALL.len()],
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
            if self.has_room() && looks_at <= began {
                let wait = self.look().await.unwrap_or_else(|error| {
                    tracing::warn!(saga = S::NAME, %error, "the agenda could not be read");
                    AFTER_TROUBLE
                });
                // However much is there to look at, most of the time is for doing it.
                rests_until = Instant::now() + BETWEEN_LOOKS.max(4 * began.elapsed());
                looks_at = rests_until.max(began + wait);
            }
            let (bell, has_room) = (self.bell.clone(), self.has_room());
            let takes_fresh = self.takes_fresh(rests_until);
            tokio::select! {
                Some(done) = self.at_work.join_next() => self.done(done),
                Some(entry) = self.fresh.recv(), if takes_fresh => drop(self.begin(entry)),
                () = bell.notified(), if has_room => looks_at = looks_at.min(rests_until.max(Instant::now() + BETWEEN_LOOKS)),
                () = sleep_until(looks_at), if has_room => {}
            }
            while let Some(done) = self.at_work.try_join_next() {
                self.done(done);
            }
            while self.takes_fresh(rests_until)
                && let Ok(entry) = self.fresh.try_recv()
            {
                self.begin(entry);
            }
            if Work::ALL.into_iter().any(|work| self.had_no_room[work as usize] && self.room(work) > 0) {
                looks_at = looks_at.min(rests_until);
            }
        }
        while self.at_work.join_next().await.is_some() {}
    }

    /// How many more of a kind may be begun.
    fn room(&self, work: Work) -> usize {
        match work {
            Work::Call => self.office.options.calls_max.saturating_sub(self.at_work.len() - self.timers),
            Work::Timer | Work::Moment => TIMERS_AT_ONCE.saturating_sub(self.timers),
        }
    }

    /// What comes fresh is begun at once, unless there was no room for what the agenda has, and it may be looked at again:
    /// that is due first.
    fn takes_fresh(&self, rests_until: Instant) -> bool {
        let others_first = self.had_no_room[Work::Call as usize] && Instant::now() >= rests_until;
        self.room(Work::Call) > 0 && !others_first
    }

    fn has_room(&self) -> bool {
        Work::ALL.into_iter().any(|work| self.room(work) > 0)
    }

    /// Begins what is due as far as there is room, and says when to look again. Each look begins at another partition, so
    /// that one with much to do keeps none waiting.
    async fn look(&mut self) -> Result<Duration, Cause> {
        let now = Instant::now();
        if now >= self.attempts_seen_to + REMEMBERED / 4 {
            self.attempts.known().retain(|_, known| !known.is_over(now));
            self.attempts_seen_to = now;
        }
        self.hear_log_time(now).await?;
        let mut partitions = self.owned();
        self.looks = self.looks.wrapping_add(1);
        let first = self.looks % partitions.len().max(1);
        partitions.rotate_left(first);
        let mut wait = self.office.options.look_every;
        self.had_no_room = Default::default();
        for (partition, work) in partitions.into_iter().flat_map(|partition| Work::ALL.map(|work| (partition, work))) {
            match self.room(work) {
                0 => self.had_no_room[work as usize] = true,
                _ => wait = wait.min(self.look_into(partition, work).await?),
            }
        }
        Ok(wait)
    }

    /// Begins what is due of a kind in a partition. What is known already must not hide what isn't, and what is not due for
    /// long must cost nothing: so a few entries are asked for, and more only while all of them are due. Where they are very
    /// many, the next look goes on behind them.
    async fn look_into(&mut self, partition: Partition, work: Work) -> Result<Duration, ReadModelError> {
        let (mut after, mut page, mut read) = (self.looked_to.remove(&(partition, work)), 32, 0);
        loop {
            let (entries, clock) = self.office.model.earliest::<S>(partition, work, after.as_ref(), page).await?;
            let clock = clock.unwrap_or_else(|| self.office.clock.now());
            let now = match (work, self.log_time) {
                // The log's time, which spans are counted from, goes on when a clock is set back.
                (Work::Call | Work::Timer, Some(mut time)) => time.now(clock),
                _ => clock,
            };
            for entry in &entries {
                if entry.due > now {
                    return Ok(entry.due.since(now));
                }
                if !self.begin(entry.clone()) {
                    return Ok(self.office.options.look_every);
                }
            }
            if entries.len() < page {
                return Ok(self.office.options.look_every);
            }
            read += page;
            after = entries.into_iter().last().or(after);
            if read >= ENTRIES_A_LOOK {
                self.looked_to.extend(after.map(|after| ((partition, work), after)));
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
            if let Some(last) = store.event(head.event).await? {
                self.log_time.get_or_insert_with(|| LogTime::from(last.recorded_at)).now(last.recorded_at);
            }
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

    /// Begins an entry, unless that was done; `false` where there is no room for it.
    fn begin(&mut self, entry: Entry) -> bool {
        if self.room(entry.work) == 0 {
            let is_known = is_known(&self.attempts.known(), &entry);
            self.had_no_room[entry.work as usize] |= !is_known;
            return is_known;
        }
        let Some((tries, answer)) = self.attempts.begin(&entry) else { return true };
        self.timers += usize::from(entry.work != Work::Call);
        let (office, attempts, draining) = (self.office.clone(), self.attempts.clone(), self.draining.clone());
        self.at_work.spawn(async move {
            let mut errand = office.errand(entry, tries, answer).await;
            // A call that is all that follows is made at once, in the same place.
            while errand.entry.work == Work::Call
                && let Some(Turn::Done(next)) = &errand.turn
                && let [next] = &next[..]
                && next.work == Work::Call
                && !draining.load(Ordering::Acquire)
            {
                let next = next.clone();
                let Some((tries, answer)) = attempts.begin(&next) else { break };
                attempts.rest(Errand { turn: Some(Turn::Done(Vec::new())), ..errand });
                errand = office.errand(next, tries, answer).await;
            }
            errand
        });
        true
    }

    fn done(&mut self, done: Result<Errand, JoinError>) {
        // A panic was caught, so it was not cut off but with all that is here.
        let Ok(errand) = done else { return };
        self.timers -= usize::from(errand.entry.work != Work::Call);
        self.next.extend(self.attempts.rest(errand));
    }
}

impl<S: Saga, M, P: Perform<S>> Office<S, M, P> {
    /// Has an entry done, and says what came of it.
    async fn errand(&self, entry: Entry, tries: u32, mut answer: Option<Answer>) -> Errand {
        let turn = AssertUnwindSafe(self.desk.turn_again(&entry, &mut answer)).catch_unwind().await;
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
    }
}
