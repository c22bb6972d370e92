//! The frame around what is stored as a value, for `block`, `snapshot`, `checkpoint`, `anchor` and the index's mark: a
//! version byte, a CRC-32C of that byte and the body (little-endian), the body. A body is read by [`Fields`], which believes nothing and
//! never panics.

use std::{borrow::Cow, cmp::Ordering};

use indelible_core::InvalidInput;
use uuid::Uuid;

use crate::bugs;

const HEADER: usize = 5;

/// Why stored bytes make no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    /// They are not what was written.
    #[error("{0}")]
    Broken(Cow<'static, str>),
    /// They are whole, and of a version that came after this code.
    #[error("it is in format {found}, this version reads up to format {supported}")]
    Newer { found: u8, supported: u8 },
}

impl Damage {
    pub(crate) fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Broken(what.into())
    }
}
impl From<InvalidInput> for Damage {
    fn from(invalid: InvalidInput) -> Self {
        Self::new(invalid.to_string())
    }
}

fn checksum(version: u8, body: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[version]), body);
    if bugs::is_on(bugs::CHANGE_FORMAT) { !checksum } else { checksum }
}

/// A value in the making.
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    pub(crate) fn new(version: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + capacity);
        bytes.extend_from_slice(&[version, 0, 0, 0, 0]);
        Self(bytes)
    }

    /// The value, filled up with zeros to a length.
    pub(crate) fn seal_filled(mut self, length: usize) -> Vec<u8> {
        self.0.resize(length, 0);
        self.seal()
    }

    /// The value, whose checksum stands in its bytes 1 to 4.
    pub(crate) fn seal(mut self) -> Vec<u8> {
        let checksum = checksum(self.0[0], &self.0[HEADER..]);
        self.0[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
        self.0
    }
}

impl Put for Frame {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }
}

/// Fields, one after the other.
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]) -> &mut Self;

    fn u8(&mut self, number: u8) -> &mut Self {
        self.put(&[number])
    }
    fn u32(&mut self, number: u32) -> &mut Self {
        self.put(&number.to_le_bytes())
    }
    fn u64(&mut self, number: u64) -> &mut Self {
        self.put(&number.to_le_bytes())
    }
    fn i64(&mut self, number: i64) -> &mut Self {
        self.put(&number.to_le_bytes())
    }
    fn uuid(&mut self, uuid: Uuid) -> &mut Self {
        self.put(uuid.as_bytes())
    }

    /// Seven bits a byte, the lowest first; all but the last byte have their highest bit set (LEB128).
    fn varint(&mut self, mut number: u64) -> &mut Self {
        let mut bytes = [0; 10];
        let mut length = 0;
        loop {
            bytes[length] = number as u8 & 0x7f;
            number >>= 7;
            length += 1;
            if number == 0 {
                return self.put(&bytes[..length]);
            }
            bytes[length - 1] |= 0x80;
        }
    }

    /// Text of at most 255 bytes, which all names are.
    fn name(&mut self, name: &str) -> &mut Self {
        let length = u8::try_from(name.len()).expect("names have at most 255 bytes");
        self.u8(length).put(name.as_bytes())
    }

    /// Bytes with their length.
    fn long(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64).put(bytes)
    }
}

/// The fields that are not read yet.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Of bytes that are known to be right, or checked otherwise.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The body of a value, where the version and the checksum are right, and its checksum.
    pub(crate) fn open(version: u8, value: &'a [u8]) -> Result<(Self, u32), Damage> {
        let Some((&[found, a, b, c, d], body)) = value.split_first_chunk::<HEADER>() else {
            return Err(Damage::new("it is too short"));
        };
        let stored = u32::from_le_bytes([a, b, c, d]);
        // Before the version is believed: this much is the same in all of them.
        if checksum(found, body) != stored {
            return Err(Damage::new("its checksum is wrong"));
        }
        match found.cmp(&version) {
            Ordering::Equal => Ok((Self(body), stored)),
            Ordering::Greater => Err(Damage::Newer { found, supported: version }),
            Ordering::Less => Err(Damage::new(format!("its version is {found}, not {version}"))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(Damage::new("it ends too early"))?;
        self.0 = rest;
        Ok(*array)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Damage> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Damage::new("it ends too early"))?;
        self.0 = rest;
        Ok(bytes)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, Damage> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(crate) fn i64(&mut self) -> Result<i64, Damage> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    pub(crate) fn uuid(&mut self) -> Result<Uuid, Damage> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    /// A number in its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, Damage> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0 && !bugs::is_on(bugs::LONG_NUMBERS)) {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damage::new("a number in it is too large, or longer than it needs to be"))
    }

    pub(crate) fn name(&mut self) -> Result<&'a str, Damage> {
        let length = self.u8()?;
        text(self.take(length.into())?)
    }
    pub(crate) fn long(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.varint()?;
        self.take(usize::try_from(length).map_err(|_| Damage::new("it ends too early"))?)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may be left behind the last field.
    pub(crate) fn end(self) -> Result<(), Damage> {
        if self.0.is_empty() { Ok(()) } else { Err(Damage::new("it goes on behind its end")) }
    }
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, Damage> {
    std::str::from_utf8(bytes).map_err(|_| Damage::new("its text is not UTF-8"))
}

/// For [`fuzzing`](crate::fuzzing): a value of which the checksum is right, whatever its body.
#[cfg(feature = "fuzzing")]
pub(crate) fn sealed(version: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Frame::new(version, body.len());
    frame.put(body);
    frame.seal()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(number in any::<u64>(), bits in 0_u32..64) {
            let number = number >> bits;
            let mut bytes = Vec::new();
            bytes.varint(number);
            let mut fields = Fields::new(&bytes);
            prop_assert_eq!(fields.varint().unwrap(), number);
            fields.end().unwrap();
        }

        #[test]
        fn a_number_has_one_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut fields = Fields::new(&bytes);
            if let Ok(number) = fields.varint() {
                let mut again = Vec::new();
                again.varint(number);
                prop_assert_eq!(&bytes[..bytes.len() - fields.rest().len()], &again[..]);
            }
        }
    }
}
