//! Input that is meant to break a store: text that databases, paths, queries and terminals trip over, and numbers at
//! their ends. Tests of any store may draw on it.

use rand::{Rng, seq::IndexedRandom};

use super::{Harness, fixture::*};
use crate::{
    Append, Category, Condition, ContentType, Direction, EventId, EventType, ExpectedVersion, Filter, Metadata,
    NewEvent, Position, Query, ReadLog, ReadStream, StreamId, Tag, Version,
};

/// Texts by what is strange about them. Some are no valid names, which is for the types of names to say.
pub fn texts() -> Vec<(&'static str, String)> {
    let fixed = [
        ("empty", ""),
        ("a space", " "),
        ("spaces around", " a-b "),
        ("a NUL", "a-\0b"),
        ("a line break", "a-b\nc"),
        ("an escape", "a-\u{1b}[2J"),
        ("a control of Latin-1", "a-\u{85}"),
        ("only a dash", "-"),
        ("dashes", "a--b-"),
        ("nothing before the dash", "-a"),
        ("nothing behind the dash", "a-"),
        ("dots", "..-.."),
        ("a path up", "../../etc/passwd-1"),
        ("slashes", "a/b\\c-/"),
        ("quotes", "a'b\"c`d-''"),
        ("SQL", "a-'; DROP TABLE events; --"),
        ("wildcards", "a%b_c*?[x]-%"),
        ("braces", "a{}{0}$1${x}-#{y}"),
        ("markup", "a<b>&amp;-<script>"),
        ("a colon and a dot", "a:b.c-d:e.f"),
        ("an emoji", "🦀-👩‍👩‍👧‍👦"),
        ("right to left", "שלום-مرحبا"),
        ("direction marks", "a\u{202e}b-\u{200f}c"),
        ("nothing to see", "\u{200b}-\u{feff}"),
        ("composed", "caf\u{e9}-1"),
        ("decomposed", "cafe\u{301}-1"),
        ("the last of the planes", "\u{10ffff}-\u{fffd}\u{ffff}"),
        ("a Turkish i", "İı-ß"),
        ("upper case", "A-B"),
        ("digits", "1-2"),
        ("null", "null-NULL"),
    ];
    let mut texts: Vec<_> = fixed.into_iter().map(|(what, text)| (what, text.to_owned())).collect();
    texts.push(("255 bytes", format!("a-{}", "x".repeat(253))));
    texts.push(("255 bytes of two each, and one", format!("a{}", "é".repeat(127))));
    texts.push(("256 bytes", format!("a-{}", "x".repeat(254))));
    texts.push(("a mebibyte", format!("a-{}", "x".repeat(1 << 20))));
    texts
}

