//! A batch under way: what handlers have written, over what is on the disk, until it is written with the checkpoint.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError},
    thread,
};

use indelible_core::Timestamp;
use indelible_projections::{
    Advance, DeadLetter, LetterEnd, PartitionRow, ReadModelError, Rows, Tables, WritableTables,
};
use rocksdb::{ErrorKind, ReadOptions, WriteBatch};
use tokio::sync::OwnedMutexGuard;

use super::{Inner, Partitions, failed, record, unreadable};
use crate::{bugs, engine::write_options};

/// A transaction of a [`RocksModel`](crate::RocksModel): [`WriteTables`](indelible_projections::WriteTables) writes to
/// it, and it sees its own writes. Those of a projection have their turns. It is in memory until it is committed.
///
/// Reads block the thread where they need the disk. So does the commit, about as long as the handlers took; where RocksDB
/// has writers wait, they wait elsewhere.
pub struct RocksTx {
    inner: Arc<Inner>,
    partitions: Arc<Partitions>,
    advance: Advance,
    space: u32,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// How many streams more are parked than before.
    parked: isize,
    /// Somebody has decided what became of a letter, which the log doesn't know.
    is_decision: bool,
    _turn: OwnedMutexGuard<()>,
}

impl RocksTx {
    pub(super) fn new(
        inner: Arc<Inner>,
        partitions: Arc<Partitions>,
        (advance, space): (Advance, u32),
        turn: OwnedMutexGuard<()>,
    ) -> Self {
        let writes = BTreeMap::new();
        Self { inner, partitions, advance, space, writes, parked: 0, is_decision: false, _turn: turn }
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadModelError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.inner.db.get(key).map_err(unreadable),
        }
    }

    fn range(&self, range: record::Range, limit: usize) -> Result<Rows, ReadModelError> {
        if range.0 >= range.1 {
            return Ok(Rows::new());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(range.1.clone());
        let mut stored = self.inner.db.raw_iterator_opt(options);
        stored.seek(&range.0);
        let mut written = self.writes.range(range.0..range.1).peekable();
        let mut found = Rows::new();
        while found.len() < limit {
            match (stored.item(), written.peek()) {
                (Some((key, value)), next) if next.is_none_or(|(written, _)| key < written.as_slice()) => {
                    found.push((key.to_vec(), value.to_vec()));
                    stored.next();
                }
                // What was written hides what is stored under the same key.
                (item, Some((key, value))) => {
                    let hides = item.is_some_and(|(stored, _)| stored == key.as_slice());
                    found.extend(value.as_ref().map(|value| ((*key).clone(), value.clone())));
                    written.next();
                    if hides {
                        stored.next();
                    }
                }
                (_, None) => break,
            }
        }
        stored.status().map_err(unreadable)?;
        Ok(found)
    }

    /// The keys of up to two letters of a stream.
    fn letters_beside(&self, letter: &DeadLetter) -> Result<Rows, ReadModelError> {
        let prefix = record::letters_of(&self.advance.projection, letter.partition, &letter.stream);
        self.range(record::starting(prefix), 2)
    }

    pub(super) fn park(&mut self, letter: &DeadLetter) -> Result<(), ReadModelError> {
        if self.letters_beside(letter)?.is_empty() {
            self.parked += 1;
        }
        if bugs::is_on(bugs::PARK_FORGETS) {
            return Ok(());
        }
        let id = &self.advance.projection;
        self.writes.insert(record::letter(id, letter), Some(record::encode_letter(letter, None)));
        let stream = letter.stream.as_str().as_bytes().to_vec();
        self.writes.insert(record::numbered(record::QUEUE, id, letter.position), Some(stream));
        Ok(())
    }

    pub(super) fn unpark(&mut self, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        let id = &self.advance.projection;
        let key = record::letter(id, letter);
        if self.value(&key)?.is_none() {
            return Err(ReadModelError::rejected("a dead letter", "it is there no more"));
        }
        if self.letters_beside(letter)?.len() == 1 {
            self.parked -= 1;
        }
        self.is_decision = true;
        let queued = record::numbered(record::QUEUE, id, letter.position);
        if let LetterEnd::Discarded(reason) = end {
            let discarded = record::numbered(record::DISCARDED, id, letter.position);
            self.writes.insert(discarded, Some(record::encode_letter(letter, Some(reason))));
        }
        self.writes.extend([key, queued].map(|key| (key, None)));
        Ok(())
    }

    /// Whether it is quickly written: to memory, and to a file that is not synced.
    pub(super) fn is_quick(&self) -> bool {
        !self.is_decision
    }

    /// Writes all of it, with the checkpoint, in one piece; nothing, and `false`, where the engine has writers wait, and this
    /// one shall not. Blocks.
    pub(super) fn commit(&self, waits: bool) -> Result<bool, ReadModelError> {
        let Self { inner, partitions, advance, writes, parked, is_decision, .. } = self;
        let mut rows = partitions.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = fenced(&mut rows, advance)?;
        let next = PartitionRow {
            position: advance.to,
            updated_at: Timestamp::now(),
            parked: row.parked.saturating_add_signed(*parked),
            ..row.clone()
        };
        let put_rows = |mut batch: WriteBatch| {
            for (key, value) in writes {
                match value {
                    Some(value) => batch.put(key, value),
                    None => batch.delete(key),
                }
            }
            batch
        };
        let put_checkpoint = |mut batch: WriteBatch| {
            let key = record::partition(&advance.projection, advance.partition);
            batch.put(key, record::encode_partition(&next));
            batch
        };
        let mut options = write_options(*is_decision);
        options.set_no_slowdown(!waits);
        let write = |batch| inner.db.write_opt(batch, &options);
        let failed = |error| failed("writing a batch", error);
        if bugs::is_on(bugs::CHECKPOINT_BEFORE_ROWS) {
            write(put_checkpoint(WriteBatch::default())).map_err(failed)?;
            thread::sleep(bugs::A_WHILE);
        }
        if bugs::is_on(bugs::CHECKPOINT_AFTER_ROWS) {
            write(put_rows(WriteBatch::default())).map_err(failed)?;
            thread::sleep(bugs::A_WHILE);
        }
        match write(put_checkpoint(put_rows(WriteBatch::default()))) {
            Err(error) if error.kind() == ErrorKind::Incomplete && !waits => return Ok(false),
            written => written.map_err(failed)?,
        }
        *row = next;
        Ok(true)
    }
}

