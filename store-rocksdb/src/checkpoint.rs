//! Checkpoints of readers of the log: a token as text, in a [`frame`](crate::frame), durable when it is saved.

use async_trait::async_trait;
use indelible_core::{CheckpointStore, EventStore as _, StoreError, Token, check_reader};
use rocksdb::{DB, Direction, IteratorMode};

use crate::{
    RocksStore,
    append::Keep,
    frame::{Damage, Fields, Frame, text},
    keys,
    read::engine_error,
};

const VERSION: u8 = 1;

#[async_trait]
impl CheckpointStore for RocksStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        check_reader(reader)?;
        let reader = reader.to_owned();
        self.read(move |view| {
            let value = view.get(&keys::checkpoint(&reader))?;
            value.map(|value| decode(&value).map_err(|damage| corrupted(&reader, damage))).transpose()
        })
        .await
    }

    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        check_reader(reader)?;
        self.check(&token).await?;
        let value = Some(encode(&token));
        self.keep(Keep { key: keys::checkpoint(reader), value, durable: true }).await
    }
}

/// All checkpoints, by the names of their readers.
pub(crate) fn all(db: &DB) -> impl Iterator<Item = Result<(String, Token), StoreError>> {
    db.iterator(IteratorMode::From(keys::CHECKPOINTS, Direction::Forward))
        .take_while(|entry| entry.as_ref().map_or(true, |(key, _)| key.starts_with(keys::CHECKPOINTS)))
        .map(|entry| {
            let (key, value) = entry.map_err(|error| engine_error("reading checkpoints", error))?;
            let reader = keys::reader(&key);
            let token = decode(&value).map_err(|damage| corrupted(&reader, damage))?;
            Ok((reader, token))
        })
}

fn encode(token: &Token) -> Vec<u8> {
    let token = token.to_string();
    let mut frame = Frame::new(VERSION, token.len());
    frame.put(token.as_bytes());
    frame.seal()
}

fn decode(value: &[u8]) -> Result<Token, Damage> {
    Ok(text(Fields::open(VERSION, value)?.rest())?.parse()?)
}

fn corrupted(reader: &str, damage: Damage) -> StoreError {
    StoreError::Corrupted { what: format!("the checkpoint of {reader}"), source: Some(damage.into()) }
}
