//! What a batch comes to if all streams are where its appends expect them: nearly always, and then `append_foreseen`
//! writes it in half of the time that `append` takes to judge it.

use std::{collections::HashMap, time::SystemTime};

use indelible_core::{EventId, Position, Timestamp, Version};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    answer::{self, Answer},
    batch::{Batch, EXISTS},
};
use crate::{read::KINDS_MAX, sql::bigint};

/// What this process knows of the log.
#[derive(Default)]
pub(crate) struct Known {
    /// When the server was started that it knows this of: another that took over, or the same from a backup, may have another
    /// log. That one of its processes died, upon which it starts no clock anew, is seen by the lost connection; behind a
    /// pooler it is not, and matters where appends are acknowledged before they are durable.
    server: Option<SystemTime>,
    /// The numbers that kinds of events have. Those that a call of `append` told, so that the events that brought them are
    /// not behind the last one that this process has seen, and no other can have taken their place unnoticed.
    kinds: HashMap<String, i32>,
    /// Versions of streams that this process wrote last, when `at` was the last event of the log. Other processes may have
    /// written since, most often other streams; where they wrote these, the constraint of stream and version refuses the batch,
    /// and only what is known to be so is told for a while.
    versions: HashMap<String, i64>,
    at: Position,
    wary_for: u32,
}

/// For so many batches nothing is believed after one that was wrong: what is refused leaves dead rows.
const WARY_BATCHES: u32 = 1_000;

/// What is known is forgotten at so many streams: 64 bytes each, and their names.
const STREAMS_MAX: usize = 65_536;

impl Known {
    /// A batch was written as it was foreseen.
    pub(super) fn wrote(&mut self, batch: &Batch<'_>, facts: &Facts) {
        self.found(facts.head, batch.streams.len());
        for ((stream, version), count) in batch.w_stream.iter().zip(&facts.versions).zip(&batch.w_count) {
            let (stream, version) = (batch.streams[*stream as usize - 1], bigint(version.get()) + i64::from(*count));
            match self.versions.get_mut(stream) {
                Some(known) => *known = version,
                None => drop(self.versions.insert(stream.to_owned(), version)),
            }
        }
        self.at = facts.head(batch).0;
    }

    /// A batch was judged.
    pub(super) fn judged(&mut self, batch: &Batch<'_>, answer: &Answer) {
        if self.server != Some(answer.server) {
            *self = Self { server: Some(answer.server), ..Self::default() };
        }
        if self.kinds.len() > KINDS_MAX {
            self.kinds.clear();
        }
        let kinds = batch.kinds().zip(&answer.kinds).filter_map(|(name, number)| Some((name, (*number)?)));
        self.kinds.extend(kinds);
        self.found(answer.head.0, 0);
        for stream in &batch.streams {
            self.versions.remove(*stream);
        }
        self.at = answer.head_after(batch);
    }

    /// What was believed is not so.
    pub(super) fn was_wrong(&mut self) {
        self.versions.clear();
        self.wary_for = WARY_BATCHES;
    }

    /// The head was there, and so many streams come to be known.
    fn found(&mut self, head: Position, more: usize) {
        let is_doubtful = self.wary_for > 0 && head != self.at;
        if is_doubtful || self.versions.len() + more > STREAMS_MAX {
            self.versions.clear();
        }
        self.wary_for = self.wary_for.saturating_sub(1);
    }
}

/// The arrays of a call; their names are the function's parameters.
pub(super) struct Foreseen<'b> {
    batch: &'b Batch<'b>,
    server: SystemTime,
    s_known_at: i64,
    s_known: Option<Vec<Option<i64>>>,
    s_version: Vec<Option<i64>>,
    e_stream: Option<Vec<i32>>,
    e_nth: Option<Vec<i64>>,
    e_kind: Vec<i32>,
    e_ends_append: Option<Vec<bool>>,
    /// For each write, how many events of the batch are before it in its stream.
    w_before: Vec<i64>,
}

