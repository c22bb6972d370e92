//! The read model on a disk: projections' tables in a RocksDB database of their own.
//!
//! Called by the runner of `indelible-projections`, and asked by applications. Batches are in [`tx`], what queries see in
//! [`snapshot`], the bytes in [`record`].

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
};

use indelible_core::{Position, StreamId, Timestamp, Token, check_reader};
use indelible_projections::{
    Advance, Claim, DeadLetter, Epoch, LetterEnd, Partition, PartitionRow, Projection, ProjectionId, ReadModel,
    ReadModelError, Registration, VersionRow, VersionState, Want, WorkerId,
};
use rocksdb::{DB, DBRawIterator, ErrorKind, WriteBatch};
use tokio::task;

use crate::{OpenError, bugs, engine::write_options, frame::Damage, open::Lock};

#[cfg(feature = "sagas")]
mod agenda;
mod open;
mod record;
mod snapshot;
mod tx;

pub use snapshot::RocksSnapshot;
pub use tx::RocksTx;

/// Read models in a directory of their own, apart from the log: one process's, for as long as it has it open.
///
/// ```
/// use indelible_core::{Aggregate, Apply, Cause, Event, Repository};
/// use indelible_projections::{Envelope, Project, Projection, ReadTables, Table, Wants, Worker, WriteTables};
/// use indelible_rocksdb::{RocksModel, RocksStore, RocksTx};
/// # use indelible_core::{Context, Events, Handle};
/// # use serde::{Deserialize, Serialize};
/// # use std::time::Duration;
/// # #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
/// # enum AccountEvent { Deposited { cents: i64 } }
/// # #[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
/// # #[aggregate(category = "account")]
/// # struct Account {}
/// # impl Apply for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
/// # struct Deposit(i64);
/// # impl Handle<Deposit> for Account {
/// #     type Error = std::convert::Infallible;
/// #     fn handle(&self, deposit: &Deposit, _: &Context<Self>) -> Result<Events<AccountEvent>, Self::Error> {
/// #         Ok(AccountEvent::Deposited { cents: deposit.0 }.into())
/// #     }
/// # }
/// struct Balances;
/// const BALANCES: Table<String, i64> = Table::new("balances");
///
/// impl Projection for Balances {
///     const NAME: &'static str = "balances";
///     type Event = AccountEvent;
///     fn wants() -> Wants<AccountEvent> {
///         Wants::of::<Account>()
///     }
/// }
/// impl Project<RocksModel> for Balances {
///     async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut RocksTx) -> Result<(), Cause> {
///         let account = envelope.recorded.stream.id().to_owned();
///         let AccountEvent::Deposited { cents } = envelope.event;
///         let balance = tx.get(&BALANCES, &account)?.unwrap_or(0);
///         Ok(tx.put(&BALANCES, &account, &(balance + cents))?)
///     }
/// }
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// let store = RocksStore::open(directory.join("log"))?;
/// let model = RocksModel::open(directory.join("views"))?;
/// let running = Worker::new(&store).add(&model, Balances).start().await?;
///
/// let done = Repository::<Account>::new(&store).execute("ada", Deposit(500)).await?;
/// running.wait_for(&done.token(), Duration::from_secs(5)).await?;
/// let views = model.query::<Balances>()?; // all its tables as they are now, whatever comes
/// assert_eq!(views.get(&BALANCES, &"ada".to_owned())?, Some(500));
/// # Ok(()) }
/// ```
///
/// # What it keeps, and when
///
/// A batch's rows, its checkpoint and its dead letters are one write of RocksDB, of which there is all or nothing. That
/// write is not synced: it is on its way to the disk when it is acknowledged. So a killed process loses nothing. **A
/// power cut, or a crash of the machine, loses the last few batches, and their checkpoints with them**: the read model is
/// then as it was somewhat earlier, and takes the same events from the log again (P1). What a query or
/// [`wait_for`](indelible_projections::Running::wait_for) has answered before may be missing until then. What the log
/// doesn't know is synced: that a version was registered, took over, was reset, paused or dropped, and what became of a
/// dead letter.
///
/// A log that lost its own end ([`Durability::Buffered`](crate::Durability::Buffered)) may come back behind its read
/// model. A projection's partitions then stop as diverged, and a [`reset`](ReadModel::reset) builds it anew.
///
/// A damaged directory is refused when it is opened, or stops the projection that reads it; nothing is repaired. With
/// the directory removed all is built anew from the log, but for what operators said: which version is current after going
/// back, what is paused or throttled, which dead letters were discarded and why.
///
/// # What it costs
///
/// Transactions of one projection take turns, so that what one has read is so until it commits; partitions of it decode
/// events side by side. Those of different projections run at the same time. There are no leases: nothing is written for
/// ownership but an epoch when a partition is taken.
///
/// Up to 256 MiB of memory for all projections in it, beside the batches under way.
#[derive(Clone)]
pub struct RocksModel {
    inner: Arc<Inner>,
}

