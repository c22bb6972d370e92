//! The history of a saga, for people: its journal, and beside it what led to it and what came of it elsewhere in the log, by
//! correlation and causation.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Write as _,
};

use futures::TryStreamExt;
use indelible_core::{
    AnyStore, CausationId, CommandContext, CorrelationId, EventId, EventStoreExt, LoadError, Position, ReadLog,
    RecordedEvent, StreamId,
};
use serde_json::Value;

use crate::{Act, Saga, SagaEvent, Sagas};

/// How many events of the log are looked at, those of the journal apart.
pub(crate) const LOOKED_AT_MAX: u64 = 100_000;
/// How many of them are shown that came of the saga; and how many that are only correlated with it, as all are that came of
/// the same job.
const SHOWN_MAX: usize = 1_000;
const BESIDE_MAX: usize = 200;
/// How far back it is told what led to a saga.
const CAUSES_MAX: usize = 16;

/// Tells a saga's history, for which so many events of others are looked at.
pub(crate) async fn history<S: Saga>(sagas: &Sagas<S>, id: &str, looked_at: u64) -> Result<String, LoadError> {
    let journal = sagas.journal(id).await?;
    let Some((started, _)) = journal.first() else { return Ok(String::new()) };
    let store = sagas.store();
    let mut rest = Rest::of::<S>(id, &journal);
    let mut lines = Vec::new();
    let mut causes: Vec<RecordedEvent> = Vec::new();
    while let Some(cause) = causes.last().unwrap_or(started).causation_id
        && causes.len() < CAUSES_MAX
        && let Some(event) = store.event(EventId::from_uuid(cause.as_uuid())).await?
    {
        causes.push(event);
    }
    for event in causes.iter().rev() {
        lines.push((event.position, Some(event.recorded_at), rest.line(event)));
    }

    let own: Vec<Position> = journal.iter().map(|(recorded, _)| recorded.position).collect();
    let has_ended = journal.iter().any(|(_, event)| matches!(event, SagaEvent::Ended { .. }));
    let (looks, gaps) = looks(&own, store.head().await?.position, looked_at, has_ended);
    for (from, to) in gaps {
        let (events, from) = (to.get() - from.get() + 1, from.get());
        lines.push((to, None, format!("     ... {events} events from position {from} on were not looked at")));
    }
    for (from, to) in looks {
        let mut events = store.log(ReadLog::all().from(from).to(to));
        while let Some(event) = events.try_next().await? {
            let (shown, max, what) = match rest.part(&event) {
                None => continue,
                Some(Part::Own) => (&mut rest.own_shown, SHOWN_MAX, "came of it"),
                Some(Part::Beside) => (&mut rest.beside_shown, BESIDE_MAX, "is only correlated"),
            };
            *shown += 1;
            if *shown > max {
                if *shown == max + 1 {
                    let more = format!("     ... and what else {what}, behind {max} events");
                    lines.push((event.position, None, more));
                }
                continue;
            }
            rest.know_cause(store, &event).await?;
            lines.push((event.position, Some(event.recorded_at), rest.line(&event)));
        }
    }
    let mut is_first = true;
    for (recorded, event) in &journal {
        rest.know_cause(store, recorded).await?;
        let told = if event.follows() { "  " } else { "" };
        // What follows in the same append has no other.
        let cause = recorded.causation_id.filter(|_| is_first).map(|cause| rest.cause(cause)).unwrap_or_default();
        is_first = recorded.ends_append;
        let text = format!("{:>4} {told}{}{cause}", recorded.version, line(event));
        lines.push((recorded.position, Some(recorded.recorded_at), text));
    }
    lines.sort_by_key(|(position, ..)| *position);

    let began = started.recorded_at;
    let mut text = String::new();
    for (position, at, line) in lines {
        let after = match at {
            Some(at) if at < began => format!("-{:.3?}", began.since(at)),
            Some(at) => format!("{:.3?}", at.since(began)),
            None => String::new(),
        };
        let _ = writeln!(text, "{position:>8} {after:>12}  {line}");
    }
    Ok(text)
}

/// What an event of another stream has to do with the saga.
enum Part {
    /// It came of it: a step wrote it, or it was caused by what did.
    Own,
    /// It is correlated, or of the same cause.
    Beside,
}

