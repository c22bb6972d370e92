//! Writing: the sequencer, the one thread that decides the order of events. Fed by the handles through a bounded queue.
//!
//! It takes all that waits as one group, judges each append on the log and on what the group has added so far, writes the
//! group as one batch with one sync, publishes the head, and only then answers. After a failed write it ends: those in
//! the group get no answer, which their callers take for *outcome unknown*, and all others learn that the store stopped.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    thread,
    time::{Duration, Instant},
};

use indelible_core::{Append, AppendOutcome, Position, StoreError, Timestamp};
use rocksdb::{DB, WriteOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::{Durability, bugs, read::View, store::Shared};

mod group;

use group::Group;

/// What is handed to the sequencer, with its room in the queue until it is answered.
pub(crate) enum Job {
    Append {
        append: Append,
        answer: Answer<AppendOutcome>,
        room: OwnedSemaphorePermit,
    },
    Keep {
        keep: Keep,
        answer: Answer<()>,
        room: OwnedSemaphorePermit,
    },
    /// Answers what came before, and ends.
    Close,
}

/// Where a caller waits. One that has gone away needs no answer: its append goes on all the same.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A snapshot or a checkpoint: the sequencer writes all that is written, so that one failure stops everything.
pub(crate) struct Keep {
    pub(crate) key: Vec<u8>,
    /// `None` removes it.
    pub(crate) value: Option<Vec<u8>>,
    /// Whether the answer waits for a sync.
    pub(crate) durable: bool,
}

pub(crate) struct Sequencer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) jobs: mpsc::UnboundedReceiver<Job>,
    pub(crate) room: Arc<Semaphore>,
    /// Dropped when the sequencer ends, which ends subscriptions.
    pub(crate) publish: watch::Sender<Position>,
    pub(crate) durability: Durability,
    pub(crate) clock: fn() -> Timestamp,
    pub(crate) head: Position,
    pub(crate) head_time: Option<Timestamp>,
}

impl Sequencer {
    /// Serves until the store is closed, or a write fails.
    pub(crate) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.shared.fail("its sequencer panicked".into());
        }
        self.room.close();
        self.jobs.close();
        while let Some(job) = self.jobs.blocking_recv() {
            let stopped = self.shared.stopped();
            match job {
                Job::Append { answer, .. } => drop(answer.send(Err(stopped))),
                Job::Keep { answer, .. } => drop(answer.send(Err(stopped))),
                Job::Close => {}
            }
        }
    }

    fn serve(&mut self) {
        let shared = Arc::clone(&self.shared);
        let engine = shared.engine.read().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = engine.as_ref() else { return };
        let mut is_closing = false;
        while let Some(first) = self.jobs.blocking_recv() {
            let view = View { db: &engine.db, store: shared.id, head: self.head };
            let mut group = Group::new(view, self.clock, self.head_time);
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    Job::Append { append, answer, room } => group.append(append, answer, room),
                    Job::Keep { keep, answer, room } => group.keep(keep, answer, room),
                    Job::Close => is_closing = true,
                }
                next = if is_closing || group.is_full() { None } else { self.jobs.try_recv().ok() };
            }
            if !self.commit(&engine.db, group) || is_closing {
                return;
            }
        }
    }

    /// Writes a group, publishes it, answers it, in this order. Says whether the store goes on.
    fn commit(&mut self, db: &DB, mut group: Group<'_>) -> bool {
        let count = group.events.len();
        let last = group.events.last().map(|last| (last.position, last.recorded_at));
        if bugs::is_on(bugs::ACKNOWLEDGE_BEFORE_WRITE) {
            group.answer();
            thread::sleep(Duration::from_millis(2));
        }
        let batch = mem::take(&mut group.batch);
        if !batch.is_empty() {
            let is_synced = group.is_durable || (count > 0 && self.durability == Durability::Synced);
            let started = Instant::now();
            if let Err(error) = db.write_opt(batch, &write_options(is_synced)) {
                // From here on the group's callers are without an answer.
                self.shared.fail(format!("a write failed: {error}"));
                return false;
            }
            self.shared.counters.group(group.appends, count as u64, is_synced, started.elapsed());
        }
        if let Some((head, recorded_at)) = last {
            self.head = head;
            self.head_time = Some(recorded_at);
            self.publish.send_replace(head);
        }
        group.answer();
        metrics::gauge!("indelible_rocksdb_queue_free_bytes").set(self.room.available_permits() as f64);
        true
    }
}

pub(crate) fn write_options(is_synced: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(is_synced);
    options
}

#[cfg(test)]
mod tests {
    use indelible_core::{
        Condition, ContentType, EventStore, EventType, ExpectedVersion, NewEvent, Query, QueryItem, Tag,
    };

    use super::*;
    use crate::Options;

    /// A clock that was set back, in a process and between two.
    #[tokio::test]
    async fn time_never_goes_back() {
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
                let event = NewEvent::new(EventType::from_static("Written"), ContentType::JSON, "{}");
                let append = Append::to("a-1".parse().unwrap(), ExpectedVersion::Any, [event]);
                let AppendOutcome::Appended(done) = store.append(append).await.unwrap() else { panic!("a conflict") };
                times.push(done.events[0].recorded_at);
            }
            store.close().await.unwrap();
            [times[0], times[1]]
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(recorded(jumping, dir.path()).await, [at(100), at(100)]);
        assert_eq!(recorded(|| at(7), dir.path()).await, [at(100), at(100)]);
        assert_eq!(recorded(|| at(200), dir.path()).await, [at(200), at(200)]);
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
