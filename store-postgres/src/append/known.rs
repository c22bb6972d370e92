//! What the log holds where an append's ids were found: the facts by which core's `judge` tells a repetition from an id
//! that another append holds.

use std::collections::HashMap;

use indelible_core::{
    Append, Direction, EventId, Facts, Position, Query, ReadLog, RecordedEvent, StoreError, StreamHead, StreamId,
};

use crate::read::Reader;

pub(super) struct Recorded {
    ids: HashMap<EventId, Position>,
    events: HashMap<Position, RecordedEvent>,
}

impl Recorded {
    /// Reads what `judge` will ask for: nothing, where it is not the first id that is known.
    pub(super) async fn read(
        reader: &Reader,
        append: &Append,
        ids: Vec<(EventId, Position)>,
    ) -> Result<Self, StoreError> {
        let ids: HashMap<_, _> = ids.into_iter().collect();
        let mut events = HashMap::new();
        if let Some(first) = append.events().first().and_then(|(_, event)| ids.get(&event.id)) {
            let mut read = ReadLog::all().from(first.before()).to(first.plus(append.events().len() as u64 - 1));
            debug_assert_eq!(read.direction, Direction::Forwards);
            let mut sent = append.events().iter();
            // The first event that is another is the last one that `judge` looks at: so not more is kept than was sent,
            // and that one's page.
            let mut is_same = true;
            while is_same {
                let page = reader.log_page(&read).await?;
                for event in page.events {
                    if event.position >= *first {
                        is_same &= sent.next().is_some_and(|(stream, sent)| event.records(stream, sent));
                    }
                    events.insert(event.position, event);
                    if !is_same {
                        break;
                    }
                }
                let Some(next) = page.next else { break };
                read.from = next;
            }
        }
        Ok(Self { ids, events })
    }
}

/// `judge` asks for ids and events first, and here that answers it.
impl Facts for Recorded {
    type Error = StoreError;

    fn head(&self) -> Position {
        Position::MAX
    }

    fn stream(&self, _: &StreamId) -> Result<StreamHead, StoreError> {
        Ok(StreamHead::default())
    }

    fn find(&self, id: EventId) -> Result<Option<Position>, StoreError> {
        Ok(self.ids.get(&id).copied())
    }

    fn event(&self, position: Position) -> Result<Option<RecordedEvent>, StoreError> {
        Ok(self.events.get(&position).cloned())
    }

    fn first_match(&self, _: &Query, _: Position) -> Result<Option<Position>, StoreError> {
        Ok(None)
    }
}
