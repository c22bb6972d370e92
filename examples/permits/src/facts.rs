//! All answers in one: as the JSON that `--json` prints, and as tables.

use std::{fmt, time::Duration};

use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use serde::{Serialize, Serializer};
use serde_json::ser::PrettyFormatter;

use crate::views::{Edge, ResourceDay, Spread, Variant};

/// What is true of a log. Whatever is counted comes by count falling, then by name rising.
#[derive(Debug, PartialEq, Serialize)]
pub struct Facts {
    pub events: u64,
    pub streams: u64,
    pub event_types: u64,
    #[serde(serialize_with = "as_map")]
    pub events_by_type: Vec<(String, u64)>,
    #[serde(serialize_with = "as_map")]
    pub events_by_resource: Vec<(String, u64)>,
    pub busiest_resource_days: Vec<ResourceDay>,
    pub longest_stream: Option<u64>,
    pub shortest_stream: Option<u64>,
    pub duration_ms: Milliseconds,
    pub variants: u64,
    pub top_variants: Vec<Variant>,
    pub directly_follows: Vec<Edge>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Milliseconds {
    pub min: Option<u64>,
    pub median: Option<u64>,
    pub max: Option<u64>,
    pub sum: u64,
}

impl Facts {
    pub fn new(
        activities: Vec<(String, u64)>,
        (resources, days): (Vec<(String, u64)>, Vec<ResourceDay>),
        spread: Spread,
        (variants, top_variants): (u64, Vec<Variant>),
        directly_follows: Vec<Edge>,
    ) -> Self {
        Self {
            events: activities.iter().map(|(_, count)| count).sum(),
            streams: spread.cases,
            event_types: activities.len() as u64,
            events_by_type: activities,
            events_by_resource: resources,
            busiest_resource_days: days,
            longest_stream: spread.steps_max,
            shortest_stream: spread.steps_min,
            duration_ms: Milliseconds {
                min: spread.ms_min,
                median: spread.ms_median,
                max: spread.ms_max,
                sum: spread.ms_sum,
            },
            variants,
            top_variants,
            directly_follows,
        }
    }

    /// As one object, a line a value.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let (mut json, indented) = (Vec::new(), PrettyFormatter::with_indent(b" "));
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut json, indented))?;
        Ok(String::from_utf8_lossy(&json).into_owned())
    }
}

fn as_map<S: Serializer>(counts: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(counts.iter().map(|(name, count)| (name, count)))
}

/// How many rows of a table are shown.
const ROWS: usize = 20;

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |(name, count): &(String, u64)| [count.to_string(), name.clone()];
        table(f, "Activities", ["steps", "activity"], &self.events_by_type, counted)?;
        table(f, "Who takes the steps", ["steps", "resource"], &self.events_by_resource, counted)?;
        table(f, "The busiest days", ["steps", "resource", "day"], &self.busiest_resource_days, |day| {
            [day.count.to_string(), day.resource.clone(), day.day.clone()]
        })?;
        table(f, "What follows what", ["times", "activity", "then"], &self.directly_follows, |edge| {
            [edge.count.to_string(), edge.from.clone(), edge.to.clone()]
        })?;
        let ways = format!("The most frequent of {} ways", self.variants);
        table(f, &ways, ["cases", "activities"], &self.top_variants, |variant| {
            [variant.count.to_string(), variant.activities.join("\n")]
        })?;
        writeln!(f, "\n{} steps in {} cases, of {} activities", self.events, self.streams, self.event_types)?;
        if let (Some(min), Some(max)) = (self.shortest_stream, self.longest_stream) {
            writeln!(f, "A case takes {min} to {max} steps,")?;
        }
        if let Milliseconds { min: Some(min), median: Some(median), max: Some(max), sum } = self.duration_ms {
            let mean = sum / self.streams.max(1);
            let [min, median, mean, max] = [min, median, mean, max].map(lasting);
            writeln!(f, "and {min} to {max}, {median} in the median, {mean} in the mean")?;
        }
        Ok(())
    }
}

/// The first rows. The first column has numbers. What a log names may hold what a terminal would obey.
fn table<R, const N: usize>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    header: [&str; N],
    rows: &[R],
    cells: impl Fn(&R) -> [String; N],
) -> fmt::Result {
    let mut table = Table::new();
    let tame = |cell: String| cell.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
    table.load_preset(UTF8_BORDERS_ONLY).set_header(header);
    table.add_rows(rows.iter().take(ROWS).map(|row| cells(row).map(tame)));
    if let Some(numbers) = table.column_mut(0) {
        numbers.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(f, "\n{title}\n{table}")?;
    match rows.len().checked_sub(ROWS) {
        Some(more @ 1..) => writeln!(f, "and {more} more"),
        _ => Ok(()),
    }
}

fn lasting(ms: u64) -> String {
    let seconds = Duration::from_millis(ms).as_secs();
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} days {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}
