//! What the fault tests tell: a sentence on the screen, and a line of JSON for a table, in the file that
//! `INDELIBLE_REPORT` names.

use std::{collections::BTreeMap, env, fmt::Display, fs::File, io::Write};

use serde::Serialize;

use super::Verdict;

/// A line of the table.
#[derive(Debug, Serialize)]
pub struct Line<'a> {
    /// The fault's name.
    pub fault: &'a str,
    /// From which numbers it went, where chance took part: `INDELIBLE_SEED` repeats it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How often it was meant to happen.
    pub cycles: u64,
    /// How often it was seen to.
    pub seen: u64,
    /// Appends.
    pub acknowledged: u64,
    /// Events.
    pub lost: u64,
    /// Positions and versions.
    pub holes: u64,
    /// Answers.
    pub wrong: u64,
    /// What else the rig found: that which shows that it can find something.
    pub controls: &'a str,
}

impl<'a> Line<'a> {
    /// What the judge found.
    pub fn new(fault: &'a str, cycles: u64, seen: u64, verdict: &Verdict, controls: &'a str) -> Self {
        let (lost, holes, wrong) = (verdict.lost, verdict.holes, verdict.wrong_answers());
        Self { fault, seed: None, cycles, seen, acknowledged: verdict.acknowledged, lost, holes, wrong, controls }
    }

    /// Of a test that ends with the first thing that is wrong.
    pub fn clean(fault: &'a str, cycles: u64, seen: u64, acknowledged: u64, controls: &'a str) -> Self {
        Self::new(fault, cycles, seen, &Verdict { acknowledged, ..Verdict::default() }, controls)
    }

    /// With the numbers that it went from.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Tells it.
    pub fn print(&self) {
        println!("{self:?}");
        write(self);
    }
}

/// How often what was answered.
pub fn counts(answers: &BTreeMap<&str, u64>) -> String {
    answers.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}

/// Whether the seeded bug of a name was caught by the test of a fault.
///
/// # Panics
/// Where it was not.
pub fn seeded(fault: &str, bug: &str, caught: bool, how: &dyn Display) {
    #[derive(Serialize)]
    struct Seeded<'a> {
        fault: &'a str,
        bug: &'a str,
        caught: bool,
    }
    write(&Seeded { fault, bug, caught });
    assert!(caught, "{fault} does not find the bug {bug}: {how}");
    println!("{fault} finds the bug {bug}: {how}");
}

fn write(line: &impl Serialize) {
    if let Some(report) = env::var_os("INDELIBLE_REPORT") {
        let mut report = File::options().create(true).append(true).open(report).expect("a file that can be written");
        let line = serde_json::to_string(line).expect("a line of JSON") + "\n";
        report.write_all(line.as_bytes()).expect("a file that can be written");
    }
}
