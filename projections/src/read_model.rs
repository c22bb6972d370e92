//! What a read model promises: the [`ReadModel`] that the runner writes to, whatever database is behind it.

use std::time::Duration;

use indelible_core::{Position, StreamId, Token};

use crate::{Partition, ProjectionId};

mod error;
mod rows;

pub use error::ReadModelError;
pub use rows::{
    Advance, Claim, DeadLetter, Done, Epoch, Errand, Lease, LetterEnd, PartitionRow, Registration, Roster, VersionRow,
    VersionState, Want, Wanted, Wish, WorkerId, WorkerRow,
};

/// Where projections are kept, with how far they have come.
///
/// A read model is a cheap handle; clones share the database.
///
/// # The contract
///
/// - **Once.** What is written to a [`Tx`](Self::Tx), its checkpoint, and what is parked in it are committed together or
///   not at all. Dropping it undoes it.
/// - **Fenced.** The checkpoint is the *first* thing that a batch writes: it changes the row that has the partition,
///   epoch and position of the [`Advance`], and fails with [`Fenced`](ReadModelError::Fenced) unless that is exactly one.
///   [`take`](Self::take) raises the epoch there before it reads the position. So of two that believe they own a
///   partition, the one that took it last can commit, and the other can't.
/// - **Isolated.** Transactions of different partitions that read and write the same rows come out as if one had run
///   after the other. One that can't fails with [`Conflict`](ReadModelError::Conflict), and is tried again at once.
/// - **Durable** is what [`commit`](Self::commit) said yes to. Where it fails with
///   [`Unavailable`](ReadModelError::Unavailable) it may have committed: the runner takes the partition again, and reads.
///
/// # A target without transactions
///
/// Where effects and checkpoint cannot change together (a search engine, a cache, another service), `commit` brings about
/// the effects first and keeps the checkpoint then. After a crash events come again, from the last checkpoint on, in
/// order: each *at least once*. Make them harmless by the position of the event as idempotency key: write it beside the
/// value, and skip what is not newer. [`AtLeastOnce`](crate::AtLeastOnce) is such a read model for any client.
///
/// # What may be left out
///
/// The methods with a body: dead letters and versions answer [`Unsupported`](ReadModelError::Unsupported), and a
/// projection that parks is refused at its start. Leases are for databases that several processes write to; without them
/// the process owns every partition, and nothing is written for it. Wishes go with leases. Where what operators want isn't
/// kept, it goes for the process that was told, until it ends.
pub trait ReadModel: Clone + Send + Sync + 'static {
    /// A transaction, as handlers write to it.
    type Tx: Send + 'static;

    /// Makes a version of a projection known. The first time it is given its partitions, each at the start of the log,
    /// and remembers the head as the end of its history; where the projection had no version, it is the current one.
    ///
    /// # Errors
    /// [`Partitions`](ReadModelError::Partitions) where it is known with another count.
    fn register(&self, registration: &Registration) -> impl Future<Output = Result<VersionRow, ReadModelError>> + Send;

    /// Takes a partition: raises its epoch, then reads where it is. `None` where another worker holds an unexpired lease.
    ///
    /// # Errors
    /// Those of the database.
    fn take(
        &self,
        projection: &ProjectionId,
        partition: Partition,
        worker: &WorkerId,
    ) -> impl Future<Output = Result<Option<Claim>, ReadModelError>> + Send;

    /// Begins a batch with the fenced checkpoint. It may be sent together with what the handler writes first, and fail
    /// there.
    ///
    /// # Errors
    /// [`Fenced`](ReadModelError::Fenced).
    fn begin(&self, advance: &Advance) -> impl Future<Output = Result<Self::Tx, ReadModelError>> + Send;

    /// Commits a batch.
    ///
    /// # Errors
    /// [`Fenced`](ReadModelError::Fenced), [`Rejected`](ReadModelError::Rejected) for what the handler wrote,
    /// [`Unavailable`](ReadModelError::Unavailable) where it may or may not be committed.
    fn commit(&self, tx: Self::Tx) -> impl Future<Output = Result<(), ReadModelError>> + Send;

    /// Where the partitions of a projection are, all of them, in order.
    ///
    /// # Errors
    /// Those of the database.
    fn partitions(
        &self,
        projection: &ProjectionId,
    ) -> impl Future<Output = Result<Vec<PartitionRow>, ReadModelError>> + Send;

    /// What has made a transaction useless by itself: it was fenced off, the connection is lost. Asked after a handler
    /// failed, so that this is not held against the event, however the handler has wrapped it.
    fn trouble(&self, tx: &mut Self::Tx) -> Option<ReadModelError> {
        let _ = tx;
        None
    }

    /// Keeps why a partition has stopped, if it is still held, until it is taken again: for those who wait for it in other
    /// processes.
    ///
    /// # Errors
    /// Those of the database.
    fn stopped(&self, claim: &Claim, error: &str) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (claim, error);
        async { Ok(()) }
    }

    // ---- dead letters ----------------------------------------------------------------------------------------------

    /// Whether it keeps dead letters.
    const PARKS: bool = false;

    /// Parks an event, in the batch's transaction.
    ///
    /// # Errors
    /// Those of the database.
    fn park(&self, tx: &mut Self::Tx, letter: &DeadLetter) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (tx, letter);
        async { Err(ReadModelError::unsupported("dead letters")) }
    }

    /// Up to `limit` dead letters of a projection by position, those after `after`, of one stream or of all.
    ///
    /// # Errors
    /// Those of the database.
    fn letters(
        &self,
        projection: &ProjectionId,
        stream: Option<&StreamId>,
        after: Position,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, ReadModelError>> + Send {
        let _ = (projection, stream, after, limit);
        async { Err(ReadModelError::unsupported("dead letters")) }
    }

    /// Takes a dead letter out, in the transaction that handles its event after all, or discards it. The stream is parked
    /// no more when its last one is gone.
    ///
    /// # Errors
    /// [`Rejected`](ReadModelError::Rejected) where it isn't there.
    fn unpark(
        &self,
        tx: &mut Self::Tx,
        letter: &DeadLetter,
        end: &LetterEnd,
    ) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (tx, letter, end);
        async { Err(ReadModelError::unsupported("dead letters")) }
    }

    // ---- versions --------------------------------------------------------------------------------------------------

    /// The versions of a projection, in order.
    ///
    /// # Errors
    /// Those of the database.
    fn versions(&self, name: &str) -> impl Future<Output = Result<Vec<VersionRow>, ReadModelError>> + Send {
        let _ = name;
        async { Err(ReadModelError::unsupported("versions")) }
    }

    /// Makes a version the one that queries see, in one transaction: [`Current`](VersionState::Current), and the one
    /// before [`Former`](VersionState::Former). Does nothing where it is the current one already.
    ///
    /// # Errors
    /// [`Behind`](ReadModelError::Behind) unless each of its partitions has looked as far as every partition of the
    /// current one, in that transaction: who has seen an event there sees it here.
    fn take_over(&self, projection: &ProjectionId) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = projection;
        async { Err(ReadModelError::unsupported("versions")) }
    }

    /// Drops a version with all that it holds.
    ///
    /// # Errors
    /// [`Rejected`](ReadModelError::Rejected) for the current one.
    fn drop_version(&self, projection: &ProjectionId) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = projection;
        async { Err(ReadModelError::unsupported("versions")) }
    }

    /// Empties a version, raises its epochs and puts its partitions back to the start of the log, whose head is the end of
    /// its history; nobody has a lease on them then, so that those who had find out. The current one is
    /// [`Rebuilding`](VersionState::Rebuilding) until it has [caught up](Self::caught_up), another
    /// [`Building`](VersionState::Building).
    ///
    /// # Errors
    /// Those of the database.
    fn reset(&self, projection: &ProjectionId, head: Token) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (projection, head);
        async { Err(ReadModelError::unsupported("a reset")) }
    }

    /// Says that a version that was reset has caught up. Nothing comes of it where a partition is not as far as its history
    /// goes: then it was reset once more meanwhile.
    ///
    /// # Errors
    /// Those of the database.
    fn caught_up(&self, projection: &ProjectionId) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = projection;
        async { Ok(()) }
    }

    /// Keeps what is wanted of a version, through resets too.
    ///
    /// # Errors
    /// Those of the database.
    fn want(&self, projection: &ProjectionId, want: Want) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (projection, want);
        async { Err(ReadModelError::unsupported("keeping what is wanted of a version")) }
    }

    // ---- leases ----------------------------------------------------------------------------------------------------

    /// For how long a partition that was taken is this worker's unless renewed, by the database's clock. `None`: the
    /// database is one process's.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// Registers a worker for the version that it runs, renews those of its leases of that version's partitions that
    /// have not run out, and tells who else runs it and who owns what.
    ///
    /// # Errors
    /// Those of the database.
    fn renew(&self, worker: &WorkerRow) -> impl Future<Output = Result<Roster, ReadModelError>> + Send {
        let _ = worker;
        async { Ok(Roster::default()) }
    }

    /// Gives a partition back, if it is still held.
    ///
    /// # Errors
    /// Those of the database.
    fn release(&self, claim: &Claim) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = claim;
        async { Ok(()) }
    }

    /// Takes a worker out of the registry of a version, with all partitions of it that it owns.
    ///
    /// # Errors
    /// Those of the database.
    fn leave(
        &self,
        worker: &WorkerId,
        projection: &ProjectionId,
    ) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (worker, projection);
        async { Ok(()) }
    }

    /// All workers that renewed within the lease time, once for each version that they run.
    ///
    /// # Errors
    /// Those of the database.
    fn workers(&self) -> impl Future<Output = Result<Vec<WorkerRow>, ReadModelError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Writes a wish down, where the owner of its partition finds it. It is forgotten an hour later.
    ///
    /// # Errors
    /// Those of the database.
    fn wish(&self, projection: &ProjectionId, wish: &Wish) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (projection, wish);
        async { Err(ReadModelError::unsupported("wishes")) }
    }

    /// The wishes of the last hour that nobody has answered or taken back, as they came: the first 1,000.
    ///
    /// # Errors
    /// Those of the database.
    fn wishes(&self, projection: &ProjectionId) -> impl Future<Output = Result<Vec<Wish>, ReadModelError>> + Send {
        let _ = projection;
        async { Ok(Vec::new()) }
    }

    /// Keeps what came of a wish, if it is still there and nobody has said so.
    ///
    /// # Errors
    /// Those of the database.
    fn answer(
        &self,
        projection: &ProjectionId,
        wish: u64,
        answer: &Done,
    ) -> impl Future<Output = Result<(), ReadModelError>> + Send {
        let _ = (projection, wish, answer);
        async { Ok(()) }
    }

    /// What came of a wish, which is forgotten with that; where it is asked for the last time, it is taken back.
    ///
    /// # Errors
    /// Those of the database.
    fn outcome(
        &self,
        projection: &ProjectionId,
        wish: u64,
        is_last: bool,
    ) -> impl Future<Output = Result<Option<Done>, ReadModelError>> + Send {
        let _ = (projection, wish, is_last);
        async { Ok(None) }
    }
}