/// The part of the log that is not the journal.
struct Rest {
    journal: StreamId,
    correlation: Option<CorrelationId>,
    /// Events of the journal, and others that are shown.
    names: HashMap<CausationId, String>,
    /// What else has caused such; the plain id where the log has no such event.
    causes: HashMap<CausationId, String>,
    /// Events of the journal, and what came of it.
    own: HashSet<CausationId>,
    /// Where the append of an own event goes on.
    own_goes_on: Option<Position>,
    own_shown: usize,
    beside_shown: usize,
    /// Journals of others that were seen to begin, and whether they came of this saga.
    sagas: HashMap<StreamId, bool>,
    /// The steps and compensations that have begun, as they are called, with the keys of their commands.
    acts: Vec<(String, Vec<CommandContext>)>,
    /// What brought about the last event, and where its append goes on.
    append: Option<(Position, String)>,
}

impl Rest {
    fn of<S: Saga>(id: &str, journal: &[(RecordedEvent, SagaEvent)]) -> Self {
        let (first, started) = &journal[0];
        let correlation = match started {
            SagaEvent::Started { correlation, .. } => Some(*correlation),
            _ => first.correlation_id,
        };
        let acts: BTreeSet<(&str, Act)> = journal
            .iter()
            .filter_map(|(_, event)| match event {
                SagaEvent::StepStarted { step, .. } => Some((step.as_str(), Act::Do)),
                SagaEvent::UndoStarted { step, .. } => Some((step.as_str(), Act::Undo)),
                _ => None,
            })
            .collect();
        let acts = acts.into_iter().map(|(step, act)| {
            let key = Sagas::<S>::key(id, step, act);
            let keys = [format!("{key}/start"), key];
            let keyed = keys.map(|key| CommandContext::new().with_idempotency_key(key)).into_iter().flatten();
            (format!("{act} {step}"), keyed.collect())
        });
        Self {
            journal: first.stream.clone(),
            correlation,
            names: journal.iter().map(|(recorded, _)| (recorded.id.into(), recorded.version.to_string())).collect(),
            causes: HashMap::new(),
            own: journal.iter().map(|(recorded, _)| recorded.id.into()).collect(),
            own_goes_on: None,
            own_shown: 0,
            beside_shown: 0,
            sagas: HashMap::new(),
            acts: acts.collect(),
            append: None,
        }
    }

    /// What an event has to do with the saga, if anything.
    fn part(&mut self, event: &RecordedEvent) -> Option<Part> {
        if event.stream == self.journal {
            return None;
        }
        let is_correlated = event.correlation_id == self.correlation;
        let is_own = self.own_goes_on == Some(event.position)
            || event.causation_id.is_some_and(|cause| self.own.contains(&cause))
            || self.sagas.get(&event.stream) == Some(&true)
            || is_correlated && self.act(event).is_some();
        let is_beside = || event.causation_id.is_some_and(|cause| self.names.contains_key(&cause));
        if !is_own && !is_correlated && !is_beside() {
            return None;
        }
        if is_start(event) {
            self.sagas.insert(event.stream.clone(), is_own);
        }
        if !is_own {
            return Some(Part::Beside);
        }
        self.own.insert(event.id.into());
        self.own_goes_on = (!event.ends_append).then(|| event.position.plus(1));
        Some(Part::Own)
    }

    /// The step or compensation under whose key an event was written.
    fn act(&self, event: &RecordedEvent) -> Option<&str> {
        let first = |context: &CommandContext| {
            let ids = [context.first_event_id(Some(&event.stream)), context.first_event_id(None)];
            ids.contains(&Some(event.id))
        };
        self.acts.iter().find(|(_, keys)| keys.iter().any(first)).map(|(act, _)| act.as_str())
    }

    /// An event of another stream in a line: a step's, if it was written under its key, else by what it was caused.
    fn line(&mut self, event: &RecordedEvent) -> String {
        let act = self.act(event).map(|act| format!(", by {act}"));
        let cause = match (act, self.append.take()) {
            (Some(act), _) => act,
            (None, Some((position, cause))) if position == event.position => cause,
            (None, _) => event.causation_id.map(|cause| self.cause(cause)).unwrap_or_default(),
        };
        self.names.insert(event.id.into(), name(event));
        // Another saga's tells more, most likely a child's. What only looks like that may hold anything.
        let is_saga = event.stream.category_str() == self.journal.category_str()
            || self.sagas.contains_key(&event.stream)
            || is_start(event);
        let told = is_saga.then(|| event.decode::<SagaEvent>().ok()).flatten();
        let what = told.map_or_else(|| event.event_type.to_string(), |event| line(&event));
        let line = format!("     {} {what}{cause}", name(event));
        self.append = (!event.ends_append).then(|| (event.position.plus(1), cause));
        line
    }

