//! Connections that die in the middle of a call: whatever had been sent or answered by then, each append is in the log
//! once, and its caller is told the truth.

use std::{
    env,
    time::{Duration, Instant},
};

use indelible_core::{
    Append, AppendOutcome, EventStore, ExpectedVersion, FailedCondition, StoreError, Version,
    conformance::fault::{Line, Verdict},
};
use indelible_postgres::PostgresStore;
use rand::seq::SliceRandom;

use crate::{
    cluster::{fresh_schema, shared_url},
    proxy::{Cut, Proxy},
    writing::{append, client, event, log, stream},
};

pub(crate) const FAULT: &str = "connection cut at a byte of a call";
/// How long to cut for; `INDELIBLE_CUTS=all` cuts at each byte, however long that takes.
const TIME: Duration = Duration::from_secs(12);
const CUTS_MIN: u64 = 50;

/// The function that writes an append.
#[derive(Clone, Copy, PartialEq)]
enum Call {
    Judged,
    Foreseen,
}

impl Call {
    /// Appends something that finds what it expects: of that kind of event the store knows by now, and nothing is in dispute.
    async fn settled(store: &PostgresStore, version: &mut u64) -> AppendOutcome {
        let done = store.append(Call::Foreseen.append(*version)).await.unwrap();
        *version += 1;
        done
    }

