//! L12: errors say what happened, to what, and whether to try again.
//!
//! Which call fails is for the other clauses; here it counts what a failure says.

use std::error::Error;

use super::{Harness, fixture::*};
use crate::{Append, AppendOutcome, EventId, ExpectedVersion, FailedCondition, Position, Query, StoreError, Token};

/// What is wrong with a call is told in words, with what it is about, and that trying again is no use.
pub(super) async fn l12_errors_say_what_happened(h: &mut dyn Harness) {
    let store = h.store();
    let known = event("Happened");
    appended(&store, to("account-1", [known.clone(), event("Happened")])).await;
    let head = store.head().await.unwrap();
    let strange = Token { event: EventId::new(), ..head };
    let large = crate::NewEvent { data: vec![0; 2 * 1024 * 1024].into(), ..event("Large") };
    let about = |append: Append| {
        let store = store.clone();
        async move { store.append(append).await.err() }
    };
    let failures = [
        (about(to("account-7", [large])).await, "account-7"),
        (about(to("account-7", events(1)).close(stream("account-8"))).await, "account-8"),
        (about(to("account-7", events(1)).check(stream("account-7"), exact(1))).await, "account-7"),
        (about(to("account-7", [event("Happened").with_id(EventId::NIL)])).await, "account-7"),
        (about(to("account-7", [known.clone()])).await, &known.id.to_string()[..]),
        (store.check(&strange).await.err(), &strange.to_string()[..]),
        (store.token(Position::new(7)).await.err(), "7"),
        (store.save_checkpoint("", head).await.err(), "reader"),
    ]
    .map(|(error, about)| (error, about.to_owned()));
    for (error, about) in failures {
        let Some(error) = error else { continue };
        let text = error.to_string();
        assert!(text.contains(&about), "{text:?} doesn't say that it is about {about:?}");
        assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{text:?} is no part of a sentence");
        assert!(!error.is_retryable(), "{text:?}: trying again is no use");
        assert!(error.source().is_none_or(|cause| !cause.to_string().is_empty()));
    }
}

/// A conflict is an outcome and no error, and its conditions say which stream and what was there.
pub(super) async fn l12_conflicts_are_outcomes(h: &mut dyn Harness) {
    let store = h.store();
    appended(&store, to("account-1", [tagged("Opened", &["owner:ada"])])).await;
    let demanding = to("account-1", events(1))
        .check(stream("account-2"), ExpectedVersion::Exists)
        .require(crate::Condition::none_after(with_tags(&["owner:ada"]), Position::START));
    let Ok(AppendOutcome::Conflict(failed)) = store.append(demanding).await else { return };
    for failed in failed {
        let expected = match &failed {
            FailedCondition::Version { .. } | FailedCondition::Closed { .. } => ["account-2", "0"],
            FailedCondition::Query { .. } => ["condition 0", "position 1"],
        };
        let text = failed.to_string();
        assert!(expected.iter().all(|part| text.contains(part)), "{text:?} doesn't say {expected:?}");
    }
}

/// A failed call leaves the store as it was: the next one goes through.
pub(super) async fn l12_the_store_goes_on_after_an_error(h: &mut dyn Harness) {
    let store = h.store();
    let nothing = crate::ReadLog::matching(Query::new([crate::QueryItem::default()]));
    for n in 0..10 {
        let _refused = store.append(Append::new()).await;
        let _refused = store.read_log(&nothing).await;
        let _refused = store.token(Position::MAX).await;
        let _refused = store.save_checkpoint("", Token::start(store.id())).await;
        match store.append(to("account-1", events(1))).await {
            Ok(AppendOutcome::Appended(answer)) => assert_eq!(answer.events.len(), 1),
            other => panic!("round {n}: the store must go on, got {other:?}"),
        }
    }
    let missing = store.event(EventId::new()).await;
    assert!(matches!(missing, Ok(None) | Err(StoreError::Unavailable { .. })), "what is not there is no error");
}
