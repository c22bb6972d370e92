//! Kills of a writing process.
//!
//! The fault: SIGKILL at a random moment, while several tasks append, over and over in one directory; each process opens
//! what the one before left. The kernel keeps running, so what was handed to it stays; that acknowledged events were
//! *synced* is shown by `sync`, power cuts need other means.
//!
//! The child says each append before it hands it over and each answer after it has it, through a pipe that outlives it.
//! What it writes follows from three numbers, so that the parent knows every byte that must be there. In the end: every
//! acknowledged append is there once, whole, where it was acknowledged; every other one that was handed over is there
//! once and whole, or not at all; nothing else is; positions and versions have no holes.
//!
//! `INDELIBLE_KILL_CYCLES` says how many times (200), `INDELIBLE_KILL_SEED` from which numbers.

use std::{
    collections::HashMap,
    env,
    path::Path,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use indelible_core::{
    Append, AppendOutcome, ContentType, EventId, EventStore, EventStoreExt, EventType, ExpectedVersion, NewEvent,
    ReadLog, RecordedEvent, StreamId, Tag,
};
use indelible_rocksdb::RocksStore;
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use crate::{
    child::{Running, can_trace, command, say},
    conformance::copy_files,
};

const WRITERS: u64 = 8;
const ACKNOWLEDGED_MIN: usize = 100;
const CYCLE: &str = "INDELIBLE_TEST_CYCLE";
const BUG: &str = "INDELIBLE_BUG";

#[test]
fn kills_lose_nothing() {
    let cycles = number("INDELIBLE_KILL_CYCLES").unwrap_or(200);
    let seed = number("INDELIBLE_KILL_SEED").unwrap_or_else(|| rand::rng().random());
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let journal = kill_again_and_again(dir.path(), cycles, seed, None);
    let found = journal.compare(dir.path());
    println!("{cycles} kills in {:.0?}, seed {seed}: {found}", started.elapsed());
    assert!(found.is_clean(), "seed {seed}: {found}\n{}", found.first);
    assert!(journal.acknowledged_min >= ACKNOWLEDGED_MIN, "a cycle had {} answers", journal.acknowledged_min);
    assert!(journal.cycles_in_flight * 4 >= cycles, "only {} kills hit an append", journal.cycles_in_flight);
}

/// The same kills find a store out that answers first and writes then.
#[cfg(feature = "bugs")]
#[test]
fn acknowledging_before_writing_is_found_out() {
    const CYCLES: u64 = 8;
    let seed = rand::rng().random();
    let dir = tempfile::tempdir().unwrap();
    let found = kill_again_and_again(dir.path(), CYCLES, seed, Some("acknowledge-before-write")).compare(dir.path());
    println!("{CYCLES} kills, acknowledged before written, seed {seed}: {found}");
    assert!(found.lost > 0, "seed {seed}: the kills did not find the bug: {found}");
}

/// Openings are killed too, at each system call with which they change a file: that of a new directory, and that of one
/// that a kill has left. Whatever remains opens, with all that was there.
#[test]
fn every_call_of_an_opening_may_be_its_last() {
    if !can_trace() {
        return;
    }
    let left = tempfile::tempdir().unwrap();
    let journal = kill_again_and_again(left.path(), 1, rand::rng().random(), None);
    for (begin, journal) in [(None, &Journal::default()), (Some(left.path()), &journal)] {
        let mut kills = 0;
        for call in ["write", "rename", "unlink", "ftruncate", "fdatasync"] {
            // The n-th such call of a thread is its last, until none makes so many.
            for nth in 1.. {
                let dir = tempfile::tempdir().unwrap();
                if let Some(begin) = begin {
                    copy_files(begin, dir.path());
                }
                let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={nth}"));
                let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
                let survived = Running::start(command("hold", dir.path(), &strace)).succeeds();
                let found = journal.compare(dir.path());
                assert!(found.is_clean(), "killed at {call} {nth}: {found}\n{}", found.first);
                if survived {
                    break;
                }
                kills += 1;
            }
        }
        println!("{kills} openings killed, {} appends in the log before", journal.appends.len());
        assert!(kills > 20, "only {kills} calls were hit");
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// What a writer's n-th append is. Some go to a stream of their own, most to few that all write, some to two at once.
pub(crate) fn append(cycle: u64, writer: u64, n: u64) -> Append {
    let mut random = StdRng::seed_from_u64(cycle << 40 | writer << 32 | n);
    let mut append = Append::new();
    for part in 0..random.random_range(1..=4_u8) {
        let stream = match random.random_range(0..10) {
            0 => format!("own-{cycle}-{writer}"),
            shared => format!("shared-{shared}"),
        };
        let mut data = vec![0; random.random_range(0..500)];
        random.fill(data.as_mut_slice());
        let id = Uuid::from_u128(
            u128::from(cycle + 1) << 80 | u128::from(writer) << 64 | u128::from(n) << 8 | u128::from(part),
        );
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::from_static("bytes"), data)
            .with_id(EventId::from_uuid(id))
            .with_tags([Tag::of("writer", writer).unwrap()]);
        append = append.event(stream.parse().unwrap(), event);
    }
    let first = append.events()[0].0.clone();
    append.check(first, ExpectedVersion::Any)
}

/// The child: writes until it is killed.
pub(crate) async fn write(store: RocksStore) {
    let cycle = number(CYCLE).expect("a writer is told its cycle");
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0.. {
                say(&format!("append {writer} {n}"));
                match store.append(append(cycle, writer, n)).await {
                    Ok(AppendOutcome::Appended(done)) => say(&format!("done {writer} {n} {}", done.events[0].position)),
                    other => panic!("append {n} of writer {writer}: {other:?}"),
                }
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
}

/// What the children said.
#[derive(Default)]
pub(crate) struct Journal {
    /// Each append by (cycle, writer, n), with its first position where it was acknowledged.
    appends: HashMap<(u64, u64, u64), Option<u64>>,
    acknowledged_min: usize,
    cycles_in_flight: u64,
}

fn kill_again_and_again(dir: &Path, cycles: u64, seed: u64, bug: Option<&str>) -> Journal {
    let mut random = StdRng::seed_from_u64(seed);
    let mut journal = Journal { acknowledged_min: usize::MAX, ..Journal::default() };
    for cycle in 0..cycles {
        let mut command = command("write", dir, &[]);
        command.env(CYCLE, cycle.to_string());
        match bug {
            Some(bug) => command.env(BUG, bug),
            None => command.env_remove(BUG),
        };
        let mut writer = Running::start(command);
        let mut acknowledged = 0;
        let mut in_flight = 0_i64;
        let mut kill_at = None;
        while let Some(line) = writer.line() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            match words[0] {
                "append" => {
                    journal.appends.insert((cycle, number(1), number(2)), None);
                    in_flight += 1;
                }
                "done" => {
                    journal.appends.insert((cycle, number(1), number(2)), Some(number(3)));
                    in_flight -= 1;
                    acknowledged += 1;
                }
                _ => panic!("cycle {cycle}, seed {seed}: the writer said {line}"),
            }
            if acknowledged == ACKNOWLEDGED_MIN && kill_at.is_none() {
                kill_at = Some(Instant::now() + Duration::from_micros(random.random_range(0..30_000)));
            }
            // Once it is killed, what is left in the pipe is read to its end.
            if kill_at.is_some_and(|at| Instant::now() >= at) {
                writer.kill();
                kill_at = None;
            }
        }
        assert!(acknowledged >= ACKNOWLEDGED_MIN, "cycle {cycle}, seed {seed}: the writer ended by itself");
        journal.acknowledged_min = journal.acknowledged_min.min(acknowledged);
        journal.cycles_in_flight += u64::from(in_flight > 0);
    }
    journal
}

/// What the log holds beside what it must.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) acknowledged: usize,
    lost: usize,
    moved: usize,
    torn: usize,
    changed: usize,
    duplicates: usize,
    gaps: usize,
    pub(crate) unknown: usize,
    pub(crate) unknown_written: usize,
    strangers: usize,
    cycles_in_flight: u64,
    /// The first thing that is wrong.
    pub(crate) first: String,
}

impl Found {
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.moved + self.torn + self.changed + self.duplicates + self.gaps + self.strangers == 0
    }

    fn wrong(&mut self, which: fn(&mut Self) -> &mut usize, what: impl FnOnce() -> String) {
        if self.first.is_empty() {
            self.first = what();
        }
        *which(self) += 1;
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} acknowledged, lost {}, moved {}, torn {}, changed {}, gaps {}, duplicates {}, strangers {}; \
             {} cycles with an append in flight, {} of {} such appends written",
            self.acknowledged,
            self.lost,
            self.moved,
            self.torn,
            self.changed,
            self.gaps,
            self.duplicates,
            self.strangers,
            self.cycles_in_flight,
            self.unknown_written,
            self.unknown,
        )
    }
}

