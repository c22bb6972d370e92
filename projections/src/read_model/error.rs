//! Why a read model could not do what it was asked.

use indelible_core::Cause;

use crate::{Partition, ProjectionId};

/// Why a read model could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadModelError {
    /// It cannot be reached at the moment. A commit may have come about; anything else has not.
    #[error("the read model is unavailable: {what}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What the database said.
        #[source]
        source: Option<Cause>,
    },
    /// It could not be brought in order with another transaction: a deadlock, a row that changed. Nothing was written.
    #[error("another transaction came in between: {what}")]
    Conflict {
        /// What was tried.
        what: String,
        /// What the database said.
        #[source]
        source: Option<Cause>,
    },
    /// Somebody else took the partition, or its checkpoint is not where this one believed it. Nothing was written.
    #[error("fenced off: partition {partition} of {projection} was taken by another")]
    Fenced {
        /// The projection.
        projection: ProjectionId,
        /// The partition.
        partition: Partition,
    },
    /// The database refused what it was given. Nothing was written.
    #[error("refused by the read model: {what}")]
    Rejected {
        /// What was tried.
        what: String,
        /// What the database said.
        #[source]
        source: Option<Cause>,
    },
    /// What is stored is not what was written, or of a newer version.
    #[error("the read model is damaged: {what}")]
    Corrupted {
        /// What is damaged.
        what: String,
        /// How it was noticed.
        #[source]
        source: Option<Cause>,
    },
    /// The projection is known with another count of partitions. That changes with the
    /// [version](crate::Projection::VERSION) alone.
    #[error("{projection} is kept in {stored} partitions, and not in {asked}: another number takes another version")]
    Partitions {
        /// The projection.
        projection: ProjectionId,
        /// The count that it is kept with.
        stored: u32,
        /// The count that the code has.
        asked: u32,
    },
    /// Nothing is known of this projection, or this version.
    #[error("there is no {projection} in the read model")]
    Unknown {
        /// What was asked for.
        projection: String,
    },
    /// It was reset, and has not caught up yet.
    #[error("{projection} is being rebuilt")]
    Rebuilding {
        /// The projection.
        projection: ProjectionId,
    },
    /// It cannot take over yet.
    #[error("{projection} has not caught up with the current version")]
    Behind {
        /// The projection.
        projection: ProjectionId,
    },
    /// This kind of read model doesn't have it.
    #[error("this read model does not support {what}")]
    Unsupported {
        /// What it doesn't have.
        what: &'static str,
    },
}

impl ReadModelError {
    /// [`ReadModelError::Unavailable`] with its cause.
    pub fn unavailable(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }

    /// [`ReadModelError::Rejected`] with its cause.
    pub fn rejected(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Rejected { what: what.into(), source: Some(source.into()) }
    }

    /// [`ReadModelError::Corrupted`] with its cause.
    pub fn corrupted(what: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Corrupted { what: what.into(), source: Some(source.into()) }
    }

    /// [`ReadModelError::Unsupported`].
    pub const fn unsupported(what: &'static str) -> Self {
        Self::Unsupported { what }
    }

    /// Whether it may go better later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Conflict { .. })
    }
}
