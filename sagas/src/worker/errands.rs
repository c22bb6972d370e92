//! The loop of one type of saga: looks into the agenda's partitions that this process owns, and has done what is due, so
//! many at once.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use indelible_core::Timestamp;
use indelible_projections::{Partition, PartitionState, ProjectionId, ReadModelError, Running};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    Agenda, AgendaModel, Clock, Perform, Saga, SagaOptions,
    agenda::{Entry, Item},
    desk::{Desk, Turn},
};

/// How long an agenda is left alone at least, also after it was told of something: its batch may not be committed yet.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// For how long an entry that was done is remembered: the agenda follows behind the journal.
const REMEMBERED: Duration = Duration::from_secs(2);
/// How soon an entry is tried again that the store or the code stood in the way of.
const AFTER_TROUBLE: Duration = Duration::from_secs(1);

/// Where a saga's errands are done.
pub(super) struct Office<S: Saga, M, P> {
    pub desk: Desk<S, P>,
    pub model: M,
    pub clock: Arc<dyn Clock>,
    pub options: SagaOptions,
}

pub(super) struct Errands<S: Saga, M, P> {
    office: Arc<Office<S, M, P>>,
    agendas: Arc<Running>,
    bell: Arc<Notify>,
    draining: Arc<AtomicBool>,
    /// Attempts that need not be looked at: those under way, in whatever entry they come; others until then, in the same.
    known: HashMap<(String, Item, u32), Known>,
    at_work: JoinSet<(Entry, Result<Turn, ()>)>,
    /// Entries that a turn here led to, before the agenda has them.
    next: Vec<Entry>,
}

enum Known {
    UnderWay,
    Until(Instant, Timestamp),
}

impl<S: Saga, M: AgendaModel, P: Perform<S>> Errands<S, M, P> {
    pub fn new(office: Office<S, M, P>, agendas: Arc<Running>, bell: Arc<Notify>, draining: Arc<AtomicBool>) -> Self {
        let (known, at_work, next) = (HashMap::new(), JoinSet::new(), Vec::new());
        Self { office: Arc::new(office), agendas, bell, draining, known, at_work, next }
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

    /// Begins what is due as far as there is room, and says when to look again.
    async fn look(&mut self) -> Result<Duration, ReadModelError> {
        let now = Instant::now();
        self.known.retain(|_, known| !matches!(known, Known::Until(until, _) if *until <= now));
        let mut wait = self.office.options.look_every;
        for partition in self.owned() {
            wait = wait.min(self.look_into(partition).await?);
        }
        Ok(wait)
    }

    /// Begins what is due in a partition. What is known already must not hide what isn't, and what is not due for long must
    /// cost nothing: so a few entries are asked for, and more only while all of them are due.
    async fn look_into(&mut self, partition: Partition) -> Result<Duration, ReadModelError> {
        let mut limit = 32;
        loop {
            let (entries, clock) = self.office.model.earliest::<S>(partition, limit).await?;
            let now = clock.unwrap_or_else(|| self.office.clock.now());
            let is_all = entries.len() < limit;
            for entry in entries {
                if self.room() == 0 {
                    return Ok(Duration::ZERO);
                }
                if entry.due > now {
                    return Ok(entry.due.since(now));
                }
                self.begin(entry);
            }
            if is_all {
                return Ok(self.office.options.look_every);
            }
            limit *= 2;
        }
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
            Some(Known::Until(_, due)) => *due == entry.due,
            None => false,
        };
        if is_known || self.room() == 0 {
            return;
        }
        self.known.insert(attempt, Known::UnderWay);
        let office = self.office.clone();
        self.at_work.spawn(async move {
            let turn = office.desk.turn(&entry).await.map_err(|error| {
                tracing::warn!(saga = S::NAME, id = entry.saga, item = %entry.item, %error,
                    "what is due could not be done, and stays due");
            });
            (entry, turn)
        });
    }

    fn done(&mut self, done: Result<(Entry, Result<Turn, ()>), tokio::task::JoinError>) {
        // Its own panics the desk has caught; what is left is a fault here, and the entry stays under way until a restart.
        let Ok((entry, turn)) = done else { return };
        let rest = match turn {
            Ok(Turn::Done(next)) => {
                self.next.extend(next.into_iter().filter(|next| next.due <= self.office.clock.now()));
                REMEMBERED
            }
            Ok(Turn::Nothing) => REMEMBERED,
            Ok(Turn::Later(time)) => time,
            Err(()) => AFTER_TROUBLE,
        };
        let known = Known::Until(Instant::now() + rest, entry.due);
        self.known.insert((entry.saga, entry.item, entry.attempt), known);
    }
}
