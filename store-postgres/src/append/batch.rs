//! A batch of appends as the function `append` takes it: flat, in arrays.

use std::{collections::HashMap, ops::Range};

use indelible_core::{
    Append, ContentType, EventType, ExpectedVersion, FailedCondition, InvalidInput, Position, StoreError, StreamId,
    Version,
};
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{
    answer::{Failed, What},
    group::Rival,
};
use crate::sql::{Items, bigint, lines};

/// The arrays of a call; their names are the function's parameters, which say what they mean.
#[derive(Default)]
pub(super) struct Batch<'a> {
    pub(super) streams: Vec<&'a str>,
    k_category: Vec<&'a str>,
    k_type: Vec<&'a str>,
    k_schema_version: Vec<i64>,
    k_content_type: Vec<&'a str>,
    pub(super) a_events_end: Vec<i32>,
    a_writes_end: Vec<i32>,
    a_expects_end: Vec<i32>,
    a_conditions_end: Vec<i32>,
    pub(super) w_stream: Vec<i32>,
    pub(super) w_count: Vec<i32>,
    pub(super) w_closes: Sparse<bool>,
    pub(super) x_stream: Vec<i32>,
    pub(super) x_version: Vec<i64>,
    pub(super) c_after: Vec<i64>,
    c_items_end: Vec<i32>,
    c_rivals_end: Vec<i32>,
    i_tags: Vec<Option<String>>,
    i_categories: Vec<Option<String>>,
    i_types: Vec<Option<String>>,
    r_event: Vec<i32>,
    pub(super) e_append: Vec<i32>,
    pub(super) e_write: Vec<i32>,
    pub(super) e_offset: Vec<i64>,
    pub(super) e_kind: Vec<i32>,
    pub(super) e_id: Vec<Uuid>,
    pub(super) e_correlation_id: Sparse<Option<Uuid>>,
    pub(super) e_causation_id: Sparse<Option<Uuid>>,
    e_closes: Sparse<bool>,
    pub(super) e_tags: Sparse<Option<String>>,
    pub(super) e_metadata: Sparse<Option<String>>,
    pub(super) e_data: Vec<&'a [u8]>,

    stream_numbers: HashMap<&'a str, i32>,
    kind_numbers: HashMap<(&'a str, &'a EventType, u32, &'a ContentType), i32>,
    /// Which expectation of its append each entry of `x_stream` is.
    expectations: Vec<usize>,
}

/// What stands in `x_version` for any version but none.
pub(super) const EXISTS: i64 = -1;

/// A column that has nothing in it in most batches: then none is sent.
#[derive(Default)]
pub(super) struct Sparse<T> {
    pub(super) values: Option<Vec<T>>,
    len: usize,
}

impl<T: Clone + Default + PartialEq> Sparse<T> {
    fn push(&mut self, value: T) {
        self.len += 1;
        if value != T::default() {
            self.set(self.len - 1, value);
        } else if let Some(values) = &mut self.values {
            values.push(value);
        }
    }

    fn set(&mut self, index: usize, value: T) {
        let values = self.values.get_or_insert_default();
        values.resize(self.len, T::default());
        values[index] = value;
    }
}

