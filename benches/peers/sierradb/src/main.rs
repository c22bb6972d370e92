//! SierraDB's engine in this process, without its server: an append is answered when its bucket was synced (`fdatasync`).
//! Tuned by trying: one caller's append is synced at once; many callers' when so much time has passed since their bucket's
//! last sync (by default it is after 4 KiB, 50 events or 5 ms).

use std::time::{Duration, SystemTime};

use anyhow::Result;
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Subject},
};
use sierradb::{
    StreamId,
    database::{Database, DatabaseBuilder, ExpectedVersion, NewEvent, Transaction},
    id::{uuid_to_partition_hash, uuid_v7_with_partition_hash},
};
use uuid::Uuid;

const PARTITIONS: u16 = 64;
/// Each has a thread and a file. On two cores more of them were slower.
const BUCKETS: u16 = 2;

struct Sierra(Database);

impl Subject for Sierra {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        Self::open_for(place, log, 1).await
    }

    async fn open_for(place: &Place, _log: Log, callers: u32) -> Result<Self> {
        let (bytes_min, interval_us) = match callers {
            1 => (1, 200),
            2..64 => (usize::MAX, 200),
            _ => (usize::MAX, 1_000),
        };
        let interval = Duration::from_micros(interval_us);
        let mut builder = DatabaseBuilder::new();
        builder.bucket_ids_from_range(0..BUCKETS).writer_threads(BUCKETS);
        builder.min_sync_bytes(bytes_min).max_batch_size(usize::MAX);
        builder.sync_interval(interval).sync_idle_interval(interval);
        Ok(Self(builder.open(place.directory()?.join("sierradb"))?))
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        // All events of a stream are in one partition.
        let key = Uuid::from_u64_pair(u64::from(stream).wrapping_mul(0x9E37_79B9_7F4A_7C15), u64::from(stream));
        let hash = uuid_to_partition_hash(key);
        let stream_id = StreamId::new(format!("account-{stream}"))?;
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        let timestamp = u64::try_from(nanos)?;
        let event = |(version, payload): (u64, Vec<u8>)| NewEvent {
            event_id: uuid_v7_with_partition_hash(hash),
            stream_id: stream_id.clone(),
            stream_version: version.checked_sub(1).map_or(ExpectedVersion::Empty, ExpectedVersion::Exact),
            event_name: "Transferred".into(),
            timestamp,
            metadata: Vec::new(),
            payload,
        };
        let events = (expected..).zip(events).map(event).collect();
        self.0.append_events(Transaction::new(key, hash % PARTITIONS, events)?).await?;
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.0.shutdown().await;
        Ok(())
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Sierra>()
}
