//! Whether today's code still follows the journals that other code wrote.

use indelible_core::Apply;

use crate::{Journal, Saga, SagaEvent};

/// Where today's plan goes another way than a recorded journal.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("event {version}: recorded is {recorded:?}, today's plan says {expected:?}")]
pub struct Divergence {
    /// The event's number in the journal.
    pub version: usize,
    /// What the journal has there, `None` at its end.
    pub recorded: Option<SagaEvent>,
    /// What would be written there today, or why nothing can be.
    pub expected: Result<Option<SagaEvent>, String>,
}

/// Replays a recorded journal against today's plan. A change that would break a saga which runs is found so: a step that
/// was renamed, moved or taken out, or whose effect is another.
///
/// Record journals with [`Sagas::journal`](crate::Sagas::journal), keep them with the tests, and check each with each
/// change. Where one diverges let the plan ask [`Past::version`](crate::Past::version).
///
/// ```
/// # use indelible_sagas::{Past, Plan, Saga, Step, testing::{check_recorded, given}};
/// # use serde::{Deserialize, Serialize};
/// # macro_rules! walk { ($name:ident, $step:literal) => {
/// # #[derive(Clone, Serialize, Deserialize)] struct $name;
/// # impl Saga for $name {
/// #     const NAME: &'static str = "walk";
/// #     type Effect = String;
/// #     fn plan(&self, _: &Past) -> Plan<String> { Plan::new().step(Step::new($step, "left".into())) }
/// # } } }
/// # walk!(Walk, "left"); walk!(Renamed, "to the left");
/// let recorded = given(Walk).when_done("left", ()).events().to_vec();
/// assert_eq!(check_recorded::<Walk>(&recorded), Ok(()));
/// assert_eq!(check_recorded::<Renamed>(&recorded).unwrap_err().version, 2);
/// ```
///
/// # Errors
/// The first [`Divergence`].
pub fn check_recorded<S: Saga>(journal: &[SagaEvent]) -> Result<(), Box<Divergence>> {
    let mut state = Journal::<S>::default();
    for (at, event) in journal.iter().enumerate() {
        check(&state, at, Some(event))?;
        state.apply(event);
    }
    check(&state, journal.len(), None)
}

fn check<S: Saga>(state: &Journal<S>, at: usize, recorded: Option<&SagaEvent>) -> Result<(), Box<Divergence>> {
    let diverges = |expected| Err(Box::new(Divergence { version: at + 1, recorded: recorded.cloned(), expected }));
    if at == 0 {
        return Ok(());
    }
    match state.next() {
        Ok(expected) if expected.is_some() && expected.as_ref() != recorded => diverges(Ok(expected)),
        Ok(None) if recorded.is_some_and(SagaEvent::follows) && !is_operators(recorded) => diverges(Ok(None)),
        Ok(_) => Ok(()),
        Err(error) => diverges(Err(error.to_string())),
    }
}

/// Whether an operator may have said so, where it does not follow.
fn is_operators(event: Option<&SagaEvent>) -> bool {
    matches!(event, Some(SagaEvent::Compensating { .. }))
}