impl Journal {
    /// Appends that other children than [`write`] wrote.
    pub(crate) fn of(appends: HashMap<(u64, u64, u64), Option<u64>>) -> Self {
        Self { appends, ..Self::default() }
    }

    /// Opens the store and compares all that it holds with all that was said.
    pub(crate) fn compare(&self, dir: &Path) -> Found {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = RocksStore::open(dir).unwrap();
        let log: Vec<RecordedEvent> = runtime.block_on(store.log(ReadLog::all()).try_collect()).unwrap();
        let mut found = Found { cycles_in_flight: self.cycles_in_flight, ..Found::default() };

        let mut versions: HashMap<&StreamId, u64> = HashMap::new();
        let mut by_id: HashMap<EventId, &RecordedEvent> = HashMap::new();
        for (event, expected) in log.iter().zip(1..) {
            let version = versions.entry(&event.stream).or_default();
            *version += 1;
            if event.position.get() != expected || event.version.get() != *version {
                found.wrong(|f| &mut f.gaps, || format!("position {expected} holds {event:?}"));
            }
            if by_id.insert(event.id, event).is_some() {
                found.wrong(|f| &mut f.duplicates, || format!("twice: {event:?}"));
            }
        }
        for (stream, version) in &versions {
            let head = runtime.block_on(store.stream_head(stream)).unwrap();
            assert_eq!(head.version.get(), *version, "the head of {stream}");
        }

        for (&(cycle, writer, n), &acknowledged) in &self.appends {
            let append = append(cycle, writer, n);
            let there: Vec<_> = append.events().iter().filter_map(|(_, event)| by_id.remove(&event.id)).collect();
            let name = || format!("append {n} of writer {writer} in cycle {cycle}, acknowledged at {acknowledged:?}");
            match acknowledged {
                Some(_) => found.acknowledged += 1,
                None => found.unknown += 1,
            }
            if there.is_empty() {
                if acknowledged.is_some() {
                    found.wrong(|f| &mut f.lost, || format!("lost: {}", name()));
                }
                continue;
            }
            found.unknown_written += usize::from(acknowledged.is_none());
            let first = there[0].position.get();
            if there.len() != append.events().len() || !there.last().unwrap().ends_append {
                found.wrong(|f| &mut f.torn, || format!("torn: {}", name()));
            }
            if acknowledged.is_some_and(|position| position != first) {
                found.wrong(|f| &mut f.moved, || format!("at {first}: {}", name()));
            }
            for ((event, (stream, new)), position) in there.iter().zip(append.events()).zip(first..) {
                let same = event.stream == *stream && event.data == new.data && event.tags == new.tags;
                if !same || event.position.get() != position {
                    found.wrong(|f| &mut f.changed, || format!("changed: {}", name()));
                }
            }
        }
        for event in by_id.into_values() {
            found.wrong(|f| &mut f.strangers, || format!("nobody wrote {event:?}"));
        }
        found
    }
}
