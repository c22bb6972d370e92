//! Crashes at every point: before and after each journal write, each effect and each timer, alone and in pairs. Whatever
//! happens, a saga must come to what it comes to without.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use futures::{FutureExt, future::poll_fn};
use serde_json::Value;

use super::{
    outside::{Outside, Script},
    store::{Moments, MortalStore},
};
use crate::{
    Act, Call, Failure, Journal, Perform, Saga, Sagas, Standing,
    agenda::{Change, Entry, changes, kept},
    desk::{Desk, Turn},
    past::Way,
};

/// A run that takes more turns than this goes round in circles.
const TURNS_MAX: usize = 2_000;

/// What came of crashing everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Crashes {
    /// How many points there are in a run without crashes.
    pub points: usize,
    /// How many runs there were.
    pub runs: usize,
    /// How many processes died in them.
    pub crashes: usize,
    /// What was wrong; empty is what a test asks for.
    pub faults: Vec<String>,
}

impl fmt::Display for Crashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { points, runs, crashes, faults } = self;
        write!(f, "{runs} runs, {crashes} crashes at {points} points, {} faults", faults.len())
    }
}

/// Runs a saga to its end, against a world outside that answers by a script; then again, and again, each time dying at
/// another point, and at every pair of points where `pairs` says so. What was done is done a second time by another worker
/// each time, which must change nothing. Signals come when a step waits for them. Time is skipped.
///
/// # Panics
/// Where the saga can't even be started.
pub async fn crash_everywhere<S: Saga>(
    about: S,
    script: &Script,
    signals: &BTreeMap<String, Value>,
    pairs: bool,
) -> Crashes {
    let undisturbed = Run::new(about.clone(), script, signals, []).play().await;
    let mut report = Crashes { points: undisturbed.passed, runs: 1, faults: undisturbed.faults, ..Crashes::default() };
    let mut deaths: Vec<Vec<usize>> = (0..report.points).map(|point| vec![point]).collect();
    if pairs {
        // After a crash some of the moments come again, so the second may come later than there were points.
        let both = |first| (first + 1..report.points + PAIRS_BEYOND).map(move |second| vec![first, second]);
        deaths.extend((0..report.points).flat_map(both));
    }
    for deadly in deaths {
        let run = Run::new(about.clone(), script, signals, deadly.iter().copied()).play().await;
        report.runs += 1;
        report.crashes += run.crashes;
        let told = |fault| format!("with crashes at {deadly:?}: {fault}");
        report.faults.extend(run.faults.into_iter().map(told));
        if run.end != undisturbed.end {
            report.faults.push(told(format!("it came to {:#?}, and without to {:#?}", run.end, undisturbed.end)));
        }
        if report.faults.len() > 10 {
            break;
        }
    }
    report
}

/// How much later than all points the second crash of a pair may be.
const PAIRS_BEYOND: usize = 6;

/// What a saga came to.
#[derive(Debug, PartialEq)]
struct End {
    standing: Standing,
    steps: Vec<(String, Way, Option<Way>)>,
    happened: BTreeSet<String>,
}

/// What came of a run.
struct Played {
    end: End,
    passed: usize,
    crashes: usize,
    faults: Vec<String>,
}

/// A run of one saga, through any number of processes.
struct Run<'a, S: Saga> {
    about: S,
    signals: &'a BTreeMap<String, Value>,
    moments: Arc<Moments>,
    store: MortalStore,
    outside: Outside,
}

const ID: &str = "crashed";

impl<'a, S: Saga> Run<'a, S> {
    fn new(
        about: S,
        script: &Script,
        signals: &'a BTreeMap<String, Value>,
        deadly: impl IntoIterator<Item = usize>,
    ) -> Self {
        let moments = Moments::deadly(deadly);
        let store = MortalStore::new(&moments);
        Self { about, signals, moments, store, outside: Outside::new(script.clone()) }
    }