impl<'b> Foreseen<'b> {
    /// Nothing, where it takes `append` to decide: appends with conditions, those that close a stream or expect what they
    /// can't find together, the first event of a kind.
    pub(super) fn of(batch: &'b Batch<'b>, known: &Known) -> Option<Self> {
        if !batch.c_after.is_empty() || batch.w_closes.values.is_some() {
            return None;
        }
        let server = known.server?;
        let numbers: Vec<i32> = batch.kinds().map(|name| known.kinds.get(&name).copied()).collect::<Option<_>>()?;
        let mut s_version = vec![None; batch.streams.len()];
        let mut written = vec![0; batch.streams.len()];
        let mut w_before = Vec::with_capacity(batch.w_stream.len());
        for append in 0..batch.a_events_end.len() {
            for expectation in batch.expects(append) {
                let stream = batch.x_stream[expectation] as usize - 1;
                let (version, written) = (&mut s_version[stream], written[stream]);
                let before = match batch.x_version[expectation] {
                    // It exists by then, or `append` looks.
                    EXISTS if written > 0 => continue,
                    EXISTS => version.filter(|version| *version > 0)?,
                    expected => expected - written,
                };
                if before < 0 || *version.get_or_insert(before) != before {
                    return None;
                }
            }
            for write in batch.writes(append) {
                let written = &mut written[batch.w_stream[write] as usize - 1];
                w_before.push(*written);
                *written += i64::from(batch.w_count[write]);
            }
        }
        // Of a stream that is only expected no constraint would say that it was written.
        let believes = known.wary_for == 0;
        let may_tell = |written| !believes || written > 0;
        let s_known = batch.streams.iter().zip(&written);
        let s_known =
            s_known.map(|(stream, written)| known.versions.get(*stream).copied().filter(|_| may_tell(*written)));
        if s_known.clone().zip(&s_version).any(|(known, expected)| expected.zip(known).is_some_and(|(e, k)| e != k)) {
            return None;
        }
        let writes = batch.e_write.iter().map(|write| *write as usize - 1);
        let e_stream = writes.clone().map(|write| batch.w_stream[write]);
        let e_nth = writes.zip(&batch.e_offset).map(|(write, offset)| w_before[write] + offset);
        let ends = &batch.a_events_end;
        let e_ends_append = batch.e_append.iter().zip(1..).map(|(append, n)| ends[*append as usize - 1] == n);
        Some(Self {
            s_known_at: if believes { -1 } else { bigint(known.at.get()) },
            s_known: unless(s_known.clone().all(|version| version.is_none()), s_known),
            e_stream: unless(e_stream.clone().zip(1..).all(|(stream, n)| stream == n), e_stream),
            e_nth: unless(e_nth.clone().all(|nth| nth == 1), e_nth),
            e_kind: batch.e_kind.iter().map(|kind| numbers[*kind as usize - 1]).collect(),
            e_ends_append: unless(e_ends_append.clone().all(|ends| ends), e_ends_append),
            batch,
            server,
            s_version,
            w_before,
        })
    }

    /// What the function answers where it has written all; otherwise it has written nothing.
    pub(super) fn written(&self, row: &Row) -> Result<Option<Facts>, tokio_postgres::Error> {
        if !row.try_get("is_written")? {
            return Ok(None);
        }
        let s_head: Vec<i64> = row.try_get("s_head")?;
        let streams = self.batch.w_stream.iter().map(|stream| s_head[*stream as usize - 1]);
        let versions = streams.zip(&self.w_before).map(|(head, before)| Version::new((head + before).cast_unsigned()));
        Ok(Some(Facts {
            head: answer::head(row)?,
            recorded_at: row.try_get::<_, SystemTime>("at")?.into(),
            versions: versions.collect(),
        }))
    }

    /// What stands for the appends in the parameters of the call, behind those that are about the call itself.
    pub(super) fn params(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let batch = self.batch;
        vec![
            (&self.server, Type::TIMESTAMPTZ),
            (&self.s_known_at, Type::INT8),
            (&batch.streams, Type::TEXT_ARRAY),
            (&self.s_known, Type::INT8_ARRAY),
            (&self.s_version, Type::INT8_ARRAY),
            (&self.e_stream, Type::INT4_ARRAY),
            (&self.e_nth, Type::INT8_ARRAY),
            (&self.e_kind, Type::INT4_ARRAY),
            (&batch.e_id, Type::UUID_ARRAY),
            (&batch.e_correlation_id.values, Type::UUID_ARRAY),
            (&batch.e_causation_id.values, Type::UUID_ARRAY),
            (&self.e_ends_append, Type::BOOL_ARRAY),
            (&batch.e_tags.values, Type::TEXT_ARRAY),
            (&batch.e_metadata.values, Type::TEXT_ARRAY),
            (&batch.e_data, Type::BYTEA_ARRAY),
        ]
    }
}

/// What is known of a batch that is written as it was foreseen.
pub(super) struct Facts {
    /// The last position before it.
    pub(super) head: Position,
    pub(super) recorded_at: Timestamp,
    /// For each append, of each stream that it writes, the version before.
    pub(super) versions: Vec<Version>,
}

impl Facts {
    /// The last event of the batch.
    pub(super) fn head(&self, batch: &Batch<'_>) -> (Position, EventId) {
        let last = batch.e_id.last().copied().unwrap_or_default();
        (self.head.plus(batch.e_id.len() as u64), EventId::from_uuid(last))
    }
}

/// An array that is not sent where it says nothing.
fn unless<T>(says_nothing: bool, values: impl Iterator<Item = T>) -> Option<Vec<T>> {
    (!says_nothing).then(|| values.collect())
}
