//! From typed events to what is written: called by units, for every event.

use std::{
    any::TypeId,
    collections::HashSet,
    sync::{PoisonError, RwLock},
};

use crate::{
    CommandContext, EncodeError, Event, EventType, NewEvent, Payload, StoreError, StreamId, Version,
    codec::{Codec, same_content},
};

/// Why an event could not be prepared for the log.
#[derive(Debug)]
pub(crate) enum PrepareError {
    Encode(EncodeError),
    Store(StoreError),
}

/// Encodes events, and proves that their encoding decodes again: for the first of each type, and for all of them in
/// debug builds.
#[derive(Debug)]
pub(crate) struct Encoder {
    default_codec: &'static dyn Codec,
    proved: RwLock<HashSet<(TypeId, EventType)>>,
}

impl Encoder {
    pub(crate) fn new(default_codec: &'static dyn Codec) -> Self {
        Self { default_codec, proved: RwLock::default() }
    }

    /// The event as it is written to `stream`, with all that its command's context says.
    pub(crate) fn encode<E: Event>(
        &self,
        stream: &StreamId,
        event: &E,
        context: &CommandContext,
    ) -> Result<NewEvent, PrepareError> {
        let codec = event.codec().unwrap_or(self.default_codec);
        let data = event.encode(codec).map_err(PrepareError::Encode)?;
        let mut new = NewEvent::new(event.event_type(), codec.content_type(), data);
        new.schema_version = event.schema_version();
        for tag in event.tags().map_err(|invalid| PrepareError::Store(invalid.into()))? {
            if !new.tags.contains(&tag) {
                new.tags.push(tag);
            }
        }
        new.metadata = context.metadata().clone();
        new.correlation_id = Some(context.correlation_id());
        new.causation_id = context.causation_id();
        self.prove::<E>(stream, &new, codec).map_err(PrepareError::Encode)?;
        Ok(new)
    }

    fn prove<E: Event>(&self, stream: &StreamId, new: &NewEvent, codec: &dyn Codec) -> Result<(), EncodeError> {
        let kind = (TypeId::of::<E>(), new.event_type.clone());
        let known = self.proved.read().unwrap_or_else(PoisonError::into_inner).contains(&kind);
        if known && !cfg!(debug_assertions) {
            return Ok(());
        }
        let refuse = |reason: &str, source| EncodeError {
            event_type: new.event_type.to_string(),
            content_type: new.content_type.to_string(),
            reason: reason.to_owned(),
            source,
        };
        let decoded = E::decode(&payload(stream, new))
            .map_err(|error| refuse("what it encodes to does not decode", Some(Box::new(error))))?;
        if !same_content(&new.data, &decoded.encode(codec)?) {
            return Err(refuse("what it encodes to decodes to something else", None));
        }
        if !known {
            self.proved.write().unwrap_or_else(PoisonError::into_inner).insert(kind);
        }
        Ok(())
    }
}

/// What decoding needs of an event that is not recorded yet.
pub(crate) fn payload<'a>(stream: &'a StreamId, new: &'a NewEvent) -> Payload<'a> {
    Payload {
        stream,
        version: Version::NONE,
        event_type: &new.event_type,
        schema_version: new.schema_version,
        content_type: &new.content_type,
        data: &new.data,
    }
}
