//! What the store decodes, for fuzz targets and for tests on random input: whatever the bytes are, there is no panic, and
//! what is made of them is written the same again.

use crate::{anchor, backup, block, checkpoint, index, record, snapshot, wal};

/// A decoder; says whether it made something of the bytes.
pub type Decoder = fn(&[u8]) -> bool;

/// All of them, by name.
pub const DECODERS: [(&str, Decoder); 9] = [
    ("record", record::comes_back),
    ("block", block::is_read),
    ("write-ahead log", wal::is_mended),
    ("anchor", anchor::comes_back),
    ("checkpoint", checkpoint::comes_back),
    ("mark", index::mark_comes_back),
    ("index", index::chunks_come_back),
    ("snapshot", snapshot::comes_back),
    ("backup", backup::comes_back),
];
