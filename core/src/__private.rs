//! What the code written by the derives calls. Not part of the API: it may change in any release.

pub use bytes::Bytes;
pub use serde::{Serialize, de::DeserializeOwned};
pub use serde_json::Value;

pub use crate::{
    Aggregate, Apply, Category, Cause, DecodeError, EncodeError, Event, EventName, EventShape, EventType, InvalidInput,
    Payload, SnapshotPolicy, Tag,
    codec::{Bincode, Codec, Json},
};
use crate::{
    ContentType,
    codec::{named, variant},
};

/// Encodes a struct event.
pub fn encode_struct<E: Event + Serialize>(event: &E, codec: &dyn Codec) -> Result<Bytes, EncodeError> {
    codec.encode(event).map(Bytes::from).map_err(|cause| refused(event, codec, cause))
}

/// Encodes the fields of an event's variant.
pub fn encode_variant<E: Event + Serialize>(event: &E, codec: &dyn Codec) -> Result<Bytes, EncodeError> {
    variant::encode(event, codec).map_err(|cause| refused(event, codec, cause))
}

fn refused<E: Event>(event: &E, codec: &dyn Codec, cause: Cause) -> EncodeError {
    EncodeError {
        event_type: event.event_type().to_string(),
        content_type: codec.content_type().to_string(),
        reason: "the codec cannot represent it".into(),
        source: Some(cause),
    }
}

/// What an upcaster on the JSON value may return.
#[diagnostic::on_unimplemented(
    message = "an upcaster on the JSON value does not return `{Self}`",
    label = "not a `serde_json::Value`",
    note = "write `fn(Value) -> Value`, or `fn(Value) -> Result<Value, E>`"
)]
pub trait Upcasted {
    /// The next version's value.
    fn upcasted(self) -> Result<Value, Cause>;
}
impl Upcasted for Value {
    fn upcasted(self) -> Result<Value, Cause> {
        Ok(self)
    }
}
impl<E: Into<Cause>> Upcasted for Result<Value, E> {
    fn upcasted(self) -> Result<Value, Cause> {
        self.map_err(Into::into)
    }
}

/// An upcaster on the JSON value.
pub type JsonStep = fn(Value) -> Result<Value, Cause>;

/// An event's data on its way to the shape of today.
pub struct Data<'a> {
    payload: &'a Payload<'a>,
    codec: &'static dyn Codec,
    version: u32,
    /// What the upcasters on the JSON value made of the data, where they were needed.
    value: Option<Value>,
}

impl<'a> Data<'a> {
    /// Takes a record's data through the upcasters on the JSON value, which are those of versions 1, 2, 3 …
    pub fn new(
        payload: &'a Payload<'a>,
        pinned: Option<&'static dyn Codec>,
        today: u32,
        steps: &[JsonStep],
    ) -> Result<Self, DecodeError> {
        let version = payload.schema_version;
        if version == 0 || version > today {
            return Err(payload.error(format!("known are the schema versions 1 to {today}"), None));
        }
        let Some(codec) = named(payload.content_type, pinned) else {
            return Err(payload.error(format!("its content type {} is unknown", payload.content_type), None));
        };
        let mut data = Self { payload, codec, version, value: None };
        for step in steps.iter().skip(version as usize - 1) {
            let value = match data.value.take() {
                Some(value) => value,
                None => data.json()?,
            };
            let next = step(value).map_err(|cause| data.upcast_failed(cause))?;
            data.value = Some(next);
            data.version += 1;
        }
        Ok(data)
    }

    /// The schema version that it has now.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Decodes a struct event, or an old shape.
    pub fn read<T: DeserializeOwned>(self) -> Result<T, DecodeError> {
        let payload = self.payload;
        match self.value {
            Some(value) => serde_json::from_value(value).map_err(Cause::from),
            None => crate::codec::decode(self.codec, payload.data),
        }
        .map_err(|cause| undecodable(payload, cause))
    }

    /// Decodes the variant of this index.
    pub fn variant<E: DeserializeOwned>(self, index: u32) -> Result<E, DecodeError> {
        let payload = self.payload;
        match self.value {
            Some(value) => variant::decode_value(index, value),
            None => variant::decode(index, payload.data, self.codec),
        }
        .map_err(|cause| undecodable(payload, cause))
    }

    fn json(&self) -> Result<Value, DecodeError> {
        let Payload { content_type, data, .. } = self.payload;
        if **content_type != ContentType::JSON {
            let reason = format!("its upcaster works on JSON, and the data is {content_type}: give it a typed one");
            return Err(self.payload.error(reason, None));
        }
        serde_json::from_slice(data).map_err(|error| undecodable(self.payload, error.into()))
    }

    fn upcast_failed(&self, cause: Cause) -> DecodeError {
        self.payload.error(format!("the upcaster from version {} failed", self.version), Some(cause))
    }
}

/// The error for a payload that is none of these events.
pub fn unknown_type<E: Event>(payload: &Payload<'_>) -> DecodeError {
    let known: Vec<String> = E::shapes()
        .iter()
        .map(|shape| match &shape.category {
            Some(category) => format!("{category}.{}", shape.name),
            None => shape.name.to_owned(),
        })
        .collect();
    payload.error(format!("the type is unknown here; known are {}", known.join(", ")), None)
}

fn undecodable(payload: &Payload<'_>, cause: Cause) -> DecodeError {
    payload.error("the data does not decode", Some(cause))
}
