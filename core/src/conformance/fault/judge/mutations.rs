//! The judge judged: an honest history of the memory store is accepted, and refused when it is changed in one place.

use std::sync::{Arc, Mutex};

use super::{
    super::{Name, Work},
    *,
};
use crate::{Position, Tag, Version, store::memory::MemoryStore};

type Change = fn(&mut Observed);
type ChangeAnswer = fn(&mut Vec<u64>);

/// Changes of the log which all other answers agree with.
const LOGS: &[(&str, Change)] = &[
    ("its last append is lost", |o| {
        let last = (0..o.log.len() - 1).rev().find(|n| o.log[*n].ends_append).unwrap();
        o.log.truncate(last + 1);
    }),
    ("an event is lost in the middle", |o| drop(o.log.remove(50))),
    ("an event is lost and the others moved up", |o| {
        o.log.remove(50);
        renumber(&mut o.log);
    }),
    ("an append is lost and the others moved up", |o| {
        let first = (50..).find(|n| o.log[*n - 1].ends_append).unwrap();
        let last = (first..).find(|n| o.log[*n].ends_append).unwrap();
        o.log.drain(first..=last);
        renumber(&mut o.log);
    }),
    ("the first event is lost", |o| drop(o.log.remove(0))),
    ("an append is there twice", |o| {
        let first = (50..).find(|n| o.log[*n - 1].ends_append).unwrap();
        let last = (first..).find(|n| o.log[*n].ends_append).unwrap();
        o.log.extend_from_within(first..=last);
        renumber(&mut o.log);
    }),
    ("two events are exchanged", |o| {
        o.log.swap(50, 51);
        renumber(&mut o.log);
    }),
    ("two distant events are exchanged", |o| {
        o.log.swap(10, 90);
        renumber(&mut o.log);
    }),
    ("a byte is altered", |o| {
        let event = o.log.iter_mut().find(|event| event.data.len() > 3).unwrap();
        let mut data = event.data.to_vec();
        data[2] ^= 1;
        event.data = data.into();
    }),
    ("a byte is missing", |o| {
        let event = o.log.iter_mut().find(|event| event.data.len() > 3).unwrap();
        event.data = event.data.slice(1..);
    }),
    ("a tag is missing", |o| drop(o.log[50].tags.pop())),
    ("a tag is another", |o| o.log[50].tags[0] = Tag::of("writer", 7).unwrap()),
    ("a type is another", |o| {
        o.log[50].event_type = o.log.iter().find(|e| e.event_type != o.log[50].event_type).unwrap().event_type.clone()
    }),
    ("an event is in another stream", |o| {
        o.log[50].stream = "elsewhere-1".parse().unwrap();
        renumber(&mut o.log);
    }),
    ("an append is torn", |o| {
        let last = (50..).find(|n| o.log[*n].ends_append && !o.log[*n - 1].ends_append).unwrap();
        o.log.remove(last);
        o.log[last - 1].ends_append = true;
        renumber(&mut o.log);
    }),
    ("the log ends inside an append", |o| o.log.last_mut().unwrap().ends_append = false),
    ("a version is skipped", |o| {
        let stream = o.log[50].stream.clone();
        for event in o.log[50..].iter_mut().filter(|event| event.stream == stream) {
            event.version = event.version.plus(1);
        }
    }),
    ("time goes back", |o| o.log[50].recorded_at = crate::Timestamp::from_micros(0).unwrap()),
    ("an event that nobody wrote", |o| {
        let mut event = o.log.last().unwrap().clone();
        event.id = EventId::new();
        o.log.push(event);
        renumber(&mut o.log);
    }),
    ("a refused append is there", |o| {
        let name = Name { cycle: 0, writer: 0, n: 6 };
        let last = o.log.last().unwrap().clone();
        for (stream, new) in name.append().events() {
            o.log.push(RecordedEvent::new(new.clone(), stream.clone(), last.version, last.position, last.recorded_at));
        }
        renumber(&mut o.log);
        o.log.iter_mut().rev().skip(1).take(name.append().events().len() - 1).for_each(|e| e.ends_append = false);
    }),
];

/// Changes of one answer.
const ANSWERS: &[(&str, &str, ChangeAnswer)] = &[
    ("a stream ends early", "shared-3", |positions| {
        positions.pop();
    }),
    ("a stream backwards begins late", "shared-3 backwards", |positions| {
        positions.remove(0);
    }),
    ("a stream is read in another order", "shared-4", |positions| positions.swap(1, 2)),
    ("a stream's event is altered", "shared-4", |positions| positions[1] = 0),
    ("a stream's head is behind", "the head of shared-5", |head| head[0] -= 1),
    ("the head is behind", "the head", |head| head[0] -= 1),
    ("the log backwards misses one", "the log backwards", |positions| {
        positions.remove(7);
    }),
    ("a subscription misses one", "a subscription", |positions| {
        positions.remove(7);
    }),
    ("a subscription doubles one", "a subscription", |positions| positions.insert(7, 7)),
    ("a subscription ends early", "a subscription", |positions| {
        positions.pop();
    }),
    ("a tag misses one", "tag residue:1", |positions| {
        positions.remove(3);
    }),
    ("a tag has one too many", "tag residue:1", |positions| positions.push(1_000)),
    ("a type misses one", "type shared.Began", |positions| {
        positions.pop();
    }),
    ("a category misses one", "category shared", |positions| {
        positions.remove(3);
    }),
];

