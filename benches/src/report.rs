//! The table: for each load and subject the median of its rounds, and its ratio to the file.

use std::{collections::BTreeMap, fmt};

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::{round::Measured, subject::Kind};

/// Rounds of each load and subject, in the order they were measured in.
#[derive(Default)]
pub struct Report(BTreeMap<(u32, u32, Kind), Vec<Measured>>);

impl Report {
    pub fn add(&mut self, measured: Measured) {
        let key = (measured.events_per_append, measured.callers, measured.subject);
        self.0.entry(key).or_default().push(measured);
    }

    /// The median of a subject's rate over that of the file in the same round: the disk changes from round to round.
    fn ratio_to_file(&self, events_per_append: u32, callers: u32, rounds: &[Measured]) -> Option<f64> {
        let files = self.0.get(&(events_per_append, callers, Kind::File))?;
        Some(median(rounds.iter().zip(files).map(|(round, file)| round.events_per_s / file.events_per_s)))
    }
}

/// Of two in the middle, their mean.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    (values[low] + values[high]) / 2.0
}

/// A number with its thousands told apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header([
            "events an append",
            "callers",
            "subject",
            "events/s",
            "min–max",
            "of file",
            "p50 µs",
            "p99 µs",
            "RSS MiB",
            "bytes an event",
        ]);
        for column in [0, 1, 3, 4, 5, 6, 7, 8, 9] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for ((events_per_append, callers, subject), rounds) in &self.0 {
            let of = |field: fn(&Measured) -> f64| median(rounds.iter().map(field));
            let rates = || rounds.iter().map(|round| round.events_per_s);
            let (min, max) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
            let ratio = self.ratio_to_file(*events_per_append, *callers, rounds);
            table.add_row([
                events_per_append.to_string(),
                callers.to_string(),
                subject.to_string(),
                grouped(of(|round| round.events_per_s)),
                format!("{}–{}", grouped(min), grouped(max)),
                ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                grouped(of(|round| round.p50_us)),
                grouped(of(|round| round.p99_us)),
                grouped(of(|round| round.rss_mib)),
                grouped(of(|round| round.bytes_per_event)),
            ]);
        }
        table.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(subject: Kind, events_per_s: f64) -> Measured {
        Measured {
            subject,
            workload: "append".into(),
            callers: 16,
            events_per_append: 1,
            durability: "fdatasync".into(),
            events_per_s,
            p50_us: 400.0,
            p99_us: 1_234.0,
            rss_mib: 12.0,
            bytes_per_event: 272.0,
        }
    }

    #[test]
    fn a_row_has_the_median_its_spread_and_the_ratio_of_equal_rounds() {
        let mut report = Report::default();
        for (file, store) in [(40_000.0, 10_000.0), (10_000.0, 8_000.0), (20_000.0, 20_000.0)] {
            report.add(measured(Kind::Indelible, store));
            report.add(measured(Kind::File, file));
        }
        let text = report.to_string();
        let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().into()).collect() };
        let row = |subject: &str| text.lines().map(cells).find(|cells| cells[3] == subject).expect("a row");
        let expected = ["1", "16", "indelible-rocksdb", "10,000", "8,000–20,000", "0.80", "400", "1,234", "12", "272"];
        assert_eq!(row("indelible-rocksdb")[1..11], expected);
        assert_eq!(row("file")[4..7], ["20,000", "10,000–40,000", "1.00"]);
    }

    #[test]
    fn medians_and_thousands() {
        assert_eq!(median([3.0]), 3.0);
        assert_eq!(median([9.0, 1.0, 4.0]), 4.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!([0.4, 999.0, 1_000.0, 1_234_567.0].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
