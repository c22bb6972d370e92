//! Both forms, killed while they run, come to books that balance, and to the same.
//!
//! `INDELIBLE_ORDERS_SEEDS` says for how many seeds (3).

mod costs;

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rand::Rng;

const ORDERS: usize = 36;
const FORMS: [&[&str]; 2] = [&[], &["--choreographed"]];

fn orders(dir: &Path, form: &[&str], seed: u64) -> Command {
    let mut orders = Command::new(env!("CARGO_BIN_EXE_orders"));
    orders.arg(dir).args(["--count", &ORDERS.to_string(), "--seed", &seed.to_string()]).args(form);
    orders.stdout(Stdio::piped());
    orders
}

/// Kills a run, at some moment after it has begun its work, or when so many orders are through; what it said until then.
fn killed(mut orders: Command, through: usize) -> String {
    let mut running = orders.spawn().unwrap();
    let mut output = BufReader::new(running.stdout.take().unwrap());
    let mut said = String::new();
    assert_ne!(output.read_line(&mut said).unwrap(), 0, "it did not begin");
    assert_eq!(said, "at work\n");
    if through == 0 {
        thread::sleep(Duration::from_millis(rand::rng().random_range(0..300)));
    }
    while said.lines().filter(|line| line.starts_with('o')).count() < through {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "it ended by itself: {said}");
    }
    running.kill().unwrap();
    running.wait().unwrap();
    output.read_to_string(&mut said).unwrap();
    said
}

/// What a run says that was killed three times before, and what those said.
fn killed_and_run(form: &[&str], seed: u64) -> (String, [String; 3]) {
    let dir = tempfile::tempdir().unwrap();
    let before = [0, 1, 8].map(|through| killed(orders(dir.path(), form, seed), through));
    let output = orders(dir.path(), form, seed).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "seed {seed} {form:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    (said, before)
}

/// The orders that were shipped. Who gets the last pots is chance, so of those none are told.
fn judged(said: &str) -> BTreeSet<&str> {
    let count = |what: &str| said.lines().filter(|line| line.contains(what)).count();
    for n in 0..ORDERS {
        assert_eq!(count(&format!("o{n} for ")), 1, "the way of o{n} is told once: {said}");
    }
    let ways: Vec<&str> = said.lines().filter(|line| line.starts_with('o')).collect();
    let mut shipped = BTreeSet::new();
    for line in ways {
        let (order, told) = line.split_once(": ").unwrap();
        let (way, payment) = told.split_once("; payment ").unwrap();
        match way {
            "placed, reserved, paid, shipped" | "placed, reserved, shipped, paid" => {
                if !order.ends_with("pot") {
                    shipped.insert(order);
                }
            }
            "placed, reserved, released, failed" => assert!(payment.contains("Declined"), "{line}"),
            "placed, failed" => assert_eq!((payment, order.ends_with("pot")), ("[]", true), "{line}"),
            _ => panic!("{line}: no order goes this way"),
        }
    }
    assert_eq!(count("its circuit is ") + count("money, stock and shipments agree: "), 2, "{said}");
    shipped
}

#[test]
fn orders_balance_though_killed_in_either_form() {
    let seeds = env::var("INDELIBLE_ORDERS_SEEDS").map_or(3, |seeds| seeds.parse().unwrap());
    let runs = thread::scope(|scope| {
        let run = |seed| FORMS.map(|form| scope.spawn(move || killed_and_run(form, seed)));
        let running: Vec<_> = (1..=seeds).map(run).collect();
        running.into_iter().map(|forms| forms.map(|form| form.join().unwrap())).collect::<Vec<_>>()
    });
    let mut all = String::new();
    for (seed, runs) in (1..).zip(&runs) {
        let [orchestrated, choreographed] = [&runs[0], &runs[1]].map(|(said, _)| judged(said));
        assert_eq!(orchestrated, choreographed, "seed {seed}: the forms come to the same");
        assert!(!orchestrated.is_empty() && runs[0].0.contains("Undone stock"), "seed {seed}: {}", runs[0].0);
        all.extend(runs.iter().flat_map(|(said, before)| [said].into_iter().chain(before)).map(String::as_str));
    }
    let at_work = runs.iter().flatten().flat_map(|(_, before)| before).filter(|said| !said.contains("agree")).count();
    assert!(at_work >= 4 * runs.len(), "only {at_work} kills struck them at work");
    for trouble in ["Declined", "Down", "Lost", "Slow", "Twice", "circuit is Open"] {
        assert!(all.contains(trouble), "no seed met {trouble}: {all}");
    }
}
