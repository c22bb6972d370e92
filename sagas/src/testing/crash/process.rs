//! One process that works on a run, until it dies.

use std::{collections::HashMap, fmt};

use indelible_core::{EventStore, Timestamp};

use super::{
    run::{Member, Run},
    watched::Watched,
};
use crate::{
    Act, AgendaModel, Saga, SagaEvent, Standing, Tell,
    agenda::{Change, Entry, Item, Work, changes},
    desk::{Desk, Turn},
};

/// A run that takes more turns than this goes round in circles.
const TURNS_MAX: usize = 2_000;

pub(super) struct Process<'r, S: Saga, M> {
    run: &'r Run<'r, S, M>,
    desk: Desk<S, Watched<S>>,
    /// What it knows to be due, beside the agenda.
    memory: Vec<Entry>,
    /// How many events of each saga it has taken notice of.
    noticed: HashMap<String, usize>,
    /// When to try again what was put off.
    later: HashMap<(String, Item, u32), Timestamp>,
}

impl<'r, S: Saga, M: AgendaModel> Process<'r, S, M> {
    /// A process that knows nothing of what was before it.
    pub async fn new(run: &'r Run<'r, S, M>, desk: Desk<S, Watched<S>>) -> Self {
        run.look().await;
        let noticed = run.sagas().iter().map(|saga| (saga.id.clone(), saga.events.len())).collect();
        Self { run, desk, memory: Vec::new(), noticed, later: HashMap::new() }
    }

    /// Lives until all has ended, and says what was wrong.
    pub async fn live(mut self) -> Option<String> {
        self.work().await.err()
    }

    async fn work(&mut self) -> Result<(), String> {
        let (run, about) = (self.run, self.run.scenario.about.clone());
        match self.desk.sagas.start(run.id, about).await {
            Err(error) if !error.is_rejected() => return Err(format!("it can't be started: {error}")),
            _ => {}
        }
        let mut clerk = run.clerk().await;
        for _ in 0..TURNS_MAX {
            clerk.catch_up().await.map_err(|error| format!("the agenda can't be kept: {error}"))?;
            run.look().await;
            self.notice();
            if self.tells_something().await? {
                continue;
            }
            if run.sagas().iter().all(|saga| self.is_over(saga)) {
                return Ok(());
            }
            let mut due = clerk.due().await.map_err(|error| format!("the agenda can't be read: {error}"))?;
            due.extend(self.memory.iter().cloned());
            let when = |entry: &Entry| self.put_off(entry).unwrap_or(entry.due);
            let next = due.into_iter().min_by_key(|entry| (when(entry), entry.saga.clone(), entry.item.clone()));
            let Some(entry) = next else {
                let stand: Vec<_> =
                    run.sagas().iter().map(|saga| format!("{}: {:#?}", saga.id, saga.journal.past())).collect();
                return Err(format!("nothing is due, and it has not ended: {}", stand.join("\n")));
            };
            run.store.pass_to(when(&entry));
            run.moments.pass(if entry.work == Work::Call { "before a turn" } else { "before a timer" }).await;
            self.take(&entry).await?;
        }
        Err("it goes round in circles".into())
    }

    fn put_off(&self, entry: &Entry) -> Option<Timestamp> {
        self.later.get(&(entry.saga.clone(), entry.item.clone(), entry.attempt)).copied()
    }

    fn is_over(&self, saga: &Member<S>) -> bool {
        match saga.journal.standing() {
            Standing::Ended(_) => true,
            Standing::NeedsIntervention { .. } => saga.id == self.run.id,
            _ => false,
        }
    }

    /// Tells the first saga that is to be told something; whether there was one.
    async fn tells_something(&self) -> Result<bool, String> {
        let wishes = self.wishes(&self.run.sagas());
        for (id, tell) in wishes {
            match self.desk.sagas.tell(indelible_core::CommandContext::new(), &id, tell).await {
                Ok(_) => return Ok(true),
                Err(error) if error.is_rejected() => {}
                Err(error) => return Err(format!("{id} can't be told: {error}")),
            }
        }
        Ok(false)
    }

