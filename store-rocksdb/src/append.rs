//! Writing: the sequencer, the one thread that decides the order of events. Fed by the handles through a bounded queue.
//!
//! Callers (`append/caller.rs`) judge their appends on what is published and encode them (`append/prepare.rs`); the
//! sequencer judges them once more, on what came since, which is all in memory: it never reads the disk. It makes groups of
//! them (`append/group.rs`), and the writer (`append/write.rs`) writes one group after the other, as one batch with one
//! sync, publishes the head, and only then answers. While a large group is being written the next one is made, on a thread
//! of its own; a small one the sequencer writes itself, so that a lone caller waits for no third thread. After a failed write
//! all ends: those in the group get no answer, which their callers take for *outcome unknown*, and all others learn that the
//! store stopped.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, mpsc::Sender},
    thread,
};

use indelible_core::{LogTime, Position, StoreError, Timestamp};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use crate::{desk::Desk, engine::Tier, keeper::Errand, queue::Queue, read::View, store::Shared};

mod caller;
mod group;
mod prepare;
mod write;

pub(crate) use caller::Asked;
use group::{Closed, Group, Scratch, Verdict};
use prepare::{Preparation, Prepared, prepare};
use write::Writer;

/// A segment of the tail that takes so many bytes is full.
pub(crate) const SEGMENT_BYTES: usize = 16 * 1024 * 1024;

/// With so many appends that wait a group is begun while the one before is being written: half of what is enough for one.
pub(crate) const WORTH_BEGINNING: usize = 64;

/// What is handed to the sequencer, with its room in the queue until it is answered.
pub(crate) enum Job {
    Append {
        prepared: Box<Prepared>,
        answer: Answer<Verdict>,
        room: OwnedSemaphorePermit,
    },
    Keep {
        keep: Keep,
        answer: Answer<Result<(), StoreError>>,
        room: OwnedSemaphorePermit,
    },
    /// Answers what came before, and ends.
    Close,
}

/// Where a caller waits. One that has gone away needs no answer: its append goes on all the same.
pub(crate) type Answer<T> = oneshot::Sender<T>;

/// A checkpoint: the sequencer writes all that has to last, so that one failure stops everything.
pub(crate) struct Keep {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// The sequencer's end of the queue: without it nobody waits there.
pub(crate) struct Inlet(pub(crate) Arc<Queue<Job>>);

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.close();
    }
}

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inlet: Inlet,
    /// Dropped when the sequencer ends, which ends subscriptions.
    pub(crate) publish: watch::Sender<Position>,
    pub(crate) keeper: Sender<Errand>,
    /// When the event at the head was recorded.
    pub(crate) head_time: Option<Timestamp>,
}

impl Sequencer {
    /// Serves until the store is closed, or a write fails.
    pub(crate) fn run(self) {
        let Self { shared, inlet, publish, keeper, head_time } = self;
        // What passed between two processes is the system clock's to say.
        let time = head_time.map(LogTime::from);
        let queue = &*inlet.0;
        let run = shared.run.read().unwrap_or_else(PoisonError::into_inner);
        let Some(run) = run.as_ref() else { return };
        let writer = Writer { shared: &shared, run, publish, keeper };
        let desk = Desk::new(Arc::clone(&inlet.0));
        let mut jobs = VecDeque::new();
        thread::scope(|scope| {
            let begun =
                thread::Builder::new().name("indelible-writer".into()).spawn_scoped(scope, || writer.serve(&desk));
            match begun {
                Ok(_) => {
                    let mut order = Order { writer: &writer, desk: &desk, queue, jobs: &mut jobs, time };
                    if catch_unwind(AssertUnwindSafe(|| order.serve())).is_err() {
                        shared.fail("its sequencer panicked".into());
                    }
                }
                Err(error) => shared.fail(format!("its writer was not started: {error}")),
            }
            desk.close();
        });
        run.room.close();
        jobs.extend(queue.close());
        for job in jobs {
            let stopped = shared.stopped();
            match job {
                Job::Append { answer, .. } => drop(answer.send(Verdict::Failed(stopped))),
                Job::Keep { answer, .. } => drop(answer.send(Err(stopped))),
                Job::Close => {}
            }
        }
    }
}

/// What the sequencer's thread has at hand.
struct Order<'a> {
    writer: &'a Writer<'a>,
    desk: &'a Desk<Job, Closed>,
    queue: &'a Queue<Job>,
    /// What was taken from there, and is in no group yet.
    jobs: &'a mut VecDeque<Job>,
    time: Option<LogTime>,
}