/// The row of a step, if it is where the step believes it.
pub(super) fn fenced<'a>(rows: &'a mut [PartitionRow], step: &Advance) -> Result<&'a mut PartitionRow, ReadModelError> {
    match rows.get_mut(step.partition.0 as usize) {
        Some(row) if (row.epoch, row.position) == (step.epoch, step.from) => Ok(row),
        _ => Err(ReadModelError::Fenced { projection: step.projection.clone(), partition: step.partition }),
    }
}

impl Tables for RocksTx {
    fn read(&self, table: &'static str, key: &[u8]) -> Result<Option<Vec<u8>>, ReadModelError> {
        self.value(&record::row(self.space, table, key)?)
    }

    fn rows(
        &self,
        table: &'static str,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        limit: usize,
    ) -> Result<Rows, ReadModelError> {
        let mut rows = self.range(record::rows(self.space, table, &range)?, limit)?;
        let prefix = record::table(self.space, table)?.len();
        rows.iter_mut().for_each(|(key, _)| drop(key.drain(..prefix)));
        Ok(rows)
    }
}

impl WritableTables for RocksTx {
    fn write(&mut self, table: &'static str, key: Vec<u8>, value: Option<Vec<u8>>) -> Result<(), ReadModelError> {
        self.writes.insert(record::row(self.space, table, &key)?, value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::mpsc, time::Duration};

    use indelible_core::{EventStore, store::memory::MemoryStore};
    use indelible_projections::{Claim, Partition, ProjectionId, ReadModel, Registration, WorkerId};
    use tokio::time::timeout;

    use super::*;
    use crate::RocksModel;

    /// Where the engine has writers wait, the runtime's threads don't.
    #[tokio::test]
    async fn a_write_that_has_to_wait_keeps_nobody_else_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let model = RocksModel::open(dir.path()).unwrap();
        let projection = ProjectionId { name: "rows".into(), version: 1 };
        let head = MemoryStore::new().head().await.unwrap();
        let registration = Registration { projection: projection.clone(), partitions: 1, head, setup: "" };
        model.register(&registration).await.unwrap();
        let claim = model.take(&projection, Partition(0), &WorkerId("a test".into())).await.unwrap().unwrap();
        let Claim { partition, epoch, position, .. } = claim;

        // One file is too many from now on, and nobody merges any. Whoever waits is let go sooner or later.
        let stops_at = |inner: &Inner, files| {
            let options = [("level0_file_num_compaction_trigger", "100"), ("level0_stop_writes_trigger", files)];
            inner.db.set_options(&options).unwrap();
        };
        model.inner.db.flush().unwrap();
        stops_at(&model.inner, "1");
        let ((let_go, waits), inner) = (mpsc::channel(), model.inner.clone());
        let opener = thread::spawn(move || {
            let _ = waits.recv_timeout(Duration::from_secs(5));
            stops_at(&inner, "1000");
        });

        let mut tx =
            model.begin(&Advance { projection, partition, epoch, from: position, to: position }).await.unwrap();
        tx.write("rows", b"key".to_vec(), Some(b"value".to_vec())).unwrap();
        let key = record::row(tx.space, "rows", b"key").unwrap();
        let stored = || model.inner.db.get(&key).unwrap();
        let mut commit = pin!(model.commit(tx));
        assert!(timeout(Duration::from_millis(200), commit.as_mut()).await.is_err(), "it did not wait, or all did");
        assert_eq!(stored(), None);
        let_go.send(()).unwrap();
        timeout(Duration::from_secs(30), commit).await.unwrap().unwrap();
        assert_eq!(stored().as_deref(), Some(b"value".as_slice()));
        opener.join().unwrap();
    }
}