    /// That it is cancelled, what an operator says, and the signals that are waited for.
    fn wishes(&self, sagas: &[Member<S>]) -> Vec<(String, Tell<S>)> {
        let scenario = self.run.scenario;
        let has_begun = |step| sagas.iter().any(|saga| saga.journal.past().track(step).is_some());
        let is_cancelled = |saga: &Member<S>| saga.events.iter().any(|(_, e)| matches!(e, SagaEvent::Cancelled { .. }));
        let mut wishes = Vec::new();
        for saga in sagas {
            let mine = |tell| (saga.id.clone(), tell);
            let is_root = saga.id == self.run.id;
            if is_root && scenario.cancelled_at.as_deref().is_some_and(has_begun) && !is_cancelled(saga) {
                wishes.push(mine(Tell::Cancel { reason: "it isn't wanted".into() }));
            }
            if let Standing::NeedsIntervention { step, act } = saga.journal.standing() {
                let tells =
                    scenario.operator.get(&(step.clone(), act)).and_then(|tells| tells.get(retries(saga, &step, act)));
                wishes.extend(tells.cloned().map(mine));
                if !is_root {
                    wishes.push(mine(Tell::GiveUp { reason: "nobody knows better".into() }));
                }
            }
            let waiting = saga.journal.past().tracks.iter().filter(|track| track.signal && track.is_running());
            wishes.extend(waiting.filter_map(|track| {
                let value = scenario.signals.get(&track.step)?.clone();
                Some(mine(Tell::Signal { name: track.step.clone(), value }))
            }));
        }
        wishes
    }

    /// Has an entry done, and by another worker once more.
    async fn take(&mut self, entry: &Entry) -> Result<(), String> {
        let (run, told) = (self.run, |error: &dyn fmt::Display| format!("{error} of {entry:?}"));
        match self.desk.turn(entry).await {
            Ok(Turn::Done(_)) => {}
            Ok(Turn::Later(time)) => {
                let attempt = (entry.saga.clone(), entry.item.clone(), entry.attempt);
                self.later.insert(attempt, run.store.now() + time);
            }
            Ok(Turn::Nothing) => return Err(format!("{entry:?} is due, and there was nothing to do")),
            Err(error) => return Err(told(&error)),
        }
        let written = run.store.head().await.map_err(|error| told(&error))?;
        let again = self.desk.turn(entry).await.map_err(|error| told(&error))?;
        match run.store.head().await.is_ok_and(|head| head == written) {
            true => Ok(()),
            false => Err(format!("{entry:?} was done twice: {again:?}")),
        }
    }

    /// Remembers what is due because of what has happened since it looked last.
    fn notice(&mut self) {
        for saga in self.run.sagas().iter() {
            let noticed = self.noticed.entry(saga.id.clone()).or_default();
            for (recorded, event) in &saga.events[*noticed..] {
                for change in changes(&saga.id, event, self.run.store.recorded_at(recorded)) {
                    let (of, item) = match &change {
                        Change::Put(entry) => (&entry.saga, &entry.item),
                        Change::Remove(saga, item) => (saga, item),
                    };
                    self.memory.retain(|known| (&known.saga, &known.item) != (of, item));
                    if let Change::Put(entry) = change {
                        self.later.remove(&(entry.saga.clone(), entry.item.clone(), entry.attempt));
                        self.memory.push(entry);
                    }
                }
            }
            *noticed = saga.events.len();
        }
    }
}

/// How often an operator had something tried again.
fn retries<S: Saga>(saga: &Member<S>, step: &str, act: Act) -> usize {
    let retried =
        |event: &SagaEvent| matches!(event, SagaEvent::Retried { step: of, act: on, .. } if of == step && *on == act);
    saga.events.iter().filter(|(_, event)| retried(event)).count()
}