    /// Looks up what caused an event, if it isn't shown.
    async fn know_cause(&mut self, store: &AnyStore, event: &RecordedEvent) -> Result<(), LoadError> {
        if let Some(cause) = event.causation_id
            && !self.names.contains_key(&cause)
            && !self.causes.contains_key(&cause)
        {
            let event = store.event(EventId::from_uuid(cause.as_uuid())).await?;
            self.causes.insert(cause, event.map_or_else(|| cause.to_string(), |event| name(&event)));
        }
        Ok(())
    }

    /// What caused an event.
    fn cause(&self, cause: CausationId) -> String {
        let name = self.names.get(&cause).or_else(|| self.causes.get(&cause));
        name.map_or_else(|| format!(", by {cause}"), |name| format!(", by {name}"))
    }
}

/// Whether a saga begins with this event: a start that says what the log says of it can't be something else.
fn is_start(event: &RecordedEvent) -> bool {
    event.version.get() == 1
        && matches!(event.decode::<SagaEvent>(), Ok(SagaEvent::Started { correlation, .. })
            if event.correlation_id == Some(correlation))
}

fn name(event: &RecordedEvent) -> String {
    format!("{} {}", event.stream, event.version)
}

/// From and to, inclusive.
type Stretch = (Position, Position);

/// Which stretches of the log are looked at, and which are not: all that lies between the events of a journal and behind
/// them up to the head, as far as that is allowed. Of a long stretch it is the beginning and the end: what an event leads to
/// comes soon after it, and what was done for a step soon before that is written down; behind the end of a saga there is no
/// more of that.
fn looks(journal: &[Position], head: Position, events_max: u64, has_ended: bool) -> (Vec<Stretch>, Vec<Stretch>) {
    let ends = journal.iter().skip(1).copied().chain([head.plus(1)]);
    let between = journal.iter().map(|position| position.get() + 1).zip(ends.map(Position::get));
    let mut between: Vec<(u64, u64)> = between.filter(|(from, end)| from < end).collect();
    // What short ones leave, long ones have.
    between.sort_by_key(|(from, end)| end - from);
    let (mut left, mut looks, mut gaps) = (events_max, Vec::new(), Vec::new());
    let add = |to: &mut Vec<Stretch>, from: u64, end: u64| {
        if from < end {
            to.push((Position::new(from), Position::new(end - 1)));
        }
    };
    for (n, (from, end)) in between.iter().copied().enumerate() {
        let share = (left / (between.len() - n) as u64).min(end - from);
        left -= share;
        let is_behind = has_ended && end > head.get();
        let last = if share == end - from || is_behind { 0 } else { share / 2 };
        let first = share - last;
        add(&mut looks, from, from + first);
        add(&mut gaps, from + first, end - last);
        add(&mut looks, end - last, end);
    }
    looks.sort_unstable();
    (looks, gaps)
}

/// An event of a journal in a line.
pub(crate) fn line(event: &SagaEvent) -> String {
    let name = indelible_core::Event::event_type(event);
    let fields = serde_json::to_value(event).unwrap_or_default();
    let fields = fields.as_object().and_then(|tagged| tagged.values().next()).and_then(Value::as_object).cloned();
    let mut line = name.to_string();
    let mut fields = fields.unwrap_or_default();
    // The step is what one looks for.
    if let Some(Value::String(step)) = fields.remove("step") {
        line = format!("{line} {step}");
    }
    for (field, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        let _ = write!(line, " {field}={value}");
    }
    line
}

#[cfg(test)]
mod tests {
    use indelible_core::store::memory::MemoryStore;

    use super::*;
    use crate::{Past, Plan, Step};

