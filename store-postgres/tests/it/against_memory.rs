//! The memory store is the reference: the same appends get the same answers, and the same reads the same events. Appends
//! are handed over several at a time, so that many are judged inside one batch, on what that has added so far.
//!
//! The embedded store runs such sequences too: so all three answer alike.
//! `INDELIBLE_MEMORY_SEQUENCES` says how many sequences, `INDELIBLE_MEMORY_SEED` from which numbers;
//! `INDELIBLE_HOSTILE_CASES` and `INDELIBLE_HOSTILE_SEED` the same for hostile input.

use indelible_core::conformance::{
    fault::{Line, Verdict},
    parity::{Answers, compare_hostile, compare_sequence, rounds},
};
use indelible_postgres::PostgresStore;

use crate::{child::number, cluster::shared_url, conformance::Postgres, writing::prepared};

/// Any difference has ended it.
fn tell(what: &str, times: u64, answers: &Answers) {
    let acknowledged = answers.get("appended").copied().unwrap_or_default();
    let verdict = Verdict { acknowledged, ..Verdict::default() };
    let told: Vec<String> = answers.iter().map(|(kind, times)| format!("{times} {kind}")).collect();
    Line::new(what, times, times, &verdict, &told.join("; ")).print();
}

fn first(variable: &str) -> u64 {
    number(variable).unwrap_or_else(|| rand::random::<u32>().into())
}

#[tokio::test]
async fn both_stores_answer_alike() {
    let first = first("INDELIBLE_MEMORY_SEED");
    let sequences = number("INDELIBLE_MEMORY_SEQUENCES").unwrap_or(3);
    let mut answers = Answers::new();
    for seed in first..first + sequences {
        println!("seed {seed}");
        let options = PostgresStore::options();
        let options = if seed % 2 == 0 { prepared(options) } else { options };
        let mut postgres = Postgres::with(shared_url(), options).await;
        for (kind, times) in compare_sequence(&mut postgres, &rounds(seed), seed % 4 != 0).await {
            *answers.entry(kind).or_default() += times;
        }
        postgres.verify().await;
    }
    tell("random sequences beside the memory store", sequences, &answers);
    for kind in ["appended", "repeated", "conflict", "id conflict", "invalid"] {
        assert!(answers.get(kind).is_some_and(|times| *times > 5), "too few were {kind}: {answers:?}");
    }
}

#[tokio::test]
async fn both_stores_answer_hostile_input_alike() {
    let cases = number("INDELIBLE_HOSTILE_CASES").unwrap_or(300);
    let seed = first("INDELIBLE_HOSTILE_SEED");
    let mut postgres = Postgres::new(shared_url()).await;
    let answers = compare_hostile(&mut postgres, seed, cases).await;
    postgres.verify().await;
    println!("seed {seed}");
    tell("hostile input beside the memory store", cases, &answers);
    for kind in ["appended", "conflict", "invalid"] {
        assert!(answers.get(kind).is_some_and(|times| *times > 10), "too few were {kind}: {answers:?}");
    }
}
