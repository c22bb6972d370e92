//! What the function `append` answers, told in the words of the appends that were asked about.

use std::{convert::Infallible, time::SystemTime};

use indelible_core::{Append, EventId, Position, RecordedEvent, StreamId, Timestamp, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use super::batch::Batch;
use crate::sql::count;

/// What became of an append.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    Known,
    Conflict,
    BeyondHead,
}

/// What failed, at which index among all of its kind in the batch, and what was found instead.
pub(super) struct Failed {
    pub(super) what: What,
    pub(super) index: usize,
    pub(super) found: u64,
}

pub(super) enum What {
    Expectation,
    Closed,
    Condition,
}

/// What the function answers.
pub(super) struct Answer {
    /// When the server was started.
    pub(super) server: SystemTime,
    /// The last event before the batch.
    pub(super) head: (Position, EventId),
    pub(super) recorded_at: Timestamp,
    pub(super) outcomes: Vec<Outcome>,
    bases: Vec<Option<i64>>,
    versions: Vec<Option<i64>>,
    failed: Vec<Vec<Failed>>,
    /// Events whose ids were recorded before, by their numbers in the batch, and where.
    pub(super) known: Vec<(usize, Position)>,
    /// The number of each of the batch's kinds in the log, where it has one.
    pub(super) kinds: Vec<Option<i32>>,
}

/// The last position before the batch.
pub(super) fn head(row: &Row) -> Result<Position, tokio_postgres::Error> {
    Ok(Position::new(count(row.try_get("head")?)))
}

impl Answer {
    pub(super) fn decode(row: &Row) -> Result<Self, tokio_postgres::Error> {
        let outcomes: Vec<Outcome> = row
            .try_get::<_, Vec<i32>>("outcome")?
            .into_iter()
            .map(|outcome| match outcome {
                0 => Outcome::Written,
                1 => Outcome::Known,
                2 => Outcome::Conflict,
                _ => Outcome::BeyondHead,
            })
            .collect();
        let mut failed: Vec<Vec<Failed>> = outcomes.iter().map(|_| Vec::new()).collect();
        let (appends, whats): (Vec<i32>, Vec<i32>) = (row.try_get("f_append")?, row.try_get("f_what")?);
        let (indexes, found): (Vec<i32>, Vec<i64>) = (row.try_get("f_index")?, row.try_get("f_found")?);
        for (((append, what), index), found) in appends.into_iter().zip(whats).zip(indexes).zip(found) {
            let what = match what {
                0 => What::Expectation,
                1 => What::Closed,
                _ => What::Condition,
            };
            failed[append as usize - 1].push(Failed { what, index: index as usize - 1, found: count(found) });
        }
        let known = row.try_get::<_, Option<Vec<i32>>>("known")?.unwrap_or_default().into_iter();
        let known_at = row.try_get::<_, Option<Vec<i64>>>("known_at")?.unwrap_or_default().into_iter();
        Ok(Self {
            server: row.try_get("server")?,
            head: (head(row)?, EventId::from_uuid(row.try_get::<_, Option<Uuid>>("head_id")?.unwrap_or_default())),
            recorded_at: row.try_get::<_, SystemTime>("at")?.into(),
            outcomes,
            bases: row.try_get("a_base")?,
            versions: row.try_get("w_version")?,
            failed,
            known: known
                .zip(known_at)
                .map(|(event, position)| (event as usize - 1, Position::new(count(position))))
                .collect(),
            kinds: row.try_get("kind_ids")?,
        })
    }

    /// The last position behind the batch.
    pub(super) fn head_after(&self, batch: &Batch<'_>) -> Position {
        let written = self.outcomes.iter().enumerate().filter(|(_, outcome)| **outcome == Outcome::Written);
        let events: usize = written.map(|(append, _)| batch.events(append).len()).sum();
        self.head.0.plus(events as u64)
    }

    /// The events of an append that was written, as they are recorded.
    pub(super) fn recorded(&self, batch: &Batch<'_>, index: usize, append: &Append) -> Vec<RecordedEvent> {
        let before = self.bases[index].unwrap_or(0) + batch.events(index).start as i64;
        let version = |write: usize| Version::new(self.versions[write].unwrap_or(0).cast_unsigned());
        let before_in = |stream: &StreamId| {
            let write = batch.writes(index).find(|write| batch.stream_of_write(*write) == stream.as_str());
            Ok(write.map_or(Version::NONE, version))
        };
        let head = Position::new(before.cast_unsigned());
        let Ok::<_, Infallible>(events) = append.clone().record(head, self.recorded_at, before_in);
        events
    }

    pub(super) fn failed(&mut self, append: usize) -> Vec<Failed> {
        std::mem::take(&mut self.failed[append])
    }
}
