//! Snapshots: a cache, written without a sync, in a [`frame`](crate::frame):
//!
//! ```text
//! stream name · version u64 · event id 16 · fingerprint 16 · taken at i64 µs · content type name · data long
//! ```
//!
//! One that is damaged is none: it is counted, warned of, and overwritten by the next.

use async_trait::async_trait;
use bytes::Bytes;
use indelible_core::{
    ContentType, EventId, Fingerprint, Snapshot, SnapshotStore, StoreError, StreamId, Timestamp, Version,
};

use crate::{
    RocksStore,
    append::Keep,
    frame::{Damage, Fields, Frame},
    keys,
};

const VERSION: u8 = 1;

#[async_trait]
impl SnapshotStore for RocksStore {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let stream = stream.clone();
        self.read(move |view| {
            let Some(value) = view.get(&keys::snapshot(&stream))? else { return Ok(None) };
            match decode(&value) {
                Ok(snapshot) if snapshot.stream == stream => return Ok(Some(snapshot)),
                Ok(other) => tracing::warn!(%stream, other = %other.stream, "a snapshot of another stream is ignored"),
                Err(damage) => tracing::warn!(%stream, %damage, "a damaged snapshot is ignored"),
            }
            metrics::counter!("indelible_rocksdb_snapshots_damaged_total").increment(1);
            Ok(None)
        })
        .await
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        let value = Some(encode(&snapshot));
        self.keep(Keep { key: keys::snapshot(&snapshot.stream), value, durable: false }).await
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        self.keep(Keep { key: keys::snapshot(stream), value: None, durable: false }).await
    }
}

fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let mut frame = Frame::new(VERSION, 128 + snapshot.data.len());
    frame
        .name(snapshot.stream.as_str())
        .u64(snapshot.version.get())
        .uuid(snapshot.event_id.as_uuid())
        .uuid(snapshot.fingerprint.as_uuid())
        .i64(snapshot.taken_at.as_micros())
        .name(snapshot.content_type.as_str())
        .long(&snapshot.data);
    frame.seal()
}

fn decode(value: &[u8]) -> Result<Snapshot, Damage> {
    let mut fields = Fields::open(VERSION, value)?;
    let snapshot = Snapshot {
        stream: fields.name()?.parse()?,
        version: Version::new(fields.u64()?),
        event_id: EventId::from_uuid(fields.uuid()?),
        fingerprint: Fingerprint::from_uuid(fields.uuid()?),
        taken_at: Timestamp::from_micros(fields.i64()?)?,
        content_type: ContentType::new(fields.name()?)?,
        data: Bytes::copy_from_slice(fields.long()?),
    };
    fields.end()?;
    Ok(snapshot)
}
