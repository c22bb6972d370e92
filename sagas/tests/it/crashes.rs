//! T9: random sagas that crash at every point, in pairs; and seeded bugs, which that must find.
//!
//! `INDELIBLE_SAGAS` says how many random sagas crash at each point (20), `INDELIBLE_SAGA_PAIRS` at how many pairs of points
//! each (10), `INDELIBLE_SEED` from which number (30); `INDELIBLE_SMALL_SAGA_PAIRS` at how many pairs small ones (100).

use std::{env, time::Duration};

use indelible_core::conformance::fault::{Line, seeded};
use indelible_sagas::{
    Act, Past, Plan, Retry, Saga, Step, Tell,
    bugs::{Bug, choose},
    testing::{
        Answer, Scenario, Script, crash_everywhere, given,
        random::{SMALL, crash_random_sagas, random_scenario},
    },
};
use serde::{Deserialize, Serialize};

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// What random sagas must have met among them, or they show little.
const SEEN: [&str; 16] = [
    "AttemptFailed",
    "Cancelled",
    "Compensating",
    "NeedsIntervention",
    "Retried",
    "Signalled",
    "Skipped",
    "StepFailed",
    "Stopping",
    "TimedOut",
    "UndoFailed",
    "Undone",
    "child",
    "given up",
    "timer",
    "Ended",
];

/// Where processes must have died among them.
const DIED: [&str; 8] = [
    "after a call",
    "after a commit of the agenda",
    "after an append",
    "before a call",
    "before a commit of the agenda",
    "before a timer",
    "before a turn",
    "before an append",
];

const FAULT: &str = "process dies at a point, or at two, in memory";

#[tokio::test]
async fn random_sagas_come_to_the_same_wherever_they_crash() {
    let (first, count) = (number("INDELIBLE_SEED", 30), number("INDELIBLE_SAGAS", 20));
    let random = crash_random_sagas(first..first + count, number("INDELIBLE_SAGA_PAIRS", 10) as usize).await;
    println!("{count} random sagas: {random}; they met {:?}, and died {:?}", random.seen, random.died);
    assert!(count < 20 || random.died.keys().eq(&DIED), "they died {:?}", random.died);
    let unseen: Vec<_> = SEEN.into_iter().filter(|what| !random.seen.contains_key(what)).collect();
    assert!(count < 20 || unseen.is_empty(), "none of them met {unseen:?}");

    let small = crash_random_sagas(SMALL, number("INDELIBLE_SMALL_SAGA_PAIRS", 100) as usize).await;
    println!("small sagas: {small}; they met {:?}, and died {:?}", small.seen, small.died);
    for what in ["AttemptFailed", "NeedsIntervention", "Signalled", "Skipped", "TimedOut", "Undone", "timer"] {
        assert!(small.seen.contains_key(what), "none of them met {what}");
    }
    assert_eq!(small.seen["Ended"], SMALL.len());

    let (crashes, runs) = ((random.crashes + small.crashes) as u64, (random.runs + small.runs) as u64);
    let controls = format!("of {count} random sagas {random}; of {} small ones {small}", SMALL.len());
    Line::clean(FAULT, crashes, crashes, runs, &controls).seed(first).print();
}

#[tokio::test]
async fn seeded_bugs_are_found() {
    // Each begins near a saga that finds it.
    for (bug, first) in [
        (Bug::EffectBeforeJournal, 1),
        (Bug::JournalWithoutFencing, 1),
        (Bug::TimerInMemoryOnly, 1),
        (Bug::FiresWithoutExpectedVersion, 9),
        (Bug::CompensatesTwice, 1),
        (Bug::ForgetsLostAttempts, 33),
    ] {
        choose(Some(bug));
        let mut found = None;
        for seed in first..first + 50 {
            let report = crash_everywhere(&random_scenario(seed), 0).await;
            if let Some(fault) = report.faults.first() {
                found = Some(format!("by seed {seed}: {}", fault.lines().next().unwrap_or_default()));
                break;
            }
        }
        choose(None);
        seeded(FAULT, &format!("{bug:?}"), found.is_some(), &found.unwrap_or_default());
    }
}

/// A payment, and a receipt that never comes.
#[derive(Clone, Serialize, Deserialize)]
struct Paid;
impl Saga for Paid {
    const NAME: &'static str = "paid";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        let receipt = Step::signal("receipt").timeout(Duration::from_secs(3600));
        Plan::new().pivot(Step::new("pay", ())).step(receipt).step(Step::new("thank", ()))
    }
}

/// Of a signal that an operator has it wait for again nothing is due but its timeout.
#[tokio::test]
async fn a_signal_is_waited_for_again() {
    let skip = Tell::Skip { reason: "it came by mail".into() };
    let scenario = Scenario::new(Paid).operated("receipt", Act::Do, [Tell::Retry, Tell::Retry, skip]);
    let report = crash_everywhere(&scenario, 100).await;
    assert!(report.faults.is_empty(), "{report}:\n{}", report.faults.join("\n"));
    assert_eq!((report.seen["TimedOut"], report.seen["Retried"], report.seen["Skipped"]), (3, 2, 1));
}

/// A mail that is tried until it works.
#[derive(Clone, Serialize, Deserialize)]
struct Tried;
impl Saga for Tried {
    const NAME: &'static str = "tried";
    type Effect = ();
    fn plan(&self, _: &Past) -> Plan<()> {
        Plan::new().step(Step::new("mail", ()).retry(Retry::FOREVER))
    }
}

/// What never ends is found to, and nobody waits for it.
#[tokio::test]
async fn what_never_ends_is_a_fault() {
    let scenario = Scenario::new(Tried).with_script(Script::new().answers("mail", [Answer::Silent]));
    let report = crash_everywhere(&scenario, 0).await;
    assert_eq!((report.runs, report.crashes), (1, 0), "{report}");
    assert!(report.faults[0].contains("goes round in circles"), "{:?}", report.faults);
}

#[test]
#[should_panic = "mail is still tried"]
fn what_is_tried_for_ever_is_never_unsure_for_good() {
    let _ = given(Tried).when_unsure_for_good("mail", "the server is away");
}
