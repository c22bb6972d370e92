//! What a saga decides, without any runtime.

use std::time::Duration;

use indelible_core::CorrelationId;
use indelible_sagas::{
    Act, Failure, Journal, Outcome, Past, Plan, Retry, Saga, SagaError, SagaEvent, Step, Tell,
    testing::{check_recorded, given},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::trip::{Effect, Trip};

fn trip() -> Trip {
    Trip { traveller: "ada".into() }
}
fn book(what: &'static str) -> (&'static str, Effect) {
    (what, Effect::Book(what.into()))
}
fn cancel(what: &'static str, booking: Option<&str>) -> (&'static str, Effect) {
    (what, Effect::Cancel { booking: booking.map(Into::into) })
}

#[test]
fn a_trip_goes_well() {
    let trip = given(trip())
        .then_does([book("flight")])
        .when_done("flight", "F1")
        .then_does([book("hotel"), book("car")])
        .when_done("car", "C1")
        .then_does([book("hotel")])
        .when_done("hotel", "H1")
        .then_does([("pay", Effect::Charge)])
        .when_done("pay", ())
        .when_done("tickets", ())
        .then_ends(Outcome::Completed);
    assert_eq!(check_recorded::<Trip>(trip.events()), Ok(()));
}

#[test]
fn what_may_have_happened_is_undone_in_reverse_order() {
    let trip = given(trip())
        .when_done("flight", "F1")
        .when_done("hotel", "H1")
        .when_unsure_for_good("car", "no answer")
        .then_undoes([cancel("car", None)])
        .when_undone("car")
        .then_undoes([cancel("hotel", Some("H1"))])
        .when_undone("hotel")
        .then_undoes([cancel("flight", Some("F1"))])
        .when_undone("flight")
        .then_ends(Outcome::Compensated);
    assert_eq!(check_recorded::<Trip>(trip.events()), Ok(()));
}

#[test]
fn what_was_refused_is_not_undone_and_what_is_beside_it_is_awaited() {
    given(trip())
        .when_done("flight", "F1")
        .when_refused("hotel", "full")
        .then_does([book("car")])
        .when_done("car", "C1")
        .then_undoes([cancel("car", Some("C1"))])
        .when_undone("car")
        .then_undoes([cancel("flight", Some("F1"))])
        .when_undone("flight")
        .then_ends(Outcome::Compensated);
}

#[test]
fn beside_a_failed_step_nothing_is_tried_again() {
    given(trip())
        .when_done("flight", "F1")
        .when_refused("hotel", "full")
        .when_unsure("car", "no answer")
        .then_undoes([cancel("car", None)]);
}

#[test]
fn a_cancelled_trip_awaits_what_is_under_way() {
    given(trip())
        .when_done("flight", "F1")
        .when_cancelled("ill")
        .then_rejects(Tell::Cancel { reason: "again".into() }, SagaError::Stale)
        .then_does([book("hotel"), book("car")])
        .when_done("hotel", "H1")
        .when_refused("car", "none left")
        .then_undoes([cancel("hotel", Some("H1"))])
        .when_undone("hotel")
        .when_undone("flight")
        .then_ends(Outcome::Compensated);
}

/// A trip that is paid.
fn paid() -> indelible_sagas::testing::Given<Trip> {
    given(trip()).when_done("flight", "F1").when_done("hotel", "H1").when_done("car", "C1").when_done("pay", ())
}

#[test]
fn behind_the_pivot_it_only_goes_forward() {
    let stuck = || {
        paid()
            .then_rejects(Tell::Cancel { reason: "ill".into() }, SagaError::PastPivot)
            .then_rejects(Tell::Retry, SagaError::NotStuck)
            .when_refused("tickets", "no printer")
            .then_needs_intervention("tickets", Act::Do)
            .then_rejects(Tell::Cancel { reason: "ill".into() }, SagaError::Stuck)
    };
    let skipped = stuck().tell(Tell::Skip { reason: "sent by hand".into() }).then_ends(Outcome::Completed);
    assert_eq!(check_recorded::<Trip>(skipped.events()), Ok(()));
    stuck()
        .tell(Tell::Retry)
        .then_does([("tickets", Effect::SendTickets)])
        .when_done("tickets", ())
        .then_ends(Outcome::Completed);
    let given_up = Outcome::GivenUp { reason: "lost".into() };
    stuck().tell(Tell::GiveUp { reason: "lost".into() }).then_ends(given_up);
    let undone = stuck()
        .tell(Tell::Compensate { reason: "refunded by hand".into() })
        .then_undoes([cancel("car", Some("C1"))])
        .when_undo_refused("car", "driven off")
        .then_needs_intervention("car", Act::Undo)
        .tell(Tell::Retry)
        .then_undoes([cancel("car", Some("C1"))])
        .when_undo_refused("car", "driven off")
        .tell(Tell::Skip { reason: "written off".into() })
        .when_undone("hotel")
        .when_undone("flight")
        .then_ends(Outcome::Compensated);
    assert_eq!(check_recorded::<Trip>(undone.events()), Ok(()));
}

#[test]
fn whether_a_pivot_happened_is_not_guessed() {
    let unsure = || {
        given(trip())
            .when_done("flight", "F1")
            .when_done("hotel", "H1")
            .when_done("car", "C1")
            .when_unsure_for_good("pay", "no answer")
            .then_needs_intervention("pay", Act::Do)
    };
    unsure().tell(Tell::Skip { reason: "the bank says yes".into() }).then_does([("tickets", Effect::SendTickets)]);
    unsure().tell(Tell::Compensate { reason: "the bank says no".into() }).then_undoes([cancel("car", Some("C1"))]);
}

/// A step that was tried again by an operator has its whole time again; the timeout of before, from a worker that was
/// thought dead, counts for nothing.
#[test]
fn a_timeout_of_before_a_retry_counts_for_nothing() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Paid;
    impl Saga for Paid {
        const NAME: &'static str = "paid";
        type Effect = ();
        fn plan(&self, _: &Past) -> Plan<()> {
            let hour = Duration::from_secs(3600);
            Plan::new().pivot(Step::new("pay", ())).step(Step::signal("receipt").timeout(hour))
        }
    }
    let retried = given(Paid)
        .when_done("pay", ())
        .when_timed_out("receipt")
        .then_needs_intervention("receipt", Act::Do)
        .tell(Tell::Retry)
        .then_rejects(Tell::TimeOut { step: "receipt".into(), since: 1 }, SagaError::Stale)
        .when_timed_out("receipt")
        .then_needs_intervention("receipt", Act::Do);
    assert_eq!(check_recorded::<Paid>(retried.events()), Ok(()));
}