/// A number, most often one at which something ends.
pub fn number(random: &mut impl Rng, head: u64) -> u64 {
    let ends = [0, 1, 2, head.saturating_sub(1), head, head + 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    if random.random_bool(0.7) { *ends.choose(random).expect("some") } else { random.random_range(0..head + 5) }
}

/// An append with anything in it that its types let through.
pub fn append(random: &mut impl Rng, head: u64) -> Append {
    let mut append = Append::new();
    for _ in 0..random.random_range(0..5) {
        let mut event = new_event(random);
        if random.random_bool(0.02) {
            event.id = EventId::NIL;
        }
        if let Some((_, twice)) = append.events().first().filter(|_| random.random_bool(0.05)) {
            event.id = twice.id;
        }
        append = append.event(stream_id(random), event);
    }
    for _ in 0..random.random_range(0..3) {
        let expected = match random.random_range(0..5) {
            0 => ExpectedVersion::Any,
            1 => ExpectedVersion::NoStream,
            2 => ExpectedVersion::Exists,
            _ => ExpectedVersion::Exact(Version::new(number(random, head))),
        };
        append = append.check(stream_id(random), expected);
    }
    if random.random_bool(0.3) {
        let query = match random.random_range(0..4) {
            0 => Query::default(),
            _ => Query::from(hostile_tag(random)),
        };
        append = append.require(Condition::none_after(query, Position::new(number(random, head))));
    }
    if random.random_bool(0.03) {
        append = append.close(stream_id(random));
    }
    append
}

/// A read of the log to any extent.
pub fn read_log(random: &mut impl Rng, head: u64) -> ReadLog {
    let filter = match random.random_range(0..5) {
        0 => Filter::from(hostile_tag(random)),
        1 => Filter::categories([stream_id(random).category()]),
        2 => Filter::stream_prefix(valid(random, |text| Filter::stream_prefix(text).map(|_| text.to_owned())))
            .expect("it was valid"),
        _ => Filter::all(),
    };
    let mut read = ReadLog::matching(filter);
    if random.random() {
        read = read.backwards();
    }
    read = read.from(Position::new(number(random, head))).to(Position::new(number(random, head)));
    read.limit(usize::try_from(number(random, head)).unwrap_or(usize::MAX))
}

/// A read of a stream to any extent.
pub fn read_stream(random: &mut impl Rng, head: u64) -> ReadStream {
    let mut read = ReadStream::new(stream_id(random));
    if random.random() {
        read = read.backwards();
    }
    read = read.from(Version::new(number(random, head)));
    read.limit(usize::try_from(number(random, head)).unwrap_or(usize::MAX))
}

/// One of the texts that a type of names takes.
fn valid<T, E>(random: &mut impl Rng, parse: impl Fn(&str) -> Result<T, E>) -> T {
    let texts = texts();
    loop {
        if let Ok(name) = parse(&texts.choose(random).expect("some").1) {
            return name;
        }
    }
}

/// A stream with one of the names.
pub fn stream_id(random: &mut impl Rng) -> StreamId {
    valid(random, |text| text.parse::<StreamId>())
}

fn hostile_tag(random: &mut impl Rng) -> Tag {
    valid(random, |text| Tag::new(text))
}

fn new_event(random: &mut impl Rng) -> NewEvent {
    let bytes = *[0, 1, 100, 4_096, 70_000].choose(random).expect("some");
    let data: Vec<u8> = (0..bytes).map(|_| random.random()).collect();
    let event_type = valid(random, |text| EventType::new(text));
    let mut event = NewEvent::new(event_type, ContentType::JSON, data);
    event.schema_version = *[0, 1, 1, 2, u32::MAX].choose(random).expect("some");
    for _ in 0..random.random_range(0..3) {
        event.tags.push(hostile_tag(random));
    }
    if random.random_bool(0.02) {
        event.tags = (0..random.random_range(63..67)).map(|n| tag(&format!("t{n}"))).collect();
    }
    if random.random_bool(0.3) {
        let texts = texts();
        let (key, value) = (&texts.choose(random).expect("some").1, &texts.choose(random).expect("some").1);
        event.metadata = Metadata::new().with(key.clone(), value.clone()).unwrap_or_default();
    }
    event
}

/// Each text, as whatever name it may be, is found by it and is what it was.
pub(super) async fn l8_hostile_text_comes_back_as_it_was(h: &mut dyn Harness) {
    let store = h.store();
    let mut written = Vec::new();
    for (what, text) in texts() {
        let Ok(stream) = text.parse::<StreamId>() else { continue };
        let mut event = event("Happened");
        event.event_type = EventType::new(text.clone()).unwrap_or(event.event_type);
        event.tags.extend(Tag::new(text.clone()));
        event.metadata = Metadata::new().with(text.clone(), text.clone()).unwrap_or_default();
        event.data = text.clone().into();
        written.push((what, appended(&store, Append::to(stream, ExpectedVersion::NoStream, [event])).await.events));
    }
    assert!(written.len() > 15, "most of the texts are names");
    // That the last append is kept is another clause's.
    let pad = stream("a-the last");
    appended(&store, to(pad.as_str(), events(1))).await;
    drop(store);
    h.reopen(crate::Limits::default()).await;
    let store = h.store();
    for (what, events) in &written {
        let recorded = &events[0];
        assert_eq!(stream_of(&store, ReadStream::new(recorded.stream.clone())).await, *events, "{what}");
        assert_eq!(store.event(recorded.id).await.unwrap().as_ref(), Some(recorded), "{what}");
        for tag in &recorded.tags {
            assert_eq!(read(&store, ReadLog::matching(tag.clone())).await, *events, "{what}, by its tag");
        }
        let by_prefix = Filter::stream_prefix(recorded.stream.as_str()).expect("the name of a stream is a prefix");
        let of_prefix = written.iter().flat_map(|(_, events)| events).cloned();
        let of_prefix = of_prefix.filter(|event| event.stream.as_str().starts_with(recorded.stream.as_str()));
        assert_eq!(
            read(&store, ReadLog::matching(by_prefix)).await,
            of_prefix.collect::<Vec<_>>(),
            "{what}, by prefix"
        );
    }
    let mut names: Vec<&StreamId> = written.iter().map(|(_, events)| &events[0].stream).collect();
    names.sort();
    let mut listed = store.streams(None, None, usize::MAX).await.unwrap();
    listed.retain(|stream| *stream != pad);
    assert!(listed.iter().eq(names.iter().copied()), "streams are listed by the bytes of their names: {listed:?}");
    let mut categories: Vec<Category> = names.iter().map(|name| name.category()).collect();
    categories.sort();
    categories.dedup();
    assert_eq!(store.categories(None, usize::MAX).await.unwrap(), categories);
}

/// Reads from anywhere to anywhere, of as many as there can be or none.
pub(super) async fn l6_reads_of_any_extent_are_answered(h: &mut dyn Harness) {
    const EVENTS: u64 = 5;
    let store = h.store();
    write(&store, "a-1", EVENTS as usize).await;
    let ends = [0, 1, 3, EVENTS, EVENTS + 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
    let limits = [1, 2, EVENTS as usize, usize::MAX];
    for direction in [Direction::Forwards, Direction::Backwards] {
        for (from, limit) in ends.into_iter().flat_map(|from| limits.map(|limit| (from, limit))) {
            let within = |low: u64, high: u64| -> Vec<u64> {
                let mut wanted: Vec<u64> = (1..=EVENTS).filter(|n| (low..=high).contains(n)).collect();
                if direction == Direction::Backwards {
                    wanted.reverse();
                }
                wanted.truncate(limit);
                wanted
            };
            let mut of_stream = ReadStream::new(stream("a-1")).from(Version::new(from)).limit(limit);
            of_stream.direction = direction;
            let found = versions(&stream_of(&store, of_stream.clone()).await);
            let wanted = if direction == Direction::Forwards { within(from, u64::MAX) } else { within(0, from) };
            assert_eq!(found, wanted, "{of_stream:?}");
            for to in ends {
                let mut log = ReadLog::all().from(Position::new(from)).to(Position::new(to)).limit(limit);
                log.direction = direction;
                let found = positions(&read(&store, log.clone()).await);
                let wanted = if direction == Direction::Forwards { within(from, to) } else { within(to, from) };
                assert_eq!(found, wanted, "{log:?}");
            }
        }
    }
}
