//! What goes out and comes in: CloudEvents 1.0 in JSON.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use indelible_core::{CausationId, CorrelationId, InvalidInput};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, Value, to_raw_value};
use uuid::Uuid;

/// What others are to know of an event, in words that are meant for them: another type than the domain's, which may change
/// without them, with the data that they need.
///
/// ```
/// # use indelible_publishing::IntegrationEvent;
/// # use serde::Serialize;
/// #[derive(Serialize)]
/// struct Placed<'a> {
///     order: &'a str,
///     cents: u64,
/// }
/// let event = IntegrationEvent::new("com.example.order.placed", 1, &Placed { order: "7", cents: 1_200 })?;
/// # Ok::<(), indelible_core::InvalidInput>(())
/// ```
#[derive(Clone, Debug)]
pub struct IntegrationEvent {
    pub(crate) event_type: String,
    pub(crate) version: u32,
    pub(crate) data: Box<RawValue>,
}

impl IntegrationEvent {
    /// An event of this type and schema version, with this data as JSON.
    ///
    /// # Errors
    /// [`InvalidInput`] for a type that is not 1 to 255 bytes of text without control characters, and data that JSON can't
    /// hold.
    pub fn new(event_type: impl Into<String>, version: u32, data: &impl Serialize) -> Result<Self, InvalidInput> {
        let (event_type, invalid) = (event_type.into(), |reason| InvalidInput::new("integration event", reason));
        if event_type.is_empty() || event_type.len() > 255 || event_type.chars().any(char::is_control) {
            return Err(invalid(format!("has type {event_type:?}, which is not 1 to 255 bytes of text")));
        }
        let data = to_raw_value(data).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { event_type, version, data })
    }
}

/// A message that came in: any CloudEvent 1.0 in JSON, an [`IntegrationEvent`] among others. What it says beyond what is
/// asked for here is passed over.
#[derive(Clone, Debug, Deserialize)]
pub struct Message {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    subject: Option<String>,
    // Extensions, which mean something else where others have said it.
    #[serde(default)]
    schemaversion: Option<Value>,
    #[serde(default)]
    streamversion: Option<Value>,
    #[serde(default)]
    correlationid: Option<Value>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    data_base64: Option<String>,
}

/// The UUIDv5 namespace of messages; never to be changed.
const MESSAGES: Uuid = Uuid::from_u128(0x3d0c_55e2_9f0b_4a6e_8b39_51c7_04ae_62d4);

impl Message {
    /// Reads one.
    ///
    /// # Errors
    /// [`InvalidInput`] for what is no CloudEvent 1.0 in JSON.
    pub fn read(payload: &[u8]) -> Result<Self, InvalidInput> {
        let invalid = |reason: String| InvalidInput::new("CloudEvent", reason);
        let message: Self = serde_json::from_slice(payload).map_err(|error| invalid(error.to_string()))?;
        match (message.specversion.as_str(), message.id.is_empty() || message.source.is_empty()) {
            ("1.0", false) => Ok(message),
            ("1.0", true) => Err(invalid("has no id, or no source".into())),
            (other, _) => Err(invalid(format!("has specversion {other:?}, not 1.0"))),
        }
    }

    /// Its id, unique within its [source](Self::source): for what Indelible publishes, the event's.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Who says it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What kind of event it tells of.
    pub fn event_type(&self) -> &str {
        &self.event_type
    }

    /// The schema version of its data, `schemaversion`; 1 where it says none.
    ///
    /// # Errors
    /// [`InvalidInput`] where that is no version.
    pub fn version(&self) -> Result<u32, InvalidInput> {
        let Some(said) = &self.schemaversion else { return Ok(1) };
        let version = number(said).and_then(|version| version.try_into().ok());
        version.ok_or_else(|| InvalidInput::new("CloudEvent", format!("has schemaversion {said}, which is none")))
    }

    /// What it is about: for what Indelible publishes, the name of the event's stream.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The event's version in its stream, for what Indelible publishes.
    pub fn stream_version(&self) -> Option<u64> {
        number(self.streamversion.as_ref()?)
    }

    /// Its data, read as this type. Fields that the type doesn't have are passed over, unless it says otherwise.
    ///
    /// # Errors
    /// [`InvalidInput`] for data that is not of this type.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, InvalidInput> {
        let invalid = |error: &dyn fmt::Display| InvalidInput::new("CloudEvent", format!("has data: {error}"));
        match (&self.data, &self.data_base64) {
            (Some(json), _) => serde_json::from_str(json.get()).map_err(|error| invalid(&error)),
            (None, Some(text)) => {
                let bytes = BASE64_STANDARD.decode(text).map_err(|error| invalid(&error))?;
                serde_json::from_slice(&bytes).map_err(|error| invalid(&error))
            }
            (None, None) => serde_json::from_str("null").map_err(|error| invalid(&error)),
        }
    }

    /// The one id for (source, id), which together tell messages apart.
    pub(crate) fn unique(&self) -> Uuid {
        Uuid::new_v5(&MESSAGES, format!("{}\0{}", self.source, self.id).as_bytes())
    }

    /// What commands because of it are caused by: its id where that is a UUID.
    pub(crate) fn causation(&self) -> CausationId {
        CausationId::from_uuid(self.id.parse().unwrap_or_else(|_| self.unique()))
    }

    pub(crate) fn correlation(&self) -> Option<CorrelationId> {
        self.correlationid.as_ref()?.as_str()?.parse().ok()
    }
}

/// A number, as such or as text, as CloudEvents has those of more than 32 bits.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