/// It can be given up anywhere; what was under way then is told to be so.
#[test]
fn what_is_given_up_is_not_waited_for() {
    let gone = given(trip())
        .when_done("flight", "F1")
        .when_done("hotel", "H1")
        .tell(Tell::GiveUp { reason: "bankrupt".into() })
        .then_does([]);
    let left = SagaEvent::StepFailed { step: "car".into(), error: "given up".into(), maybe: true };
    assert_eq!(gone.events().last(), Some(&left));
    assert_eq!(check_recorded::<Trip>(gone.events()), Ok(()));
    gone.then_ends(Outcome::GivenUp { reason: "bankrupt".into() });
}

/// The first attempt may have happened, whatever comes of the second.
#[test]
fn a_refusal_after_a_lost_answer_is_undone() {
    given(trip())
        .when_unsure("flight", "the answer was lost")
        .when_refused("flight", "it is booked already")
        .then_undoes([cancel("flight", None)]);
    let unknown = Err(Failure::OutcomeUnknown("of an append".into()));
    given(trip())
        .tell(Tell::Outcome { step: "flight".into(), act: Act::Do, attempt: 1, result: unknown })
        .when_refused("flight", "it is booked already")
        .then_undoes([cancel("flight", None)]);
    given(trip())
        .when_done("flight", "F1")
        .when_done("hotel", "H1")
        .when_done("car", "C1")
        .when_unsure("pay", "the answer was lost")
        .when_refused("pay", "it is paid already")
        .then_needs_intervention("pay", Act::Do);
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(Value::Null, |value, _| Value::Array(vec![value]))
}

#[derive(Clone, Serialize, Deserialize)]
struct Deep {
    about: Value,
    levels: usize,
}

impl Saga for Deep {
    const NAME: &'static str = "deep";
    type Effect = Value;
    fn plan(&self, _: &Past) -> Plan<Value> {
        Plan::new().step(Step::new("dive", nested(self.levels)))
    }
}

