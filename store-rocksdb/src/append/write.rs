//! The writer: writes one group after the other, and answers those who are in it. On the sequencer's own thread where a
//! group is small, else on one of its own, where it waits at a desk for the next.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc::Sender},
    thread,
    time::{Duration, Instant},
};

use indelible_core::Position;
use tokio::sync::watch;

use super::{Job, group::Closed};
use crate::{
    Durability, bugs,
    desk::Desk,
    engine::write_options,
    keeper::Errand,
    store::{Run, Shared},
    tail::Segment,
};

pub(super) struct Writer<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) run: &'a Run,
    /// Dropped when the sequencer ends, which ends subscriptions.
    pub(super) publish: watch::Sender<Position>,
    pub(super) keeper: Sender<Errand>,
}

impl Writer<'_> {
    /// Writes what is put on the desk until that is closed.
    pub(super) fn serve(&self, desk: &Desk<Job, Closed>) {
        desk.serve(|group| {
            if catch_unwind(AssertUnwindSafe(|| self.commit(group))).is_err() {
                self.shared.fail("its writer panicked".into());
                self.run.wake_sequencer();
            }
        });
    }

    /// Writes a group, publishes it, answers it, in this order. One that comes behind a failure is refused.
    pub(super) fn commit(&self, mut group: Closed) {
        let Self { shared, run, publish, keeper } = self;
        if shared.has_failed() {
            return group.refuse(|| shared.stopped());
        }
        if bugs::is_on(bugs::ACKNOWLEDGE_BEFORE_WRITE) {
            group.answer();
            thread::sleep(Duration::from_millis(2));
        }
        if !group.batch.is_empty() {
            let is_synced = group.is_durable || (group.events > 0 && shared.options.durability == Durability::Synced);
            let started = Instant::now();
            let is_late = bugs::is_on(bugs::VISIBLE_BEFORE_SYNC);
            let syncs = is_synced && !is_late && !bugs::is_on(bugs::ACKNOWLEDGE_BEFORE_SYNC);
            let batch = std::mem::take(&mut group.batch);
            if let Err(error) = run.engine.log.write_opt(batch, &write_options(syncs))
                && !bugs::is_on(bugs::SWALLOW_FAILED_WRITE)
                && !bugs::syncs_over(&run.engine.dir)
            {
                // From here on the group's callers are without an answer.
                shared.fail(format!("a write failed: {error}"));
                return run.wake_sequencer();
            }
            if is_late && group.events > 0 {
                run.seen.publish(group.last);
                publish.send_replace(group.last.position);
                let _ = run.engine.log.flush_wal(true);
            }
            shared.counters.group(group.appends, group.events, is_synced, started.elapsed());
        }
        if group.events > 0 {
            run.seen.publish(group.last);
            if !bugs::is_on(bugs::PUBLISH_IN_SILENCE) {
                publish.send_replace(group.last.position);
            }
            run.wake_keeper(keeper);
        }
        if let Some(segment) = group.full.take() {
            // Where the keeper has ended the store has failed, which the next group sees.
            let _ = keeper.send(Errand::Index { segment, last: (group.last.position, group.last.event) });
        }
        group.answer();
    }

    /// Takes the full segment from the tail. It is indexed when its last group is written.
    pub(super) fn rotate(&self, last: Position) -> Arc<Segment> {
        let Self { shared, run, .. } = self;
        let (is_stalled, started) = (run.seen.tail.is_full(), Instant::now());
        let full = run.seen.tail.rotate(last, || shared.has_failed());
        if is_stalled {
            shared.counters.stall(started.elapsed());
        }
        full
    }
}
