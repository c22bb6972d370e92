//! What writing processes said: the state that the log must agree with. It is kept by the process that controls a test,
//! and so survives whatever happens to the disk that the store is on; [`judge_store`](super::judge_store) compares.
//!
//! An append is acknowledged, or refused, or it may be in the log: handed over without an answer, or answered *unknown*.
//! The order of lines is real time: what was acknowledged before another append was handed over stands before it.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use super::{Kind, Name};
use crate::EventId;

/// What is known of an append.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// What came of it.
    pub ending: Ending,
    /// How often it was handed over.
    times: u64,
    /// The highest position that was acknowledged before it was handed over: it stands behind that.
    pub(super) after: u64,
    /// The head that the next process found, where it had no answer by then: it is not behind that.
    pub(super) until: u64,
}

/// What came of an append, as far as it was said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// It is there, at this position.
    Acknowledged(u64),
    /// It may be there, whole.
    MayBeThere,
    /// It is not.
    NotThere,
}

/// What was said of a store, over any number of processes that wrote one after the other.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// What was handed over.
    pub sent: BTreeMap<Name, Sent>,
    /// What readers have seen, by position.
    pub seen: BTreeMap<u64, String>,
    /// The highest position that was acknowledged.
    acknowledged_to: u64,
    /// Answers of this process.
    pub answers: u64,
    /// Writes that failed in this process: it must acknowledge nothing that it is given afterwards.
    failed: Option<u64>,
    is_served: bool,
    handed_over: BTreeMap<Name, u64>,
    /// What is wrong by itself.
    pub wrong: Vec<String>,
    /// Errors that a process told, which a fault explains.
    pub errors: Vec<String>,
    said: String,
    lines: u64,
}

impl Journal {
    /// Of a store that a server keeps: an append that fails stops nobody, and one whose process has died may be written
    /// when the next one is at work already.
    pub fn of_a_server() -> Self {
        Self { is_served: true, ..Self::default() }
    }

    /// Takes down what a process says. An answer that is no longer `trusted`, since the power may have been cut before it,
    /// is none; what was handed over, and what was refused, counts in any case.
    pub fn take(&mut self, line: &str, trusted: bool) {
        self.lines += 1;
        let _ = writeln!(self.said, "{line}{}", if trusted { "" } else { " (late)" });
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| -> u64 { words[at].parse().unwrap_or_else(|_| panic!("no number in {line}")) };
        match words[0] {
            "opened" => {
                let head = number(1);
                let until = if self.is_served { u64::MAX } else { head };
                for sent in self.sent.values_mut().filter(|sent| sent.ending == Ending::MayBeThere) {
                    sent.until = sent.until.min(until);
                }
                self.saw(head, words[2], trusted);
            }
            "seen" => self.saw(number(1), words[2], trusted),
            "append" => {
                let name = words[1].parse().unwrap();
                self.handed_over.insert(name, self.lines);
                let after = self.acknowledged_to;
                let new = Sent { ending: Ending::MayBeThere, times: 0, after, until: u64::MAX };
                let sent = self.sent.entry(name).or_insert(new);
                (sent.times, sent.until) = (sent.times + 1, u64::MAX);
            }
            "done" | "again" | "refused" | "unknown" | "stopped" | "failed" => {
                self.answers += 1;
                self.answer(line, words[0], words[1].parse().unwrap(), words.get(2), trusted);
            }
            "opening" | "open" | "closing" | "closed" => {}
            "unopened" | "unread" | "unclosed" => self.errors.push(line.to_owned()),
            _ => self.wrong.push(format!("it said {line}")),
        }
    }

    fn answer(&mut self, line: &str, word: &str, name: Name, position: Option<&&str>, trusted: bool) {
        let handed_over = self.handed_over.remove(&name).unwrap_or_default();
        let sent = self.sent.get_mut(&name).unwrap();
        let is_first = !matches!(sent.ending, Ending::Acknowledged(_));
        match (word, &sent.ending) {
            ("done" | "again", _) => {
                let position: u64 = position.unwrap().parse().unwrap();
                if name.kind() == Kind::Refused {
                    self.wrong.push(format!("it said {line}, which must be refused"));
                }
                if self.failed.is_some_and(|failed| failed < handed_over) {
                    self.wrong.push(format!("it said {line}, handed over after a write had failed"));
                }
                match sent.ending {
                    Ending::Acknowledged(before) if before != position || word == "done" => {
                        self.wrong.push(format!("it said {line}, acknowledged before at {before}"));
                    }
                    _ if trusted => {
                        sent.ending = Ending::Acknowledged(position);
                        self.acknowledged_to = self.acknowledged_to.max(position);
                    }
                    _ => {}
                }
            }
            ("refused", _) => match (name.kind(), is_first) {
                (Kind::Refused | Kind::Contested, true) => sent.ending = Ending::NotThere,
                _ => self.wrong.push(format!("it said {line}, which no condition forbids")),
            },
            // Where it was handed over before, that is as it was.
            ("stopped" | "failed", Ending::MayBeThere) if sent.times == 1 => sent.ending = Ending::NotThere,
            _ => {}
        }
        if matches!(word, "unknown" | "stopped" | "failed") {
            self.errors.push(line.to_owned());
        }
        if matches!(word, "unknown" | "stopped") && !self.is_served {
            self.failed.get_or_insert(self.lines);
        }
    }

    fn saw(&mut self, position: u64, event: &str, trusted: bool) {
        if trusted && position > 0 {
            let before = self.seen.entry(position).or_insert_with(|| event.to_owned());
            if before != event {
                self.wrong.push(format!("position {position} held {before}, and then {event}"));
            }
        }
    }

    /// A process has ended, and another will open what it left.
    pub fn next_process(&mut self) {
        (self.answers, self.failed) = (0, None);
        self.handed_over.clear();
    }

    /// Appends of which it is not known whether they are there, and which may be sent again.
    pub fn unknown(&self) -> Vec<Name> {
        let unknown = self.sent.iter().filter(|(_, sent)| sent.ending == Ending::MayBeThere);
        unknown.map(|(name, _)| *name).filter(|name| name.kind() != Kind::Refused).collect()
    }

    /// Every id that an event in the log may have.
    pub fn ids(&self) -> impl Iterator<Item = EventId> {
        self.sent.keys().flat_map(|name| (0..name.append().events().len() as u8).map(|part| name.id(part)))
    }

    /// All that was said, a line each.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Keeps all that was said as a file.
    pub fn save(&self, path: &Path) {
        fs::write(path, &self.said).unwrap();
    }
}
