//! All of it together in memory: on the real log, and on logs that nobody has seen.

use std::{collections::BTreeMap, fs::File, io::Cursor, time::Duration};

use indelible::{AnyStore, AsStore, MemoryModel, MemoryStore};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::value::RawValue;

use crate::{
    case::{Data, Step},
    demo,
    generated::facts,
    import::import,
    lines::line,
    take_in,
    views::{Ask, Views},
};

#[path = "../tests/it/real.rs"]
mod real;

fn anew() -> (AnyStore, Ask<MemoryModel>) {
    (MemoryStore::new().as_store(), Ask(MemoryModel::new()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_log_in_memory_with_workers_that_end() {
    let Some((log, expected)) = real::log() else { return };
    let (store, views) = anew();
    let (reader, cases) = (std::io::BufReader::new(File::open(&log).unwrap()), store.clone());
    let appending = tokio::spawn(async move { import(&cases, reader, |_, _| ()).await });
    let mut workers = 0;
    while !appending.is_finished() {
        let running = views.worker(&store).start().await.unwrap();
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..20))).await;
        // What it has in hand is undone.
        drop(running);
        workers += 1;
    }
    let imported = appending.await.unwrap().unwrap();
    assert_eq!((imported.lines, imported.appended), (8_577, 8_577));
    assert!(workers > 5, "{workers} workers");
    let (again, facts) =
        take_in(&store, &views, std::io::BufReader::new(File::open(&log).unwrap()), None).await.unwrap();
    assert_eq!((again.appended, again.known), (0, 8_577));
    assert_eq!(facts.to_json().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_that_are_known() {
    let (store, views) = anew();
    demo::run(&store, &views).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_any_names_and_data() {
    let names =
        ["a", "A", "ä", "", "\0", "a\0", "\u{7f}\n\"", "\u{10ffff}", "𝒳", "e\u{301}", "é", &"long ".repeat(2_000)];
    let data = [
        "null",
        "7",
        "[]",
        "\"resource\"",
        "{}",
        "{\"resource\":null}",
        "{\"resource\":{\"a\":1}}",
        "{\"resource\":1e999}",
    ];
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cases: BTreeMap<String, Vec<Step>> = BTreeMap::new();
        let (mut lines, mut micros) = (Vec::new(), -1_000_000_i64);
        for n in 0..random.random_range(0..400) {
            micros += random.random_range(0..3) * random.random_range(0..100_000_000_000);
            let case = ["a", "a-1", "permit-1", "ä", "-", "case-", "x y/z"].choose(&mut random).unwrap();
            let data = match random.random_bool(0.5) {
                true => format!("{{\"resource\":{}}}", serde_json::json!(names.choose(&mut random).unwrap())),
                false => (*data.choose(&mut random).unwrap()).to_owned(),
            };
            let activity = names.iter().filter(|name| !name.is_empty()).collect::<Vec<_>>();
            let step = Step {
                id: n.to_string(),
                source: "/any".into(),
                activity: (**activity.choose(&mut random).unwrap()).into(),
                occurred_at: indelible::Timestamp::from_micros(micros).unwrap(),
                data: Data(Some(RawValue::from_string(data).unwrap())),
            };
            lines.push(line(case, &step).unwrap());
            cases.entry((*case).into()).or_default().push(step);
        }
        let (store, views) = anew();
        let (imported, found) = take_in(&store, &views, Cursor::new(lines.join("\n")), None).await.unwrap();
        assert_eq!((imported.appended, imported.broken), (lines.len() as u64, 0), "seed {seed}");
        assert_eq!(found, facts(&cases), "seed {seed}");
    }
}
