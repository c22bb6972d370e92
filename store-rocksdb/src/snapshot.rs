//! Snapshots: a cache beside the index, written without a sync, each under its stream's name, in a
//! [`frame`](crate::frame); `FORMAT.md` has the fields.
//!
//! One that is damaged is none: it is counted, warned of, and overwritten by the next.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use indelible_core::{
    ContentType, EventId, Fingerprint, InvalidInput, Snapshot, SnapshotStore, StoreError, StreamId, Timestamp, Version,
};
use rocksdb::ErrorKind;

use crate::{
    RocksStore,
    engine::{Engine, Fault},
    frame::{Damage, Fields, Frame, Put as _},
    read::View,
    store::blocking,
};

/// The largest snapshot.
const BYTES_MAX: usize = 64 * 1024 * 1024;
const VERSION: u8 = 1;

#[async_trait]
impl SnapshotStore for RocksStore {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let stream = stream.clone();
        self.read(move |view| load(view, &stream)).await
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        if snapshot.data.len() > BYTES_MAX {
            let reason = format!("has {} bytes, at most {BYTES_MAX} are kept", snapshot.data.len());
            return Err(InvalidInput::new("snapshot", reason).into());
        }
        self.write(move |engine| engine.index.put_cf(engine.snapshots(), snapshot.stream.as_str(), encode(&snapshot)))
            .await
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        let stream = stream.clone();
        self.write(move |engine| engine.index.delete_cf(engine.snapshots(), stream.as_str())).await
    }
}

pub(crate) fn load(view: &View<'_>, stream: &StreamId) -> Result<Option<Snapshot>, Fault> {
    let engine = view.engine;
    let found = engine.index.get_pinned_cf_opt(engine.snapshots(), stream.as_str(), &view.tier.options());
    match found.map(|value| value.map(|value| decode(&value))) {
        Ok(None) => return Ok(None),
        Ok(Some(Ok(snapshot))) if snapshot.stream == *stream => return Ok(Some(snapshot)),
        Ok(Some(Ok(other))) => {
            tracing::warn!(%stream, other = %other.stream, "a snapshot of another stream is ignored")
        }
        Ok(Some(Err(damage))) => tracing::warn!(%stream, %damage, "a damaged snapshot is ignored"),
        Err(error) if error.kind() == ErrorKind::Corruption => {
            tracing::warn!(%stream, %error, "a snapshot in a damaged table is ignored");
        }
        Err(error) => return Err(Fault::engine("reading a snapshot", error)),
    }
    metrics::counter!("indelible_rocksdb_snapshots_damaged_total").increment(1);
    Ok(None)
}

impl RocksStore {
    async fn write(
        &self,
        write: impl FnOnce(&Engine) -> Result<(), rocksdb::Error> + Send + 'static,
    ) -> Result<(), StoreError> {
        let shared = Arc::clone(self.shared());
        blocking(move || {
            shared.writes()?;
            let written = shared.with_run(|run| write(&run.engine))?;
            written.map_err(|error| StoreError::unavailable("writing a snapshot", error))
        })
        .await
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
        .put(&snapshot.data);
    frame.seal()
}

pub(crate) fn decode(value: &[u8]) -> Result<Snapshot, Damage> {
    let (mut fields, _) = Fields::open(VERSION, value)?;
    Ok(Snapshot {
        stream: fields.name()?.parse()?,
        version: Version::new(fields.u64()?),
        event_id: EventId::from_uuid(fields.uuid()?),
        fingerprint: Fingerprint::from_uuid(fields.uuid()?),
        taken_at: Timestamp::from_micros(fields.i64()?)?,
        content_type: ContentType::new(fields.name()?)?,
        data: Bytes::copy_from_slice(fields.rest()),
    })
}

/// For [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn comes_back(body: &[u8]) -> bool {
    let value = crate::frame::sealed(VERSION, body);
    decode(&value).is_ok_and(|snapshot| {
        assert_eq!(encode(&snapshot), value);
        true
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        let ids = [8, 9].map(Uuid::from_u128);
        let snapshot = Snapshot {
            stream: "a-1".parse().unwrap(),
            version: Version::new(300),
            event_id: EventId::from_uuid(ids[0]),
            fingerprint: Fingerprint::from_uuid(ids[1]),
            taken_at: Timestamp::from_micros(-2).unwrap(),
            content_type: ContentType::from_static("x/y"),
            data: Bytes::from_static(b"{}"),
        };
        let value = encode(&snapshot);
        let fields = [
            &b"\x03a-1"[..],
            &[44, 1, 0, 0, 0, 0, 0, 0],
            ids[0].as_bytes(),
            ids[1].as_bytes(),
            &[254, 255, 255, 255, 255, 255, 255, 255],
            b"\x03x/y{}",
        ];
        assert_eq!((value[0], &value[5..]), (1, &*fields.concat()));
        assert_eq!(decode(&value).unwrap(), snapshot);
    }
}
