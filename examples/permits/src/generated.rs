//! A log that is made, for who has none: what it comes to is known, told by other means than those of the views.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    time::Duration,
};

use indelible::Timestamp;
use serde_json::value::RawValue;

use crate::{
    case::{Data, Step},
    facts::Facts,
    import::Imported,
    lines::line,
    views::{DAYS, Edge, ResourceDay, Spread, VARIANTS, Variant, ranked},
};

pub struct Generated {
    pub lines: Vec<String>,
    /// What has become of them when they are taken in.
    pub imported: Imported,
    pub facts: Facts,
}

const WAYS: [&[&str]; 3] = [
    &["Receive", "Check", "Decide", "Send"],
    &["Receive", "Check", "Ask back", "Check", "Decide", "Send"],
    &["Receive", "Withdraw"],
];
const DATA: [&str; 5] =
    [r#"{"resource":"Ada","channel":"Desk"}"#, r#"{"resource":"Bob"}"#, r#"{"resource":"Zoë"}"#, "{}", r#""by post""#];

/// A log of so many cases that go on side by side. Now and then a line comes twice, or too late, or torn.
pub fn log(cases: u64) -> serde_json::Result<Generated> {
    let mut told: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for n in 0..cases {
        let way = WAYS[[0, 0, 0, 0, 1, 0, 0, 1, 1, 2][n as usize % 10]];
        let steps = way.iter().zip(0..).map(|(activity, step)| {
            let data = DATA[(n + step) as usize % DATA.len()].to_owned();
            Step {
                id: format!("{n}-{step}"),
                source: "/generated".into(),
                activity: (*activity).into(),
                occurred_at: start() + Duration::from_secs(420 * n + (1_800 + n % 7) * step),
                data: Data(RawValue::from_string(data).ok()),
            }
        });
        told.insert(format!("permit-{n}"), steps.collect());
    }
    let mut all: Vec<_> = told.iter().flat_map(|(case, steps)| steps.iter().map(move |step| (case, step))).collect();
    all.sort_by_key(|(_, step)| step.occurred_at);
    let mut imported = Imported { appended: all.len() as u64, ..Imported::default() };
    let mut lines = Vec::new();
    for (n, (case, step)) in all.into_iter().enumerate() {
        let told = line(case, step)?;
        if n % 1_000 == 500 {
            let late = Step { id: "late".into(), occurred_at: start(), ..step.clone() };
            lines.extend([told.clone(), line(case, &late)?, told[..told.len() / 2].into()]);
            imported.known += 1;
            imported.broken += 2;
        }
        lines.push(told);
    }
    imported.lines = lines.len() as u64;
    imported.bytes = lines.iter().map(|line| line.len() as u64 + 1).sum();
    Ok(Generated { lines, imported, facts: facts(&told) })
}

fn start() -> Timestamp {
    Timestamp::from_micros(1_767_225_600_000_000).unwrap_or_else(|_| Timestamp::now())
}

/// What is true of these cases, all of them in memory.
pub fn facts(cases: &BTreeMap<String, Vec<Step>>) -> Facts {
    let names = |steps: &[Step]| steps.iter().map(|step| step.activity.clone()).collect::<Vec<_>>();
    let steps = || cases.values().flatten();
    let resources = || steps().filter_map(Step::resource);
    let days = steps().filter_map(|step| Some((step.resource()?, step.day())));
    let pairs = cases.values().flat_map(|steps| steps.windows(2)).map(|pair| {
        let [from, to] = [0, 1].map(|n| pair[n].activity.clone());
        (from, to)
    });
    let ways = counted(cases.values().map(|steps| names(steps)));
    let mut ms: Vec<u64> = cases
        .values()
        .filter_map(|steps| Some((steps.first()?.occurred_at, steps.last()?.occurred_at)))
        .map(|(first, last)| last.since(first).as_millis() as u64)
        .collect();
    ms.sort_unstable();
    let spread = Spread {
        cases: cases.len() as u64,
        steps_min: cases.values().map(|steps| steps.len() as u64).min(),
        steps_max: cases.values().map(|steps| steps.len() as u64).max(),
        ms_min: ms.first().copied(),
        ms_median: ms.get(ms.len().saturating_sub(1) / 2).copied(),
        ms_max: ms.last().copied(),
        ms_sum: ms.iter().sum(),
    };
    let days = counted(days).into_iter().take(DAYS);
    let days = days.map(|((resource, day), count)| ResourceDay { resource, day, count }).collect();
    let variants = ways.len() as u64;
    let top = ways.into_iter().take(VARIANTS).map(|(activities, count)| Variant { count, activities });
    let edges = counted(pairs).into_iter().map(|((from, to), count)| Edge { from, to, count });
    Facts::new(
        counted(steps().map(|step| step.activity.clone())),
        (counted(resources()), days),
        spread,
        (variants, top.collect()),
        edges.collect(),
    )
}

fn counted<K: Hash + Ord>(keys: impl Iterator<Item = K>) -> Vec<(K, u64)> {
    let mut counts = HashMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    ranked(counts.into_iter().collect())
}
