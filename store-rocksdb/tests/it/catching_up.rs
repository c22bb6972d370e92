//! Many who read at once, and one who is judged while others write: each takes its turn, and comes to it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use indelible_core::{
    Append, AppendOutcome, Condition, EventStore, ExpectedVersion, Filter, Position, Query, QueryItem, StartFrom,
    Subscription, Tag,
};
use indelible_rocksdb::{Durability, RocksStore};

use crate::overload::{appended, event, run, stream_id};

#[test]
fn subscriptions_that_catch_up_take_turns() {
    let resident = run("catching up", "");
    assert!(resident < 500, "{resident} MiB");
}

/// Subscriptions that begin all over a log that is on the disk, each with its first page.
pub(crate) async fn catching_up() {
    const SUBSCRIPTIONS: usize = 500;
    const EVENTS: usize = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    for _ in 0..EVENTS / 1_000 {
        appended(&store, Append::to(stream_id(1), ExpectedVersion::Any, (0..1_000).map(|_| event(2_000)))).await;
    }
    store.close().await.unwrap();
    let store = RocksStore::options().open(dir.path()).unwrap();
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let started = Instant::now();
    let shared = Arc::new(store.clone());
    let begun = (0..SUBSCRIPTIONS).map(|n| {
        let store = Arc::clone(&shared);
        tokio::spawn(async move {
            let after = Position::new((n * EVENTS / SUBSCRIPTIONS) as u64);
            let from = StartFrom::After(store.token(after).await.unwrap());
            let mut subscription = Subscription::shared(store, Filter::all(), from).await.unwrap();
            assert_eq!(subscription.next().await.unwrap().into_event().unwrap().position, after.plus(1));
            subscription
        })
    });
    let mut begun = join_all(begun.collect::<Vec<_>>()).await;
    let (took, more) = (started.elapsed(), threads().saturating_sub(before));
    for subscription in begun.iter_mut().flatten() {
        subscription.next().await.unwrap().into_event().unwrap();
    }
    println!("\n>{SUBSCRIPTIONS} subscriptions began to catch up in {took:.1?}, on {more} more threads");
}

/// An append is judged while others write without a pause what its condition has to look through.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_append_is_judged_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
    let tags = ["a1", "a2"].map(|name| Tag::new(name).unwrap());
    let is_over = Arc::new(AtomicBool::new(false));
    let writers = (0..4).map(|writer| {
        let (store, tags, is_over) = (store.clone(), tags.clone(), Arc::clone(&is_over));
        tokio::spawn(async move {
            while !is_over.load(Relaxed) {
                let events = (0..2_000).map(|n| event(1).with_tags([tags[n % 2].clone()]));
                appended(&store, Append::to(stream_id(writer), ExpectedVersion::Any, events)).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let query = Query::new([QueryItem::tags(tags)]);
    for n in 0..10 {
        let append = Append::to(stream_id(9), ExpectedVersion::Any, [event(1)]);
        let after = store.head().await.unwrap().position;
        let append = append.require(Condition::none_after(query.clone(), after));
        let started = Instant::now();
        let judged = tokio::time::timeout(Duration::from_secs(60), store.append(append)).await;
        assert!(matches!(judged, Ok(Ok(AppendOutcome::Appended(_)))), "{judged:?}");
        println!("the {n}th was judged in {:.1?}", started.elapsed());
    }
    is_over.store(true, Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}