/// An open directory. Fields are dropped in this order.
struct Inner {
    db: DB,
    versions: RwLock<BTreeMap<ProjectionId, Kept>>,
    _lock: Lock,
}

/// What is known of a version.
struct Kept {
    version: VersionRow,
    /// Where its rows are.
    space: u32,
    partitions: Arc<Partitions>,
}

/// Where a version's partitions are.
struct Partitions {
    /// As on the disk. Held while it is written: who raises an epoch comes before a commit, or after it.
    rows: Mutex<Vec<PartitionRow>>,
    /// Held by a transaction.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Partitions {
    fn rows(&self) -> MutexGuard<'_, Vec<PartitionRow>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RocksModel {
    /// Opens the read models in a directory, or makes one there. Blocks. It is open until the last clone is gone, and
    /// what workers had under way.
    ///
    /// # Errors
    /// [`OpenError`]: it is open already, here or in another process, holds something else, is damaged, or of a newer
    /// version.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_buffering(path, open::BUFFER_BYTES)
    }

    /// For tests: how much of what was written last is in memory before it is written as a table.
    #[doc(hidden)]
    pub fn open_buffering(path: impl AsRef<Path>, bytes: usize) -> Result<Self, OpenError> {
        Ok(Self { inner: Arc::new(open::open(path.as_ref(), bytes)?) })
    }

    /// What a projection holds, its current version, as it is now: what is written later is not seen. Cheap; while it is
    /// held, what is overwritten is kept.
    ///
    /// # Errors
    /// [`ReadModelError::Unknown`] for a projection that never ran here, [`ReadModelError::Rebuilding`] while it is
    /// being reset.
    pub fn query<P: Projection>(&self) -> Result<RocksSnapshot<'_>, ReadModelError> {
        let versions = self.inner.versions();
        let mut named = versions.values().filter(|kept| *kept.version.projection.name == *P::NAME);
        match named.find(|kept| kept.version.state.is_current()) {
            None => Err(ReadModelError::Unknown { projection: P::NAME.into() }),
            Some(kept) if kept.version.state == VersionState::Rebuilding => {
                Err(ReadModelError::Rebuilding { projection: kept.version.projection.clone() })
            }
            // While no other can take over.
            Some(kept) => Ok(RocksSnapshot::new(&self.inner.db, kept.space)),
        }
    }

    /// What was discarded of a projection, with the reasons, by position.
    ///
    /// # Errors
    /// [`ReadModelError::Unknown`], and those of the engine.
    pub async fn discarded(&self, projection: &ProjectionId) -> Result<Vec<(DeadLetter, String)>, ReadModelError> {
        self.inner.known(projection)?;
        let range = record::all(record::DISCARDED, projection);
        self.blocking(move |inner| {
            let mut found = Vec::new();
            inner.walk(range, |_, value| {
                let (letter, reason) = record::decode_letter(value)?;
                found.push((letter, reason.unwrap_or_default()));
                Ok(true)
            })?;
            Ok(found)
        })
        .await
    }

    /// Runs what may block on one of the runtime's threads for that. It goes on when the future is dropped.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, ReadModelError> + Send + 'static,
    ) -> Result<T, ReadModelError> {
        let inner = self.inner.clone();
        let done = task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(ReadModelError::unavailable("a blocking call", error)))
    }
}

