//! How the data of events and snapshots becomes bytes: JSON by default, bincode where size counts.
//!
//! Each record names its codec, so a log may mix them. The public encoding of a codec never changes.

use std::fmt;

use bytes::Bytes;
use erased_serde::{Deserializer, Serialize};
use serde::de::DeserializeOwned;

use crate::{Cause, ContentType};

#[doc(hidden)]
pub mod variant;

/// An encoding of serde's data model.
///
/// [`Json`] and [`Bincode`] are there; one of your own is pinned to an event type by `#[event(codec = MyCodec)]`.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// The name that records carry; data with this name must be readable for ever.
    fn content_type(&self) -> ContentType;

    /// Encodes a value.
    ///
    /// # Errors
    /// What the encoding says of a value that it cannot represent.
    fn encode(&self, value: &dyn Serialize) -> Result<Vec<u8>, Cause>;

    /// Hands a deserializer of the data to `visit`, and refuses data that goes on behind the value.
    ///
    /// # Errors
    /// What `visit` or the encoding says of the data.
    fn decode(
        &self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error>,
    ) -> Result<(), Cause>;
}

/// JSON: readable with any tool, forgiving to evolve.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

/// [bincode](https://docs.rs/bincode/2.0.1) in its standard configuration: compact and quick, not self-describing.
///
/// It writes some types that it can't read back (`skip_serializing_if`, untagged and internally tagged enums,
/// `serde_json::Value`); such an event is refused when it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bincode;

impl ContentType {
    /// The name of [`Json`].
    pub const JSON: Self = Self::from_static("application/json");
    /// The name of [`Bincode`].
    pub const BINCODE: Self = Self::from_static("application/x-bincode");
}

impl Codec for Json {
    fn content_type(&self) -> ContentType {
        ContentType::JSON
    }

    fn encode(&self, value: &dyn Serialize) -> Result<Vec<u8>, Cause> {
        Ok(serde_json::to_vec(value)?)
    }

    fn decode(
        &self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error>,
    ) -> Result<(), Cause> {
        let mut json = serde_json::Deserializer::from_slice(data);
        visit(&mut <dyn Deserializer<'_>>::erase(&mut json))?;
        Ok(json.end()?)
    }
}

impl Codec for Bincode {
    fn content_type(&self) -> ContentType {
        ContentType::BINCODE
    }

    fn encode(&self, value: &dyn Serialize) -> Result<Vec<u8>, Cause> {
        Ok(bincode::serde::encode_to_vec(value, bincode::config::standard())?)
    }

    fn decode(
        &self,
        data: &[u8],
        visit: &mut dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error>,
    ) -> Result<(), Cause> {
        /// Lets a closure take part in decoding, so that bincode tells how much was read.
        struct Visit<'a>(&'a mut dyn FnMut(&mut dyn Deserializer<'_>) -> Result<(), erased_serde::Error>);
        impl<'de> serde::de::DeserializeSeed<'de> for Visit<'_> {
            type Value = ();
            fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
                (self.0)(&mut <dyn Deserializer<'_>>::erase(deserializer)).map_err(serde::de::Error::custom)
            }
        }
        // A length that is a lie must not reserve memory: nothing decodes to more than the limit.
        let config = bincode::config::standard().with_limit::<{ 256 * 1024 * 1024 }>();
        let ((), read) = bincode::serde::seed_decode_from_slice(Visit(visit), data, config)?;
        match data.len() - read {
            0 => Ok(()),
            left => Err(format!("{left} bytes are left behind the value").into()),
        }
    }
}

/// The codec of a record: one of those that are always there, or the one that its type is pinned to.
pub(crate) fn named(content_type: &ContentType, pinned: Option<&'static dyn Codec>) -> Option<&'static dyn Codec> {
    match content_type {
        name if *name == ContentType::JSON => Some(&Json),
        name if *name == ContentType::BINCODE => Some(&Bincode),
        name => pinned.filter(|codec| codec.content_type() == *name),
    }
}

/// Decodes a value.
pub(crate) fn decode<T: DeserializeOwned>(codec: &dyn Codec, data: &[u8]) -> Result<T, Cause> {
    let mut value = None;
    codec.decode(data, &mut |deserializer| {
        value = Some(T::deserialize(deserializer)?);
        Ok(())
    })?;
    value.ok_or_else(|| "the codec read nothing".into())
}

/// Whether `again`, the encoding of what `data` decoded to, says the same. Hash maps may have changed their order,
/// nothing else may differ: a codec that drops or shifts a field is found out here.
pub(crate) fn same_content(data: &[u8], again: &[u8]) -> bool {
    let counts = |bytes: &[u8]| {
        bytes.iter().fold([0_u32; 256], |mut counts, byte| {
            counts[usize::from(*byte)] += 1;
            counts
        })
    };
    data == again || (data.len() == again.len() && counts(data) == counts(again))
}

/// Encodes a value and proves that it decodes to the same again.
pub(crate) fn encode_proved<T: serde::Serialize + DeserializeOwned>(
    codec: &dyn Codec,
    value: &T,
) -> Result<Bytes, Cause> {
    let data = codec.encode(value)?;
    let decoded: T = decode(codec, &data).map_err(|cause| format!("its encoding does not decode: {cause}"))?;
    match same_content(&data, &codec.encode(&decoded)?) {
        true => Ok(data.into()),
        false => Err("its encoding decodes to something else".into()),
    }
}
