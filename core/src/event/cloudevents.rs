//! Recorded events as [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) in JSON,
//! and back.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    CausationId, ContentType, CorrelationId, EventId, EventType, InvalidInput, Metadata, Position, RecordedEvent,
    StoreId, StreamId, Tag, Timestamp, Version,
};

/// A recorded event in the form that other systems read.
///
/// `type` is `category.Type`, `subject` the stream, `source` the store. What CloudEvents has no attribute for stands in
/// extensions; positions and versions are text there, since the format's integers have 32 bits. JSON data stands as it
/// is, byte for byte; all other in `data_base64`.
///
/// ```
/// # use indelible_core::{*, store::memory::MemoryStore};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = MemoryStore::new();
/// # let opened = NewEvent::new(EventType::new("Opened")?, ContentType::JSON, r#"{"owner":"ada"}"#);
/// # store.append(Append::to("account-1".parse()?, ExpectedVersion::NoStream, [opened])).await?;
/// # let event = store.read_log(&ReadLog::all()).await?.events.remove(0);
/// let json = serde_json::to_string(&CloudEvent::new(&event, store.id()))?;
/// assert!(json.contains(r#""type":"account.Opened""#) && json.contains(r#""data":{"owner":"ada"}"#));
/// let back: CloudEvent = serde_json::from_str(&json)?;
/// assert_eq!(back.into_recorded()?, event);
/// # Ok(()) }
/// ```
#[derive(Debug, Serialize, Deserialize)]
pub struct CloudEvent {
    specversion: String,
    id: EventId,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    subject: StreamId,
    time: Timestamp,
    datacontenttype: ContentType,
    position: String,
    streamversion: String,
    schemaversion: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    correlationid: Option<CorrelationId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    causationid: Option<CausationId>,
    /// A JSON array in a string: the format's attributes hold no lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tags: Option<String>,
    /// A JSON object in a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    closesstream: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    endsappend: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

impl CloudEvent {
    /// The event in this form, said by the store that holds it.
    pub fn new(event: &RecordedEvent, store: StoreId) -> Self {
        let json = std::str::from_utf8(&event.data).ok().filter(|_| event.content_type == ContentType::JSON);
        // Only what comes out as it went in: a raw value loses white space around it, and `null` reads as no data.
        let data = json
            .and_then(|text| RawValue::from_string(text.to_owned()).ok())
            .filter(|raw| raw.get().len() == event.data.len() && raw.get() != "null");
        let text = |is_empty: bool, json: serde_json::Result<String>| json.ok().filter(|_| !is_empty);
        Self {
            specversion: "1.0".into(),
            id: event.id,
            source: format!("urn:uuid:{store}"),
            event_type: event.qualified_type().to_string(),
            subject: event.stream.clone(),
            time: event.recorded_at,
            datacontenttype: event.content_type.clone(),
            position: event.position.to_string(),
            streamversion: event.version.to_string(),
            schemaversion: event.schema_version,
            correlationid: event.correlation_id,
            causationid: event.causation_id,
            tags: text(event.tags.is_empty(), serde_json::to_string(&event.tags)),
            metadata: text(event.metadata.is_empty(), serde_json::to_string(&event.metadata)),
            closesstream: event.closes_stream,
            endsappend: event.ends_append,
            data_base64: data.is_none().then(|| BASE64_STANDARD.encode(&event.data)),
            data,
        }
    }

    /// The event as others are to see it, an *integration event*: said by this source, of this type and schema version,
    /// with this data. Tags and metadata are left out, which are nobody's business outside.
    #[must_use]
    pub fn for_others(
        self,
        source: impl Into<String>,
        event_type: impl Into<String>,
        schema_version: u32,
        data: Box<RawValue>,
    ) -> Self {
        Self {
            source: source.into(),
            event_type: event_type.into(),
            schemaversion: schema_version,
            datacontenttype: ContentType::JSON,
            data: Some(data),
            data_base64: None,
            tags: None,
            metadata: None,
            closesstream: false,
            endsappend: false,
            ..self
        }
    }

    /// The event that was put in this form.
    ///
    /// # Errors
    /// [`InvalidInput`] where an attribute is not what [`new`](Self::new) writes.
    pub fn into_recorded(self) -> Result<RecordedEvent, InvalidInput> {
        let invalid = |reason: String| InvalidInput::new("CloudEvent", reason);
        if self.specversion != "1.0" {
            return Err(invalid(format!("has specversion {:?}, not 1.0", self.specversion)));
        }
        let number = |name: &str, text: &str| {
            text.parse::<u64>().map_err(|_| invalid(format!("has {name} {text:?}, not a number")))
        };
        let category = self.subject.category();
        let event_type = self.event_type.strip_prefix(category.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let event_type =
            event_type.ok_or_else(|| invalid(format!("has type {:?}, which is not of {category}", self.event_type)))?;
        let data = match (self.data, self.data_base64) {
            (Some(json), None) => Box::<str>::from(json).into_boxed_bytes().into_vec(),
            (None, Some(text)) => {
                BASE64_STANDARD.decode(text).map_err(|error| invalid(format!("has data_base64: {error}")))?
            }
            (None, None) => return Err(invalid("has no data".into())),
            (Some(_), Some(_)) => return Err(invalid("has both data and data_base64".into())),
        };
        let json = |error: serde_json::Error| invalid(error.to_string());
        let tags: Vec<Tag> = self.tags.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text)).map_err(json)?;
        let metadata: Metadata =
            self.metadata.map_or(Ok(Metadata::new()), |text| serde_json::from_str(&text)).map_err(json)?;
        Ok(RecordedEvent {
            id: self.id,
            event_type: EventType::new(event_type)?,
            schema_version: self.schemaversion,
            version: Version::new(number("streamversion", &self.streamversion)?),
            position: Position::new(number("position", &self.position)?),
            stream: self.subject,
            recorded_at: self.time,
            causation_id: self.causationid,
            correlation_id: self.correlationid,
            tags,
            content_type: self.datacontenttype,
            metadata,
            data: data.into(),
            closes_stream: self.closesstream,
            ends_append: self.endsappend,
        })
    }
}
