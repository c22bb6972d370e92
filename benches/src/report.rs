//! The tables: one a kind of workload, with the median of its rounds for each load and subject, and its ratio to the ceilings.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use indelible_bench::{
    job::{Ids, Measured},
    subject::Kind,
};

use crate::plot::Rates;

/// What is compared with one another: all but the subject is the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Which of its kind of workloads it is.
    variant: String,
    preload: u64,
    events_per_append: u64,
    callers: u32,
}

/// Rounds of each load and subject, in the order they were measured in.
type Rounds = BTreeMap<(Load, Kind), Vec<Measured>>;

#[derive(Default)]
pub struct Report {
    /// By kind of workload, in the order they were measured in.
    workloads: Vec<(String, Rounds)>,
    missing: BTreeSet<String>,
}

impl Report {
    pub fn add(&mut self, measured: Measured) {
        let (name, variant) = measured.workload.split_once('-').unwrap_or((&measured.workload, ""));
        let index = self.workloads.iter().position(|(workload, _)| workload == name).unwrap_or_else(|| {
            self.workloads.push((name.into(), Rounds::new()));
            self.workloads.len() - 1
        });
        let Measured { preload, events_per_append, callers, subject, .. } = measured;
        let variant = match measured.ids {
            Ids::V7 => variant.into(),
            Ids::V4 => format!("{variant} v4 ids").trim_start().into(),
        };
        let load = Load { variant, preload, events_per_append, callers };
        self.workloads[index].1.entry((load, subject)).or_default().push(measured);
    }

    /// What was to be measured and is not, and why.
    pub fn missing(&mut self, what: String) {
        self.missing.insert(what);
    }

    /// The median rates of single-event appends to the smallest log.
    pub fn rates_by_callers(&self) -> Rates {
        let mut rates = Rates::new();
        for (_, rounds) in self.workloads.iter().filter(|(workload, _)| workload == "append") {
            let least = rounds.keys().map(|(load, _)| load.preload).min();
            for ((load, subject), rounds) in rounds {
                if load.events_per_append == 1 && Some(load.preload) == least {
                    let rate = median(rounds.iter().filter_map(Measured::rate));
                    rates.entry(*subject).or_default().extend(rate.map(|rate| (load.callers, rate)));
                }
            }
        }
        rates
    }
}

/// Of two in the middle, their mean.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[low] + values[high]) / 2.0)
}

/// The median of ratios within the same round: the disk changes from round to round.
fn ratio(rounds: &[Measured], others: Option<&Vec<Measured>>, of: fn(&Measured) -> Option<f64>) -> Option<f64> {
    let ratio = |(round, other): (&Measured, &Measured)| Some(of(round)? / of(other)?);
    median(rounds.iter().zip(others?).filter_map(ratio))
}

/// A number with its thousands told apart; nothing where there is none.
fn grouped(value: Option<f64>) -> String {
    let Some(value) = value else { return String::new() };
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

fn hundredths(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.2}"))
}

