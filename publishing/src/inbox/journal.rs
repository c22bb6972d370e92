//! What an inbox remembers: how far it has taken its feed, and what it could not receive. An aggregate like any other, in
//! the store that it works on.

use std::collections::{BTreeMap, HashSet};

use indelible_core::{Aggregate, Apply, Context, Event, Events, Handle, Limits, Version};
use serde::{Deserialize, Serialize};

use crate::Place;

/// What happens to an inbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
#[event(codec = json, crate = indelible_core)]
pub(crate) enum InboxEvent {
    /// It begins to read a feed at its first message.
    Began { feed: String },
    /// It will begin anew, with whatever feed is there.
    Rewound,
    /// All messages up to this one are dealt with.
    Taken { to: u64 },
    /// This one is kept, to be received later.
    Parked { sequence: u64, subject: String, reason: Option<String>, payload: String },
    /// A parked one is received after all, or was given up.
    Ended { letter: u64, discarded: Option<String> },
}

/// Where an inbox stands.
#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "inbox", snapshot(every = 100), crate = indelible_core)]
pub(crate) struct Journal {
    feed: Option<String>,
    taken_to: u64,
    parked: BTreeMap<u64, Letter>,
    /// As many as there are events.
    version: u64,
    letters: u64,
    rewinds: u64,
}

/// A message that could not be received, or waits behind one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Letter {
    /// Which, in its inbox: 1, 2, 3 …
    pub number: u64,
    /// The message's subject.
    pub subject: String,
    /// Where it stood in its feed.
    pub sequence: u64,
    /// Why it could not be received; `None` where it waits behind another.
    pub reason: Option<String>,
    pub(crate) version: u64,
}

impl Journal {
    /// Behind which message to read on.
    pub fn place(&self) -> Option<Place> {
        self.feed.clone().map(|feed| Place { feed, sequence: self.taken_to })
    }

    /// How often it has begun anew.
    pub fn rewinds(&self) -> u64 {
        self.rewinds
    }

    pub fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.parked.values()
    }

    pub fn parked_count(&self) -> usize {
        self.parked.len()
    }

    pub fn parked_subjects(&self) -> HashSet<String> {
        self.letters().map(|letter| letter.subject.clone()).collect()
    }
}

impl Letter {
    /// Which version of the journal has its payload.
    pub(crate) fn version(&self) -> Version {
        Version::new(self.version)
    }
}

impl Apply for Journal {
    type Event = InboxEvent;
    fn apply(&mut self, event: &InboxEvent) {
        self.version += 1;
        match event {
            InboxEvent::Began { feed } => (self.feed, self.taken_to) = (Some(feed.clone()), 0),
            InboxEvent::Rewound => (self.feed, self.taken_to, self.rewinds) = (None, 0, self.rewinds + 1),
            InboxEvent::Taken { to } => self.taken_to = *to,
            InboxEvent::Parked { sequence, subject, reason, .. } => {
                self.letters += 1;
                let (subject, reason) = (subject.clone(), reason.clone());
                let letter =
                    Letter { number: self.letters, subject, sequence: *sequence, reason, version: self.version };
                self.parked.insert(self.letters, letter);
            }
            InboxEvent::Ended { letter, .. } => drop(self.parked.remove(letter)),
        }
    }
}

/// What can't be done to an inbox.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("the inbox was rewound, or reads another feed by now")]
    OtherFeed,
    #[error("the letter is not there")]
    NoLetter,
}

/// What an event of the journal has beside a message, at most: its names and keys.
const EVENT_BYTES: usize = 1_024;

/// A message to be parked.
#[derive(Clone, Debug)]
pub(crate) struct Park {
    pub sequence: u64,
    pub subject: String,
    pub reason: Option<String>,
    pub payload: String,
}

impl Park {
    /// About the bytes of its event, rather too many.
    fn size(&self) -> usize {
        let text = |text: &str| serde_json::to_string(text).map_or(text.len(), |json| json.len());
        EVENT_BYTES + text(&self.subject) + self.reason.as_deref().map_or(0, text) + text(&self.payload)
    }
}

/// What is parked, in appends that the store takes; what is too large for an event by itself, so that what comes before it
/// is parked.
pub(crate) fn portions(parks: Vec<Park>, limits: &Limits) -> Vec<Vec<Park>> {
    let (mut portions, mut bytes): (Vec<Vec<Park>>, usize) = Default::default();
    for park in parks {
        let size = park.size();
        bytes += size;
        // Room for the journal's other events.
        let fits = bytes + 2 * EVENT_BYTES <= limits.append_bytes_max() && size <= limits.event_bytes_max();
        match portions.last_mut() {
            Some(portion) if fits => portion.push(park),
            _ => {
                portions.push(vec![park]);
                bytes = size;
            }
        }
    }
    portions
}

/// Messages up to a place are dealt with: all but these, which are parked.
pub(crate) struct Take {
    pub to: Place,
    /// How often the inbox had begun anew when these were read: what was read before the last time doesn't count.
    pub rewinds: u64,
    pub parked: Vec<Park>,
}

/// What another process has taken in the meantime stays as it has left it.
impl Handle<Take> for Journal {
    type Error = JournalError;
    fn handle(
        &self,
        Take { to, rewinds, parked }: &Take,
        _: &Context<Self>,
    ) -> Result<Events<InboxEvent>, JournalError> {
        let mut events = Vec::new();
        match &self.feed {
            _ if *rewinds != self.rewinds => return Err(JournalError::OtherFeed),
            Some(feed) if *feed != to.feed => return Err(JournalError::OtherFeed),
            Some(_) => {}
            None => events.push(InboxEvent::Began { feed: to.feed.clone() }),
        }
        if to.sequence <= self.taken_to {
            return Ok(Events::none());
        }
        let parked = parked.iter().filter(|park| park.sequence > self.taken_to).cloned();
        events.extend(parked.map(|Park { sequence, subject, reason, payload }| InboxEvent::Parked {
            sequence,
            subject,
            reason,
            payload,
        }));
        events.push(InboxEvent::Taken { to: to.sequence });
        Ok(events.into())
    }
}

/// Begins anew, whatever was read before.
pub(crate) struct Rewind;

impl Handle<Rewind> for Journal {
    type Error = JournalError;
    fn handle(&self, _: &Rewind, _: &Context<Self>) -> Result<Events<InboxEvent>, JournalError> {
        Ok(InboxEvent::Rewound.into())
    }
}

/// A letter is received, or given up for this reason.
pub(crate) struct End {
    pub letter: u64,
    pub discarded: Option<String>,
}

impl Handle<End> for Journal {
    type Error = JournalError;
    fn handle(&self, End { letter, discarded }: &End, _: &Context<Self>) -> Result<Events<InboxEvent>, JournalError> {
        match self.parked.contains_key(letter) {
            true => Ok(InboxEvent::Ended { letter: *letter, discarded: discarded.clone() }.into()),
            false => Err(JournalError::NoLetter),
        }
    }
}
