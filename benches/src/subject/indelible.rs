//! The embedded store, by its public interface and with its default options.

use std::path::Path;

use anyhow::{Result, bail};
use indelible_core::{
    AppendOutcome, ContentType, EventStore as _, EventType, ExpectedVersion, NewEvent, StreamId, Version,
};
use indelible_rocksdb::RocksStore;

use super::{Append, Subject};
use crate::event::STREAMS;

pub struct Embedded {
    store: RocksStore,
    streams: Vec<StreamId>,
}

impl Embedded {
    pub fn create(dir: &Path) -> Result<Self> {
        let streams = (0..STREAMS).map(|n| Ok(format!("account-{n}").parse()?)).collect::<Result<_>>()?;
        Ok(Self { store: RocksStore::open(dir.join("store"))?, streams })
    }
}

impl Subject for Embedded {
    async fn append(&self, Append { stream, expected, events }: Append) -> Result<()> {
        let stream = self.streams[stream as usize].clone();
        let event = |data| NewEvent::new(EventType::from_static("Transferred"), ContentType::JSON, data);
        let expected = ExpectedVersion::Exact(Version::new(expected));
        let append = indelible_core::Append::to(stream, expected, events.into_iter().map(event));
        match self.store.append(append).await? {
            AppendOutcome::Appended(_) => Ok(()),
            AppendOutcome::Conflict(conflict) => bail!("a conflict: {conflict:?}"),
        }
    }

    async fn close(self) -> Result<()> {
        Ok(self.store.close().await?)
    }
}
