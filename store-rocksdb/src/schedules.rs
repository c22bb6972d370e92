//! The hand-over of the log's end between the sequencer, the keeper and readers, under a scheduler that explores: the code
//! of `queue`, `desk`, `tail`, `seen` and `bell` once more, with [`shuttle`]'s primitives.
//!
//! Around it are a log and an index that do each thing at once, as RocksDB is taken to; the sequencer's and the keeper's
//! loops are told here in the order of their calls. What must hold: whoever looks finds all that is published, in the log,
//! and in the tail or in the index; what is published is anchored when the keeper has nothing left to do; nobody waits for
//! a keeper that has failed; whatever is left in the queue is taken, in order. `INDELIBLE_SCHEDULES` says how many schedules are
//! tried, of each of three kinds.

#![expect(clippy::duplicate_mod, reason = "the same code once more, with other primitives")]

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use indelible_core::{
    EventId, Position, StreamId, Version,
    conformance::fault::{Line, seeded},
};
use shuttle::{
    Runner, check_pct, check_random,
    scheduler::DfsScheduler,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};
use uuid::Uuid;

use crate::{
    anchor::Place,
    bugs,
    index::{Mark, newness},
};

mod sync {
    pub(crate) use shuttle::sync::{
        Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64},
    };
}

#[path = "bell.rs"]
mod bell;
#[path = "desk.rs"]
mod desk;
#[path = "queue.rs"]
mod queue;
#[path = "seen.rs"]
mod seen;
#[expect(dead_code, reason = "what only reads of a real index ask for")]
#[path = "tail.rs"]
mod tail;

use bell::Bell;
use desk::Desk;
use queue::Queue;
use seen::Seen;
use sync::{AtomicBool, Mutex};
use tail::{Entry, Segment, Tail};

/// How often a reader looks.
const LOOKS: usize = 8;
const FAULT: &str = "orders of threads, hand-over";
/// A segment is full with so many events.
const SEGMENT_EVENTS: u64 = 2;

/// What the keeper is asked to do.
enum Errand {
    Index(Arc<Segment>, Position),
    Anchor,
}

struct Store {
    seen: Seen,
    bell: Bell,
    /// The ids of what is written, and of what is indexed, by position.
    log: Mutex<Vec<EventId>>,
    index: Mutex<Vec<EventId>>,
    has_failed: AtomicBool,
}

/// A UUIDv7, each newer than the one before.
fn id(position: Position) -> EventId {
    EventId::from_uuid(Uuid::from_u128(u128::from(position.get()) << 80 | 0x7 << 76 | 0x8 << 60))
}

impl Store {
    fn new() -> Self {
        Self {
            seen: Seen::new(Place::START, Mark::START, Tail::new(Segment::after(Position::START, 0))),
            bell: Bell::new(),
            log: Mutex::new(Vec::new()),
            index: Mutex::new(Vec::new()),
            has_failed: AtomicBool::new(false),
        }
    }

    /// The sequencer, of events that come one by one.
    fn write(&self, events: u64, errands: &Sender<Errand>) {
        let stream: StreamId = "s-1".parse().expect("a stream");
        for position in (1..=events).map(Position::new) {
            if self.has_failed.load(SeqCst) {
                return;
            }
            let segments = self.seen.tail.segments();
            let (version, id) = (Version::new(position.get()), id(position));
            let entry = Entry { position, version, id, stream: &stream, event_type: "A", closes: false };
            segments.active().add(&entry, [].into_iter(), &mut Vec::new());
            segments.active().end_block(position);
            let is_over = || {
                let has_failed = self.has_failed.load(SeqCst);
                // Between the look and the wait.
                thread::yield_now();
                has_failed
            };
            let is_full = position.get() % SEGMENT_EVENTS == 0;
            let full = is_full.then(|| self.seen.tail.rotate(position, is_over));
            self.log.lock().expect("no panic").push(id);
            self.seen.publish(Place { position, event: id, checksum: 0 });
            if self.bell.ring() {
                let _ = errands.send(Errand::Anchor);
            }
            if let Some(full) = full {
                let _ = errands.send(Errand::Index(full, position));
            }
        }
    }

    /// The keeper; one that fails does so when it has indexed so many segments.
    fn keep(&self, errands: &Receiver<Errand>, fails_after: usize) {
        let (mut indexed, mut anchored) = (0, Position::START);
        while let Ok(errand) = errands.recv() {
            match errand {
                Errand::Anchor => anchored = self.bell.answer(&self.seen).position,
                Errand::Index(..) if indexed == fails_after => {
                    self.has_failed.store(true, SeqCst);
                    return self.seen.tail.wake();
                }
                Errand::Index(segment, last) => {
                    indexed += 1;
                    let ids = segment.sorted_ids();
                    let newest = ids.iter().filter_map(|(id, _)| newness(*id)).max().unwrap_or(0);
                    self.index.lock().expect("no panic").extend(ids.iter().map(|(id, _)| *id));
                    self.seen.indexed(Mark { position: last, event: id(last), newest, streams: 0 });
                }
            }
        }
        assert_eq!(anchored, self.seen.last().position, "there is something to anchor, and nobody told");
    }

    /// A reader, which looks for all that is published.
    fn look(&self) {
        let (last, segments, newest) = self.seen.now();
        for position in (1..=last.position.get()).map(Position::new) {
            let id = id(position);
            let written = self.log.lock().expect("no panic").get(position.get() as usize - 1).copied();
            assert_eq!(written, Some(id), "published, and not written");
            let in_index = || {
                let may_be = newness(id).is_none_or(|newness| newness <= newest) && position <= segments.indexed();
                may_be && self.index.lock().expect("no panic").contains(&id)
            };
            let found = segments.find(id, Position::START, last.position);
            assert!(found == Some(position) || in_index(), "{position} of {} is in neither", last.position);
        }
    }
}

