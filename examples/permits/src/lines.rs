//! A log as it comes: CloudEvents 1.0 in JSON, one a line. It is read in chunks, so that any size of it takes as much memory.

use std::{
    collections::HashMap,
    io::{self, BufRead, Read},
};

use indelible::{Aggregate, Timestamp};
use serde::{Deserialize, Serialize};

use crate::case::{Case, Data, Step};

/// The longest line: an event that holds it fits into the store.
const LINE_BYTES_MAX: usize = 1_000_000;
/// The most lines, and about the most bytes, of a chunk. The more there are, the more steps of a case are in one append.
const CHUNK_LINES_MAX: usize = 8_192;
const CHUNK_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The attributes of a CloudEvent that count here; others are passed over.
#[derive(Serialize, Deserialize)]
struct CloudEvent {
    specversion: String,
    id: String,
    source: String,
    #[serde(rename = "type")]
    activity: String,
    subject: String,
    time: Timestamp,
    #[serde(default)]
    data: Data,
}

/// Some lines, with their numbers.
#[derive(Debug, Default)]
pub struct Chunk {
    pub lines: u64,
    pub bytes: u64,
    /// The steps of each case, in order.
    pub cases: HashMap<String, Vec<(u64, Step)>>,
    pub broken: Vec<Broken>,
}

/// A line that nothing came of.
#[derive(Debug, PartialEq)]
pub struct Broken {
    pub line: u64,
    pub why: String,
}

pub struct Lines<R> {
    log: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(log: R) -> Self {
        Self { log, number: 0 }
    }

    /// The next chunk; `None` at the end.
    pub fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        let (mut chunk, mut line) = (Chunk::default(), Vec::new());
        for _ in 0..CHUNK_LINES_MAX {
            line.clear();
            let read = self.log.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            self.number += 1;
            chunk.bytes += read as u64;
            let is_too_long = read > LINE_BYTES_MAX && !line.ends_with(b"\n");
            let parsed = if is_too_long {
                chunk.bytes += self.log.skip_until(b'\n')? as u64;
                Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))
            } else if line.trim_ascii().is_empty() {
                continue;
            } else {
                parse(line.trim_ascii())
            };
            chunk.lines += 1;
            match parsed {
                Ok((case, step)) => chunk.cases.entry(case).or_default().push((self.number, step)),
                Err(why) => chunk.broken.push(Broken { line: self.number, why }),
            }
            if chunk.bytes >= CHUNK_BYTES_MAX as u64 {
                break;
            }
        }
        Ok((chunk.bytes > 0).then_some(chunk))
    }
}

/// The case, and the step in it.
fn parse(line: &[u8]) -> Result<(String, Step), String> {
    let event: CloudEvent = serde_json::from_slice(line).map_err(|error| {
        // There is one line, so its number would only confuse.
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        format!("{what}, at byte {}", error.column())
    })?;
    let CloudEvent { specversion, id, source, activity, subject, time: occurred_at, data } = event;
    if specversion != "1.0" {
        return Err(format!("its specversion is {specversion:?}, and not \"1.0\""));
    }
    for (name, attribute) in [("id", &id), ("source", &source), ("type", &activity), ("subject", &subject)] {
        if attribute.is_empty() {
            return Err(format!("its {name} is empty"));
        }
    }
    Case::stream(&subject).map_err(|error| format!("its subject: {error}"))?;
    Ok((subject, Step { id, source, activity, occurred_at, data }))
}

/// The line of a step in a case.
pub fn line(case: &str, step: &Step) -> serde_json::Result<String> {
    let (specversion, subject, Step { id, source, activity, occurred_at: time, data }) =
        ("1.0".into(), case.into(), step.clone());
    serde_json::to_string(&CloudEvent { specversion, id, source, activity, subject, time, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"specversion":"1.0","id":"1","source":"/tests","type":"Receive","subject":"a-1","time":"2026-03-01T08:00:00Z","extension":1}"#;

    fn read(log: impl AsRef<[u8]>) -> Chunk {
        let mut lines = Lines::new(log.as_ref());
        let chunk = lines.next_chunk().unwrap().unwrap();
        assert!(lines.next_chunk().unwrap().is_none());
        chunk
    }

    #[test]
    fn a_broken_line_is_told_and_the_rest_goes_on() {
        let breaks: [(&str, &str, &str); 9] = [
            ("}", "", "EOF while parsing an object, at byte 124"),
            (r#","subject":"a-1""#, "", "missing field `subject`"),
            (r#""a-1""#, r#""""#, "its subject is empty"),
            (r#""a-1""#, r#""a\u0007""#, "its subject: "),
            (r#""a-1""#, "null", "invalid type: null, expected a string"),
            (r#""Receive""#, r#""""#, "its type is empty"),
            (r#""1.0""#, r#""0.3""#, r#"its specversion is "0.3", and not "1.0""#),
            ("08:00:00Z", "08:00:00", "invalid time: "),
            ("2026-03-01T08:00:00Z", "yesterday", "invalid time: "),
        ];
        for (from, to, why) in breaks {
            let chunk = read(format!("{LINE}\n\n{}\r\n{LINE}", LINE.replacen(from, to, 1)));
            let [broken] = &chunk.broken[..] else { panic!("{:?}", chunk.broken) };
            assert_eq!(broken.line, 3);
            assert!(broken.why.starts_with(why), "{}", broken.why);
            assert_eq!(chunk.cases["a-1"].iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4]);
            assert_eq!(chunk.lines, 3);
        }
        let mut log = LINE.as_bytes().to_vec();
        log[20] = 0xff;
        assert_eq!(read(log).broken.len(), 1);
    }

    #[test]
    fn no_line_is_too_long_to_be_passed_over() {
        let long = "x".repeat(3 * LINE_BYTES_MAX);
        let chunk = read(format!("{long}\n{LINE}\n{long}"));
        let why = || "it is longer than 1000000 bytes".to_owned();
        assert_eq!(chunk.broken, [Broken { line: 1, why: why() }, Broken { line: 3, why: why() }]);
        assert_eq!(chunk.bytes, 6 * LINE_BYTES_MAX as u64 + 2 + LINE.len() as u64);
        assert_eq!(chunk.cases.len(), 1);
    }

    #[test]
    fn a_chunk_ends_where_memory_would() {
        let log = format!("{LINE}\n").repeat(CHUNK_LINES_MAX + 1);
        let mut lines = Lines::new(log.as_bytes());
        let sizes = std::iter::from_fn(|| lines.next_chunk().unwrap()).map(|chunk| chunk.lines);
        assert_eq!(sizes.collect::<Vec<_>>(), [CHUNK_LINES_MAX as u64, 1]);
    }
}