fn renumber(log: &mut [RecordedEvent]) {
    let mut versions: HashMap<StreamId, u64> = HashMap::new();
    for (event, position) in log.iter_mut().zip(1..) {
        let version = versions.entry(event.stream.clone()).or_default();
        *version += 1;
        (event.position, event.version) = (Position::new(position), Version::new(*version));
    }
}

/// What the memory store answers after a run, and what was said in it.
fn run() -> (Journal, Observed) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let store = MemoryStore::new();
    let journal = Arc::new(Mutex::new(Journal::default()));
    let work = Work { cycle: 0, writers: 4, appends: 40, weakly: false, again: Vec::new() };
    let taker = Arc::clone(&journal);
    runtime.block_on(work.run(store.clone(), Arc::new(move |line| taker.lock().unwrap().take(line, true))));
    let journal = journal.lock().unwrap().clone();
    let observed = runtime.block_on(observe(&store, &journal)).unwrap();
    (journal, observed)
}

#[test]
fn an_honest_history_is_accepted_and_every_changed_one_refused() {
    let (journal, honest) = run();
    let verdict = judge(&journal, &honest);
    assert!(verdict.is_clean() && verdict.acknowledged > 100, "{verdict}");
    for (change, make) in LOGS {
        let mut changed = honest.clone();
        make(&mut changed);
        changed.answers = answers_of(&changed.log, journal.ids());
        let verdict = judge(&journal, &changed);
        assert!(!verdict.is_clean(), "{change}: accepted");
    }
    for (change, question, make) in ANSWERS {
        let mut changed = honest.clone();
        make(changed.answers.get_mut(*question).unwrap_or_else(|| panic!("nobody asked for {question}")));
        let verdict = judge(&journal, &changed);
        assert_eq!(verdict.wrong, BTreeMap::from([("read", 1)]), "{change}: {verdict}");
    }
    let mut listed = honest.clone();
    listed.answers.insert("ghost-1".into(), vec![]);
    assert!(!judge(&journal, &listed).is_clean(), "a stream that is not there is listed");
    println!("{} changed histories refused", LOGS.len() + ANSWERS.len() + 1);
}

/// Changes of what was said, where the log is as it was.
#[test]
fn an_honest_history_is_refused_where_other_things_were_said() {
    let (journal, honest) = run();
    let lines: Vec<String> = journal.said().lines().map(str::to_owned).collect();
    let find = |word: &str| lines.iter().rposition(|line| line.starts_with(word)).unwrap();
    let name_in = |line: &str| -> Name { line.split(' ').nth(1).unwrap().parse().unwrap() };
    let is_sent_once = |line: &str| name_in(line).kind() == Kind::Plain && name_in(line).n % 8 != 7;
    let done = lines.iter().rposition(|line| line.starts_with("done") && is_sent_once(line)).unwrap();
    let name = lines[done].split(' ').nth(1).unwrap();
    let refused = lines[find("refused")].split(' ').nth(1).unwrap();
    let last = honest.log.len();
    let early = "0.0.1";
    let without_early = |line: &str| line.split(' ').nth(1) != Some(early);
    let later = |rest: &str| {
        let kept: Vec<&str> = lines.iter().map(String::as_str).filter(|line| without_early(line)).collect();
        format!("{}\n{rest}", kept.join("\n"))
    };
    let replaced = |at: usize, by: &str| {
        let mut said = lines.clone();
        said[at] = by.to_owned();
        said.join("\n")
    };
    let unseen = (1..).find(|position| !journal.seen.contains_key(position)).unwrap();
    let id = EventId::new();
    for (kind, change, said) in [
        ("moved", "acknowledged at another position", replaced(done, &format!("done {name} 1"))),
        ("refused, yet there", "stopped, and there", replaced(done, &format!("stopped {name}"))),
        ("answer", "refused without a reason", replaced(done, &format!("refused {name}"))),
        ("answer", "a repeat answered elsewhere", replaced(find("again"), &format!("again {name} 1"))),
        ("answer", "a repeat written anew", replaced(find("again"), &lines[find("again")].replace("again", "done"))),
        ("answer", "what must be refused is not", replaced(find("refused"), &format!("done {refused} {}", last + 1))),
        ("answer", "it said something else", replaced(done, "what")),
        ("seen, then gone", "seen, and another is there", later(&format!("seen {unseen} {id}"))),
        ("seen, then gone", "seen, and none is there", later(&format!("seen {} {id}", last + 1))),
        (
            "answer",
            "seen at one position, two",
            later(&format!("seen {0} {id}\nseen {0} {1}", last + 1, EventId::new())),
        ),
        // Whatever it said second, it says third then.
        ("answer", "acknowledged after a failure", replaced(0, &format!("{}\nappend 9.9.1\nunknown 9.9.1", lines[0]))),
        ("order", "stands before what was acknowledged", later(&format!("append {early}"))),
        ("order", "came later than the next process", format!("append {early}\nopened 0 {id}\n{}", later(""))),
    ] {
        let mut journal = Journal::default();
        said.lines().for_each(|line| journal.take(line, true));
        let mut observed = honest.clone();
        observed.answers.extend(journal.ids().map(|id| (format!("event {id}"), Vec::new())));
        observed.answers.extend(honest.answers.clone());
        let verdict = judge(&journal, &observed);
        assert!(verdict.wrong.contains_key(kind), "{change}: {verdict}");
    }
}
