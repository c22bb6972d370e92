//! At which heads an answer is right: one question and answer at a time, and without regard to when.

use super::{Answer, Exchange, check::Checker, index::Index};
use crate::{
    Append, Appended, Delivery, Direction, EventId, ExpectedVersion, FailedCondition, Filter, Page, Position, ReadLog,
    ReadStream, RecordedEvent, StreamHead, StreamId, Token, Version,
};

/// The heads at which something is true, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moments {
    pub(super) low: u64,
    pub(super) high: u64,
}

impl Moments {
    pub(super) const ALL: Self = Self { low: 0, high: u64::MAX };

    pub(super) fn at_least(&mut self, head: u64) {
        self.low = self.low.max(head);
    }

    /// Before the event at this position, where there is one.
    fn before(&mut self, position: Option<u64>) {
        if let Some(position) = position {
            self.high = self.high.min(position.saturating_sub(1));
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.low > self.high
    }

    fn exactly(&mut self, head: u64) {
        (self.low, self.high) = (self.low.max(head), self.high.min(head));
    }
}

/// Why an answer is wrong.
type Why = String;

fn ensure(holds: bool, why: impl FnOnce() -> Why) -> Result<(), Why> {
    if holds { Ok(()) } else { Err(why()) }
}

/// Who subscribed to what, and how far deliveries have come.
pub(super) struct Subscriber<'a> {
    pub(super) call: usize,
    pub(super) filter: &'a Filter,
    /// Unknown for one that began now, until its first delivery.
    pub(super) looked_to: Option<u64>,
}