/// A column: its head, and its cell for the rounds of a subject, beside all of the same workload.
type Column = (&'static str, fn(&Rounds, &Load, &[Measured]) -> String);

const COLUMNS: [Column; 20] = [
    ("", |_, load, _| load.variant.replace('-', " ")),
    ("log", |_, load, _| grouped(Some(load.preload as f64))),
    ("events each", |_, load, _| load.events_per_append.to_string()),
    ("callers", |_, load, _| load.callers.to_string()),
    ("subject", |_, _, rounds| rounds[0].subject.to_string()),
    ("events/s", |_, _, rounds| grouped(median(rounds.iter().filter_map(|round| round.events_per_s)))),
    ("min–max", |_, _, rounds| {
        let values = || rounds.iter().filter_map(|round| round.events_per_s.or(round.p50_us));
        format!("{}–{}", grouped(values().reduce(f64::min)), grouped(values().reduce(f64::max)))
    }),
    ("of file", |all, load, rounds| of_kind(all, load, rounds, Kind::File)),
    ("of rocksdb", |all, load, rounds| of_kind(all, load, rounds, Kind::Rocksdb)),
    ("of umadb", |all, load, rounds| of_kind(all, load, rounds, Kind::Umadb)),
    ("of autocommit", |all, load, rounds| of_kind(all, load, rounds, Kind::PgAutocommit)),
    ("of batched", |all, load, rounds| of_kind(all, load, rounds, Kind::PgBatched)),
    ("of by hand", |all, load, rounds| of_kind(all, load, rounds, Kind::PgByHand)),
    ("p50 µs", |_, _, rounds| grouped(median(rounds.iter().filter_map(|round| round.p50_us)))),
    ("p99 µs", |all, load, rounds| tail(all, load, rounds, |round| round.p99_us)),
    ("p99.9 µs", |all, load, rounds| tail(all, load, rounds, |round| round.p999_us)),
    ("RSS MiB", |_, _, rounds| grouped(median(rounds.iter().map(|round| round.rss_mib)))),
    ("at the end", |_, _, rounds| grouped(median(rounds.iter().map(|round| round.rss_end_mib)))),
    ("bytes an event", |_, _, rounds| {
        let settled = median(rounds.iter().filter_map(|round| round.bytes_per_event));
        let closed = median(rounds.iter().filter_map(|round| round.bytes_per_event_closed));
        let of_indexes = median(rounds.iter().filter_map(|round| round.bytes_per_event_of_indexes));
        match (closed, of_indexes) {
            (None, None) => grouped(settled),
            (Some(_), _) => format!("{} ({} at closing)", grouped(settled), grouped(closed)),
            (None, Some(_)) => format!("{} ({} in indexes)", grouped(settled), grouped(of_indexes)),
        }
    }),
    ("written an event", |_, _, rounds| grouped(median(rounds.iter().filter_map(|round| round.written_per_event)))),
];

fn of_kind(all: &Rounds, load: &Load, rounds: &[Measured], kind: Kind) -> String {
    hundredths(ratio(rounds, all.get(&(load.clone(), kind)), Measured::rate))
}

/// A high quantile, and how many times the file's median it is.
fn tail(all: &Rounds, load: &Load, rounds: &[Measured], of: fn(&Measured) -> Option<f64>) -> String {
    let text = grouped(median(rounds.iter().filter_map(of)));
    let file = all.get(&(load.clone(), Kind::File)).into_iter().flatten().zip(rounds);
    match median(file.filter_map(|(file, round)| Some(of(round)? / file.p50_us?))) {
        Some(times) => format!("{text} ({times:.1}×)"),
        None => text,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (workload, all) in &self.workloads {
            let cells = all.iter().map(|((load, _), rounds)| COLUMNS.map(|(_, cell)| cell(all, load, rounds)));
            write_table(f, workload, &COLUMNS.map(|(head, _)| head), cells.collect())?;
            match workload.as_str() {
                "append" => write_sustained(f, all)?,
                "processes" => write_kept(f, "the rate of two processes over that of one", all, |load| {
                    let one = || Load { variant: "one".into(), callers: load.callers / 2, ..load.clone() };
                    (load.variant == "two").then(one)
                })?,
                "project" => write_kept(f, "the rate of four partitions over that of one", all, |load| {
                    let one = load.variant.strip_suffix("-by-4")?;
                    Some(Load { variant: one.into(), ..load.clone() })
                })?,
                "snapshot" => write_kept(f, "the rate with a snapshot open over that without", all, |load| {
                    (load.variant != "none").then(|| Load { variant: "none".into(), ..load.clone() })
                })?,
                "timers" => write_kept(f, "the rate with timers pending over that without", all, |load| {
                    (load.variant != "none").then(|| Load { variant: "none".into(), ..load.clone() })
                })?,
                _ => {}
            }
        }
        self.missing.iter().try_for_each(|what| writeln!(f, "{what}"))
    }
}

/// Without the columns that are empty.
fn write_table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    heads: &[&str; N],
    rows: Vec<[String; N]>,
) -> fmt::Result {
    let used: Vec<usize> = (0..N).filter(|column| rows.iter().any(|row| !row[*column].is_empty())).collect();
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(used.iter().map(|column| heads[*column]));
    table.add_rows(rows.iter().map(|row| used.iter().map(|column| &row[*column])));
    for (column, &index) in table.column_iter_mut().zip(&used) {
        if !["", "subject"].contains(&heads[index]) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(f, "{name}\n\n{table}\n")
}

/// What is left of each rate when the log is larger.
fn write_sustained(f: &mut fmt::Formatter<'_>, all: &Rounds) -> fmt::Result {
    let sizes: BTreeSet<u64> = all.keys().map(|(load, _)| load.preload).filter(|events| *events > 0).collect();
    let (Some(&small), Some(&large)) = (sizes.first(), sizes.last()) else { return Ok(()) };
    if small == large {
        return Ok(());
    }
    let name =
        format!("the rate with {} events over that with {}", grouped(Some(large as f64)), grouped(Some(small as f64)));
    write_kept(f, &name, all, |load| (load.preload == large).then(|| Load { preload: small, ..load.clone() }))
}

/// The rates of some loads over those of others that are easier, each of the same subject in the same round.
fn write_kept(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    all: &Rounds,
    easier: impl Fn(&Load) -> Option<Load>,
) -> fmt::Result {
    let row = |((load, subject), rounds): (&(Load, Kind), &Vec<Measured>)| {
        let ratio = ratio(rounds, all.get(&(easier(load)?, *subject)), Measured::rate)?;
        let (variant, each) = (load.variant.replace('-', " "), load.events_per_append.to_string());
        Some([variant, each, load.callers.to_string(), subject.to_string(), format!("{ratio:.2}")])
    };
    let rows: Vec<_> = all.iter().filter_map(row).collect();
    if rows.is_empty() {
        return Ok(());
    }
    write_table(f, name, &["", "events each", "callers", "subject", "ratio"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(subject: Kind, preload: u64, events_per_s: f64) -> Measured {
        Measured {
            subject,
            workload: "append".into(),
            callers: 16,
            events_per_append: 1,
            durability: "fdatasync".into(),
            events_per_s: Some(events_per_s),
            p50_us: Some(400.0),
            p99_us: Some(1_234.0),
            p999_us: Some(2_000.0),
            rss_mib: 12.0,
            rss_end_mib: 11.0,
            bytes_per_event: Some(272.0),
            bytes_per_event_closed: None,
            bytes_per_event_of_indexes: None,
            written_per_event: None,
            preload,
            ids: Ids::V7,
            operations: 1,
        }
    }

    fn cells(line: &str) -> Vec<&str> {
        line.split('|').map(str::trim).collect()
    }

    #[test]
    fn a_row_has_the_median_its_spread_and_the_ratio_of_equal_rounds() {
        let mut report = Report::default();
        for (file, store) in [(40_000.0, 10_000.0), (10_000.0, 8_000.0), (20_000.0, 20_000.0)] {
            report.add(measured(Kind::IndelibleRocksdb, 0, store));
            report.add(measured(Kind::File, 0, file));
        }
        report.missing("umadb: missing".into());
        let text = report.to_string();
        let row = |subject: &str| text.lines().map(cells).find(|cells| cells.get(4) == Some(&subject)).expect("a row");
        let expected = [
            "0",
            "1",
            "16",
            "indelible-rocksdb",
            "10,000",
            "8,000–20,000",
            "0.80",
            "400",
            "1,234 (3.1×)",
            "2,000 (5.0×)",
            "12",
            "11",
            "272",
        ];
        assert_eq!(row("indelible-rocksdb")[1..14], expected);
        assert_eq!(row("file")[5..8], ["20,000", "10,000–40,000", "1.00"]);
        assert!(text.contains("umadb: missing") && !text.contains("of rocksdb"), "{text}");
        assert_eq!(report.rates_by_callers()[&Kind::File], BTreeMap::from([(16, 20_000.0)]));
    }

    #[test]
    fn what_is_left_on_a_larger_log_is_told() {
        let mut report = Report::default();
        for (preload, rate) in [(0, 9.0), (1_000_000, 1_000.0), (20_000_000, 900.0)] {
            report.add(measured(Kind::Rocksdb, preload, rate));
        }
        let text = report.to_string();
        assert!(text.contains("the rate with 20,000,000 events over that with 1,000,000"), "{text}");
        assert_eq!(cells(text.trim().lines().last().expect("a row"))[1..5], ["1", "16", "rocksdb", "0.90"]);
    }

    #[test]
    fn a_round_in_company_is_compared_with_the_same_round_without() {
        let mut report = Report::default();
        for (workload, callers, rate) in [
            ("processes-one", 256, 100.0),
            ("processes-two", 512, 130.0),
            ("snapshot-none", 256, 100.0),
            ("snapshot-in-the-same", 256, 95.0),
            ("timers-none", 64, 100.0),
            ("timers-pending", 64, 97.0),
        ] {
            let measured = measured(Kind::IndeliblePostgres, 0, rate);
            report.add(Measured { workload: workload.into(), callers, ..measured });
        }
        let text = report.to_string();
        let of =
            |name: &str| cells(text.split(name).nth(1).expect(name).lines().nth(4).expect("a row"))[1..6].join(" ");
        assert_eq!(of("over that of one"), "two 1 512 indelible-postgres 1.30");
        assert_eq!(of("timers pending over that without"), "pending 1 64 indelible-postgres 0.97");
        assert_eq!(of("snapshot open over that without"), "in the same 1 256 indelible-postgres 0.95");
    }

    #[test]
    fn medians_and_thousands() {
        assert_eq!([median([]), median([3.0]), median([9.0, 1.0, 4.0])], [None, Some(3.0), Some(4.0)]);
        assert_eq!(median([4.0, 1.0]), Some(2.5));
        assert_eq!(
            [0.4, 999.0, 1_000.0, 1_234_567.0].map(|value| grouped(Some(value))),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
