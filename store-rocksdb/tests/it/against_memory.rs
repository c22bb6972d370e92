//! The memory store is the reference: the same calls in the same order get the same answers, over any number of
//! openings; hostile input too, within a limit of memory. The fault is any call that a program can make, in any order.
//!
//! A sequence that is answered otherwise is made shorter for as long as it is. What the store collects before it indexes it
//! is small in most, so that short ones cross that too. `INDELIBLE_MEMORY_SEQUENCES` says how many sequences (24),
//! `INDELIBLE_HOSTILE_CASES` how many cases of hostile input (600), `INDELIBLE_SEED` from which numbers.

use std::cell::RefCell;

use indelible_core::conformance::{
    fault::{Line, counts},
    parity::{Answers, compare_hostile, compare_sequence},
};
use indelible_rocksdb::RocksStore;
use proptest::{
    collection::vec,
    prelude::{Strategy, any},
    sample::select,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::{
    campaign::{number, seed},
    conformance::Rocks,
    overload::{RESIDENT_MIB_MAX, resident_mib_max, run},
};

/// Of one sequence, at most.
const ROUNDS_MAX: usize = 16;
/// What the store collects before it indexes it.
const SEGMENT_BYTES: [usize; 3] = [2_000, 20_000, 16 << 20];
/// Hostile cases of one pair of stores: the memory store keeps all that it is given.
const CASES: u64 = 2_000;

#[test]
fn both_stores_answer_alike() {
    let (sequences, seed) = (number("INDELIBLE_MEMORY_SEQUENCES").unwrap_or(24), seed());
    let cases = u32::try_from(sequences).expect("fewer sequences");
    let config = Config { cases, failure_persistence: None, max_shrink_time: 30_000, ..Config::default() };
    let mut seeded = [0; 32];
    seeded[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seeded));
    let rounds = (select(&SEGMENT_BYTES[..]), vec(any::<u64>().no_shrink(), 1..=ROUNDS_MAX));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answers = RefCell::new(Answers::new());
    let ran = runner.run(&rounds, |(segment_bytes, rounds)| {
        runtime.block_on(async {
            let mut rocks = Rocks::with(RocksStore::options().segment_bytes(segment_bytes));
            let answered = compare_sequence(&mut rocks, &rounds, false).await;
            add(&mut answers.borrow_mut(), answered);
            rocks.prove().await;
        });
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("INDELIBLE_SEED={seed}: {error}"));
    tell(
        "any calls",
        seed,
        sequences,
        &answers.take(),
        &["appended", "repeated", "conflict", "id conflict", "invalid"],
    );
}

#[test]
fn both_stores_answer_hostile_input_alike() {
    run("hostile", "");
}

/// The child, whose memory is only its own.
pub(crate) async fn hostile() {
    let (cases, seed) = (number("INDELIBLE_HOSTILE_CASES").unwrap_or(600), seed());
    let mut answers = Answers::new();
    for (pair, first) in (seed..).zip((0..cases).step_by(CASES as usize)) {
        let mut rocks = Rocks::new();
        add(&mut answers, compare_hostile(&mut rocks, pair, CASES.min(cases - first)).await);
        rocks.prove().await;
    }
    let resident = resident_mib_max();
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB");
    println!("\n>resident {resident} MiB of {RESIDENT_MIB_MAX}");
    tell("hostile input", seed, cases, &answers, &["appended", "conflict", "invalid"]);
}

fn add(answers: &mut Answers, more: Answers) {
    more.into_iter().for_each(|(kind, times)| *answers.entry(kind).or_default() += times);
}

/// Says how often what was answered; each of these kinds must be among it.
fn tell(fault: &str, seed: u64, times: u64, answers: &Answers, kinds: &[&str]) {
    println!("\n>{fault}, seed {seed}: {times}, no difference: {answers:?}");
    for kind in kinds {
        assert!(answers.get(kind).is_some_and(|times| *times > 5), "too few were {kind}: {answers:?}");
    }
    let appended = answers["appended"];
    let others = answers.values().sum::<u64>() - appended;
    Line::clean(fault, times, others, appended, &counts(answers)).seed(seed).print();
}