    #[test]
    fn short_stretches_are_looked_at_whole_and_of_long_ones_both_ends() {
        let at = |position: u64| Position::new(position);
        let told_of = |journal: &[u64], head, max, has_ended| {
            let journal: Vec<Position> = journal.iter().copied().map(at).collect();
            let of = |stretches: Vec<Stretch>| stretches.iter().map(|(f, t)| (f.get(), t.get())).collect::<Vec<_>>();
            let (looks, gaps) = looks(&journal, at(head), max, has_ended);
            (of(looks), of(gaps))
        };
        let told = |journal: &[u64], head, max| told_of(journal, head, max, false);
        assert_eq!(told(&[5, 6, 9], 9, 100), (vec![(7, 8)], vec![]));
        assert_eq!(told(&[5, 6, 9], 12, 100), (vec![(7, 8), (10, 12)], vec![]));
        // Two for the short one, and eight for the long one.
        assert_eq!(told(&[5, 100, 103], 103, 10), (vec![(6, 9), (96, 99), (101, 102)], vec![(10, 95)]));
        assert_eq!(told(&[5], 1_000, 3), (vec![(6, 7), (1_000, 1_000)], vec![(8, 999)]));
        assert_eq!(told(&[5], 8, 0), (vec![], vec![(6, 8)]));
        let ended = told_of(&[5, 100], 1_000, 8, true);
        assert_eq!(ended, (vec![(6, 7), (98, 99), (101, 104)], vec![(8, 97), (105, 1_000)]));
    }

    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    struct Hiring;
    impl Saga for Hiring {
        const NAME: &'static str = "hiring";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            Plan::new().step(Step::signal("signed"))
        }
    }

    /// However many sagas a job has started, what came of one is shown.
    #[tokio::test]
    async fn what_came_of_a_saga_is_shown_among_any_number_of_others() {
        let hirings = Sagas::<Hiring>::new(&MemoryStore::new());
        let job = hirings.start("job", Hiring).await.unwrap();
        let because = || CommandContext::caused_by(&job.events()[0]);
        hirings.start_in(because(), "ada", Hiring).await.unwrap();
        for n in 0..=SHOWN_MAX {
            hirings.start_in(because(), &n.to_string(), Hiring).await.unwrap();
        }
        let step = Sagas::<Hiring>::key("ada", "signed", Act::Do);
        let child = because().with_idempotency_key(step).unwrap();
        let child = hirings.start_in(child, "child", Hiring).await.unwrap();
        let grandchild = CommandContext::caused_by(child.events().last().unwrap());
        hirings.start_in(grandchild, "grandchild", Hiring).await.unwrap();
        let history = history(&hirings, "ada", LOOKED_AT_MAX).await.unwrap();
        for told in ["hiring-child 1 Started", "hiring-child 2 ", "hiring-grandchild 1 Started"] {
            assert!(history.contains(told), "{told} in {history}");
        }
        let others = history.lines().filter(|line| line.contains("StepStarted") && line.contains(", by hiring-job 1"));
        assert_eq!(others.count(), BESIDE_MAX / 2, "{history}");
        assert!(history.contains("... and what else is only correlated, behind 200 events"), "{history}");
    }

    /// However much lies between, both ends are looked at, and it is said what was left out.
    #[tokio::test]
    async fn what_was_not_looked_at_is_said() {
        let store = MemoryStore::new();
        let (hirings, others) = (Sagas::<Hiring>::new(&store), Sagas::<Hiring>::new(&store));
        let correlation = CorrelationId::new();
        let context = || CommandContext::new().with_correlation_id(correlation);
        hirings.start_in(context(), "ada", Hiring).await.unwrap();
        for n in 0..10 {
            let context = if n % 2 == 0 { context() } else { CommandContext::new() };
            others.start_in(context, &n.to_string(), Hiring).await.unwrap();
        }
        hirings.signal("ada", "signed", &()).await.unwrap();
        let told = |text: String| {
            let lines = text.lines().filter(|line| !line.contains("Step"));
            lines.map(|line| line[23..].split(" correlation").next().unwrap().trim().to_owned()).collect::<Vec<_>>()
        };
        let some = told(history(&hirings, "ada", 6).await.unwrap());
        let gap = "... 14 events from position 6 on were not looked at";
        assert_eq!(some[..4], ["1 Started", "hiring-0 1 Started", gap, "3 Signalled name=\"signed\""]);
        let all = told(history(&hirings, "ada", LOOKED_AT_MAX).await.unwrap());
        assert_eq!(all.len(), 8, "{all:?}");
    }
}
