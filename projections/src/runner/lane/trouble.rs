//! What keeps a batch from being committed, and who is to blame.

use std::{any::Any, sync::Arc};

use indelible_core::Cause;

use crate::ReadModelError;

/// What kept a batch from being committed.
pub(super) enum Trouble {
    /// What the events, or their handler, are to blame for.
    Events(Arc<str>),
    /// What is nobody's fault, and may be over soon.
    Outage(ReadModelError),
    /// The partition is another's.
    Fenced,
    /// Nothing helps.
    Broken(ReadModelError),
}

impl Trouble {
    /// Whether it is over as soon as another transaction is.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Outage(ReadModelError::Conflict { .. }))
    }
}

impl From<ReadModelError> for Trouble {
    fn from(error: ReadModelError) -> Self {
        match error {
            ReadModelError::Fenced { .. } => Self::Fenced,
            ReadModelError::Rejected { .. } => Self::Events(told(&error)),
            error if error.is_retryable() => Self::Outage(error),
            error => Self::Broken(error),
        }
    }
}

impl From<Cause> for Trouble {
    fn from(cause: Cause) -> Self {
        match cause.downcast::<ReadModelError>() {
            Ok(error) => (*error).into(),
            Err(cause) => Self::Events(told(&*cause)),
        }
    }
}

/// An error with its causes, in a line.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> Arc<str> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ").into()
}

pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
