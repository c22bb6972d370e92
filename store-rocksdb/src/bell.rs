//! How the keeper learns that there is something to anchor: once for all that is published until it looks.

use std::sync::atomic::Ordering::AcqRel;

use super::{seen::Seen, sync::AtomicBool};
use crate::{anchor::Place, bugs};

/// Whether the keeper knows.
pub(crate) struct Bell(AtomicBool);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Behind what is published: whether the keeper must be told, since nobody has told it yet.
    pub(crate) fn ring(&self) -> bool {
        !self.0.swap(true, AcqRel)
    }

    /// What there is to anchor. Whatever is published later is told again.
    pub(crate) fn answer(&self, seen: &Seen) -> Place {
        let early = bugs::is_on(bugs::REST_AFTER_LOOK).then(|| seen.last());
        // In this order: what is published in between is told twice, and not never.
        self.0.swap(false, AcqRel);
        early.unwrap_or_else(|| seen.last())
    }
}
