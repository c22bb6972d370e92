//! evento on fjall, by its executor: each write is synced (`SyncData`), concurrent ones share a sync where they can.

use anyhow::Result;
use evento_core::{Event, Executor as _, metadata::Metadata};
use evento_fjall::Fjall;
use fjall::PersistMode;
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Subject},
};
use ulid::Ulid;

struct Evento(Fjall);

impl Subject for Evento {
    async fn open(place: &Place, _log: Log) -> Result<Self> {
        Ok(Self(Fjall::open(place.directory()?.join("evento"))?.persist_mode(PersistMode::SyncData)))
    }

    async fn append(&self, Append { stream, expected, events, .. }: Append) -> Result<()> {
        let event = |(version, data)| {
            Ok(Event {
                id: Ulid::generate(),
                aggregate_id: stream.to_string(),
                aggregate_type: "bench/account".into(),
                version: u16::try_from(version)?,
                name: "Transferred".into(),
                routing_key: None,
                tenant: String::new(),
                data,
                metadata: Metadata::default(),
                timestamp: 0,
                timestamp_subsec: 0,
            })
        };
        let events = (expected + 1..).zip(events).map(event).collect::<Result<_>>()?;
        Ok(self.0.write(events).await?)
    }

    async fn close(self) -> Result<()> {
        self.0.persist()
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Evento>()
}