/// A number in SQL of what is counted here. No batch has two thousand million of anything.
fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl<'a> Batch<'a> {
    /// Appends in their order, and for each condition of them the events before it in the batch that match.
    pub(super) fn new(appends: impl Iterator<Item = &'a Append>, rivals: &[Vec<Rival>]) -> Result<Self, StoreError> {
        let mut batch = Self::default();
        let mut rivals = rivals.iter();
        // The number of the first event of each append.
        let mut firsts = Vec::new();
        for append in appends {
            firsts.push(batch.e_id.len());
            batch.add(append)?;
            for _ in append.conditions() {
                for rival in rivals.next().into_iter().flatten() {
                    batch.r_event.push(number(firsts[rival.append] + rival.event + 1));
                }
                batch.c_rivals_end.push(number(batch.r_event.len()));
            }
        }
        Ok(batch)
    }

    fn add(&mut self, append: &'a Append) -> Result<(), StoreError> {
        let first_write = self.w_stream.len();
        // The last event of each of this append's writes. It has few, nearly always one.
        let mut last: Vec<usize> = Vec::new();
        for (stream, event) in append.events() {
            let number_of_stream = self.stream(stream);
            let writes = &self.w_stream[first_write..];
            let nth = writes.iter().rposition(|written| *written == number_of_stream).unwrap_or_else(|| {
                self.w_stream.push(number_of_stream);
                self.w_count.push(0);
                self.w_closes.push(append.closes().contains(stream));
                last.push(0);
                last.len() - 1
            });
            let write = first_write + nth;
            self.w_count[write] += 1;
            last[nth] = self.e_id.len();

            self.e_append.push(number(self.a_events_end.len() + 1));
            self.e_write.push(number(write + 1));
            self.e_offset.push(self.w_count[write].into());
            self.e_id.push(event.id.as_uuid());
            self.e_correlation_id.push(event.correlation_id.map(|id| id.as_uuid()));
            self.e_causation_id.push(event.causation_id.map(|id| id.as_uuid()));
            self.e_closes.push(false);
            self.e_tags.push(lines(event.tags.iter().map(|tag| tag.as_str())));
            let metadata = match event.metadata.is_empty() {
                true => None,
                false => Some(
                    serde_json::to_string(&event.metadata)
                        .map_err(|error| InvalidInput::new("metadata", error.to_string()))?,
                ),
            };
            self.e_metadata.push(metadata);
            self.e_data.push(&event.data);
            let kind = (stream.category_str(), &event.event_type, event.schema_version, &event.content_type);
            let kinds = self.k_type.len();
            let kind = *self.kind_numbers.entry(kind).or_insert_with(|| {
                self.k_category.push(kind.0);
                self.k_type.push(kind.1.as_str());
                self.k_schema_version.push(kind.2.into());
                self.k_content_type.push(kind.3.as_str());
                number(kinds + 1)
            });
            self.e_kind.push(kind);
        }
        for (nth, last) in last.into_iter().enumerate() {
            if append.closes().iter().any(|closed| closed.as_str() == self.stream_of_write(first_write + nth)) {
                self.e_closes.set(last, true);
            }
        }
        for (index, (stream, expected)) in append.expected().iter().enumerate() {
            let version = match expected {
                ExpectedVersion::Any => continue,
                ExpectedVersion::NoStream => 0,
                ExpectedVersion::Exists => EXISTS,
                ExpectedVersion::Exact(version) => bigint(version.get()),
            };
            let stream = self.stream(stream);
            self.x_stream.push(stream);
            self.x_version.push(version);
            self.expectations.push(index);
        }
        let mut items = Items::default();
        for condition in append.conditions() {
            for item in condition.query.items() {
                items.add(item);
            }
            // What comes after it is counted from there.
            self.c_after.push(bigint(condition.after.get()).min(i64::MAX - 1));
            self.c_items_end.push(number(self.i_tags.len() + items.tags.len()));
        }
        self.i_tags.extend(items.tags);
        self.i_categories.extend(items.categories);
        self.i_types.extend(items.types);
        self.a_events_end.push(number(self.e_id.len()));
        self.a_writes_end.push(number(self.w_stream.len()));
        self.a_expects_end.push(number(self.x_stream.len()));
        self.a_conditions_end.push(number(self.c_after.len()));
        Ok(())
    }

    fn stream(&mut self, stream: &'a StreamId) -> i32 {
        let next = self.streams.len();
        *self.stream_numbers.entry(stream.as_str()).or_insert_with(|| {
            self.streams.push(stream.as_str());
            number(next + 1)
        })
    }

    /// What stands for the appends in the parameters of the call, behind those that are about the call itself.
    pub(super) fn params(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        vec![
            (&self.streams, Type::TEXT_ARRAY),
            (&self.k_category, Type::TEXT_ARRAY),
            (&self.k_type, Type::TEXT_ARRAY),
            (&self.k_schema_version, Type::INT8_ARRAY),
            (&self.k_content_type, Type::TEXT_ARRAY),
            (&self.a_events_end, Type::INT4_ARRAY),
            (&self.a_writes_end, Type::INT4_ARRAY),
            (&self.a_expects_end, Type::INT4_ARRAY),
            (&self.a_conditions_end, Type::INT4_ARRAY),
            (&self.w_stream, Type::INT4_ARRAY),
            (&self.w_count, Type::INT4_ARRAY),
            (&self.w_closes.values, Type::BOOL_ARRAY),
            (&self.x_stream, Type::INT4_ARRAY),
            (&self.x_version, Type::INT8_ARRAY),
            (&self.c_after, Type::INT8_ARRAY),
            (&self.c_items_end, Type::INT4_ARRAY),
            (&self.c_rivals_end, Type::INT4_ARRAY),
            (&self.i_tags, Type::TEXT_ARRAY),
            (&self.i_categories, Type::TEXT_ARRAY),
            (&self.i_types, Type::TEXT_ARRAY),
            (&self.r_event, Type::INT4_ARRAY),
            (&self.e_append, Type::INT4_ARRAY),
            (&self.e_write, Type::INT4_ARRAY),
            (&self.e_offset, Type::INT8_ARRAY),
            (&self.e_kind, Type::INT4_ARRAY),
            (&self.e_id, Type::UUID_ARRAY),
            (&self.e_correlation_id.values, Type::UUID_ARRAY),
            (&self.e_causation_id.values, Type::UUID_ARRAY),
            (&self.e_closes.values, Type::BOOL_ARRAY),
            (&self.e_tags.values, Type::TEXT_ARRAY),
            (&self.e_metadata.values, Type::TEXT_ARRAY),
            (&self.e_data, Type::BYTEA_ARRAY),
        ]
    }

    fn start(ends: &[i32], append: usize) -> usize {
        append.checked_sub(1).map_or(0, |before| ends[before] as usize)
    }

    /// Which writes, numbered from 0, are those of an append.
    pub(super) fn writes(&self, append: usize) -> Range<usize> {
        Self::start(&self.a_writes_end, append)..self.a_writes_end[append] as usize
    }

    /// Which expectations, likewise.
    pub(super) fn expects(&self, append: usize) -> Range<usize> {
        Self::start(&self.a_expects_end, append)..self.a_expects_end[append] as usize
    }

    /// Names of the batch's kinds.
    pub(super) fn kinds(&self) -> impl Iterator<Item = String> {
        let kinds = self.k_category.iter().zip(&self.k_type).zip(&self.k_schema_version).zip(&self.k_content_type);
        // No name contains a line's end.
        kinds.map(|(((category, name), version), content)| format!("{category}\n{name}\n{version}\n{content}"))
    }

    /// Which events, likewise.
    pub(super) fn events(&self, append: usize) -> Range<usize> {
        Self::start(&self.a_events_end, append)..self.a_events_end[append] as usize
    }

    pub(super) fn stream_of_write(&self, write: usize) -> &'a str {
        self.streams[self.w_stream[write] as usize - 1]
    }

    /// What failed, in the words of its append.
    pub(super) fn failed(&self, index: usize, append: &Append, failed: &Failed) -> FailedCondition {
        match failed.what {
            What::Expectation => {
                let (stream, expected) = &append.expected()[self.expectations[failed.index]];
                let actual = Version::new(failed.found);
                FailedCondition::Version { stream: stream.clone(), expected: *expected, actual }
            }
            What::Closed => {
                let name = self.stream_of_write(failed.index);
                let mut streams = append.events().iter().map(|(stream, _)| stream);
                let stream = streams.find(|stream| stream.as_str() == name).unwrap_or(&append.events()[0].0);
                FailedCondition::Closed { stream: stream.clone(), version: Version::new(failed.found) }
            }
            What::Condition => FailedCondition::Query {
                index: self.condition(index, failed.index),
                position: Position::new(failed.found),
            },
        }
    }

    /// Which of its append's conditions a condition of the batch is.
    pub(super) fn condition(&self, append: usize, condition: usize) -> usize {
        condition - Self::start(&self.a_conditions_end, append)
    }

    /// The append that an event of the batch belongs to, and which event it is there.
    pub(super) fn owner(&self, event: usize) -> (usize, usize) {
        let append = self.e_append[event] as usize - 1;
        (append, event - self.events(append).start)
    }
}
