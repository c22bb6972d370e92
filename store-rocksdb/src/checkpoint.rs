//! Checkpoints of readers of the log: a token as text, in a [`frame`](crate::frame), durable when it is saved.

use async_trait::async_trait;
use indelible_core::{CheckpointStore, StoreError, Token, check_reader};
use rocksdb::{DB, IteratorMode};

use crate::{
    RocksStore,
    append::Keep,
    engine::{Fault, state},
    frame::{Damage, Fields, Frame, Put as _, text},
    read::View,
};

/// What all their keys start with, beside the log.
const PREFIX: &[u8] = b"checkpoint ";
const VERSION: u8 = 1;

#[async_trait]
impl CheckpointStore for RocksStore {
    async fn load_checkpoint(&self, reader: &str) -> Result<Option<Token>, StoreError> {
        check_reader(reader)?;
        let reader = reader.to_owned();
        self.read(move |view| load(view, &reader)).await
    }

    async fn save_checkpoint(&self, reader: &str, token: Token) -> Result<(), StoreError> {
        check_reader(reader)?;
        self.keep(Keep { key: key(reader), value: encode(&token) }, &token).await
    }
}

pub(crate) fn load(view: &View<'_>, reader: &str) -> Result<Option<Token>, Fault> {
    let engine = view.engine;
    let value = engine.log.get_pinned_cf_opt(engine.state(), key(reader), &view.tier.options());
    let value = value.map_err(|error| Fault::engine("reading a checkpoint", error))?;
    value.map(|value| decode(&value).map_err(|damage| corrupted(reader, damage))).transpose()
}

/// All checkpoints, by the names of their readers.
pub(crate) fn all(log: &DB) -> impl Iterator<Item = Result<(String, Token), Fault>> {
    let entries = log.iterator_cf(state(log), IteratorMode::Start);
    entries.filter_map(|entry| match entry {
        Err(error) => Some(Err(Fault::engine("reading checkpoints", error))),
        Ok((key, value)) => {
            let reader = String::from_utf8_lossy(key.strip_prefix(PREFIX)?).into_owned();
            let token = decode(&value).map_err(|damage| corrupted(&reader, damage));
            Some(token.map(|token| (reader, token)))
        }
    })
}

/// Whether this is a checkpoint, in this version or a later one.
pub(crate) fn is_one(key: &[u8], value: &[u8]) -> bool {
    key.starts_with(PREFIX) && matches!(Fields::open(VERSION, value), Ok(_) | Err(Damage::Newer { .. }))
}

fn key(reader: &str) -> Vec<u8> {
    [PREFIX, reader.as_bytes()].concat()
}

fn encode(token: &Token) -> Vec<u8> {
    let token = token.to_string();
    let mut frame = Frame::new(VERSION, token.len());
    frame.put(token.as_bytes());
    frame.seal()
}

fn decode(value: &[u8]) -> Result<Token, Damage> {
    Ok(text(Fields::open(VERSION, value)?.0.rest())?.parse()?)
}

fn corrupted(reader: &str, damage: Damage) -> Fault {
    Fault::damage(format!("the checkpoint of {reader}"), damage)
}

/// For [`fuzzing`](crate::fuzzing).
#[cfg(feature = "fuzzing")]
pub(crate) fn comes_back(body: &[u8]) -> bool {
    let Ok(token) = decode(&crate::frame::sealed(VERSION, body)) else { return false };
    assert_eq!(decode(&encode(&token)).ok(), Some(token));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on disk stays readable: these bytes may never be read otherwise.
    #[test]
    fn the_format_is_this() {
        let text = "000102030405060708090a0b0c0d0e0f:300:101112131415161718191a1b1c1d1e1f";
        let token: Token = text.parse().unwrap();
        let value = encode(&token);
        assert_eq!((value[0], &value[5..]), (1, text.as_bytes()));
        assert_eq!(decode(&value).unwrap(), token);
        assert_eq!(key("r"), b"checkpoint r");
    }
}