impl Inner {
    fn versions(&self) -> RwLockReadGuard<'_, BTreeMap<ProjectionId, Kept>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn versions_to_change(&self) -> RwLockWriteGuard<'_, BTreeMap<ProjectionId, Kept>> {
        self.versions.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The space and the partitions of a version.
    fn known(&self, projection: &ProjectionId) -> Result<(u32, Arc<Partitions>), ReadModelError> {
        let versions = self.versions();
        let kept = versions.get(projection).ok_or_else(|| unknown(projection))?;
        Ok((kept.space, kept.partitions.clone()))
    }

    /// Shows what is in a range, in order, as long as more is wanted.
    fn walk(
        &self,
        range: record::Range,
        mut show: impl FnMut(&[u8], &[u8]) -> Result<bool, Damage>,
    ) -> Result<(), ReadModelError> {
        let mut found = Ok(true);
        walk(self.db.raw_iterator(), range, |key, value| {
            found = show(key, value).map_err(|damage| (key.escape_ascii().to_string(), damage));
            matches!(found, Ok(true))
        })
        .map_err(unreadable)?;
        found.map(drop).map_err(|(key, damage)| ReadModelError::corrupted(key, damage))
    }

    /// Writes durably what the log doesn't know.
    fn decide(&self, what: &str, batch: WriteBatch) -> Result<(), ReadModelError> {
        self.db.write_opt(batch, &write_options(true)).map_err(|error| failed(what, error))
    }

    fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        let Registration { projection, partitions, .. } = registration;
        check_reader(&projection.name).map_err(|error| ReadModelError::rejected("a projection's name", error))?;
        let mut versions = self.versions_to_change();
        if let Some(kept) = versions.get(projection) {
            return match kept.version.partitions == *partitions {
                true => Ok(kept.version.clone()),
                false => Err(ReadModelError::Partitions {
                    projection: projection.clone(),
                    stored: kept.version.partitions,
                    asked: *partitions,
                }),
            };
        }
        let is_first = !versions.keys().any(|known| known.name == projection.name);
        let version = registration.version(if is_first { VersionState::Current } else { VersionState::Building });
        let rows = registration.rows();
        let space = next_space(&versions);
        let mut batch = WriteBatch::default();
        put_version(&mut batch, &version, space);
        put_rows(&mut batch, projection, &rows);
        self.decide("registering a projection", batch)?;
        let partitions = Arc::new(Partitions { rows: Mutex::new(rows), turn: Arc::default() });
        versions.insert(projection.clone(), Kept { version: version.clone(), space, partitions });
        Ok(version)
    }

    fn take(
        &self,
        projection: &ProjectionId,
        partition: Partition,
        worker: &WorkerId,
    ) -> Result<Claim, ReadModelError> {
        // No reset comes in between.
        let versions = self.versions();
        let Kept { version, partitions, .. } = versions.get(projection).ok_or_else(|| unknown(projection))?;
        let mut rows = partitions.rows();
        let row = rows.get_mut(partition.0 as usize).ok_or_else(|| unknown(projection))?;
        let next =
            PartitionRow { epoch: Epoch(row.epoch.0 + 1), owner: Some(worker.clone()), stopped: None, ..row.clone() };
        let written = self.db.put(record::partition(projection, partition), record::encode_partition(&next));
        written.map_err(|error| failed("taking a partition", error))?;
        *row = next;
        let (epoch, position) = (row.epoch, row.position);
        let parked = self.parked(projection, partition)?;
        let replays_to = version.replays_to;
        Ok(Claim { projection: projection.clone(), partition, epoch, position, parked, replays_to })
    }

    /// Each stream that has letters, by going from one to behind its last letter.
    fn parked(&self, projection: &ProjectionId, partition: Partition) -> Result<Vec<StreamId>, ReadModelError> {
        let mut streams = Vec::new();
        let prefix = record::letters_in(projection, partition);
        let (mut start, end) = record::starting(prefix.clone());
        loop {
            let before = streams.len();
            self.walk((start.clone(), end.clone()), |key, _| {
                streams.push(record::stream_of(&key[prefix.len()..])?);
                Ok(false)
            })?;
            match streams.last() {
                Some(stream) if streams.len() > before => {
                    start = record::starting(record::letters_of(projection, partition, stream)).1;
                }
                _ => return Ok(streams),
            }
        }
    }

