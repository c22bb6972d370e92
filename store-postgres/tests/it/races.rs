//! Many that want what only one can have: a name, by a consistency condition; a version; seats, of which there are some.
//! They race over two handles, as processes do, and in each round there is one winner, or as many as there are seats.
//! `INDELIBLE_RACES` says how many rounds.

use std::sync::Arc;

use indelible_core::{
    Append, AppendOutcome, Condition, EventStore, ExpectedVersion, Position, ReadLog, StoreError, Tag, Version,
    conformance::fault::{Line, Verdict},
};
use indelible_postgres::PostgresStore;
use rand::Rng;
use tokio::sync::Barrier;

use crate::{
    child::number,
    cluster::{fresh_schema, shared_url},
    writing::{append, appended, event, prepared, stream},
};

pub(crate) const FAULT: &str = "8 to 64 race for one place";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_racer_wins() {
    let rounds = number("INDELIBLE_RACES").unwrap_or(90);
    let (url, schema) = (shared_url(), fresh_schema());
    let options = PostgresStore::options().schema(&schema);
    let stores = [options.clone().open(&url).await.unwrap(), prepared(options).open(&url).await.unwrap()];
    let (mut racers_all, mut verdict) = (0, Verdict::default());
    for round in 0..rounds {
        let racers = rand::rng().random_range(8..=64);
        racers_all += racers;
        let head = stores[0].head().await.unwrap().position;
        let start = Arc::new(Barrier::new(racers));
        let race = (0..racers).map(|n| {
            let (store, start) = (stores[n % 2].clone(), Arc::clone(&start));
            tokio::spawn(async move {
                let append = racer(round, n, head);
                start.wait().await;
                store.append(append).await
            })
        });
        let mut winners = 0;
        for outcome in futures::future::join_all(race).await {
            match outcome.unwrap() {
                Ok(AppendOutcome::Appended(_)) => winners += 1,
                Ok(AppendOutcome::Conflict(_)) => {}
                Err(error @ StoreError::Unavailable { .. }) => panic!("nothing was away: {error:?}"),
                Err(error) => panic!("{error:?}"),
            }
        }
        let there =
            stores[1].read_log(&ReadLog::matching(Tag::of("round", round).unwrap())).await.unwrap().events.len();
        if (winners, there) != (1, 1) {
            verdict.wrong("winners", || format!("round {round}: {winners} of {racers} won, {there} are there"));
        }
        verdict.acknowledged += 1;
    }
    let controls = format!("{racers_all} racers, one winner in each round");
    Line::new(FAULT, rounds, rounds, &verdict, &controls).print();
    assert!(verdict.is_clean(), "{verdict}");
}

/// In turn: nobody has the name, from the beginning or since the racers looked; the stream has this version; does not exist.
fn racer(round: u64, n: usize, head: Position) -> Append {
    let name = Tag::of("round", round).unwrap();
    let event = event("Won").with_tags([name.clone()]);
    let own = stream(&format!("racer-{n}"));
    match round % 4 {
        0 => {
            Append::to(own, ExpectedVersion::Any, [event]).require(Condition::none_after(name.into(), Position::START))
        }
        1 => Append::to(own, ExpectedVersion::Any, [event]).require(Condition::none_after(name.into(), head)),
        2 => Append::to(stream("contested-1"), ExpectedVersion::Exact(Version::new(round / 4)), [event]),
        _ => Append::to(stream(&format!("new-{round}")), ExpectedVersion::NoStream, [event]),
    }
}

