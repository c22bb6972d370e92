//! The keeper: the one thread that works behind the sequencer. It moves full segments of the tail into the index, and writes
//! the anchor, about once a second while events come in. An idle store wakes it never.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use indelible_core::{EventId, Position, StoreError};

use crate::{
    Durability,
    anchor::{Anchor, Place},
    bugs,
    engine::chain,
    index::{self, Mark},
    statistics,
    store::{Run, Shared},
    tail::Segment,
};

/// How far the anchor is behind, at most, when nothing fails.
const ANCHOR_EVERY: Duration = Duration::from_secs(1);

/// What the keeper is asked to do.
pub(crate) enum Errand {
    /// Move a segment into the index; this is its last event.
    Index { segment: Arc<Segment>, last: (Position, EventId) },
    /// There are events that the anchor doesn't know of.
    Anchor,
}

pub(crate) struct Keeper {
    pub(crate) shared: Arc<Shared>,
    pub(crate) errands: Receiver<Errand>,
    pub(crate) anchor: Anchor,
    pub(crate) anchored: Place,
    pub(crate) mark: Mark,
}

impl Keeper {
    /// Works until the sequencer has ended; then, where nothing has failed, leaves all in order.
    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let run = shared.run.read().unwrap_or_else(PoisonError::into_inner);
        let Some(run) = run.as_ref() else { return };
        match catch_unwind(AssertUnwindSafe(|| self.serve(run))) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => self.shared.fail(format!("its keeper failed: {}", chain(&error))),
            Err(_) => self.shared.fail("its keeper panicked".into()),
        }
        run.seen.tail.wake();
        run.wake_sequencer();
    }

    fn serve(&mut self, run: &Run) -> Result<(), StoreError> {
        let mut due: Option<Instant> = None;
        loop {
            let errand = match due {
                None => self.errands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => self.errands.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match errand {
                Ok(Errand::Index { segment, last }) => {
                    self.index(run, &segment, last)?;
                    if bugs::is_on(bugs::LEAK_SEGMENTS) {
                        std::mem::forget(Arc::clone(&segment));
                    }
                    free(segment);
                }
                Ok(Errand::Anchor) => due = due.or_else(|| Some(Instant::now() + ANCHOR_EVERY)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                due = None;
                self.write_anchor(run, run.bell.answer(&run.seen))?;
                statistics::set_gauges(&self.shared, run);
            }
        }
        if self.shared.has_failed() {
            return Ok(());
        }
        let last = run.seen.last();
        let segments = run.seen.tail.segments();
        if !segments.active().is_empty() {
            self.index(run, segments.active(), (last.position, last.event))?;
        }
        self.write_anchor(run, last)?;
        run.engine.flush_log().map_err(|error| StoreError::unavailable("writing the log's last table", error))
    }

    fn index(&mut self, run: &Run, segment: &Segment, last: (Position, EventId)) -> Result<(), StoreError> {
        self.make_durable(run)?;
        let started = Instant::now();
        let head = run.seen.last();
        let last = if bugs::is_on(bugs::MARK_AHEAD) { (head.position, head.event) } else { last };
        self.mark = index::ingest(&run.engine.index, &run.engine.dir, &run.setup, segment, self.mark, last)?;
        run.seen.indexed(self.mark);
        metrics::histogram!("indelible_rocksdb_index_seconds").record(started.elapsed());
        Ok(())
    }

    fn write_anchor(&mut self, run: &Run, place: Place) -> Result<(), StoreError> {
        if place != self.anchored {
            self.make_durable(run)?;
            self.anchor.write(place).map_err(|error| StoreError::unavailable("writing the anchor", error))?;
            self.anchored = place;
            self.shared.counters.anchored(place.position);
        }
        Ok(())
    }

    /// What is anchored or indexed must not be lost: where appends don't wait for the disk, the keeper does.
    fn make_durable(&self, run: &Run) -> Result<(), StoreError> {
        match self.shared.options.durability {
            Durability::Synced => Ok(()),
            Durability::Buffered => {
                run.engine.log.flush_wal(true).map_err(|error| StoreError::unavailable("syncing the log", error))
            }
        }
    }
}

/// Lets a segment go when nobody else holds it: freeing a quarter of a million entries would delay the group that the
/// sequencer is writing. A slow reader may keep it all the same.
fn free(segment: Arc<Segment>) {
    for _ in 0..100 {
        if Arc::strong_count(&segment) == 1 {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
