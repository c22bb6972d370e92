//! A batch in the write-ahead log, told from data that looks like one: the sequencer writes blocks of the log and
//! checkpoints, each with a checksum of its own, and sequence numbers only ever ascend.

use crate::{
    block, checkpoint,
    frame::{Damage, Fields},
};

/// A put of the column family `default`, and one of another, whose number follows.
const PUT: u8 = 1;
const PUT_IN_FAMILY: u8 = 5;

/// The last sequence number that a batch takes: it has one for each put.
pub(super) fn sequence(batch: &[u8]) -> Option<u64> {
    let mut fields = Fields::new(batch);
    let (first, count) = (fields.u64().ok()?, fields.u32().ok()?);
    first.checked_add(u64::from(count).checked_sub(1)?)
}

/// Whether this is a batch that the sequencer wrote after the one with that last sequence number and after another one. Of
/// one that is not whole, that is to be seen of what is there.
pub(super) fn is_later(batch: &[u8], is_whole: bool, sequence: u64) -> bool {
    let mut fields = Fields::new(batch);
    let (Ok(first), Ok(count @ 1..)) = (fields.u64(), fields.u32()) else { return false };
    if first <= sequence.saturating_add(1) {
        return false;
    }
    for _ in 0..count {
        match is_ours(&mut fields) {
            Ok(true) => {}
            Ok(false) => return false,
            Err(_) => return !is_whole,
        }
    }
    fields.is_empty()
}

/// Whether the next put is one of the sequencer's; an error where it is not all there.
fn is_ours(fields: &mut Fields<'_>) -> Result<bool, Damage> {
    let kind = fields.u8()?;
    match kind {
        PUT => {}
        PUT_IN_FAMILY => drop(fields.varint()?),
        _ => return Ok(false),
    }
    let key = fields.long()?;
    match (kind, block::parse_key(key)) {
        (PUT, Ok(last)) => Ok(block::has_head(last, fields.long()?)),
        (PUT, Err(_)) => Ok(false),
        _ => Ok(checkpoint::is_one(key, fields.long()?)),
    }
}
