//! Seeded bugs, for tests that prove the fault tests: compiled in by the feature `bugs` only, and then chosen by the
//! environment variable `INDELIBLE_BUG`. `tests/it/zoo.rs` says which test finds which.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::{
    anchor::Place,
    engine::{self, Engine, Tier},
    log::{Blocks, Events},
    wal,
};

/// Whether a bug is wanted.
#[cfg(feature = "bugs")]
pub(crate) fn is_on(name: &str) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("INDELIBLE_BUG").ok());
    CHOSEN_HERE.get().or(CHOSEN.as_deref()) == Some(name)
}

#[cfg(feature = "bugs")]
thread_local! {
    /// For tests in one thread.
    pub(crate) static CHOSEN_HERE: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Never.
#[cfg(not(feature = "bugs"))]
pub(crate) const fn is_on(_name: &str) -> bool {
    false
}

/// Answers a group first and writes it then, on a disk that takes its time.
pub(crate) const ACKNOWLEDGE_BEFORE_WRITE: &str = "acknowledge-before-write";
/// Writes a group without a sync, and says that it is synced.
pub(crate) const ACKNOWLEDGE_BEFORE_SYNC: &str = "acknowledge-before-sync";
/// Publishes a group before its sync, and answers it after.
pub(crate) const VISIBLE_BEFORE_SYNC: &str = "visible-before-sync";
/// Takes a write or a sync that failed for one that did not.
pub(crate) const SWALLOW_FAILED_WRITE: &str = "swallow-failed-write";
/// Believes the callers' judgement, also where the log has gone on since.
pub(crate) const JUDGE_ONCE: &str = "judge-once";
/// Counts an append for one byte, however large it is.
pub(crate) const UNBOUNDED_QUEUE: &str = "unbounded-queue";
/// Takes appends that are larger than the limits.
pub(crate) const IGNORE_LIMITS: &str = "ignore-limits";

/// Goes on at the anchor, and gives the positions behind it once more.
pub(crate) const REUSE_POSITIONS: &str = "reuse-positions";
/// Opens whatever log there is, however much of it the anchor has seen.
pub(crate) const SKIP_ANCHOR_CHECK: &str = "skip-anchor-check";
/// Opens with the index as it is, and forgets to make what it lacks of the log.
pub(crate) const FORGET_REBUILD: &str = "forget-rebuild";

/// Takes an index for that of the log, whatever event it is marked with.
pub(crate) const BELIEVE_MARK: &str = "believe-mark";

/// Marks the index as going up to the head, though what it takes in ends before.
pub(crate) const MARK_AHEAD: &str = "mark-ahead";
/// Leaves the last of all tags out of the index.
pub(crate) const INDEX_FORGETS_TAGS: &str = "index-forgets-tags";
/// Takes an iterator over the index that failed for one that is through.
pub(crate) const IGNORE_STATUS: &str = "ignore-status";

/// Lets a segment of the tail go before the index is asked for what was in it.
pub(crate) const RELEASE_FIRST: &str = "release-first";
/// Looks at the tail before it looks at the head.
pub(crate) const TAIL_BEFORE_HEAD: &str = "tail-before-head";
/// Says that the keeper rests after it has looked what there is to anchor.
pub(crate) const REST_AFTER_LOOK: &str = "rest-after-look";
/// Wakes who waits for room in the tail, and not who is just about to.
pub(crate) const WAKE_UNLOCKED: &str = "wake-unlocked";

/// Says that nothing is being written, and wakes nobody who is just about to wait for that.
pub(crate) const FREE_UNLOCKED: &str = "free-unlocked";

/// Believes the bytes of an event, whatever their checksum.
pub(crate) const IGNORE_CHECKSUM: &str = "ignore-checksum";
/// Never frees what the index holds.
pub(crate) const LEAK_SEGMENTS: &str = "leak-segments";
/// Publishes a group, and wakes no subscription.
pub(crate) const PUBLISH_IN_SILENCE: &str = "publish-in-silence";
/// Keeps as many tables open as it likes.
pub(crate) const OPEN_ALL: &str = "open-all";

/// Copies the log first and the index, which is derived from it, after.
pub(crate) const BACKUP_LOG_FIRST: &str = "backup-log-first";
/// Writes and reads other checksums than this format's.
pub(crate) const CHANGE_FORMAT: &str = "change-format";
/// Reads numbers that are longer than they need to be.
pub(crate) const LONG_NUMBERS: &str = "long-numbers";

/// How long the second half is behind the first where a bug makes two writes of one: long enough to be hit in between.
pub(crate) const A_WHILE: Duration = Duration::from_millis(5);

/// Writes a read model's checkpoint by itself, and its rows a while later.
pub(crate) const CHECKPOINT_BEFORE_ROWS: &str = "checkpoint-before-rows";
/// Writes a read model's rows, and its checkpoint a while later.
pub(crate) const CHECKPOINT_AFTER_ROWS: &str = "checkpoint-after-rows";
/// Parks an event, and keeps nothing of it.
pub(crate) const PARK_FORGETS: &str = "park-forgets";
/// Resets a read model's checkpoints and leaves its rows.
pub(crate) const RESET_KEEPS_ROWS: &str = "reset-keeps-rows";
/// Lets a version of a read model go a while before it lets the next one take over.
pub(crate) const TAKE_OVER_IN_TWO: &str = "take-over-in-two";
/// Lets a version of a read model take over that has not come as far as the current one.
pub(crate) const TAKE_OVER_BEHIND: &str = "take-over-behind";

/// Syncs again where a sync has failed, and takes that for the answer.
const SYNC_OVER: &str = "sync-over-failed-sync";
/// Reads beside the writer what the anchor has not passed.
const READ_PAST_ANCHOR: &str = "read-past-anchor";

/// Whether a sync that failed was tried over until it said yes: as it does in the end, of bytes that the kernel has given up.
pub(crate) fn syncs_over(dir: &Path) -> bool {
    static HAS_SYNCED: AtomicBool = AtomicBool::new(false);
    let sync = |file: &PathBuf| File::open(file).is_ok_and(|file| file.sync_data().is_ok());
    is_on(SYNC_OVER)
        && !HAS_SYNCED.swap(true, Relaxed)
        && (0..100).any(|_| {
            thread::sleep(Duration::from_millis(10));
            wal::files(&engine::log_dir(dir)).is_ok_and(|files| files.iter().all(sync))
        })
}

/// Where a reader ends: not at the anchor, but where the log does, whether that is durable or not.
pub(crate) fn read_past(anchored: Place, engine: &Engine) -> Place {
    let end = || {
        engine.log.try_catch_up_with_primary().ok()?;
        let (position, checksum) =
            Blocks::new(engine, Tier::Disk).last().ok()?.map(|head| (head.last, head.checksum))?;
        let event = Events::new(engine, Tier::Disk).at(position).ok()?.id;
        Some(Place { position, event, checksum })
    };
    if is_on(READ_PAST_ANCHOR) { end().unwrap_or(anchored) } else { anchored }
}