impl Order<'_> {
    fn serve(&mut self) {
        let Writer { shared, run, .. } = *self.writer;
        let mut scratch = Scratch::default();
        let mut last = run.seen.last();
        let mut is_closing = false;
        while !is_closing {
            if self.jobs.is_empty() {
                self.queue.first(self.jobs);
            }
            let segments = run.seen.tail.segments();
            let view = View {
                engine: &run.engine,
                segments: &segments,
                store: shared.id,
                head: last.position,
                head_event: last.event,
                newest: u64::MAX,
                tier: Tier::Memory,
            };
            let mut group = Group::new(view, last, scratch);
            is_closing = self.gather(&mut group);
            if shared.has_failed() {
                return group.refuse(|| shared.stopped());
            }
            let is_small = group.is_small();
            let (mut closed, kept) = group.close();
            scratch = kept;
            last = closed.last;
            if segments.active().bytes() >= shared.options.segment_bytes {
                closed.full = Some(self.writer.rotate(last.position));
            }
            match is_small {
                true => self.writer.commit(closed),
                false => self.desk.put(closed),
            }
        }
        self.queue.wait_for_turn();
    }

    /// Takes what waits, until the writer is free for it. Says whether the store is to be closed.
    fn gather(&mut self, group: &mut Group<'_>) -> bool {
        let Writer { shared, run, .. } = *self.writer;
        let time = &mut self.time;
        let mut now = || {
            let clock = (shared.options.clock)();
            time.get_or_insert_with(|| LogTime::from(clock)).now(clock)
        };
        loop {
            while let Some(job) = self.jobs.pop_front() {
                let is_closing = matches!(job, Job::Close);
                match job {
                    Job::Append { prepared, answer, room } => group.append(prepared, &mut now, answer, room),
                    Job::Keep { keep, answer, room } => group.keep(&run.engine, keep, answer, room),
                    Job::Close => {}
                }
                if is_closing || group.is_full() || (group.is_enough() && self.queue.is_free()) {
                    self.queue.wait_for_turn();
                    return is_closing;
                }
            }
            self.queue.more(self.jobs);
            if self.jobs.is_empty() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use indelible_core::{
        Append, AppendOutcome, Condition, ContentType, EventStore, EventType, ExpectedVersion, NewEvent, Query,
        QueryItem, Tag,
    };

    use std::time::Duration;

    use super::*;
    use crate::Options;

    /// A clock that was set back, in a process and between two. Time goes on by what passes.
    #[tokio::test]
    async fn time_never_goes_back() {
        const PASSES: Duration = Duration::from_millis(20);
        fn at(seconds: i64) -> Timestamp {
            Timestamp::from_micros(seconds * 1_000_000).unwrap()
        }
        fn jumping() -> Timestamp {
            use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
            static NEXT: AtomicI64 = AtomicI64::new(100);
            at(NEXT.fetch_sub(30, Relaxed))
        }
        async fn recorded(clock: fn() -> Timestamp, dir: &std::path::Path) -> [Timestamp; 2] {
            let store = Options { clock, ..Options::new() }.open(dir).unwrap();
            let mut times = Vec::new();
            for _ in 0..2 {
                thread::sleep(PASSES);
                let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
                let append = Append::to("a-1".parse().unwrap(), ExpectedVersion::Any, [event]);
                let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("a conflict") };
                times.push(done.events[0].recorded_at);
            }
            store.close().await.unwrap();
            [times[0], times[1]]
        }
        let dir = tempfile::tempdir().unwrap();
        let least = PASSES * 9 / 10;
        let [first, second] = recorded(jumping, dir.path()).await;
        assert_eq!(first, at(100));
        assert!(second >= first + least, "{second}");
        let [third, fourth] = recorded(|| at(7), dir.path()).await;
        assert!(third >= second && fourth >= third + least, "{second} {third} {fourth}");
        assert!(fourth < at(150), "{fourth}");
        let [fifth, _] = recorded(|| at(200), dir.path()).await;
        assert_eq!(fifth, at(200));
    }

    /// A panic while an append is judged stops the store as a failed write does.
    #[tokio::test]
    async fn a_panic_stops_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = Options { clock: || panic!("seeded"), ..Options::new() }.open(dir.path()).unwrap();
        let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
        let append = Append::to("a-1".parse().unwrap(), ExpectedVersion::Any, [event]);
        match store.append(append.clone()).await {
            Err(StoreError::OutcomeUnknown { append: returned, .. }) => assert_eq!(*returned, append),
            other => panic!("{other:?}"),
        }
        let mut published = store.published();
        assert!(published.changed().await.is_err(), "subscriptions end");
        assert!(matches!(store.append(append).await, Err(StoreError::Stopped { .. })));
        assert_eq!(store.head().await.unwrap().position, Position::START);
        for _ in 0..2 {
            assert!(store.close().await.unwrap_err().to_string().contains("panicked"), "whoever closes learns of it");
        }
    }

    /// The queue is bounded in bytes, also where an append's one event is small and what it demands is large.
    #[tokio::test]
    async fn conditions_take_room_in_the_queue() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
        static IS_HELD: AtomicBool = AtomicBool::new(true);
        fn held() -> Timestamp {
            while IS_HELD.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            Timestamp::now()
        }
        let dir = tempfile::tempdir().unwrap();
        let options = Options { clock: held, ..Options::new() };
        let store = options.queue_bytes(100_000).queue_wait(Duration::ZERO).open(dir.path()).unwrap();
        let items = (0..100).map(|n| QueryItem::tags((0..10).map(|m| Tag::new(format!("{n} {m}")).unwrap())));
        let query = Query::new(items);
        let append = |stream: &str| {
            let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "");
            Append::to(stream.parse().unwrap(), ExpectedVersion::Any, [event])
                .require(Condition::none_after(query.clone(), Position::START))
        };
        let mut first = Box::pin(store.append(append("a-1")));
        assert!(futures::poll!(&mut first).is_pending(), "alone it is let in");
        let mut second = Box::pin(store.append(append("a-2")));
        let refused = tokio::time::timeout(Duration::from_secs(5), &mut second).await;
        IS_HELD.store(false, SeqCst);
        assert!(matches!(refused, Ok(Err(StoreError::Overloaded { .. }))), "{refused:?}");
        assert!(matches!(first.await, Ok(AppendOutcome::Appended(_))));
    }
}
