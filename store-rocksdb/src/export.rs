//! Exports: the log's blocks as they are, for readers in other languages, and as a way out. `FORMAT.md` has the framing, and
//! `tests/read_log.py` is such a reader.

use std::{
    io::{self, Write},
    sync::Arc,
};

use indelible_core::{Position, StoreError, StoreId};

use crate::{
    RocksStore,
    engine::{Fault, Tier},
    log::Blocks,
    read::View,
    store::blocking,
};

const MAGIC: &[u8] = b"indelible log 1\n";
/// Where a key and a length would be.
const END: &[u8] = &[0; 12];
/// So many bytes are read at a time; between them the store may close.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

impl RocksStore {
    /// Writes the log from a position on up to its head, block by block as it is stored, in a framing that
    /// [`FORMAT.md`](https://github.com/indelible-rs/indelible/blob/main/store-rocksdb/FORMAT.md) describes, and returns the
    /// last position that it holds. It begins with the block that holds the position. Appends go on meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where `out` fails, [`StoreError::Corrupted`] for a damaged block: what is written by then
    /// has no end. [`StoreError::Stopped`] where the store is closed meanwhile.
    pub async fn export(&self, from: Position, out: impl Write + Send + 'static) -> Result<Position, StoreError> {
        let shared = Arc::clone(self.shared());
        blocking(move || {
            let head = shared.view(|view| Ok(view.head))?;
            export(out, shared.id, from, head, |from| shared.view(|view| chunk(view, from, head)))?;
            Ok(head)
        })
        .await
    }
}

/// Writes the blocks from `from` to `head`, of which `read` gives some at a time, and where they end.
pub(crate) fn export(
    mut out: impl Write,
    store: StoreId,
    from: Position,
    head: Position,
    read: impl Fn(Position) -> Result<(Vec<u8>, Position), StoreError>,
) -> Result<(), StoreError> {
    let failed = |error: io::Error| StoreError::unavailable("writing the export", error);
    out.write_all(MAGIC).and_then(|()| out.write_all(store.as_uuid().as_bytes())).map_err(failed)?;
    let mut next = from.max(Position::FIRST);
    while next <= head {
        let (bytes, last) = read(next)?;
        out.write_all(&bytes).map_err(failed)?;
        next = last.plus(1);
    }
    out.write_all(END).and_then(|()| out.flush()).map_err(failed)
}

/// Some blocks, the first the one that holds `from`, each behind its key and its length; and where they end.
pub(crate) fn chunk(view: &View<'_>, from: Position, head: Position) -> Result<(Vec<u8>, Position), Fault> {
    let mut blocks = Blocks::new(view.engine, Tier::Disk);
    let mut bytes = Vec::new();
    let mut next = from;
    while next <= head && bytes.len() < CHUNK_BYTES {
        let (block, key, value) = blocks.raw(next)?;
        let length = u32::try_from(value.len()).map_err(|_| StoreError::corrupted("a block of more than 4 GiB"))?;
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(value);
        next = block.last.plus(1);
    }
    Ok((bytes, next.before()))
}