    fn letters(
        &self,
        projection: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        let (_, partitions) = self.known(projection)?;
        let count = partitions.rows().len() as u32;
        let mut letters = Vec::new();
        if limit == 0 {
            return Ok(letters);
        }
        if let Some(stream) = stream {
            let prefix = record::letters_of(projection, Partition::of(stream, count), stream);
            let (mut start, end) = record::starting(prefix);
            start.extend(after.plus(1).get().to_be_bytes());
            self.walk((start, end), |_, value| {
                letters.push(record::decode_letter(value)?.0);
                Ok(letters.len() < limit)
            })?;
            return Ok(letters);
        }
        let (_, end) = record::all(record::QUEUE, projection);
        let start = record::numbered(record::QUEUE, projection, after.plus(1));
        let mut queued = Vec::new();
        self.walk((start, end), |key, stream| {
            let stream: StreamId = crate::frame::text(stream)?.parse()?;
            let mut letter = record::letters_of(projection, Partition::of(&stream, count), &stream);
            letter.extend_from_slice(&key[key.len() - 8..]);
            queued.push(letter);
            Ok(queued.len() < limit)
        })?;
        for key in queued {
            // One that was ended in the meantime is none.
            if let Some(value) = self.db.get_pinned(&key).map_err(unreadable)? {
                let decoded = record::decode_letter(&value);
                letters.push(decoded.map_err(|damage| ReadModelError::corrupted("a dead letter", damage))?.0);
            }
        }
        Ok(letters)
    }

    fn take_over(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let mut versions = self.versions_to_change();
        let next = versions.get(projection).ok_or_else(|| unknown(projection))?;
        if next.version.state.is_current() {
            return Ok(());
        }
        let mut same = versions.values().filter(|kept| kept.version.projection.name == projection.name);
        let current = same.find(|kept| kept.version.state.is_current()).map(|kept| kept.partitions.clone());
        // Held until it is written, so that the current one goes no further meanwhile.
        let current = current.as_ref().map(|partitions| partitions.rows());
        let seen = current.as_ref().and_then(|rows| rows.iter().map(|row| row.position.position).max());
        let reached = next.partitions.rows().iter().map(|row| row.position.position).min();
        if seen > reached && !bugs::is_on(bugs::TAKE_OVER_BEHIND) {
            return Err(ReadModelError::Behind { projection: projection.clone() });
        }
        let mut changed = Vec::new();
        for kept in versions.values().filter(|kept| kept.version.projection.name == projection.name) {
            let state = match kept.version.state {
                _ if kept.version.projection == *projection => VersionState::Current,
                VersionState::Building => VersionState::Building,
                _ => VersionState::Former,
            };
            changed.push((VersionRow { state, ..kept.version.clone() }, kept.space));
        }
        let mut batch = WriteBatch::default();
        changed.iter().for_each(|(version, space)| put_version(&mut batch, version, *space));
        if bugs::is_on(bugs::TAKE_OVER_IN_TWO) {
            let mut first = WriteBatch::default();
            let former = changed.iter().filter(|(version, _)| version.state == VersionState::Former);
            former.for_each(|(version, space)| put_version(&mut first, version, *space));
            self.decide("the first half", first)?;
            thread::sleep(20 * bugs::A_WHILE);
        }
        self.decide("a take-over", batch)?;
        for (version, _) in changed {
            if let Some(kept) = versions.get_mut(&version.projection) {
                kept.version = version;
            }
        }
        Ok(())
    }

    fn drop_version(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let mut versions = self.versions_to_change();
        let kept = versions.get(projection).ok_or_else(|| unknown(projection))?;
        if kept.version.state.is_current() {
            return Err(ReadModelError::rejected(format!("dropping {projection}"), "it is the current version"));
        }
        let mut batch = WriteBatch::default();
        batch.delete(record::version(projection));
        batch.delete(record::wanted(projection));
        let kinds = [record::PARTITIONS, record::LETTERS, record::QUEUE, record::DISCARDED];
        for (start, end) in kinds.map(|kind| record::all(kind, projection)) {
            batch.delete_range(start, end);
        }
        let (start, end) = record::space(kept.space);
        batch.delete_range(start, end);
        // Whoever holds a partition is fenced off: a commit is before this, and goes with the rest, or finds none.
        let mut rows = kept.partitions.rows();
        self.decide("dropping a version", batch)?;
        rows.clear();
        drop(rows);
        versions.remove(projection);
        Ok(())
    }

