//! The frame around what is stored as a value, for `record`, `snapshot` and `checkpoint`: a version byte, a CRC-32 of the
//! body (little-endian), the body. A body is read by [`Fields`], which believes nothing and never panics.

use std::borrow::Cow;

use indelible_core::InvalidInput;
use uuid::Uuid;

const HEADER: usize = 5;

/// Why stored bytes are not what was written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Damage(Cow<'static, str>);

impl Damage {
    pub(crate) fn new(what: impl Into<Cow<'static, str>>) -> Self {
        Self(what.into())
    }
}
impl From<InvalidInput> for Damage {
    fn from(invalid: InvalidInput) -> Self {
        Self(invalid.to_string().into())
    }
}

/// A value in the making.
pub(crate) struct Frame(Vec<u8>);

impl Frame {
    pub(crate) fn new(version: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEADER + capacity);
        bytes.extend_from_slice(&[version, 0, 0, 0, 0]);
        Self(bytes)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }
    pub(crate) fn u8(&mut self, number: u8) -> &mut Self {
        self.put(&[number])
    }
    pub(crate) fn u32(&mut self, number: u32) -> &mut Self {
        self.put(&number.to_le_bytes())
    }
    pub(crate) fn u64(&mut self, number: u64) -> &mut Self {
        self.put(&number.to_le_bytes())
    }
    pub(crate) fn i64(&mut self, number: i64) -> &mut Self {
        self.put(&number.to_le_bytes())
    }
    pub(crate) fn uuid(&mut self, uuid: Uuid) -> &mut Self {
        self.put(uuid.as_bytes())
    }

    /// Text of at most 255 bytes, which all names are.
    pub(crate) fn name(&mut self, name: &str) -> &mut Self {
        let length = u8::try_from(name.len()).expect("names have at most 255 bytes");
        self.u8(length).put(name.as_bytes())
    }

    /// Bytes with their length; the limits keep all that is stored far below 4 GiB.
    pub(crate) fn long(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u32::try_from(bytes.len()).expect("what is stored is limited to some MiB");
        self.u32(length).put(bytes)
    }

    pub(crate) fn seal(mut self) -> Vec<u8> {
        let checksum = crc32fast::hash(&self.0[HEADER..]);
        self.0[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
        self.0
    }
}

/// The fields of a body that are not read yet.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The body of a value, where the version and the checksum are right.
    pub(crate) fn open(version: u8, value: &'a [u8]) -> Result<Self, Damage> {
        let Some((&[found, a, b, c, d], body)) = value.split_first_chunk::<HEADER>() else {
            return Err(Damage::new("it is too short"));
        };
        if found != version {
            return Err(Damage(format!("its version is {found}, not {version}").into()));
        }
        match crc32fast::hash(body) == u32::from_le_bytes([a, b, c, d]) {
            true => Ok(Self(body)),
            false => Err(Damage::new("its checksum is wrong")),
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
    pub(crate) fn name(&mut self) -> Result<&'a str, Damage> {
        let length = self.u8()?;
        text(self.take(length.into())?)
    }
    pub(crate) fn long(&mut self) -> Result<&'a [u8], Damage> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Damage::new("it ends too early"))?)
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
