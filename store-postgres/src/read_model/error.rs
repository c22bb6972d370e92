//! What the server's errors say to whoever runs a projection: try again, give way, or hold it against the event.

use std::sync::Arc;

use deadpool::managed::PoolError;
use indelible_projections::{Partition, ProjectionId, ReadModelError};
use tokio_postgres::{Error, error::SqlState};

use crate::connect::{ConnectError, SharedCause};

/// What an error is about.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) what: &'static str,
    pub(super) projection: Option<ProjectionId>,
    pub(super) partition: Option<Partition>,
}

impl About {
    pub(super) fn nobody(what: &'static str) -> Self {
        Self { what, projection: None, partition: None }
    }

    pub(super) fn projection(what: &'static str, projection: &ProjectionId) -> Self {
        Self { what, projection: Some(projection.clone()), partition: None }
    }

    pub(super) fn told(&self, error: &Arc<Error>) -> ReadModelError {
        let code = error.code().map_or("", SqlState::code);
        match (code, &self.projection, self.partition) {
            ("INDM1", Some(projection), Some(partition)) => {
                return ReadModelError::Fenced { projection: projection.clone(), partition };
            }
            ("INDM2", Some(projection), _) => {
                return ReadModelError::Unknown { projection: projection.to_string() };
            }
            ("INDM5", Some(projection), _) => {
                return ReadModelError::Behind { projection: projection.clone() };
            }
            ("INDM4", Some(projection), _) => {
                return ReadModelError::Rebuilding { projection: projection.clone() };
            }
            _ => {}
        }
        let (what, source) = (self.told_what(), SharedCause::new(Arc::clone(error)));
        match code {
            // A serialization failure, a deadlock, a lock that was not to be had in time.
            "40001" | "40P01" | "55P03" => ReadModelError::Conflict { what, source: Some(source.into()) },
            "XX001" | "XX002" => ReadModelError::corrupted(what, source),
            _ if is_away(code) => ReadModelError::unavailable(what, source),
            _ => ReadModelError::rejected(what, source),
        }
    }

    pub(super) fn no_connection(&self, error: PoolError<ConnectError>) -> ReadModelError {
        ReadModelError::unavailable(self.told_what(), error)
    }

    pub(super) fn told_what(&self) -> String {
        match (&self.projection, self.partition) {
            (Some(projection), Some(partition)) => format!("{}, partition {partition} of {projection}", self.what),
            (Some(projection), None) => format!("{}, {projection}", self.what),
            (None, _) => self.what.into(),
        }
    }
}

/// Whether the server is away or in no state to work, so that nothing is wrong with what it was given: the connection
/// broke or was ended, the server stops, starts, has become a replica, or has no room, memory or connection left.
fn is_away(code: &str) -> bool {
    code.is_empty()
        || ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class))
        || ["25006", "25P03", "XX000"].contains(&code)
}
