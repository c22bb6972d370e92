//! Partitions: the streams of a projection, dealt out.

use std::{fmt, sync::Arc};

use indelible_core::StreamId;

/// The most partitions of a projection.
pub const PARTITIONS_MAX: u32 = 1_024;

/// A version of a projection, as its read model knows it: prints as `balances@2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectionId {
    /// Its name.
    pub name: Arc<str>,
    /// Its version.
    pub version: u32,
}

impl ProjectionId {
    /// The version that the code has.
    pub fn of<P: crate::Projection>() -> Self {
        Self { name: P::NAME.into(), version: P::VERSION }
    }
}

impl fmt::Display for ProjectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// One of a projection's partitions, 0 to their count − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u32);

impl Partition {
    /// The partition of a stream: FNV-1a (64 bits) of its name, modulo their count. For ever the same.
    pub fn of(stream: &StreamId, count: u32) -> Self {
        Self((fnv(stream.as_str().bytes()) % u64::from(count.max(1))) as u32)
    }
}

/// FNV-1a: the same in every process, whatever it was built with.
pub(crate) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_of_a_stream_never_changes() -> Result<(), indelible_core::InvalidInput> {
        let partition = |name: &str| Ok::<_, indelible_core::InvalidInput>(Partition::of(&name.parse()?, 16).0);
        assert_eq!([partition("account-1")?, partition("account-2")?, partition("order-ä")?], [6, 3, 9]);
        Ok(())
    }
}