    fn reset(&self, projection: &ProjectionId, head: Token) -> Result<(), ReadModelError> {
        let mut versions = self.versions_to_change();
        // Not the old one: rows would be searched for below what deletes it.
        let space = next_space(&versions);
        let kept = versions.get_mut(projection).ok_or_else(|| unknown(projection))?;
        let is_current = kept.version.state.is_current();
        let state = if is_current { VersionState::Rebuilding } else { VersionState::Building };
        let version = VersionRow { replays_to: head.position, state, ..kept.version.clone() };
        let mut rows = kept.partitions.rows();
        let emptied = rows.iter().map(|row| PartitionRow {
            epoch: Epoch(row.epoch.0 + 1),
            position: Token::start(head.store),
            parked: 0,
            updated_at: Timestamp::now(),
            owner: None,
            stopped: None,
            ..row.clone()
        });
        let emptied: Vec<_> = emptied.collect();
        let space = if bugs::is_on(bugs::RESET_KEEPS_ROWS) { kept.space } else { space };
        let mut batch = WriteBatch::default();
        put_version(&mut batch, &version, space);
        put_rows(&mut batch, projection, &emptied);
        for (start, end) in [record::LETTERS, record::QUEUE].map(|kind| record::all(kind, projection)) {
            batch.delete_range(start, end);
        }
        if space != kept.space {
            let (start, end) = record::space(kept.space);
            batch.delete_range(start, end);
        }
        self.decide("a reset", batch)?;
        *rows = emptied;
        drop(rows);
        (kept.version, kept.space) = (version, space);
        Ok(())
    }

    fn want(&self, projection: &ProjectionId, want: Want) -> Result<(), ReadModelError> {
        let mut versions = self.versions_to_change();
        let kept = versions.get_mut(projection).ok_or_else(|| unknown(projection))?;
        let mut wanted = kept.version.wanted;
        wanted.apply(want);
        let mut batch = WriteBatch::default();
        batch.put(record::wanted(projection), record::encode_wanted(wanted));
        self.decide("what is wanted", batch)?;
        kept.version.wanted = wanted;
        Ok(())
    }

    fn caught_up(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let mut versions = self.versions_to_change();
        let kept = versions.get_mut(projection).ok_or_else(|| unknown(projection))?;
        let there = kept.partitions.rows().iter().all(|row| row.position.position >= kept.version.replays_to);
        // But where it was reset once more since somebody looked.
        if kept.version.state == VersionState::Rebuilding && there {
            let version = VersionRow { state: VersionState::Current, ..kept.version.clone() };
            let mut batch = WriteBatch::default();
            put_version(&mut batch, &version, kept.space);
            self.decide("the end of a reset", batch)?;
            kept.version = version;
        }
        Ok(())
    }
}

/// One that no version has.
fn next_space(versions: &BTreeMap<ProjectionId, Kept>) -> u32 {
    versions.values().map(|kept| kept.space + 1).max().unwrap_or_default()
}

fn put_version(batch: &mut WriteBatch, version: &VersionRow, space: u32) {
    batch.put(record::version(&version.projection), record::encode_version(version, space));
}

fn put_rows(batch: &mut WriteBatch, projection: &ProjectionId, rows: &[PartitionRow]) {
    rows.iter().for_each(|row| batch.put(record::partition(projection, row.partition), record::encode_partition(row)));
}

/// Shows what is in a range, in order, as long as more is wanted.
fn walk(
    mut entries: DBRawIterator<'_>,
    (start, end): record::Range,
    mut show: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), rocksdb::Error> {
    entries.seek(start);
    while let Some((key, value)) = entries.item() {
        if key >= end.as_slice() || !show(key, value) {
            return Ok(());
        }
        entries.next();
    }
    // One that fails looks just like one that is through.
    entries.status()
}

fn unknown(projection: &ProjectionId) -> ReadModelError {
    ReadModelError::Unknown { projection: projection.to_string() }
}

fn unreadable(error: rocksdb::Error) -> ReadModelError {
    failed("reading", error)
}

fn failed(what: &str, error: rocksdb::Error) -> ReadModelError {
    match error.kind() {
        ErrorKind::Corruption => ReadModelError::corrupted(what, error),
        _ => ReadModelError::unavailable(what, error),
    }
}

