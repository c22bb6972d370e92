//! The walk over the index: each entry readable, each stream without a hole and with its head. What each says of events
//! goes into sums; where those differ from the log's, [`search`] says which entry is missing, and which is too much.

use std::fmt;

use indelible_core::{EventId, Position, RecordedEvent, StoreError};
use rocksdb::{DB, DBRawIterator};
use uuid::Uuid;

use super::{
    PROBLEMS_MAX, Step, Verification, Watch, entries,
    log::{each, series_kind},
    options,
    sums::{Entry, Kind, Sums},
};
use crate::{
    engine::{Fault, Tier},
    frame::{Damage, Fields},
    index::{parse_chunk, parse_head, parse_versions},
    keys,
    log::{Events, Spot},
};

/// Walks the index, and compares what it says with what the log said.
pub(super) fn compare(
    log: &DB,
    index: &DB,
    of_log: &Sums,
    report: &mut Verification,
    watch: &mut Watch<'_>,
) -> Result<(), StoreError> {
    let mut of_index = of_log.other();
    let mut hear = |said: Said<'_>| match said {
        Said::Entry(entry) => of_index.add(&entry),
        Said::Wrong(what) => report.index(what),
    };
    let is_through = Walk::new(index, of_log.to(), &mut hear).run(index, watch)?;
    if !is_through || of_log.differences(&of_index).is_empty() {
        return Ok(());
    }
    let before = report.problem_count;
    search(log, index, (of_log, &of_index), report, watch)?;
    if report.problem_count == before && report.is_log_clean() {
        let parts = of_log.differences(&of_index);
        report.index(format!("it differs from the log at the positions {parts:?}"));
    }
    Ok(())
}

/// What a walk has come to.
enum Said<'a> {
    Entry(Entry<'a>),
    Wrong(String),
}

/// A walk over the whole index, one key after the other, and over the streams' heads beside it.
struct Walk<'a> {
    /// How far the index goes.
    to: u64,
    heads: DBRawIterator<'a>,
    hear: &'a mut dyn FnMut(Said<'_>),
    /// The series of the chunk before, the last number in it, and the last position.
    series: Vec<u8>,
    last: u64,
    last_position: u64,
}