    /// Plays it to its end, with a new process whenever one has died.
    async fn play(self) -> Played {
        let mut crashes = 0;
        loop {
            // All that a process remembers ends with it.
            let sagas = Sagas::<S>::new(&self.store);
            let watched =
                Watched { outside: self.outside.clone(), moments: self.moments.clone(), sagas: sagas.clone() };
            let mut process = Process { run: &self, desk: Desk { sagas, performer: watched }, memory: Vec::new() };
            let lives = process.live();
            futures::pin_mut!(lives);
            let ended = poll_fn(|context| match lives.poll_unpin(context) {
                std::task::Poll::Pending if self.moments.took_it() => std::task::Poll::Ready(None),
                polled => polled.map(Some),
            });
            match ended.await {
                None => crashes += 1,
                Some(fault) => return Played { crashes, ..self.judge(fault).await },
            }
        }
    }

    async fn judge(&self, fault: Option<String>) -> Played {
        let journal = self.journal().await;
        let mut faults = self.outside.faults();
        faults.extend(fault);
        faults.extend(wrongly_undone(&journal));
        faults.extend(left_behind(&journal, &self.outside.happened()));
        let tracks = journal.past().tracks.iter();
        // How often something was tried may differ, what it came to may not.
        let end = End {
            standing: journal.standing(),
            steps: tracks
                .map(|t| (t.step.clone(), t.way.clone(), t.undo.as_ref().map(|(_, way)| way.clone())))
                .collect(),
            happened: self.outside.happened(),
        };
        Played { end, passed: self.moments.passed(), crashes: 0, faults }
    }

    async fn journal(&self) -> Journal<S> {
        let loaded = Sagas::<S>::new(&self.store).load(ID).await;
        loaded.unwrap_or_else(|error| panic!("the journal can't be read: {error}")).into_state()
    }
}

/// Steps that are undone though they can't have happened, or the other way round.
fn wrongly_undone<S: Saga>(journal: &Journal<S>) -> Vec<String> {
    let Some(about) = journal.about().filter(|_| journal.standing() == Standing::Ended(crate::Outcome::Compensated))
    else {
        return Vec::new();
    };
    let plan = about.plan(journal.past());
    let wrong = journal.past().tracks.iter().filter_map(|track| {
        let has_undo = plan.find(&track.step).is_some_and(|step| step.undo.is_some());
        let (expected, found) = (track.may_have_happened() && has_undo, track.undo.is_some());
        (expected != found).then(|| format!("{} ended as {:?}, undone: {found}", track.step, track.way))
    });
    wrong.collect()
}

/// Steps that happened outside, and were not undone there though they can be.
fn left_behind<S: Saga>(journal: &Journal<S>, happened: &BTreeSet<String>) -> Vec<String> {
    let Some(about) = journal.about().filter(|_| journal.standing() == Standing::Ended(crate::Outcome::Compensated))
    else {
        return Vec::new();
    };
    let plan = about.plan(journal.past());
    let has = |step: &str, act| happened.contains(&Sagas::<S>::key(ID, step, act));
    let undoable = plan.steps().filter(|step| step.undo.is_some()).map(|step| step.name.as_ref());
    let left = undoable.filter(|step| has(step, Act::Do) && !has(step, Act::Undo));
    left.map(|step| format!("{step} happened outside, and was not undone there")).collect()
}

/// One process that works on a run.
struct Process<'r, 'a, S: Saga> {
    run: &'r Run<'a, S>,
    desk: Desk<S, Watched<S>>,
    /// What it knows to be due, beside the agenda.
    memory: Vec<Entry>,
}

impl<S: Saga> Process<'_, '_, S> {
    /// Lives until the saga has ended, and says what was wrong.
    async fn live(&mut self) -> Option<String> {
        let about = self.run.about.clone();
        match self.desk.sagas.start(ID, about).await {
            Ok(done) => self.remember(done.events()),
            Err(error) if error.is_rejected() => {}
            Err(error) => return Some(format!("it can't be started: {error}")),
        }
        for _ in 0..TURNS_MAX {
            let journal = self.run.journal().await;
            if matches!(journal.standing(), Standing::Ended(_) | Standing::NeedsIntervention { .. }) {
                return None;
            }
            self.signal(&journal).await;
            let agenda = self.agenda().await;
            let Some(entry) = agenda.into_iter().min_by(|a, b| (a.due, &a.item).cmp(&(b.due, &b.item))) else {
                let waits = self.run.journal().await;
                return (waits.standing() == journal.standing() && waits.next().is_ok_and(|next| next.is_none()))
                    .then(|| format!("nothing is due, and it has not ended: {:#?}", waits.past()));
            };
            self.run.store.pass_to(entry.due);
            self.run.moments.pass().await;
            if let Err(fault) = self.take(&entry).await {
                return Some(fault);
            }
        }
        Some("it goes round in circles".into())
    }

