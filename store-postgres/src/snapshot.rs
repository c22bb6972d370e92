//! Snapshots: a cache, in a table beside the log, one row a stream.

use std::time::SystemTime;

use async_trait::async_trait;
use indelible_core::{
    ContentType, EventId, Fingerprint, InvalidInput, Snapshot, SnapshotStore, StoreError, StreamId, Version,
};
use tokio_postgres::types::Type;

use crate::{PostgresStore, connect::Params, sql::bigint};

/// The largest snapshot.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;

#[async_trait]
impl SnapshotStore for PostgresStore {
    async fn load_snapshot(&self, stream: &StreamId) -> Result<Option<Snapshot>, StoreError> {
        let params: Params<'_> = &[(&stream.as_str(), Type::TEXT)];
        let reader = self.reader();
        let rows = reader.ask("loading a snapshot", &reader.shared.statements.load_snapshot, params).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        // One that is not as it was saved is none.
        let Ok(content_type) = ContentType::new(row.get::<_, &str>(4)) else { return Ok(None) };
        Ok(Some(Snapshot {
            stream: stream.clone(),
            version: Version::new(row.get::<_, i64>(0).cast_unsigned()),
            event_id: EventId::from_uuid(row.get(1)),
            fingerprint: Fingerprint::from_uuid(row.get(2)),
            taken_at: row.get::<_, SystemTime>(3).into(),
            content_type,
            data: row.get::<_, Vec<u8>>(5).into(),
        }))
    }

    async fn save_snapshot(&self, snapshot: Snapshot) -> Result<(), StoreError> {
        if snapshot.data.len() > SNAPSHOT_BYTES_MAX {
            let reason = format!("has {} bytes, at most {SNAPSHOT_BYTES_MAX} are allowed", snapshot.data.len());
            return Err(InvalidInput::new("snapshot", reason).into());
        }
        let params: Params<'_> = &[
            (&snapshot.stream.as_str(), Type::TEXT),
            (&bigint(snapshot.version.get()), Type::INT8),
            (&snapshot.event_id.as_uuid(), Type::UUID),
            (&snapshot.fingerprint.as_uuid(), Type::UUID),
            (&SystemTime::from(snapshot.taken_at), Type::TIMESTAMPTZ),
            (&snapshot.content_type.as_str(), Type::TEXT),
            (&&snapshot.data[..], Type::BYTEA),
        ];
        let reader = self.reader();
        reader.ask("saving a snapshot", &reader.shared.statements.save_snapshot, params).await?;
        Ok(())
    }

    async fn delete_snapshot(&self, stream: &StreamId) -> Result<(), StoreError> {
        let params: Params<'_> = &[(&stream.as_str(), Type::TEXT)];
        let reader = self.reader();
        reader.ask("deleting a snapshot", &reader.shared.statements.delete_snapshot, params).await?;
        Ok(())
    }
}
