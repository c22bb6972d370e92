//! Bare fjall, as bare RocksDB is measured: one writer, the group in one batch that is synced (`SyncData`), two puts an
//! event: the log by position, and the stream's index by stream and version.

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use indelible_bench::{
    job::{Log, Place},
    subject::{Append, Found, GroupWriter, Sink, Subject},
};

struct Fjall {
    writer: GroupWriter,
    log: Keyspace,
    streams: Keyspace,
}

struct TwoPuts {
    db: Database,
    log: Keyspace,
    streams: Keyspace,
    head: u64,
}

/// Stream and version, in front of the data.
const HEADER_BYTES: usize = 12;

impl Sink for TwoPuts {
    fn write(&mut self, group: &[Append]) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for append in group {
            for (version, event) in (append.expected + 1..).zip(&append.events) {
                self.head += 1;
                let position = self.head.to_be_bytes();
                let index = [&append.stream.to_be_bytes()[..], &version.to_be_bytes()].concat();
                batch.insert(&self.log, position, [&index, event.as_slice()].concat());
                batch.insert(&self.streams, index, position);
            }
        }
        Ok(batch.commit()?)
    }
}

impl Subject for Fjall {
    async fn open(place: &Place, log: Log) -> Result<Self> {
        let db = Database::builder(place.directory()?.join("fjall")).open()?;
        let keyspace = |name| db.keyspace(name, KeyspaceCreateOptions::default);
        let (events, streams) = (keyspace("log")?, keyspace("streams")?);
        let sink = TwoPuts { db, log: events.clone(), streams: streams.clone(), head: log.events };
        Ok(Self { writer: GroupWriter::start(sink, log)?, log: events, streams })
    }

    async fn append(&self, append: Append) -> Result<()> {
        self.writer.append(append).await
    }

    async fn load(&self, stream: u32) -> Result<Found> {
        let mut found = Found::default();
        for entry in self.streams.prefix(stream.to_be_bytes()) {
            let record = self.log.get(entry.value()?)?;
            record.iter().for_each(|record| found.add(&record[HEADER_BYTES..]));
        }
        Ok(found)
    }

    async fn read(&self) -> Result<Found> {
        let mut found = Found::default();
        for entry in self.log.iter() {
            found.add(&entry.value()?[HEADER_BYTES..]);
        }
        Ok(found)
    }

    async fn close(self) -> Result<()> {
        self.writer.close()
    }
}

fn main() -> Result<()> {
    indelible_bench::peer::<Fjall>()
}