    /// An append of that kind of event, or of one that is new; of as many bytes.
    fn append(self, version: u64) -> Append {
        let event_type = match self {
            Self::Foreseen => "Written".into(),
            Self::Judged => format!("W{version:06}"),
        };
        let mut event = event("Written");
        event.event_type = event_type.parse().unwrap();
        Append::to(stream("a-1"), ExpectedVersion::Exact(Version::new(version)), [event])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_cut_at_any_byte_is_in_the_log_once() {
    let (url, schema) = (shared_url(), fresh_schema());
    let proxy = Proxy::before(&url).await;
    let store = PostgresStore::options().schema(&schema).open(&proxy.url(&url)).await.unwrap();
    let direct = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    let mut version = 0;
    let mut answers = Vec::new();
    let mut cuts = Vec::new();
    for call in [Call::Judged, Call::Foreseen] {
        answers.push(Call::settled(&store, &mut version).await);
        let judged = store.statistics().judged_batches;
        proxy.cut_next(Cut::Count);
        answers.push(store.append(call.append(version)).await.unwrap());
        version += 1;
        assert_eq!(store.statistics().judged_batches - judged, u64::from(call == Call::Judged));
        // The last bytes of the answer are on their way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (asked, answered) = proxy.counted();
        assert!(asked > 500 && answered > 100, "a call of {asked} bytes, answered with {answered}");
        cuts.extend((0..=asked).map(Cut::Asked).chain((0..answered).map(Cut::Answered)).map(|cut| (call, cut)));
    }
    cuts.shuffle(&mut rand::rng());
    let (all, started, mut tried) = (cuts.len(), Instant::now(), 0);
    for (call, cut) in cuts {
        let is_enough = started.elapsed() > TIME && tried >= CUTS_MIN;
        if env::var("INDELIBLE_CUTS").is_err() && is_enough {
            break;
        }
        answers.push(Call::settled(&store, &mut version).await);
        proxy.cut_next(cut);
        match store.append(call.append(version)).await {
            Ok(AppendOutcome::Appended(done)) => answers.push(AppendOutcome::Appended(done)),
            other => panic!("cut at {cut:?}: {other:?}"),
        }
        (version, tried) = (version + 1, tried + 1);
        assert_eq!(direct.stream_head(&stream("a-1")).await.unwrap().version, Version::new(version), "cut at {cut:?}");
    }
    let controls = format!("of {all} bytes asked and answered, of appends that are judged and of foreseen ones");
    let verdict = Verdict { acknowledged: tried, ..Verdict::default() };
    Line::new(FAULT, tried, proxy.cuts() as u64, &verdict, &controls).print();
    assert!(tried >= CUTS_MIN, "there was time for {tried} cuts only");
    assert_eq!(proxy.cuts() as u64, tried, "not each call was cut");
    let log = log(&direct).await;
    assert_eq!(log.len() as u64, version, "an append is lost, or in the log twice");
    for (recorded, answer) in log.iter().zip(answers) {
        let AppendOutcome::Appended(done) = answer else { panic!("{answer:?}") };
        assert_eq!(done.events, std::slice::from_ref(recorded), "an append was answered for another");
    }
}

/// A call that was sent again, and answered, must not take effect any more when the first one comes at last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_comes_late_writes_nothing() {
    let (url, schema) = (shared_url(), fresh_schema());
    let proxy = Proxy::before(&url).await;
    let store = PostgresStore::options().schema(&schema).open(&proxy.url(&url)).await.unwrap();
    let other = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    for round in 0..6 {
        let name = format!("a-{round}");
        // After a conflict the next append is judged, and the one behind that is foreseen.
        if round % 2 == 1 {
            store.append(append(&format!("b-{round}"), 0)).await.unwrap();
        }
        proxy.cut_next(Cut::Late);
        let told = store.append(append(&name, 1)).await.unwrap();
        let AppendOutcome::Conflict(failed) = told else { panic!("there is no version 1 yet: {told:?}") };
        assert!(matches!(&failed[..], [FailedCondition::Version { actual: Version::NONE, .. }]), "{failed:?}");
        other.append(append(&name, 0)).await.unwrap();
        // Now the first call would be right, but its caller knows that it was not.
        proxy.release().await;
        assert_eq!(
            other.stream_head(&stream(&name)).await.unwrap().version,
            Version::FIRST,
            "it was written after all"
        );
    }
    let client = client(&url).await;
    let fences = client.query_one(&format!("SELECT count(*) FROM {schema}.fences"), &[]).await.unwrap();
    assert_eq!(fences.get::<_, i64>(0), 6);

    // They are taken away when nothing can be under way any more.
    let age = format!("UPDATE {schema}.fences SET fenced_at = fenced_at - interval '8 days'");
    client.batch_execute(&age).await.unwrap();
    proxy.cut_next(Cut::Answered(10));
    store.append(append("c-1", 0)).await.unwrap();
    let fences = client.query_one(&format!("SELECT count(*) FROM {schema}.fences"), &[]).await.unwrap();
    assert_eq!(fences.get::<_, i64>(0), 1);
}

/// The same where patience ended, and the caller sends the append again, as one does whose outcome is unknown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_was_given_up_writes_nothing() {
    let (url, schema) = (shared_url(), fresh_schema());
    let proxy = Proxy::before(&url).await;
    let options = PostgresStore::options().schema(&schema).patience(Duration::from_secs(2));
    let store = options.open(&proxy.url(&url)).await.unwrap();
    let other = PostgresStore::options().schema(&schema).open(&url).await.unwrap();
    proxy.cut_next(Cut::Held);
    let unknown = store.append(append("a-1", 1)).await;
    let Err(StoreError::OutcomeUnknown { append: mut same, .. }) = unknown else { panic!("{unknown:?}") };
    let told = loop {
        // Where the machine is slow, it may be unknown once more.
        match store.append((*same).clone()).await {
            Err(StoreError::OutcomeUnknown { append, .. }) => same = append,
            Err(error) if error.is_retryable() => {}
            told => break told.unwrap(),
        }
    };
    assert!(matches!(told, AppendOutcome::Conflict(_)), "there is no version 1 yet: {told:?}");
    other.append(append("a-1", 0)).await.unwrap();
    proxy.release().await;
    let head = other.stream_head(&stream("a-1")).await.unwrap();
    assert_eq!(head.version, Version::FIRST, "it was written after all");
}