/// What nobody contends for is written without being judged, whatever an append expects; and what somebody else was
/// quicker with is judged.
#[tokio::test]
async fn only_what_is_not_as_foreseen_is_judged() {
    let (url, schema) = (shared_url(), fresh_schema());
    let open = || PostgresStore::options().schema(&schema).open(&url);
    let (store, other) = (open().await.unwrap(), open().await.unwrap());
    let to = |name: &str, expected| Append::to(stream(name), expected, [event("Written"), event("Written")]);
    let judged = || store.statistics().judged_batches;
    store.append(to("a-1", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(judged(), 1, "the first of its kind");
    let two = Append::new().write(
        stream("a-1"),
        ExpectedVersion::Any,
        [event("Written").with_tags([Tag::of("n", 1).unwrap()])],
    );
    let two = two.write(stream("a-2"), ExpectedVersion::NoStream, [event("Written"), event("Written")]);
    for append in [to("a-1", ExpectedVersion::Exact(Version::new(2))), to("a-1", ExpectedVersion::Any), two] {
        assert!(matches!(store.append(append).await, Ok(AppendOutcome::Appended(_))));
    }
    assert_eq!(judged(), 1);
    let versions = async |name: &str| store.stream_head(&stream(name)).await.unwrap().version.get();
    assert_eq!((versions("a-1").await, versions("a-2").await), (7, 2));

    other.append(to("a-1", ExpectedVersion::Any)).await.unwrap();
    let late = store.append(to("a-1", ExpectedVersion::Exact(Version::new(7)))).await;
    assert!(matches!(late, Ok(AppendOutcome::Conflict(_))), "{late:?}");
    assert_eq!(judged(), 2);
    for (version, batches) in [(9, 3), (11, 3)] {
        store.append(to("a-1", ExpectedVersion::Exact(Version::new(version)))).await.unwrap();
        assert_eq!((judged(), versions("a-1").await), (batches, version + 2), "after a conflict once more");
    }

    other.append(to("a-1", ExpectedVersion::Any)).await.unwrap();
    store.append(to("a-1", ExpectedVersion::Any)).await.unwrap();
    assert_eq!((judged(), versions("a-1").await), (3, 17), "who was wrong once has it looked up for a while");
}

/// A process that knows the versions of what it wrote itself finds what another has written meanwhile.
#[tokio::test]
async fn what_another_wrote_is_not_overlooked() {
    let (url, schema) = (shared_url(), fresh_schema());
    let options = PostgresStore::options().schema(&schema);
    let stores = [options.clone().open(&url).await.unwrap(), options.open(&url).await.unwrap()];
    let names = ["a-1", "a-2", "a-3"];
    let mut versions = [0; 3];
    for _ in 0..200 {
        let [store, name, events] = [2, 3, 3].map(|n| rand::rng().random_range(0..n));
        let append = Append::to(stream(names[name]), ExpectedVersion::Any, (0..=events).map(|_| event("Written")));
        let AppendOutcome::Appended(done) = stores[store].append(append).await.unwrap() else { panic!("any version") };
        let told: Vec<u64> = done.events.iter().map(|event| event.version.get()).collect();
        let next: Vec<u64> = (0..=events as u64).map(|n| versions[name] + 1 + n).collect();
        assert_eq!(told, next, "{} after {versions:?}", names[name]);
        versions[name] += next.len() as u64;
    }
    let judged: u64 = stores.iter().map(|store| store.statistics().judged_batches).sum();
    assert!(judged < 10, "{judged} batches were judged, which asks for versions anyway");
}

/// A process believes that streams are as it left them while others write. Where they wrote these it is noticed: nothing is
/// written twice at one version, and nothing goes by what is no longer so.
#[tokio::test]
async fn what_others_wrote_is_noticed() {
    let url = shared_url();
    let any = |name| Append::to(stream(name), ExpectedVersion::Any, [event("Written")]);
    let by_another = |name| {
        Append::to(stream("account-mine"), ExpectedVersion::Any, [event("Written")])
            .check(stream(name), ExpectedVersion::Exact(Version::new(2)))
    };
    // What this process does when another has written `theirs`, and what comes of it: the version, or no.
    let cases = [
        (append("account-mine", 2), Some(3), 0),
        (append("account-theirs", 2), None, 1),
        (any("account-theirs"), Some(4), 1),
        (by_another("account-theirs"), None, 1),
    ];
    for (case, (append_now, expected, judged)) in cases.into_iter().enumerate() {
        let options = prepared(PostgresStore::options().schema(fresh_schema()));
        let [one, other] = [options.clone().open(&url).await.unwrap(), options.open(&url).await.unwrap()];
        for version in 0..2 {
            appended(&one, append("account-mine", version)).await;
            appended(&one, append("account-theirs", version)).await;
        }
        appended(&other, append("account-theirs", 2)).await;
        let before = one.statistics().judged_batches;
        let version = match one.append(append_now).await.unwrap() {
            AppendOutcome::Appended(done) => done.events.last().map(|event| event.version.get()),
            AppendOutcome::Conflict(_) => None,
        };
        assert_eq!((version, one.statistics().judged_batches - before), (expected, judged), "case {case}");
        one.verify().await.unwrap();
    }
}
