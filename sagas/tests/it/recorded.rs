//! Recorded journals against plans that have changed since.

use std::time::Duration;

use indelible_sagas::{
    Past, Plan, Saga, SagaEvent, Step,
    testing::{check_recorded, given},
};
use serde::{Deserialize, Serialize};

/// Defines a saga that differs from the others in its plan.
macro_rules! walk {
    ($name:ident, $past:ident, $plan:expr) => {
        #[derive(Clone, Serialize, Deserialize)]
        struct $name;
        impl Saga for $name {
            const NAME: &'static str = "walk";
            type Effect = String;
            fn plan(&self, $past: &Past) -> Plan<String> {
                $plan
            }
        }
    };
}

fn go(to: &'static str) -> Step<String> {
    Step::new(to, format!("go {to}")).undo(format!("back from {to}"))
}

fn plan(steps: impl IntoIterator<Item = Step<String>>) -> Plan<String> {
    steps.into_iter().fold(Plan::new(), Plan::step)
}

walk!(Recorded, _past, plan([go("left"), go("right"), go("up")]));
walk!(Moved, _past, plan([go("left"), go("up"), go("right")]));
walk!(Removed, _past, plan([go("left"), go("up")]));
walk!(Inserted, _past, plan([go("left"), go("over"), go("right"), go("up")]));
walk!(Appended, _past, plan([go("left"), go("right"), go("up"), go("over")]));
walk!(Changed, _past, plan([go("left"), Step::new("right", "run right".into()), go("up")]));
walk!(Timed, _past, plan([go("left"), go("right").timeout(Duration::from_secs(1)), go("up")]));
walk!(Undone, _past, plan([go("left").undo("run back".into()), go("right"), go("up")]));
walk!(Kept, _past, plan([Step::new("left", "go left".into()), go("right"), go("up")]));
walk!(SideBySide, _past, Plan::new().side_by_side([go("left"), go("right")]).step(go("up")));
walk!(Asks, past, if past.version() < 2 { plan([go("left"), go("right"), go("up")]) } else { plan([go("up")]) });
walk!(Patient, _past, plan([go("left").deadline(Duration::from_secs(99)), go("right"), go("up")]));

/// One that ran to its end, one at its second step, and one that came back from it.
fn journals() -> [Vec<SagaEvent>; 3] {
    let begun = || given(Recorded).when_done("left", ());
    let ended = begun().when_done("right", ()).when_done("up", ());
    let undone = begun().when_refused("right", "a wall").when_undone("left");
    [ended.events().to_vec(), begun().events().to_vec(), undone.events().to_vec()]
}

/// Where each journal diverges, by the number of its event.
fn diverges<S: Saga>() -> [Option<usize>; 3] {
    journals().map(|journal| check_recorded::<S>(&journal).err().map(|divergence| divergence.version))
}

#[test]
fn what_would_break_a_running_saga_is_found() {
    // Started, left started, left done, right started; then right done, up started, up done, ended: or right failed,
    // compensating, left to be undone, left undone, ended.
    let lengths = journals().map(|journal| journal.len());
    assert_eq!(lengths, [8, 4, 9]);
    assert_eq!(diverges::<Moved>(), [Some(4); 3]);
    assert_eq!(diverges::<Removed>(), [Some(4); 3]);
    assert_eq!(diverges::<Inserted>(), [Some(4); 3]);
    assert_eq!(diverges::<Changed>(), [Some(4); 3], "another effect");
    assert_eq!(diverges::<Timed>(), [Some(4); 3], "another timeout");
    assert_eq!(diverges::<SideBySide>(), [Some(3); 3]);
    // Only whom it concerns.
    assert_eq!(diverges::<Appended>(), [Some(8), None, None], "the one that has ended would go on");
    assert_eq!(diverges::<Undone>(), [None, None, Some(7)]);
    assert_eq!(diverges::<Kept>(), [None, None, Some(7)], "nothing is undone any more");
}

#[test]
fn what_breaks_none_is_let_through() {
    assert_eq!(diverges::<Recorded>(), [None; 3]);
    assert_eq!(diverges::<Asks>(), [None; 3], "they keep the version that they were started with");
    assert_eq!(diverges::<Patient>(), [None; 3]);
    let began = given(Asks).events().to_vec();
    assert_eq!(check_recorded::<Recorded>(&began), Ok(()), "of its first version");
}

/// It says what the journal has there, and what would be written today.
#[test]
fn a_divergence_says_what_differs() {
    let [ended, ..] = journals();
    let divergence = check_recorded::<Removed>(&ended).unwrap_err();
    let started = |event: Option<&SagaEvent>| match event {
        Some(SagaEvent::StepStarted { step, .. }) => step.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(started(divergence.recorded.as_ref()), "right");
    assert_eq!(started(divergence.expected.as_ref().unwrap().as_ref()), "up");
    assert!(divergence.to_string().starts_with("event 4: recorded is "), "{divergence}");
    // At its end, where more would follow.
    let half = &ended[..3];
    let divergence = check_recorded::<Recorded>(half).unwrap_err();
    assert_eq!((divergence.version, &divergence.recorded), (4, &None));
}