/// What the log could not give back would poison its journal.
#[test]
fn what_cannot_be_kept_is_not_written() {
    let loan = || given(Loan { cooling_off: false });
    let signal = |levels| Tell::Signal { name: "note".into(), value: nested(levels) };
    let error = "it is nested more than 100 levels deep".to_owned();
    let signed = || loan().when_signalled("signed", false);
    signed().tell(signal(100)).then_rejects(signal(101), SagaError::Unwritable(error));
    signed().when_done("pay out", nested(100)).then_ends(Outcome::Completed);
    let start = |about, levels| {
        let deep = Deep { about: nested(about), levels };
        Journal::default().decide(&Tell::Start(deep), "1", CorrelationId::new()).map(|_| ())
    };
    assert_eq!(start(99, 100), Ok(()));
    assert!(matches!(start(100, 100), Err(SagaError::Unwritable(_))));
    assert!(matches!(start(99, 101), Err(SagaError::Plan(_))));
    let answered = given(trip()).when_done("flight", nested(101)).then_does([book("flight")]);
    assert!(matches!(answered.events().last(), Some(SagaEvent::AttemptFailed { .. })), "it happened, and is unsure");
}

#[test]
fn whether_a_pivot_happened_is_not_guessed_when_cancelled() {
    let cancelled = || {
        given(trip())
            .when_done("flight", "F1")
            .when_done("hotel", "H1")
            .when_done("car", "C1")
            .when_unsure("pay", "the answer was lost")
            .when_cancelled("ill")
            .when_unsure("pay", "it is not tried again")
            .then_needs_intervention("pay", Act::Do)
    };
    let paid = cancelled().tell(Tell::Retry).then_does([("pay", Effect::Charge)]).when_done("pay", ());
    let paid = paid.then_does([("tickets", Effect::SendTickets)]);
    assert_eq!(check_recorded::<Trip>(paid.events()), Ok(()));
    cancelled().tell(Tell::Retry).when_cancelled("still ill").then_does([("pay", Effect::Charge)]);
    cancelled().tell(Tell::Skip { reason: "the bank says yes".into() }).then_does([("tickets", Effect::SendTickets)]);
    cancelled().tell(Tell::Compensate { reason: "the bank says no".into() }).then_undoes([cancel("car", Some("C1"))]);
}

#[test]
fn outcomes_that_come_twice_or_too_late_count_for_nothing() {
    let outcome = |attempt| Tell::Outcome { step: "flight".into(), act: Act::Do, attempt, result: Ok("F2".into()) };
    given(trip())
        .then_rejects(outcome(2), SagaError::Stale)
        .when_unsure("flight", "no answer")
        .then_rejects(outcome(1), SagaError::Stale)
        .when_done("flight", "F1")
        .then_rejects(outcome(2), SagaError::Stale)
        .then_rejects(Tell::TimeOut { step: "flight".into(), since: 1 }, SagaError::Stale)
        .then_rejects(Tell::Start(trip()), SagaError::AlreadyStarted);
}

#[derive(Clone, Serialize, Deserialize)]
struct Loan {
    cooling_off: bool,
}

impl Saga for Loan {
    const NAME: &'static str = "loan";
    type Effect = String;
    fn plan(&self, past: &Past) -> Plan<String> {
        let day = Duration::from_secs(24 * 3600);
        let plan = Plan::new()
            .step(Step::signal("signed").timeout(7 * day))
            .step(Step::new("pay out", "pay".into()).undo("claw back".into()).timeout(day).retry(Retry::NEVER));
        let plan = if self.cooling_off { plan.step(Step::sleep("cool off", 14 * day)) } else { plan };
        match past.result::<bool>("signed") {
            Some(true) => plan.step(Step::new("insure", "insure".into())),
            _ => plan,
        }
    }
}

#[test]
fn it_waits_for_signals_and_for_time() {
    let loan = || given(Loan { cooling_off: true });
    let signed = loan()
        .then_waits(["signed"])
        .when_signalled("signed", true)
        .when_done("pay out", ())
        .then_waits(["cool off"])
        .when_waited("cool off")
        .then_does([("insure", "insure".into())])
        .when_done("insure", ())
        .then_ends(Outcome::Completed);
    assert_eq!(check_recorded::<Loan>(signed.events()), Ok(()));
    let late = loan().when_timed_out("signed").then_ends(Outcome::Compensated);
    assert_eq!(check_recorded::<Loan>(late.events()), Ok(()));
    loan()
        .when_signalled("signed", false)
        .when_done("pay out", ())
        .when_cancelled("changed my mind")
        .then_undoes([("pay out", "claw back".into())]);
    // What comes in time counts, though the timeout came first.
    loan()
        .when_signalled("signed", false)
        .when_timed_out("pay out")
        .then_does([("pay out", "pay".into())])
        .when_done("pay out", ())
        .then_waits(["cool off"]);
    loan()
        .when_signalled("signed", false)
        .when_timed_out("pay out")
        .when_unsure("pay out", "no answer")
        .then_undoes([("pay out", "claw back".into())]);
}