/// All of them at the same time, in whatever order the scheduler says.
fn explored(events: u64, readers: usize, fails_after: usize) {
    let store = Arc::new(Store::new());
    let (sender, errands) = channel();
    let spawn = |work: Box<dyn FnOnce(&Store) + Send>| {
        let store = Arc::clone(&store);
        thread::spawn(move || work(&store))
    };
    let mut threads = vec![
        spawn(Box::new(move |store| store.write(events, &sender))),
        spawn(Box::new(move |store| store.keep(&errands, fails_after))),
    ];
    threads.extend((0..readers).map(|_| spawn(Box::new(|store| (0..LOOKS).for_each(|_| store.look())))));
    threads.into_iter().for_each(|thread| thread.join().expect("it ends"));
    store.look();
}

/// Callers leave jobs, the sequencer takes them and the writer has its turns, until the last caller says that it is over.
/// What none of them takes, or all wait for, is found out.
fn queued(callers: usize, jobs_each: usize) {
    let queue = Arc::new(Queue::new(2));
    let desk = Arc::new(Desk::new(Arc::clone(&queue)));
    let writer = {
        let desk = Arc::clone(&desk);
        thread::spawn(move || {
            let mut count = 0;
            desk.serve(|group: usize| count += group);
            count
        })
    };
    let sequencer = {
        let queue = Arc::clone(&queue);
        thread::spawn(move || {
            let (mut jobs, mut last, mut is_closing) = (VecDeque::new(), vec![0; callers], false);
            while !is_closing {
                queue.first(&mut jobs);
                let mut group = 0;
                while !jobs.is_empty() {
                    for job in jobs.drain(..) {
                        let Some((caller, number)) = job else {
                            is_closing = true;
                            continue;
                        };
                        assert_eq!(std::mem::replace(&mut last[caller], number), number - 1, "not in order");
                        group += 1;
                    }
                    queue.more(&mut jobs);
                }
                desk.put(group);
            }
            queue.wait_for_turn();
            desk.close();
            assert!(queue.close().is_empty(), "left behind");
            assert!(queue.put(None).is_err(), "taken when nobody takes any more");
        })
    };
    let callers: Vec<_> = (0..callers)
        .map(|caller| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                (1..=jobs_each).for_each(|number| queue.put(Some((caller, number))).expect("a sequencer"));
            })
        })
        .collect();
    let all = callers.len() * jobs_each;
    callers.into_iter().for_each(|caller| caller.join().expect("it ends"));
    queue.put_urgent(None).expect("a sequencer");
    sequencer.join().expect("it ends");
    assert_eq!(writer.join().expect("it ends"), all);
}

fn wanted() -> usize {
    std::env::var("INDELIBLE_SCHEDULES").map_or(2_000, |wanted| wanted.parse().expect("a number"))
}

const NEVER: usize = usize::MAX;

#[test]
fn no_schedule_breaks_the_hand_over() {
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = |fails_after: usize| {
        let tried = Arc::clone(&tried);
        move |events, readers| {
            tried.fetch_add(1, Relaxed);
            explored(events, readers, fails_after);
        }
    };
    for fails_after in [NEVER, 0, 1] {
        let run = counted(fails_after);
        check_random(move || run(10, 2), wanted());
        let run = counted(fails_after);
        check_pct(move || run(10, 2), wanted(), 3);
        // One after the other, those of a small case: the first so many.
        let run = counted(fails_after);
        Runner::new(DfsScheduler::new(Some(wanted()), true), Default::default()).run(move || run(3, 1));
    }
    let counted = || {
        let tried = Arc::clone(&tried);
        move |callers, jobs_each| {
            tried.fetch_add(1, Relaxed);
            queued(callers, jobs_each);
        }
    };
    let run = counted();
    check_random(move || run(3, 4), wanted());
    let run = counted();
    check_pct(move || run(3, 4), wanted(), 3);
    let run = counted();
    Runner::new(DfsScheduler::new(Some(wanted()), true), Default::default()).run(move || run(1, 2));
    let tried = tried.load(Relaxed) as u64;
    println!("{tried} schedules, none breaks the hand-over");
    Line::clean(FAULT, tried, tried, 0, "some of them with a keeper that fails").print();
}

#[test]
fn seeded_bugs_in_the_hand_over_are_found() {
    for (bug, fails_after) in [
        (bugs::RELEASE_FIRST, NEVER),
        (bugs::TAIL_BEFORE_HEAD, NEVER),
        (bugs::REST_AFTER_LOOK, NEVER),
        (bugs::WAKE_UNLOCKED, 0),
        (bugs::FREE_UNLOCKED, NEVER),
    ] {
        bugs::CHOSEN_HERE.set(Some(bug));
        let explore = || {
            check_random(move || explored(10, 2, fails_after), wanted());
            // One that does nothing for long while another goes on, which is rare at random.
            check_pct(move || explored(10, 1, fails_after), wanted(), 3);
            check_random(|| queued(3, 4), wanted());
        };
        let is_found = (0..5).any(|_| catch_unwind(AssertUnwindSafe(explore)).is_err());
        bugs::CHOSEN_HERE.set(None);
        seeded(FAULT, bug, is_found, &format!("in {} schedules", wanted()));
    }
}
