//! L11: a place in this log is told from any other.

use super::{Harness, fixture::*};
use crate::{AnyStore, EventId, Filter, Limits, Position, StartFrom, StoreError, StoreId, Subscription, Token};

/// Tokens that are not of this log, with what it holds instead. Its head is at position 5.
async fn strangers(store: &AnyStore) -> Vec<(&'static str, Token, Token)> {
    let head = store.head().await.unwrap();
    let third = store.token(Position::new(3)).await.unwrap();
    let start = Token::start(store.id());
    let elsewhere = StoreId::new();
    vec![
        ("another store's", Token { store: elsewhere, ..third }, third),
        ("another store's start", Token::start(elsewhere), start),
        ("another event's", Token { event: EventId::new(), ..third }, third),
        (
            "another position's",
            Token { position: Position::new(2), ..third },
            store.token(Position::new(2)).await.unwrap(),
        ),
        ("one without an event", Token { event: EventId::NIL, ..third }, third),
        ("a start with an event", Token { event: third.event, ..start }, start),
        ("one beyond the head", Token { position: Position::new(6), event: EventId::new(), ..head }, head),
        ("one far beyond the head", Token { position: Position::MAX, ..head }, head),
    ]
}

fn assert_diverged<T>(result: Result<T, StoreError>, what: &str, token: Token, found: Token) {
    match result {
        Err(error @ StoreError::Diverged { .. }) => {
            let StoreError::Diverged { token: told, found: told_found } = &error else { unreachable!() };
            assert_eq!((*told, *told_found), (token, found), "{what}: names what was remembered and what is there");
            assert!(!error.is_retryable(), "{what}: asking again is no use");
        }
        Err(other) => panic!("{what} must have diverged, got {other:?}"),
        Ok(_) => panic!("{what} must have diverged, but was taken"),
    }
}

/// Every place of the log is of the log.
pub(super) async fn l11_own_tokens_are_known(h: &mut dyn Harness) {
    let store = h.store();
    store.check(&Token::start(store.id())).await.unwrap();
    let answer = appended(&store, to("a-1", events(5))).await;
    store.check(&answer.token).await.unwrap();
    for position in 0..=5 {
        let token = store.token(Position::new(position)).await.unwrap();
        assert_eq!((token.store, token.position.get()), (store.id(), position));
        let event = position.checked_sub(1).map_or(EventId::NIL, |index| answer.events[index as usize].id);
        assert_eq!(token.event, event, "the event at {position}");
        store.check(&token).await.unwrap();
        store.check(&token.to_string().parse().unwrap()).await.unwrap();
    }
    let beyond = store.token(Position::new(6)).await;
    assert!(matches!(beyond, Err(StoreError::Invalid(_))), "there is no place beyond the head, got {beyond:?}");
}

/// Strangers are told, and what is there instead.
pub(super) async fn l11_strange_tokens_are_told(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "a-1", 5).await;
    for (what, token, found) in strangers(&store).await {
        assert_diverged(store.check(&token).await, what, token, found);
    }
}

/// No subscription goes on from a place that means something else.
pub(super) async fn l11_subscriptions_refuse_strange_tokens(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "a-1", 5).await;
    for (what, token, found) in strangers(&store).await {
        let result = Subscription::shared(store.clone(), Filter::all(), StartFrom::After(token)).await;
        assert_diverged(result.map(|_| ()), what, token, found);
    }
}

/// Tokens are known after the store was opened again.
pub(super) async fn l11_tokens_are_known_after_reopening(h: &mut dyn Harness) {
    let store = h.store();
    let token = appended(&store, to("a-1", events(2))).await.token;
    write(&store, "filler-1", 1).await;
    drop(store);
    h.reopen(Limits::default()).await;
    let store = h.store();
    store.check(&token).await.unwrap();
    let strange = Token { event: EventId::new(), ..token };
    assert_diverged(store.check(&strange).await, "another event's", strange, token);
}

/// Two logs never have the same identity.
pub(super) async fn l11_a_log_has_an_identity(h: &mut dyn Harness) {
    let (store, another) = (h.store(), h.another().await);
    assert_eq!(store.id(), another.id(), "handles to one log share its identity");
    assert!(!store.id().as_uuid().is_nil());
    let token = appended(&store, to("a-1", events(1))).await.token;
    another.check(&token).await.unwrap();
}