    /// Has an entry done, and by another worker once more.
    async fn take(&mut self, entry: &Entry) -> Result<(), String> {
        let told = |error: &dyn fmt::Display| format!("{} of {entry:?}", error);
        let version = self.version().await;
        match self.desk.turn(entry).await {
            Ok(Turn::Done(_)) => {}
            Ok(turn) => return Err(format!("{entry:?} is due, and its turn is {turn:?}")),
            Err(error) => return Err(told(&error)),
        }
        let written = self.version().await;
        let journal = self.desk.sagas.journal(ID).await.map_err(|error| told(&error))?;
        let news: Vec<_> = journal.into_iter().skip(version).map(|(recorded, _)| recorded).collect();
        self.remember(&news);
        let again = self.desk.turn(entry).await.map_err(|error| told(&error))?;
        match self.version().await == written {
            true => Ok(()),
            false => Err(format!("{entry:?} was done twice: {again:?}")),
        }
    }

    async fn version(&self) -> usize {
        self.desk.sagas.load(ID).await.map_or(0, |journal| journal.version().get() as usize)
    }

    fn remember(&mut self, events: &[indelible_core::RecordedEvent]) {
        for recorded in events {
            let Ok(event) = recorded.decode::<crate::SagaEvent>() else { continue };
            fold(&mut self.memory, changes(ID, &event, self.run.store.recorded_at(recorded)));
        }
    }

    /// What is due, by the log and by what this process knows.
    async fn agenda(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (recorded, event) in self.desk.sagas.journal(ID).await.unwrap_or_default() {
            fold(&mut entries, kept(ID, &event, self.run.store.recorded_at(&recorded)));
        }
        entries.extend(self.memory.iter().cloned());
        entries
    }

    /// Sends the signals that are waited for.
    async fn signal(&mut self, journal: &Journal<S>) {
        let waiting = journal.past().tracks.iter().filter(|track| track.signal && track.is_running());
        let wanted = waiting.filter_map(|track| Some((track.step.clone(), self.run.signals.get(&track.step)?)));
        for (step, value) in wanted.collect::<Vec<_>>() {
            if let Ok(done) = self.desk.sagas.signal(ID, &step, value).await {
                self.remember(done.events());
            }
        }
    }
}

fn fold(entries: &mut Vec<Entry>, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Put(entry) => {
                entries.retain(|known| known.item != entry.item);
                entries.push(entry);
            }
            Change::Remove(_, item) => entries.retain(|known| known.item != item),
        }
    }
}

/// The world outside, with a moment before each call and one after; and a look at whether the journal knows of it.
struct Watched<S: Saga> {
    outside: Outside,
    moments: Arc<Moments>,
    sagas: Sagas<S>,
}

impl<S: Saga> Perform<S> for Watched<S> {
    async fn perform(&self, effect: S::Effect, call: &Call) -> Result<Value, Failure> {
        self.moments.pass().await;
        let journal = self.sagas.load(ID).await.map_err(Failure::unsure)?;
        let track = journal.past().track(call.step());
        if track.and_then(|track| track.on_its(call.act())).is_none() {
            self.outside.fault(format!("{} was called before the journal said so", call.key()));
        }
        if call.act() == Act::Undo && track.is_some_and(|track| !track.may_have_happened()) {
            self.outside.fault(format!("{} was called, and there is nothing to undo", call.key()));
        }
        let answer = Perform::<S>::perform(&self.outside, effect, call).await;
        self.moments.pass().await;
        answer
    }
}