impl Checker<'_> {
    pub(super) fn answer(&mut self, call: usize, exchange: &Exchange) -> Result<Moments, Why> {
        match exchange {
            Exchange::Append { append, answer } => self.append(call, append, answer),
            Exchange::ReadStream { read, page } => self.stream_page(read, page),
            Exchange::ReadLog { read, page } => self.log_page(read, page),
            Exchange::Event { id, event } => self.event(*id, event.as_ref()),
            Exchange::Head { token } => {
                let mut moments = self.token(token)?;
                moments.exactly(token.position.get());
                Ok(moments)
            }
            Exchange::Token { position, token: Some(token) } => {
                ensure(token.position == *position, || "another position than was asked for".into())?;
                self.token(token)
            }
            Exchange::Token { position, token: None } => {
                let mut moments = Moments::ALL;
                moments.before(Some(position.get()));
                Ok(moments)
            }
            Exchange::StreamHead { stream, head } => self.stream_head(stream, head),
            Exchange::Streams { category, after, limit, streams } => {
                let wanted = self.index.streams.iter().filter(|(stream, _)| {
                    category.as_ref().is_none_or(|category| category.as_str() == stream.category_str())
                        && after.as_ref().is_none_or(|after| **stream > after)
                });
                listed(wanted.map(|(stream, positions)| (*stream, positions[0])), streams, *limit, &self.index)
            }
            Exchange::Categories { after, limit, categories } => {
                let all = self.index.categories();
                let wanted = all.filter(|(category, _)| after.as_ref().is_none_or(|after| *category > after));
                listed(wanted, categories, *limit, &self.index)
            }
            Exchange::Published { position } => self.seen(position.get()),
            Exchange::Subscribe { .. } | Exchange::Delivery { .. } => unreachable!("told apart by the caller"),
        }
    }

    fn append(&mut self, call: usize, append: &Append, answer: &Answer) -> Result<Moments, Why> {
        let mut moments = Moments::ALL;
        let first_id = append.events().iter().filter_map(|(_, event)| self.index.find(event.id)).min();
        match answer {
            Answer::Refused => {}
            Answer::Unknown => {
                let Some(first) = self.recorded(append).filter(|first| self.writers[first] == call) else {
                    return Ok(moments);
                };
                moments = self.written(append, first)?;
            }
            Answer::Appended(appended) => {
                let Some(first) = self.recorded(append) else { return Err("acknowledged, and not in the log".into()) };
                self.is_answered_as_recorded(append, appended, first)?;
                if appended.repeated {
                    moments.at_least(self.index.end(first));
                } else {
                    moments = self.written(append, first)?;
                }
            }
            Answer::Conflict(failed) => {
                ensure(!failed.is_empty(), || "a conflict without a failed condition".into())?;
                moments.before(first_id);
                self.demands(append, failed, &mut moments)?;
            }
            Answer::IdConflict(id, position) => {
                let found = append.events().iter().position(|(_, event)| event.id == *id);
                let Some(found) = found else { return Err("the id is not the append's".into()) };
                ensure(self.index.find(*id) == Some(position.get()), || "the id is not recorded there".into())?;
                ensure(found > 0 || self.recorded(append).is_none(), || "it is the same append".into())?;
                moments.at_least(position.get());
                let earlier = append.events()[..found].iter();
                moments.before(earlier.filter_map(|(_, event)| self.index.find(event.id)).min());
            }
            Answer::Invalid => {
                moments.before(first_id);
                let beyond = append.conditions().iter().map(|condition| condition.after.get()).max();
                ensure(beyond.is_some(), || "refused for no reason".into())?;
                moments.before(beyond);
            }
        }
        Ok(moments)
    }

    /// Where an append was decided whose first event has this position.
    pub(super) fn written(&self, append: &Append, first: u64) -> Result<Moments, Why> {
        let mut moments = Moments::ALL;
        self.closes_as_asked(append, first)?;
        self.demands(append, &[], &mut moments)?;
        moments.exactly(first - 1);
        Ok(moments)
    }

    fn is_answered_as_recorded(&mut self, append: &Append, appended: &Appended, first: u64) -> Result<(), Why> {
        let recorded = &self.index.log[first as usize - 1..][..append.events().len()];
        ensure(appended.events == recorded, || "not answered as it is recorded".into())?;
        ensure(appended.token.position.get() == self.index.end(first), || "the token is not the last event's".into())?;
        self.token(&appended.token).map(drop)
    }

    fn closes_as_asked(&self, append: &Append, first: u64) -> Result<(), Why> {
        append.events().iter().enumerate().try_for_each(|(number, (stream, _))| {
            let is_last = append.events()[number + 1..].iter().all(|(later, _)| later != stream);
            let closes = is_last && append.closes().contains(stream);
            let recorded = self.index.at(first + number as u64).is_some_and(|event| event.closes_stream);
            ensure(recorded == closes, || format!("whether {stream} is closed there is not what was asked for"))
        })
    }

    /// Where all that an append demands holds, but for what failed, and that failed as is said.
    fn demands(&self, append: &Append, failed: &[FailedCondition], moments: &mut Moments) -> Result<(), Why> {
        let mut failed = failed.iter().peekable();
        for (stream, expected) in append.expected() {
            let actual = failed.next_if(|failed| {
                matches!(failed, FailedCondition::Version { stream: s, expected: e, .. } if s == stream && e == expected)
            });
            let first = self.index.version(stream, 1);
            match (actual, expected) {
                (Some(FailedCondition::Version { actual, .. }), expected) => {
                    ensure(!expected.is_met_by(*actual), || format!("{stream} is as expected"))?;
                    self.has_version(stream, *actual, moments)?;
                }
                (_, ExpectedVersion::Any) => {}
                (_, ExpectedVersion::NoStream) => moments.before(first),
                (_, ExpectedVersion::Exists) => {
                    moments.at_least(first.ok_or_else(|| format!("{stream} never exists"))?);
                }
                (_, ExpectedVersion::Exact(version)) => self.has_version(stream, *version, moments)?,
            }
        }
        let mut written: Vec<&StreamId> = Vec::new();
        for (stream, _) in append.events() {
            if written.contains(&stream) {
                continue;
            }
            written.push(stream);
            let last = self.index.streams.get(stream).and_then(|positions| self.index.at(*positions.last()?));
            let end = last.filter(|last| last.closes_stream);
            let found =
                failed.next_if(|failed| matches!(failed, FailedCondition::Closed { stream: s, .. } if s == stream));
            match (found, end) {
                (Some(FailedCondition::Closed { version, .. }), Some(end)) if end.version == *version => {
                    moments.at_least(end.position.get());
                }
                (Some(_), _) => return Err(format!("{stream} is not closed there")),
                (None, end) => moments.before(end.map(|end| end.position.get())),
            }
        }
        for (number, condition) in append.conditions().iter().enumerate() {
            moments.at_least(condition.after.get());
            let first = self.index.first_match(&condition.query, condition.after.get());
            let found =
                failed.next_if(|failed| matches!(failed, FailedCondition::Query { index, .. } if *index == number));
            match found {
                Some(FailedCondition::Query { position, .. }) => {
                    ensure(first == Some(position.get()), || {
                        format!("condition {number} finds {first:?} first, and not {position}")
                    })?;
                    moments.at_least(position.get());
                }
                _ => moments.before(first),
            }
        }
        ensure(failed.peek().is_none(), || format!("{:?} was not demanded, or is out of order", failed.peek()))
    }

    fn has_version(&self, stream: &StreamId, version: Version, moments: &mut Moments) -> Result<(), Why> {
        if version > Version::NONE {
            let position = self.index.version(stream, version.get());
            moments.at_least(position.ok_or_else(|| format!("{stream} never has version {version}"))?);
        }
        moments.before(self.index.version(stream, version.get() + 1));
        Ok(())
    }

    /// Something at a position was seen.
    fn seen(&self, position: u64) -> Result<Moments, Why> {
        ensure(position <= self.index.head(), || format!("position {position} is not in the log"))?;
        Ok(Moments { low: position, ..Moments::ALL })
    }

    pub(super) fn token(&mut self, token: &Token) -> Result<Moments, Why> {
        let event = self.index.at(token.position.get()).map_or(EventId::NIL, |event| event.id);
        ensure(event == token.event, || format!("{token} names another event than the log has there"))?;
        ensure(*self.store.get_or_insert(token.store) == token.store, || format!("{token} is another store's"))?;
        self.seen(token.position.get())
    }

    fn event(&self, id: EventId, event: Option<&RecordedEvent>) -> Result<Moments, Why> {
        let recorded = self.index.find(id);
        let mut moments = Moments::ALL;
        match event {
            None => moments.before(recorded),
            Some(event) => {
                self.is_recorded(event)?;
                ensure(event.id == id, || "another event than was asked for".into())?;
                moments.at_least(event.position.get());
            }
        }
        Ok(moments)
    }

    fn is_recorded(&self, event: &RecordedEvent) -> Result<(), Why> {
        ensure(self.index.at(event.position.get()) == Some(event), || {
            format!("position {} is not what the log has there", event.position)
        })
    }

    fn stream_head(&self, stream: &StreamId, head: &StreamHead) -> Result<Moments, Why> {
        let mut moments = Moments::ALL;
        self.has_version(stream, head.version, &mut moments)?;
        let last = self.index.version(stream, head.version.get()).and_then(|position| self.index.at(position));
        ensure(*head == last.map(StreamHead::at).unwrap_or_default(), || "the head of no version".into())?;
        Ok(moments)
    }

    fn stream_page(&self, read: &ReadStream, page: &Page<Version>) -> Result<Moments, Why> {
        let versions: Vec<u64> = page.events.iter().map(|event| event.version.get()).collect();
        page.events.iter().try_for_each(|event| self.is_recorded(event))?;
        ensure(page.events.iter().all(|event| event.stream == read.stream), || "another stream's event".into())?;
        ensure(versions.len() <= read.limit, || "more events than were asked for".into())?;
        let mut moments = Moments::ALL;
        let position = |version| self.index.version(&read.stream, version);
        if let Some(last) = page.events.iter().map(|event| event.position.get()).max() {
            moments.at_least(last);
        }
        match read.direction {
            Direction::Forwards => {
                let from = read.from.get().max(1);
                let next = from + versions.len() as u64;
                ensure(versions.iter().copied().eq(from..next), || "versions are missing, or out of order".into())?;
                match page.next {
                    Some(version) => ensure(version.get() == next, || format!("goes on at {version}, not {next}"))?,
                    None => moments.before(position(next)),
                }
            }
            Direction::Backwards => {
                let first = versions.first().copied().unwrap_or(0);
                let behind = versions.iter().copied().eq((0..=first).rev().take(versions.len()));
                ensure(behind && first <= read.from.get(), || "versions are missing, or out of order".into())?;
                if first < read.from.get() {
                    moments.before(position(first + 1));
                }
                let left = versions.last().map_or(0, |last| last - 1);
                ensure(page.next.map_or(0, Version::get) == left || versions.is_empty(), || {
                    format!("goes on at {:?}, not {left}", page.next)
                })?;
            }
        }
        Ok(moments)
    }

    fn log_page(&self, read: &ReadLog, page: &Page<Position>) -> Result<Moments, Why> {
        page.events.iter().try_for_each(|event| self.is_recorded(event))?;
        ensure(page.events.len() <= read.limit, || "more events than were asked for".into())?;
        let found: Vec<u64> = page.events.iter().map(|event| event.position.get()).collect();
        let (low, high) = match read.direction {
            Direction::Forwards => (read.from.get().max(1), read.to.get()),
            Direction::Backwards => (read.to.get().max(1), read.from.get()),
        };
        let mut moments = Moments::ALL;
        if let Some(last) = found.iter().max() {
            moments.at_least(*last);
        }
        match read.direction {
            Direction::Forwards => {
                // What it looked at, exclusive of where it goes on.
                let mut at = low;
                for position in &found {
                    self.is_next(&read.filter, at, *position)?;
                    at = position + 1;
                }
                ensure(found.last().is_none_or(|last| *last <= high), || "beyond what was asked for".into())?;
                let unseen = self.index.next(&read.filter, at).filter(|position| *position <= high);
                match page.next {
                    Some(next) => {
                        ensure(unseen.is_none_or(|unseen| next.get() <= unseen), || format!("skips {unseen:?}"))?;
                        ensure(next.get() >= at, || "goes back".into())?;
                        moments.at_least(next.get() - 1);
                    }
                    None => moments.before(unseen),
                }
            }
            Direction::Backwards => {
                ensure(found.first().is_none_or(|first| *first <= high), || "beyond what was asked for".into())?;
                ensure(found.last().is_none_or(|last| *last >= low), || "beyond what was asked for".into())?;
                // Nothing that is wanted was there above the first that was found.
                let floor = page.next.map_or(low, |next| next.get() + 1);
                let above = found.first().map_or(floor, |first| first + 1);
                moments.before(self.index.next(&read.filter, above).filter(|position| *position <= high));
                let mut at = found.first().copied().unwrap_or(0);
                for position in &found {
                    ensure(self.index.last(&read.filter, at) == Some(*position), || {
                        format!("position {position} is not the last that is wanted up to {at}")
                    })?;
                    at = position - 1;
                }
                if !found.is_empty() {
                    let unseen = self.index.last(&read.filter, at).filter(|position| *position >= floor);
                    ensure(unseen.is_none(), || format!("skips {unseen:?}"))?;
                    ensure(page.next.is_none_or(|next| next.get() <= at), || "goes back".into())?;
                }
            }
        }
        Ok(moments)
    }

    fn is_next(&self, filter: &Filter, from: u64, position: u64) -> Result<(), Why> {
        let next = self.index.next(filter, from);
        ensure(next == Some(position), || format!("position {position} follows, and not {next:?}"))
    }

    pub(super) fn delivery(
        &mut self,
        subscriber: &mut Subscriber<'_>,
        delivery: &Delivery,
        moments: &mut [Moments],
    ) -> Result<Moments, Why> {
        let (to, right) = match delivery {
            Delivery::Event(event) => {
                self.is_recorded(event)?;
                ensure(subscriber.filter.matches(event), || "an event that is not wanted".into())?;
                (event.position.get() - 1, self.seen(event.position.get())?)
            }
            Delivery::Progress(token) | Delivery::CaughtUp(token) => (token.position.get(), self.token(token)?),
        };
        match subscriber.looked_to {
            Some(looked_to) => {
                ensure(looked_to <= to, || format!("delivered again, or went back: was at {looked_to}"))?;
                let skipped = self.index.next(subscriber.filter, looked_to + 1).filter(|position| *position <= to);
                ensure(skipped.is_none(), || format!("skips position {skipped:?}"))?;
            }
            // Begun now: behind all that is wanted and was not delivered, and that was there when it began.
            None => moments[subscriber.call].at_least(self.index.last(subscriber.filter, to).unwrap_or(0)),
        }
        subscriber.looked_to = Some(delivery_position(delivery));
        Ok(right)
    }
}

fn delivery_position(delivery: &Delivery) -> u64 {
    match delivery {
        Delivery::Event(event) => event.position.get(),
        Delivery::Progress(token) | Delivery::CaughtUp(token) => token.position.get(),
    }
}

/// A list by name with a limit: of what there will be, in order and with the position at which each comes.
fn listed<'i, T: PartialEq + 'i>(
    wanted: impl Iterator<Item = (&'i T, u64)>,
    found: &[T],
    limit: usize,
    index: &Index<'_>,
) -> Result<Moments, Why> {
    ensure(found.len() <= limit, || "more than was asked for".into())?;
    let mut moments = Moments::ALL;
    let mut rest = found.iter().peekable();
    for (name, first) in wanted {
        if rest.next_if(|found| *found == name).is_some() {
            moments.at_least(index.end(first));
        } else if rest.peek().is_some() || found.len() < limit {
            moments.before(Some(first));
        }
    }
    ensure(rest.peek().is_none(), || "a name that is not there, or out of order".into())?;
    Ok(moments)
}
