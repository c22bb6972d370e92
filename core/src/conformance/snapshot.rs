//! L9: a snapshot comes out as it went in, or not at all.

use super::{Harness, fixture::*};
use crate::{ContentType, EventId, Fingerprint, Limits, Snapshot, Timestamp, Version};

fn snapshot(name: &str, version: u64, data: impl Into<Vec<u8>>) -> Snapshot {
    Snapshot {
        stream: stream(name),
        version: Version::new(version),
        event_id: EventId::new(),
        fingerprint: Fingerprint::of([name, &version.to_string()]),
        taken_at: Timestamp::now(),
        content_type: ContentType::BINCODE,
        data: data.into().into(),
    }
}

/// Every field, with data of all kinds.
pub(super) async fn l9_what_is_saved_is_loaded(h: &mut dyn Harness) {
    let store = h.store();
    let large: Vec<u8> = (0..=255).cycle().take(5_000_000).collect();
    for (n, data) in [b"".to_vec(), vec![0], vec![0xff, 0x00], "ü🦀".into(), large].into_iter().enumerate() {
        let saved = snapshot(&format!("account-{n}🦀"), 1 + n as u64, data);
        store.save_snapshot(saved.clone()).await.unwrap();
        assert!(store.load_snapshot(&saved.stream).await.unwrap() == Some(saved), "another snapshot came out");
    }
}

/// A stream has one snapshot: the one that was saved last.
pub(super) async fn l9_a_snapshot_replaces_the_one_before(h: &mut dyn Harness) {
    let store = h.store();
    for (version, data) in [(3, "three"), (7, "seven, which is longer"), (5, "5")] {
        let saved = snapshot("account-1", version, data);
        store.save_snapshot(saved.clone()).await.unwrap();
        assert_eq!(store.load_snapshot(&saved.stream).await.unwrap(), Some(saved));
    }
}

/// What is not there, or no longer, is not loaded, nor is that of a stream with a like name.
pub(super) async fn l9_each_stream_has_its_own(h: &mut dyn Harness) {
    let store = h.store();
    let saved = ["account-1", "account-10", "account-1-1", "accoun-1"].map(|name| snapshot(name, 2, name));
    for snapshot in &saved {
        assert_eq!(store.load_snapshot(&snapshot.stream).await.unwrap(), None);
        store.save_snapshot(snapshot.clone()).await.unwrap();
    }
    for name in ["account-2", "account-100", "account-1-"] {
        assert_eq!(store.load_snapshot(&stream(name)).await.unwrap(), None, "{name} has no snapshot");
    }
    store.delete_snapshot(&stream("account-1")).await.unwrap();
    store.delete_snapshot(&stream("account-2")).await.unwrap();
    assert_eq!(store.load_snapshot(&stream("account-1")).await.unwrap(), None, "a deleted snapshot is gone");
    for snapshot in &saved[1..] {
        assert_eq!(store.load_snapshot(&snapshot.stream).await.unwrap().as_ref(), Some(snapshot));
    }
}

/// Saved by many at once: one of theirs, whole.
pub(super) async fn l9_a_snapshot_is_never_a_mixture(h: &mut dyn Harness) {
    let store = h.store();
    let written: Vec<_> = (0..16).map(|n| snapshot("account-1", n, vec![n as u8; 10_000])).collect();
    race(written.len(), |n| {
        let (store, snapshot) = (store.clone(), written[n].clone());
        async move {
            store.save_snapshot(snapshot).await.unwrap();
            store.load_snapshot(&stream("account-1")).await.unwrap().expect("a snapshot is there")
        }
    })
    .await
    .into_iter()
    .for_each(|loaded| assert!(written.contains(&loaded), "a snapshot that nobody saved"));
}

/// A snapshot need not be durable; what is loaded after reopening is what was saved.
pub(super) async fn l9_after_reopening_it_is_the_same_or_none(h: &mut dyn Harness) {
    let store = h.store();
    let saved = ["account-1", "account-2"].map(|name| snapshot(name, 2, name));
    for snapshot in &saved {
        store.save_snapshot(snapshot.clone()).await.unwrap();
    }
    store.delete_snapshot(&saved[1].stream).await.unwrap();
    drop(store);
    h.reopen(Limits::default()).await;
    let store = h.store();
    let loaded = store.load_snapshot(&saved[0].stream).await.unwrap();
    assert!(loaded.is_none() || loaded.as_ref() == Some(&saved[0]), "another snapshot came out: {loaded:?}");
    assert_eq!(store.load_snapshot(&saved[1].stream).await.unwrap(), None, "a deleted snapshot came back");
}

/// Snapshots are beside the log: none of them makes or moves a stream.
pub(super) async fn l9_snapshots_are_no_events(h: &mut dyn Harness) {
    let store = h.store();
    write(&store, "account-1", 1).await;
    let before = store.head().await.unwrap();
    store.save_snapshot(snapshot("account-2", 9, "state")).await.unwrap();
    assert_eq!(store.head().await.unwrap(), before);
    assert_eq!(store.stream_head(&stream("account-2")).await.unwrap().version, Version::NONE);
    assert_eq!(store.streams(None, None, 10).await.unwrap(), [stream("account-1")]);
}
