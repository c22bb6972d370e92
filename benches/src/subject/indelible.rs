//! Our own stores, by their public interface and with their default options; but the shared one prepares its statement,
//! as one does that has its server to itself.

use anyhow::{Result, bail, ensure};
use futures::TryStreamExt as _;
use indelible_core::{
    AppendOutcome, Condition, ContentType, EventId, EventStore, EventStoreExt as _, EventStream, EventType,
    ExpectedVersion, NewEvent, Position, QualifiedType, Query, QueryItem, ReadLog, ReadStream, StreamId, Tag, Version,
};
use indelible_postgres::PostgresStore;
use indelible_rocksdb::RocksStore;
use uuid::Uuid;

use super::{Append, Found, Probe, Subject};
use crate::{
    event::{BYTES, STREAMS},
    job::{Ids, Log, Place, RARE_TAG},
};

pub(crate) const CATEGORY: &str = "account";

pub type Embedded = Indelible<RocksStore>;
pub type Shared = Indelible<PostgresStore>;

pub struct Indelible<S> {
    store: S,
    /// Those that rounds append to: an application has its streams' names at hand.
    streams: Vec<StreamId>,
    ids: Ids,
    rare: Tag,
}

/// How a store comes and goes.
pub trait Store: EventStore + Clone {
    fn at(place: &Place) -> impl Future<Output = Result<Self>> + Send;
    fn end(&self) -> impl Future<Output = Result<()>> + Send;
}

impl Store for RocksStore {
    async fn at(place: &Place) -> Result<Self> {
        Ok(Self::open(place.directory()?.join("store"))?)
    }

    async fn end(&self) -> Result<()> {
        Ok(self.close().await?)
    }
}

impl Store for PostgresStore {
    async fn at(place: &Place) -> Result<Self> {
        Ok(Self::options().prepared().open(place.database()?).await?)
    }

    async fn end(&self) -> Result<()> {
        Ok(self.close().await?)
    }
}

impl<S: Store> Indelible<S> {
    fn stream(&self, stream: u32) -> Result<StreamId> {
        match self.streams.get(stream as usize) {
            Some(known) => Ok(known.clone()),
            None => stream_id(stream),
        }
    }

    fn event(&self, data: Vec<u8>) -> NewEvent {
        let event = NewEvent::new(EventType::from_static("Transferred"), ContentType::JSON, data);
        match self.ids {
            Ids::V7 => event,
            Ids::V4 => event.with_id(EventId::from_uuid(Uuid::new_v4())),
        }
    }

    fn condition(&self, item: QueryItem) -> Condition {
        Condition::none_after(Query::new([item.and_tag(self.rare.clone())]), Position::START)
    }
}

fn stream_id(stream: u32) -> Result<StreamId> {
    Ok(format!("{CATEGORY}-{stream}").parse()?)
}

async fn count(mut events: EventStream<'_>) -> Result<Found> {
    let mut found = Found::default();
    while let Some(event) = events.try_next().await? {
        found.add(&event.data);
    }
    Ok(found)
}

impl<S: Store> Subject for Indelible<S> {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        let streams = (0..STREAMS).map(stream_id).collect::<Result<_>>()?;
        Ok(Self { store: S::at(place).await?, streams, ids: log.ids, rare: RARE_TAG.parse()? })
    }

    async fn append(&self, Append { stream, expected, events, is_rare }: Append) -> Result<()> {
        let rare = is_rare.then(|| self.rare.clone());
        let events = events.into_iter().map(|data| self.event(data).with_tags(rare.clone()));
        let expected = ExpectedVersion::Exact(Version::new(expected));
        match self.store.append(indelible_core::Append::to(self.stream(stream)?, expected, events)).await? {
            AppendOutcome::Appended(_) => Ok(()),
            AppendOutcome::Conflict(conflict) => bail!("a conflict: {conflict:?}"),
        }
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        count(self.store.stream(ReadStream::new(self.stream(stream)?))).await
    }

    async fn read(&self) -> Result<Found> {
        count(self.store.log(ReadLog::all())).await
    }

    async fn rare(&self) -> Result<Found> {
        count(self.store.log(ReadLog::matching(self.rare.clone()))).await
    }

    async fn probe(&self, probe: Probe, version: u64) -> Result<()> {
        let version = if probe == Probe::Stale { version + 1 } else { version };
        let expected = ExpectedVersion::Exact(Version::new(version));
        let append = indelible_core::Append::to(self.stream(0)?, expected, [self.event(vec![b'0'; BYTES])]);
        let append = match probe {
            Probe::Stale | Probe::Plain => append,
            Probe::Matched => append.require(self.condition(QueryItem::default())),
            Probe::Unmatched => {
                let event_type = EventType::from_static("Refused");
                append.require(
                    self.condition(QueryItem::types([QualifiedType { category: CATEGORY.parse()?, event_type }])),
                )
            }
        };
        let is_written = matches!(self.store.append(append).await?, AppendOutcome::Appended(_));
        ensure!(is_written == matches!(probe, Probe::Plain | Probe::Unmatched), "{probe:?} ended the other way");
        Ok(())
    }

    async fn close(self) -> Result<()> {
        self.store.end().await
    }
}
