//! L11: readers' places, kept by name.

use super::{Harness, fixture::*};
use crate::{EventId, Limits, Position, StoreError, StoreId, Token};

/// Each reader has the place that it said last.
pub(super) async fn l11_readers_keep_their_places(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "a-1", 5).await;
    let readers = ["reader", "reader2", "read", "Reader", "reader/a"];
    for (n, reader) in readers.iter().enumerate() {
        assert_eq!(store.load_checkpoint(reader).await.unwrap(), None, "{reader} never said how far it is");
        store.save_checkpoint(reader, store.token(Position::new(n as u64)).await.unwrap()).await.unwrap();
    }
    for position in [3, 5, 5, 1, 0] {
        let token = store.token(Position::new(position)).await.unwrap();
        store.save_checkpoint("reader", token).await.unwrap();
        assert_eq!(store.load_checkpoint("reader").await.unwrap(), Some(token));
    }
    for (n, reader) in readers.iter().enumerate().skip(1) {
        let token = store.token(Position::new(n as u64)).await.unwrap();
        assert_eq!(store.load_checkpoint(reader).await.unwrap(), Some(token), "{reader} stands where it stood");
    }
}

/// A place that is not of this log is not kept; the reader's former one is.
pub(super) async fn l11_strange_places_are_not_kept(h: &mut dyn Harness) {
    let store = h.store();
    let token = appended(&store, to("a-1", events(3))).await.token;
    store.save_checkpoint("reader", token).await.unwrap();
    for strange in [
        Token { store: StoreId::new(), ..token },
        Token { event: EventId::new(), ..token },
        Token { position: Position::new(2), ..token },
        Token { position: Position::new(4), ..token },
    ] {
        for reader in ["reader", "another"] {
            let saved = store.save_checkpoint(reader, strange).await;
            assert!(matches!(saved, Err(StoreError::Diverged { .. })), "{strange} must have diverged, got {saved:?}");
        }
    }
    assert_eq!(store.load_checkpoint("reader").await.unwrap(), Some(token));
    assert_eq!(store.load_checkpoint("another").await.unwrap(), None);
}

/// Places are kept when the store is opened again.
pub(super) async fn l11_readers_keep_their_places_after_reopening(h: &mut dyn Harness) {
    let store = h.store();
    let token = appended(&store, to("a-1", events(3))).await.token;
    store.save_checkpoint("reader", token).await.unwrap();
    write(&store, "filler-1", 1).await;
    drop(store);
    h.reopen(Limits::default()).await;
    assert_eq!(h.store().load_checkpoint("reader").await.unwrap(), Some(token));
    assert_eq!(h.store().load_checkpoint("reader2").await.unwrap(), None);
}