impl ReadModel for RocksModel {
    type Tx = RocksTx;
    const PARKS: bool = true;

    async fn register(&self, registration: &Registration) -> Result<VersionRow, ReadModelError> {
        let registration = registration.clone();
        self.blocking(move |inner| inner.register(&registration)).await
    }

    async fn take(
        &self,
        projection: &ProjectionId,
        partition: Partition,
        worker: &WorkerId,
    ) -> Result<Option<Claim>, ReadModelError> {
        let (projection, worker) = (projection.clone(), worker.clone());
        self.blocking(move |inner| inner.take(&projection, partition, &worker).map(Some)).await
    }

    async fn begin(&self, advance: &Advance) -> Result<RocksTx, ReadModelError> {
        let (_, partitions) = self.inner.known(&advance.projection)?;
        let turn = partitions.turn.clone().lock_owned().await;
        // It may have been emptied meanwhile, and have its rows elsewhere.
        let (space, partitions) = self.inner.known(&advance.projection)?;
        // The step itself is taken with the commit.
        tx::fenced(&mut partitions.rows(), advance)?;
        Ok(RocksTx::new(self.inner.clone(), partitions, (advance.clone(), space), turn))
    }

    async fn commit(&self, tx: RocksTx) -> Result<(), ReadModelError> {
        // It takes about as long as its handlers did. Another thread would often have to be woken on a core that is busy.
        if tx.is_quick() && tx.commit(false)? {
            return Ok(());
        }
        self.blocking(move |_| tx.commit(true).map(drop)).await
    }

    // In memory alone: whoever asks is in this process, and it is taken anew after it.
    async fn stopped(&self, claim: &Claim, error: &str) -> Result<(), ReadModelError> {
        let (_, partitions) = self.inner.known(&claim.projection)?;
        let (claim, error) = (claim.clone(), error.to_owned());
        self.blocking(move |_| {
            let mut rows = partitions.rows();
            let held = rows.get_mut(claim.partition.0 as usize).filter(|row| row.epoch == claim.epoch);
            held.into_iter().for_each(|row| row.stopped = Some(error.clone()));
            Ok(())
        })
        .await
    }

    async fn partitions(&self, projection: &ProjectionId) -> Result<Vec<PartitionRow>, ReadModelError> {
        let (_, partitions) = self.inner.known(projection)?;
        self.blocking(move |_| Ok(partitions.rows().clone())).await
    }

    async fn park(&self, tx: &mut RocksTx, letter: &DeadLetter) -> Result<(), ReadModelError> {
        tx.park(letter)
    }

    async fn letters(
        &self,
        projection: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ReadModelError> {
        let (projection, stream) = (projection.clone(), stream.cloned());
        self.blocking(move |inner| inner.letters(&projection, stream.as_ref(), after, limit)).await
    }

    async fn unpark(&self, tx: &mut RocksTx, letter: &DeadLetter, end: &LetterEnd) -> Result<(), ReadModelError> {
        tx.unpark(letter, end)
    }

    async fn versions(&self, name: &str) -> Result<Vec<VersionRow>, ReadModelError> {
        let versions = self.inner.versions();
        Ok(versions.values().map(|kept| &kept.version).filter(|v| *v.projection.name == *name).cloned().collect())
    }

    async fn take_over(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let projection = projection.clone();
        self.blocking(move |inner| inner.take_over(&projection)).await
    }

    async fn drop_version(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let projection = projection.clone();
        self.blocking(move |inner| inner.drop_version(&projection)).await
    }

    async fn reset(&self, projection: &ProjectionId, head: Token) -> Result<(), ReadModelError> {
        let projection = projection.clone();
        self.blocking(move |inner| inner.reset(&projection, head)).await
    }

    async fn caught_up(&self, projection: &ProjectionId) -> Result<(), ReadModelError> {
        let projection = projection.clone();
        self.blocking(move |inner| inner.caught_up(&projection)).await
    }

    async fn want(&self, projection: &ProjectionId, want: Want) -> Result<(), ReadModelError> {
        let projection = projection.clone();
        self.blocking(move |inner| inner.want(&projection, want)).await
    }
}