#[test]
fn a_signal_that_comes_early_is_kept() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Early;
    impl Saga for Early {
        const NAME: &'static str = "early";
        type Effect = String;
        fn plan(&self, _: &Past) -> Plan<String> {
            Plan::new().step(Step::new("ask", "ask".into())).step(Step::signal("answer"))
        }
    }
    given(Early).when_signalled("answer", 42).when_done("ask", ()).then_ends(Outcome::Completed);
}

#[test]
fn what_cannot_be_read_is_not_guessed() {
    let unread = given(Loan { cooling_off: false }).when_signalled("approved", 1);
    let answer = Tell::Signal { name: "signed".into(), value: "yes".into() };
    let error = "what signed answered can't be read: invalid type: string \"yes\", expected a boolean";
    unread.then_rejects(answer, SagaError::Unread(error.into()));
}

#[test]
fn a_plan_that_contradicts_itself_is_refused() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Twice;
    impl Saga for Twice {
        const NAME: &'static str = "twice";
        type Effect = u8;
        fn plan(&self, past: &Past) -> Plan<u8> {
            let again = if past.is_done("a") { "a" } else { "b" };
            Plan::new().step(Step::new("a", 1)).step(Step::new(again, 2))
        }
    }
    let done = Tell::Outcome { step: "a".into(), act: Act::Do, attempt: 1, result: Ok(().into()) };
    given(Twice).then_rejects(done, SagaError::Plan("two steps are called a".into()));
}

#[test]
fn a_plan_has_one_pivot() {
    #[derive(Clone, Serialize, Deserialize)]
    struct TwoPivots;
    impl Saga for TwoPivots {
        const NAME: &'static str = "two_pivots";
        type Effect = u8;
        fn plan(&self, past: &Past) -> Plan<u8> {
            let plan = Plan::new().pivot(Step::new("a", 1));
            if past.is_done("a") { plan.pivot(Step::new("b", 2)) } else { plan }
        }
    }
    let done = Tell::Outcome { step: "a".into(), act: Act::Do, attempt: 1, result: Ok(().into()) };
    given(TwoPivots).then_rejects(done, SagaError::Plan("two steps are pivots: a and b".into()));
}

#[test]
fn a_plan_keeps_the_steps_that_have_begun() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Forgets;
    impl Saga for Forgets {
        const NAME: &'static str = "forgets";
        type Effect = u8;
        fn plan(&self, past: &Past) -> Plan<u8> {
            let b = if past.is_done("a") { None } else { Some(Step::new("b", 2)) };
            Plan::new().side_by_side([Step::new("a", 1)].into_iter().chain(b))
        }
    }
    let done = |step: &str| Tell::Outcome { step: step.into(), act: Act::Do, attempt: 1, result: Ok(().into()) };
    let fault = "it has no step b any more, which has begun".to_owned();
    let forgets = given(Forgets).then_rejects(done("a"), SagaError::Plan(fault));
    forgets.tell(done("b")).tell(done("a")).then_ends(Outcome::Completed);
}

/// A change that would break sagas which run is found by replaying what they wrote.
#[test]
fn changed_code_is_held_against_recorded_journals() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Renamed {
        traveller: String,
    }
    impl Saga for Renamed {
        const NAME: &'static str = "trip";
        type Effect = Effect;
        fn plan(&self, past: &Past) -> Plan<Effect> {
            let _ = &self.traveller;
            let name = if past.is_done("flight") { "room" } else { "hotel" };
            Plan::new().step(Step::new("flight", Effect::Book("flight".into()))).step(Step::new(name, Effect::Charge))
        }
    }
    let recorded = given(trip()).when_done("flight", "F1").events().to_vec();
    let divergence = check_recorded::<Renamed>(&recorded).unwrap_err();
    assert_eq!(divergence.version, 4, "{divergence}");
    assert!(matches!(divergence.expected, Ok(Some(SagaEvent::StepStarted { step, .. })) if step == "room"));
}