impl<'a> Walk<'a> {
    fn new(index: &'a DB, to: Position, hear: &'a mut dyn FnMut(Said<'_>)) -> Self {
        let mut within = options();
        within.set_iterate_lower_bound(b"h");
        within.set_iterate_upper_bound(b"i");
        let mut heads = index.raw_iterator_opt(within);
        heads.seek_to_first();
        Self { to: to.get(), heads, hear, series: Vec::new(), last: 0, last_position: 0 }
    }

    /// Says whether it got to the end.
    fn run(mut self, index: &DB, watch: &mut Watch<'_>) -> Result<bool, StoreError> {
        let total = entries(index);
        let mut entries = index.raw_iterator_opt(options());
        entries.seek_to_first();
        let mut done = 0;
        while let Some((key, value)) = entries.item() {
            if let Err(damage) = self.entry(key, value) {
                self.wrong(format!("the entry {}: {damage}", key.escape_ascii()));
            }
            done += 1;
            watch.tick(Step::Index, done, total)?;
            entries.next();
        }
        self.end_stream();
        self.stray_heads(None);
        for walk in [&entries, &self.heads] {
            if let Err(error) = walk.status() {
                (self.hear)(Said::Wrong(format!("it can't be read: {error}")));
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damage> {
        let mut fields = Fields::new(value);
        if key.first() != Some(&b's') {
            self.end_stream();
        }
        match key {
            [b'c' | b't' | b'g', ..] => {
                let (series, last) = split(key)?;
                let positions = parse_chunk(&mut fields)?;
                let before = if self.series == series { self.last } else { 0 };
                self.remember(series, last, last);
                if positions[0] <= before || positions.last() != Some(&last) {
                    return Err(Damage::new("its positions are not those that its key tells"));
                }
                let name = self.series.clone();
                positions.iter().for_each(|position| self.say(entry(series_kind(&name), &name, *position)));
                self.is_within(last)
            }
            [b's', ..] => {
                let (series, last) = split(key)?;
                if self.series != series {
                    self.end_stream();
                    self.remember(series, 0, 0);
                }
                let (first, spots) = parse_versions(&mut fields)?;
                let (start, end) = (spots[0].position.get(), spots[spots.len() - 1].position.get());
                let (versions, at) = (self.last, self.last_position);
                self.remember(series, last, end);
                if first.checked_add(spots.len() as u64 - 1) != Some(last) {
                    return Err(Damage::new("its versions are not those that its key tells"));
                }
                for (number, Spot { position, block }) in (first..=last).zip(&spots) {
                    let entry = Entry { number, block: *block, ..entry(Kind::Version, name(series), position.get()) };
                    self.say(entry);
                }
                if first.checked_sub(1) != Some(versions) || start <= at {
                    let what = format!("it begins with version {first} at position {start}, behind {versions} at {at}");
                    return Err(Damage::new(what));
                }
                self.is_within(end)
            }
            [keys::ID, id @ ..] if id.len() == 16 => {
                let position = fields.varint()?;
                fields.end()?;
                self.say(entry(Kind::Id, id, position));
                self.is_within(position)
            }
            // Read beside the streams.
            [b'h', _, ..] => Ok(()),
            keys::MARK => Ok(()),
            _ => Err(Damage::new("it is of no kind")),
        }
    }

    fn say(&mut self, entry: Entry<'_>) {
        (self.hear)(Said::Entry(entry));
    }

    fn wrong(&mut self, what: String) {
        (self.hear)(Said::Wrong(what));
    }

    /// What lies behind its mark, the index must not have.
    fn is_within(&self, position: u64) -> Result<(), Damage> {
        match (1..=self.to).contains(&position) {
            true => Ok(()),
            false => Err(Damage::new(format!("it names position {position}, the index goes up to {}", self.to))),
        }
    }

    fn remember(&mut self, series: &[u8], last: u64, position: u64) {
        if self.series != series {
            self.series.clear();
            self.series.extend_from_slice(series);
        }
        (self.last, self.last_position) = (last, position);
    }

    /// Compares the head of the stream that was walked. Both kinds are in the order of the streams' names.
    fn end_stream(&mut self) {
        if self.series.first() != Some(&b's') {
            return;
        }
        let series = std::mem::take(&mut self.series);
        let stream = name(&series);
        self.stray_heads(Some(stream));
        let (last, position) = (self.last, self.last_position);
        let Some((_, value)) = self.heads.item().filter(|(key, _)| &key[1..] == stream) else {
            return self.wrong(format!("the head of {} is missing", stream.escape_ascii()));
        };
        let mut fields = Fields::new(value);
        match parse_head(&mut fields).and_then(|head| fields.end().map(|()| head)) {
            Err(damage) => self.wrong(format!("the head of {}: {damage}", stream.escape_ascii())),
            Ok((version, at, _)) if (version.get(), at.get()) != (last, position) => self.wrong(format!(
                "the head of {} is version {version} at position {at}, not {last} at {position}",
                stream.escape_ascii()
            )),
            Ok((_, _, true)) => self.say(entry(Kind::Closes, stream, position)),
            Ok(_) => {}
        }
        self.heads.next();
    }

    /// Passes heads of streams that have no versions, up to that of a stream.
    fn stray_heads(&mut self, before: Option<&[u8]>) {
        while let Some(stray) = self.heads.key().filter(|key| before.is_none_or(|stream| &key[1..] < stream)) {
            let what = format!("the head of {} is there, and no version of it", stray[1..].escape_ascii());
            self.wrong(what);
            self.heads.next();
        }
    }
}

/// One that says no more than its name.
fn entry(kind: Kind, name: &[u8], position: u64) -> Entry<'_> {
    Entry { kind, name, number: 0, position: Position::new(position), block: Position::START }
}

/// The series and the number of a key.
fn split(key: &[u8]) -> Result<(&[u8], u64), Damage> {
    let Some((series, number)) = key.split_last_chunk::<8>() else { return Err(Damage::new("it is too short")) };
    match series {
        [_, _, .., 0] => Ok((series, u64::from_be_bytes(*number))),
        _ => Err(Damage::new("it has no name")),
    }
}

/// The name of a series that has one part.
fn name(series: &[u8]) -> &[u8] {
    &series[1..series.len() - 1]
}

/// Says which entries are missing and which are too much, where the sums of the log and of the index differ.
fn search(
    log: &DB,
    index: &DB,
    (of_log, of_index): (&Sums, &Sums),
    report: &mut Verification,
    watch: &mut Watch<'_>,
) -> Result<(), StoreError> {
    let mut events = Events::of(log, Tier::Disk);
    let mut others = Events::of(log, Tier::Disk);
    let mut scratch = Vec::new();
    for position in of_log.differences(of_index).into_iter().flatten() {
        // What can't be read was told of in the walk over the log.
        let Ok((event, block)) = event_and_block(&mut events, Position::new(position)) else { continue };
        each(&event, block, &mut scratch, |entry| {
            if !of_log.differ_at(of_index, entry.kind, entry.position) {
                return;
            }
            match look_up(index, &entry) {
                Ok(Some(found)) if found == entry.position => {}
                Ok(Some(found))
                    if others.at(found).is_ok_and(|other| entry.kind == Kind::Id && other.id == event.id) =>
                {
                    let (first, second) = (found.min(entry.position), found.max(entry.position));
                    report.log(format!("the events at positions {first} and {second} have the same id, {}", event.id));
                }
                Ok(Some(found)) => report.index(format!("{entry} is said to be at {found}")),
                Ok(None) => report.index(format!("{entry} is missing")),
                Err(damage) => report.index(format!("{entry} is in an entry that is damaged: {damage}")),
            }
        });
        watch.tick(Step::Search, position, of_log.to().get())?;
        if report.problems.len() == PROBLEMS_MAX {
            return Ok(());
        }
    }
    let mut strays = Vec::new();
    let mut hear = |said: Said<'_>| {
        if let Said::Entry(entry) = said
            && strays.len() < PROBLEMS_MAX
            && of_log.differ_at(of_index, entry.kind, entry.position)
            && let Ok((event, block)) = event_and_block(&mut events, entry.position)
        {
            let mut is_there = false;
            each(&event, block, &mut scratch, |there| is_there |= there == entry);
            if !is_there {
                strays.push(format!("{entry} is there, which the log does not say"));
            }
        }
    };
    Walk::new(index, of_log.to(), &mut hear).run(index, watch)?;
    strays.into_iter().for_each(|stray| report.index(stray));
    Ok(())
}

fn event_and_block(events: &mut Events<'_>, position: Position) -> Result<(RecordedEvent, Position), Fault> {
    let event = events.at(position)?;
    Ok((event, events.blocks().at(position)?.last))
}

/// Where the index says that something is.
fn look_up(index: &DB, entry: &Entry<'_>) -> Result<Option<Position>, Damage> {
    let unreadable = |error: rocksdb::Error| Damage::new(error.to_string());
    let get = |key: &[u8]| index.get_pinned(key).map_err(unreadable);
    // The chunk that a number of a series is in, or would be.
    let chunk = |series: &[u8], number: u64| {
        let mut chunks = index.raw_iterator_opt(options());
        chunks.seek(keys::numbered(series, number));
        chunks.status().map_err(unreadable)?;
        let found = chunks.item().filter(|(key, _)| keys::number(series, key).is_some());
        Ok::<_, Damage>(found.map(|(_, value)| value.to_vec()))
    };
    let name = || std::str::from_utf8(entry.name).map_err(|_| Damage::new("its text is not UTF-8"));
    let found = match entry.kind {
        Kind::Id => {
            let id = EventId::from_uuid(Uuid::from_slice(entry.name).map_err(|_| Damage::new("it is no id"))?);
            get(&keys::id(id))?.map(|value| Fields::new(&value).varint()).transpose()?
        }
        Kind::Version => match chunk(keys::Series::stream(name()?).as_bytes(), entry.number)? {
            Some(value) => {
                let (first, spots) = parse_versions(&mut Fields::new(&value))?;
                let index = entry.number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
                let spot = index.and_then(|index| spots.get(index));
                if spot.is_some_and(|spot| spot.position == entry.position && spot.block != entry.block) {
                    return Err(Damage::new("it names another block"));
                }
                spot.map(|spot| spot.position.get())
            }
            None => None,
        },
        Kind::Closes => match get(&keys::head(name()?))? {
            Some(value) => {
                let (_, position, closed) = parse_head(&mut Fields::new(&value))?;
                closed.then_some(position.get())
            }
            None => None,
        },
        Kind::Category | Kind::Type | Kind::Tag => match chunk(entry.name, entry.position.get())? {
            Some(value) => {
                let positions = parse_chunk(&mut Fields::new(&value))?;
                positions.into_iter().find(|position| *position == entry.position.get())
            }
            None => None,
        },
    };
    Ok(found.map(Position::new))
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, number, position, .. } = *self;
        let text = || String::from_utf8_lossy(name);
        // A series without its kind and its last separator.
        let series = || String::from_utf8_lossy(&name[1..name.len() - 1]).replace('\0', ".");
        match kind {
            Kind::Id => match Uuid::from_slice(name) {
                Ok(id) => write!(f, "the id {id}")?,
                Err(_) => write!(f, "the id {}", name.escape_ascii())?,
            },
            Kind::Version => write!(f, "version {number} of {}", text())?,
            Kind::Category => write!(f, "the category {}", series())?,
            Kind::Type => write!(f, "the type {}", series())?,
            Kind::Tag => write!(f, "the tag {}", series())?,
            Kind::Closes => write!(f, "the end of {}", text())?,
        }
        write!(f, " at position {position}")
    }
}
