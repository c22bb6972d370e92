//! A run of one saga and its children, through any number of processes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use futures::{FutureExt, TryStreamExt, future::poll_fn};
use indelible_core::{Aggregate, AnyStore, Apply, EventStoreExt, ReadStream, RecordedEvent, Repository, Version};

use super::{
    Ends, Played,
    clerk::Clerk,
    judge,
    process::Process,
    watched::{Brought, Ledger, Watched},
};
use crate::{
    AgendaModel, Journal, Saga, SagaEvent, Sagas,
    desk::Desk,
    testing::{
        Scenario,
        outside::Outside,
        store::{Moments, MortalStore},
    },
};

pub(super) struct Run<'a, S: Saga, M> {
    pub scenario: &'a Scenario<S>,
    pub id: &'a str,
    pub moments: Arc<Moments>,
    pub store: MortalStore,
    pub model: &'a M,
    pub outside: Outside,
    sagas: Mutex<Vec<Member<S>>>,
}

/// The saga of a run, or a child of it: its journal, and what it comes to.
pub(super) struct Member<S: Saga> {
    pub id: String,
    pub events: Vec<(RecordedEvent, SagaEvent)>,
    pub journal: Journal<S>,
}

impl<'a, S: Saga, M: AgendaModel> Run<'a, S, M> {
    pub fn new(
        scenario: &'a Scenario<S>,
        id: &'a str,
        store: &AnyStore,
        model: &'a M,
        deadly: impl IntoIterator<Item = usize>,
    ) -> Self {
        let moments = Moments::deadly(deadly);
        let store = MortalStore::new(store, &moments);
        let (outside, sagas) = (Outside::new(scenario.script.clone()), Mutex::default());
        Self { scenario, id, moments, store, model, outside, sagas }
    }

    /// Plays it to its end, with a new process whenever one has died.
    pub async fn play(self) -> Played {
        let fault = loop {
            // All that a process remembers ends with it.
            let sagas = Sagas::<S>::new(&self.store);
            let performer = Watched {
                outside: self.outside.clone(),
                moments: self.moments.clone(),
                sagas: sagas.clone(),
                ledgers: Repository::new(&self.store),
                children: self.scenario.children.clone(),
            };
            let lives = Process::new(&self, Desk { sagas, performer }).await.live();
            futures::pin_mut!(lives);
            let ended = poll_fn(|context| match lives.poll_unpin(context) {
                Poll::Pending if self.moments.took_it() => Poll::Ready(None),
                polled => polled.map(Some),
            });
            match ended.await {
                None => {}
                Some(fault) => break fault,
            }
        };
        let (passed, died) = (self.moments.passed(), self.moments.died());
        let mut faults = self.outside.faults();
        faults.extend(fault);
        let (mut end, mut seen) = (Ends::new(), BTreeMap::<_, usize>::new());
        self.look().await;
        let sagas = std::mem::take(&mut *self.sagas());
        for saga in sagas {
            let brought = self.brought(&saga).await;
            faults.extend(judge::faults(&self, &saga, &brought).await);
            for (_, event) in &saga.events {
                *seen.entry(judge::name(event)).or_default() += 1;
            }
            *seen.entry("child").or_default() += usize::from(saga.id != self.id);
            end.insert(saga.id.clone(), judge::end(&saga, brought));
        }
        Played { end, passed, died, seen, faults }
    }

    /// The saga and its children, as far as they had begun at the last look.
    pub fn sagas(&self) -> MutexGuard<'_, Vec<Member<S>>> {
        self.sagas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks into the journals: not as a process of the run, but as who watches it.
    pub async fn look(&self) {
        let mut known = std::mem::take(&mut *self.sagas());
        let (mut ids, mut found) = (vec![self.id.to_owned()], Vec::new());
        while let Some(id) = ids.pop() {
            let mut saga = match known.iter().position(|saga| saga.id == id) {
                Some(at) => known.swap_remove(at),
                None => Member { id, events: Vec::new(), journal: Journal::default() },
            };
            let stream = Journal::<S>::stream(&saga.id).unwrap_or_else(|error| panic!("{}: {error}", saga.id));
            let news = ReadStream::new(stream).from(Version::new(saga.events.len() as u64 + 1));
            let news: Result<Vec<_>, _> = self.store.stream(news).try_collect().await;
            for recorded in news.unwrap_or_else(|error| panic!("{} can't be read: {error}", saga.id)) {
                let event = recorded.decode().unwrap_or_else(|error| panic!("{} can't be read: {error}", saga.id));
                saga.journal.apply(&event);
                saga.events.push((recorded, event));
            }
            let steps = saga.journal.past().tracks.iter().map(|track| &track.step);
            ids.extend(
                steps.filter(|step| self.scenario.children.contains_key(*step)).map(|step| child(&saga.id, step)),
            );
            if !saga.events.is_empty() {
                found.push(saga);
            }
        }
        *self.sagas() = found;
    }

    /// What was brought about by commands for a saga, once for each time.
    async fn brought(&self, saga: &Member<S>) -> Vec<String> {
        let ledgers = Repository::<Ledger>::new(&self.store);
        let mut brought = Vec::new();
        for track in &saga.journal.past().tracks {
            let ledger = ledgers.load(Ledger::id(&saga.id, &track.step)).await;
            let ledger = ledger.unwrap_or_else(|error| panic!("a ledger can't be read: {error}"));
            brought.extend(ledger.brought.iter().map(|Brought { key }| key.clone()));
        }
        brought
    }

    pub async fn clerk(&self) -> Clerk<'_, S, M> {
        Clerk::new(self).await.unwrap_or_else(|error| panic!("the agenda can't be opened: {error}"))
    }

    /// Whether a saga belongs to this run.
    pub fn has(&self, saga: &str) -> bool {
        saga.strip_prefix(self.id).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The id of the saga that a step of another runs.
pub(super) fn child(parent: &str, step: &str) -> String {
    format!("{parent}/{step}")
}
