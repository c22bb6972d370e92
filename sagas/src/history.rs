//! The history of a saga, for people: its journal, and beside it what led to it and what came of it elsewhere in the log, by
//! correlation and causation.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
};

use futures::TryStreamExt;
use indelible_core::{
    AnyStore, CausationId, CommandContext, CorrelationId, EventId, EventStoreExt, LoadError, Position, ReadLog,
    RecordedEvent, StreamId,
};
use serde_json::Value;

use crate::{Act, Saga, SagaEvent, Sagas};

/// How many events of the log are looked at, those of the journal apart, and how many of them are shown.
pub(crate) const LOOKED_AT_MAX: u64 = 100_000;
const SHOWN_MAX: usize = 1_000;
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
    let (looks, gaps) = looks(&own, store.head().await?.position, looked_at);
    for (from, to) in gaps {
        let (events, from) = (to.get() - from.get() + 1, from.get());
        lines.push((to, None, format!("     ... {events} events from position {from} on were not looked at")));
    }
    'looks: for (from, to) in looks {
        let mut events = store.log(ReadLog::all().from(from).to(to));
        while let Some(event) = events.try_next().await? {
            if !rest.is_part(&event) {
                continue;
            } else if rest.shown == SHOWN_MAX {
                lines.push((
                    event.position,
                    None,
                    format!("     ... and what else there is, behind {SHOWN_MAX} events"),
                ));
                break 'looks;
            }
            rest.shown += 1;
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

/// The part of the log that is not the journal.
struct Rest {
    journal: StreamId,
    correlation: Option<CorrelationId>,
    /// Events of the journal, and others that are shown.
    names: HashMap<CausationId, String>,
    /// What else has caused such.
    causes: HashMap<CausationId, String>,
    shown: usize,
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
            shown: 0,
            acts: acts.collect(),
            append: None,
        }
    }

    /// Whether an event has to do with the saga.
    fn is_part(&self, event: &RecordedEvent) -> bool {
        let is_caused = || event.causation_id.is_some_and(|cause| self.names.contains_key(&cause));
        event.stream != self.journal && (event.correlation_id == self.correlation || is_caused())
    }

    /// An event of another stream in a line: a step's, if it was written under its key, else by what it was caused.
    fn line(&mut self, event: &RecordedEvent) -> String {
        let first = |context: &CommandContext| {
            let ids = [context.first_event_id(Some(&event.stream)), context.first_event_id(None)];
            ids.contains(&Some(event.id))
        };
        let act = self.acts.iter().find(|(_, keys)| keys.iter().any(first)).map(|(act, _)| format!(", by {act}"));
        let cause = match (act, self.append.take()) {
            (Some(act), _) => act,
            (None, Some((position, cause))) if position == event.position => cause,
            (None, _) => event.causation_id.map(|cause| self.cause(cause)).unwrap_or_default(),
        };
        self.names.insert(event.id.into(), name(event));
        // Another saga's, most likely a child's, tells more.
        let what = event.decode::<SagaEvent>().map_or_else(|_| event.event_type.to_string(), |event| line(&event));
        let line = format!("     {} {what}{cause}", name(event));
        self.append = (!event.ends_append).then(|| (event.position.plus(1), cause));
        line
    }

    /// Looks up what caused an event, if it isn't shown.
    async fn know_cause(&mut self, store: &AnyStore, event: &RecordedEvent) -> Result<(), LoadError> {
        if let Some(cause) = event.causation_id
            && !self.names.contains_key(&cause)
            && !self.causes.contains_key(&cause)
            && let Some(event) = store.event(EventId::from_uuid(cause.as_uuid())).await?
        {
            self.causes.insert(cause, name(&event));
        }
        Ok(())
    }

    /// What caused an event; the plain id where the log has no such event.
    fn cause(&self, cause: CausationId) -> String {
        let name = self.names.get(&cause).or_else(|| self.causes.get(&cause));
        name.map_or_else(|| format!(", by {cause}"), |name| format!(", by {name}"))
    }
}

fn name(event: &RecordedEvent) -> String {
    format!("{} {}", event.stream, event.version)
}

/// From and to, inclusive.
type Stretch = (Position, Position);

/// Which stretches of the log are looked at, and which are not: all that lies between the events of a journal and behind
/// them up to the head, as far as that is allowed. Of a long stretch it is the beginning and the end: what an event leads to
/// comes soon after it, and what was done for a step soon before that is written down.
fn looks(journal: &[Position], head: Position, events_max: u64) -> (Vec<Stretch>, Vec<Stretch>) {
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
        let (first, last) = if share == end - from { (share, 0) } else { (share - share / 2, share / 2) };
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
        let told = |journal: &[u64], head, max| {
            let journal: Vec<Position> = journal.iter().copied().map(at).collect();
            let of = |stretches: Vec<Stretch>| stretches.iter().map(|(f, t)| (f.get(), t.get())).collect::<Vec<_>>();
            let (looks, gaps) = looks(&journal, at(head), max);
            (of(looks), of(gaps))
        };
        assert_eq!(told(&[5, 6, 9], 9, 100), (vec![(7, 8)], vec![]));
        assert_eq!(told(&[5, 6, 9], 12, 100), (vec![(7, 8), (10, 12)], vec![]));
        // Two for the short one, and eight for the long one.
        assert_eq!(told(&[5, 100, 103], 103, 10), (vec![(6, 9), (96, 99), (101, 102)], vec![(10, 95)]));
        assert_eq!(told(&[5], 1_000, 3), (vec![(6, 7), (1_000, 1_000)], vec![(8, 999)]));
        assert_eq!(told(&[5], 8, 0), (vec![], vec![(6, 8)]));
    }

    /// However much lies between, both ends are looked at, and it is said what was left out.
    #[tokio::test]
    async fn what_was_not_looked_at_is_said() {
        #[derive(Clone, serde::Serialize, serde::Deserialize)]
        struct Hiring;
        impl Saga for Hiring {
            const NAME: &'static str = "hiring";
            type Effect = ();
            fn plan(&self, _: &Past) -> Plan<()> {
                Plan::new().step(Step::signal("signed"))
            }
        }
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
