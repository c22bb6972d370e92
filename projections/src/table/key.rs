//! Keys as bytes that sort as the keys do.

use std::ops::Bound;

use indelible_core::{Position, StreamId, Timestamp};

use crate::ReadModelError;

/// What a row is found by. Its bytes sort as the keys do, and no key's bytes are the start of another's.
pub trait Key: Sized + 'static {
    /// Writes it behind what is there.
    fn write(&self, bytes: &mut Vec<u8>);

    /// Reads it, and moves on behind it; `None` where the bytes are no such key.
    fn read(bytes: &mut &[u8]) -> Option<Self>;

    /// It alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        self.write(&mut bytes);
        bytes
    }

    /// It alone.
    ///
    /// # Errors
    /// [`ReadModelError::Rejected`] where the bytes are no such key.
    fn from_bytes(mut bytes: &[u8]) -> Result<Self, ReadModelError> {
        match Self::read(&mut bytes) {
            Some(key) if bytes.is_empty() => Ok(key),
            _ => Err(ReadModelError::rejected("a row's key", "it is not of the table's type")),
        }
    }
}

/// What most keys have room in.
const USUAL_BYTES: usize = 48;

/// A key that starts with a `P`.
pub trait Prefix<P> {}
impl<A, B> Prefix<A> for (A, B) {}
impl<A, B, C> Prefix<A> for (A, B, C) {}
impl<A, B, C> Prefix<(A, B)> for (A, B, C) {}

/// All that starts so: up to the first bytes that come after.
pub(super) fn starting(prefix: Vec<u8>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let end = match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        None => Bound::Unbounded,
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            Bound::Excluded(end)
        }
    };
    (Bound::Included(prefix), end)
}

macro_rules! unsigned {
    ($($number:ty),*) => {$(
        impl Key for $number {
            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_be_bytes());
            }
            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let (number, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*number))
            }
        }
    )*};
}
unsigned!(u8, u16, u32, u64, u128);

/// Keys that are kept as another one.
macro_rules! by_way_of {
    ($($key:ty as $other:ty: $there:expr, $back:expr;)*) => {$(
        impl Key for $key {
            fn write(&self, bytes: &mut Vec<u8>) {
                let there: fn(&$key) -> $other = $there;
                there(self).write(bytes);
            }
            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let back: fn($other) -> Option<$key> = $back;
                back(<$other>::read(bytes)?)
            }
        }
    )*};
}
by_way_of! {
    // With the sign turned round negative numbers sort first.
    i32 as u32: |n| n.cast_unsigned() ^ (1 << 31), |n| Some((n ^ (1 << 31)).cast_signed());
    i64 as u64: |n| n.cast_unsigned() ^ (1 << 63), |n| Some((n ^ (1 << 63)).cast_signed());
    bool as u8: |yes| u8::from(*yes), |byte| (byte < 2).then_some(byte == 1);
    Position as u64: |position| position.get(), |n| Some(Position::new(n));
    Timestamp as i64: |time| time.as_micros(), |micros| Timestamp::from_micros(micros).ok();
    StreamId as String: |stream| stream.as_str().to_owned(), |name| name.parse().ok();
}

impl Key for String {
    // It ends with two zeros, and a zero in it is followed by a one: so a shorter text sorts first, whatever follows.
    fn write(&self, bytes: &mut Vec<u8>) {
        for (n, part) in self.as_bytes().split(|byte| *byte == 0).enumerate() {
            if n > 0 {
                bytes.extend([0, 1]);
            }
            bytes.extend_from_slice(part);
        }
        bytes.extend([0, 0]);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut text = Vec::new();
        loop {
            match bytes {
                [0, 0, rest @ ..] => {
                    *bytes = rest;
                    return Self::from_utf8(text).ok();
                }
                [0, 1, rest @ ..] => {
                    text.push(0);
                    *bytes = rest;
                }
                [byte, rest @ ..] if *byte != 0 => {
                    text.push(*byte);
                    *bytes = rest;
                }
                _ => return None,
            }
        }
    }
}

impl Key for () {
    fn write(&self, _: &mut Vec<u8>) {}
    fn read(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}
impl<A: Key, B: Key> Key for (A, B) {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::read(bytes)?, B::read(bytes)?))
    }
}
impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn write(&self, bytes: &mut Vec<u8>) {
        self.0.write(bytes);
        self.1.write(bytes);
        self.2.write(bytes);
    }
    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::read(bytes)?, B::read(bytes)?, C::read(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_sort_as_keys_do_and_come_back() {
        let texts = ["", "\0", "\0\u{1}", "a", "a\0", "a\0b", "ab", "b", "ä"];
        let numbers = [i64::MIN, -1, 0, 1, i64::MAX];
        let keys: Vec<(String, i64)> =
            texts.iter().flat_map(|text| numbers.map(|number| ((*text).to_owned(), number))).collect();
        let mut sorted = keys.clone();
        sorted.sort_by_key(Key::to_bytes);
        assert_eq!(sorted, keys);
        for key in keys {
            assert_eq!(<(String, i64)>::from_bytes(&key.to_bytes()).unwrap(), key);
        }
        assert!(String::from_bytes(b"no end").is_err());
    }
}
