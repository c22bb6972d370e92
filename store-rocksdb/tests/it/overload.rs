//! More than a store is made for: its memory stays bounded, it says when it is full, and it goes on afterwards. The fault is
//! an application that has too much of one thing: streams, callers, subscriptions, tables.
//!
//! Each test runs in a process of its own, which tells how much memory it had at its highest. `INDELIBLE_STREAMS` says
//! how many streams the first one writes.

use std::{
    env, fs,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use indelible_core::conformance::fault::Line;
use indelible_core::{
    Append, AppendOutcome, ContentType, Delivery, EventStore, EventStoreExt, EventType, ExpectedVersion, Filter,
    NewEvent, Position, ReadLog, ReadStream, RecordedEvent, StartFrom, StoreError, StreamId, Subscription, Token,
};
use indelible_rocksdb::{Durability, Options, RocksStore};

use crate::{campaign::number, verification::prove};

const JOB: &str = "INDELIBLE_OVERLOAD_JOB";
/// What a store with default options may take, whatever its log is like.
pub(crate) const RESIDENT_MIB_MAX: u64 = 300;

fn options() -> Options {
    RocksStore::options()
}

/// What the other processes are started for; by itself it is no test.
#[test]
fn child() {
    let Ok(job) = env::var(JOB) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match job.as_str() {
        "catching up" => runtime.block_on(crate::catching_up::catching_up()),
        "streams" => runtime.block_on(many_streams()),
        "subscriptions" => runtime.block_on(many_subscriptions()),
        "files" => runtime.block_on(few_files()),
        "hostile" => runtime.block_on(crate::against_memory::hostile()),
        job => panic!("no child knows how to do {job}"),
    }
    println!("\n>ended, resident at most {} MiB", resident_mib_max());
}

/// The most memory that this process had.
pub(crate) fn resident_mib_max() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Runs a job in a process of its own, behind some shell commands, and says what memory it took.
pub(crate) fn run(job: &str, before: &str) -> u64 {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"{before} exec "$0" overload::child --exact --nocapture --test-threads=1"#)]);
    let output = command.arg(env::current_exe().unwrap()).env(JOB, job).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{}", said.lines().filter(|line| line.starts_with('>')).collect::<Vec<_>>().join("\n") + "\n");
    let ended = said.lines().find_map(|line| line.strip_prefix(">ended, resident at most "));
    let ended = ended.unwrap_or_else(|| panic!("{job}: {said}\n{}", String::from_utf8_lossy(&output.stderr)));
    ended.trim_end_matches(" MiB").parse().unwrap()
}

pub(crate) fn event(bytes: usize) -> NewEvent {
    NewEvent::new(EventType::from_static("Happened"), ContentType::BINCODE, vec![7; bytes])
}

pub(crate) fn stream_id(n: usize) -> StreamId {
    format!("account-{n}").parse().unwrap()
}

pub(crate) async fn appended(store: &RocksStore, append: Append) -> Vec<RecordedEvent> {
    match store.append(append).await {
        Ok(AppendOutcome::Appended(appended)) => appended.events,
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_does_not_grow_with_streams() {
    let (resident, count) = (run("streams", ""), streams());
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB are too many");
    tell("many streams", count, count, resident);
}

/// How many the first test writes.
fn streams() -> u64 {
    number("INDELIBLE_STREAMS").unwrap_or(50_000)
}

fn tell(fault: &str, cycles: u64, appended: u64, resident: u64) {
    let controls = format!("resident {resident} of {RESIDENT_MIB_MAX} MiB");
    Line::clean(fault, cycles, cycles, appended, &controls).print();
}

/// Streams that are written once, all of them expected not to be there, and then again some of them.
async fn many_streams() {
    const IN_ONE: usize = 100;
    let count = streams() as usize;
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    let started = Instant::now();
    let writing = stream::iter(0..count / IN_ONE).map(|n| {
        let append = (n * IN_ONE..(n + 1) * IN_ONE)
            .fold(Append::new(), |append, n| append.write(stream_id(n), ExpectedVersion::NoStream, [event(100)]));
        appended(&store, append)
    });
    writing.buffer_unordered(16).for_each(|_| async {}).await;
    let took = started.elapsed();
    for n in (0..count).step_by(count / 100) {
        let second = appended(&store, Append::to(stream_id(n), ExpectedVersion::Exists, [event(1)])).await;
        assert_eq!(second[0].version.get(), 2, "stream {n}");
    }
    store.close().await.unwrap();
    let opening = Instant::now();
    let store = options().open(dir.path()).unwrap();
    let opened = opening.elapsed();
    for n in (0..count).step_by(count / 97) {
        let events: Vec<_> = store.stream(ReadStream::new(stream_id(n))).try_collect().await.unwrap();
        assert!(!events.is_empty() && events.iter().all(|event| event.stream == stream_id(n)), "stream {n}");
    }
    prove(&store).await;
    println!("\n>{count} streams in {took:.1?}, opened again in {opened:.1?}");
}

#[test]
fn ten_thousand_subscriptions_are_served() {
    let resident = run("subscriptions", "");
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB");
    tell("many subscriptions", SUBSCRIPTIONS as u64, APPENDS as u64, resident);
}

const SERVED_WITHIN: Duration = Duration::from_secs(150);
const SUBSCRIPTIONS: usize = 10_000;
/// While they follow.
const APPENDS: usize = 5;

/// Half of them live, half of them with all of the past to catch up with.
async fn many_subscriptions() {
    let dir = tempfile::tempdir().unwrap();
    let store = options().open(dir.path()).unwrap();
    // One that never comes to ask.
    let _slow = Subscription::new(store.clone(), Filter::all(), StartFrom::Beginning).await.unwrap();
    let write = async |appends: usize| {
        let started = Instant::now();
        for _ in 0..appends {
            appended(&store, Append::to(stream_id(1), ExpectedVersion::Any, [event(10)])).await;
        }
        started.elapsed()
    };
    let alone = write(APPENDS * 10).await / 10;
    let shared = Arc::new(store.clone());
    let place = store.head().await.unwrap();
    let following: Vec<_> = (0..SUBSCRIPTIONS)
        .map(|n| {
            let store = Arc::clone(&shared);
            tokio::spawn(async move {
                let after = if n % 2 == 0 { place } else { Token::start(place.store) };
                let from = StartFrom::After(after);
                let mut subscription = Subscription::shared(store, Filter::all(), from).await.unwrap();
                let mut next = after.position.plus(1);
                while next.get() <= place.position.get() + APPENDS as u64 {
                    if let Delivery::Event(event) = subscription.next().await.unwrap() {
                        assert_eq!(event.position, next);
                        next = next.plus(1);
                    }
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    let watched = write(APPENDS).await;
    let served = tokio::time::timeout(SERVED_WITHIN, join_all(following)).await;
    served.expect("all subscriptions are served").into_iter().for_each(|ended| ended.unwrap());
    println!(
        "\n>{SUBSCRIPTIONS} subscriptions had {APPENDS} events after {:.1?}; the writer took {watched:.1?}, alone {alone:.1?}",
        started.elapsed()
    );
    prove(&store).await;
}

#[test]
fn few_open_files_are_enough() {
    let resident = run("files", &format!("ulimit -n {FILES} &&"));
    tell("few open files", OPENINGS as u64, (OPENINGS * EVENTS) as u64, resident);
}

const FILES: usize = 80;
const OPENINGS: usize = 60;
const EVENTS: usize = 300;

/// Enough openings for more tables than there may be open files.
async fn few_files() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..OPENINGS {
        let store = options().durability(Durability::Buffered).open(dir.path()).unwrap();
        let events = (0..EVENTS).map(|_| event(500));
        appended(&store, Append::to(stream_id(n), ExpectedVersion::NoStream, events)).await;
        store.close().await.unwrap();
    }
    let store = options().open(dir.path()).unwrap();
    let readers = (0..8).map(|_| async {
        let count = store.log(ReadLog::all()).try_fold(0, |count, _| async move { Ok(count + 1) }).await.unwrap();
        assert_eq!(count, OPENINGS * EVENTS);
    });
    join_all(readers).await;
    prove(&store).await;
    let tables: usize = ["log", "index"].map(|database| tables(&dir.path().join(database))).iter().sum();
    println!("\n>{tables} tables, {FILES} files may be open");
    assert!(tables > FILES, "only {tables} tables");
}

fn tables(dir: &Path) -> usize {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "sst")).count()
}

/// More than the queue holds: each append is in the log, or was refused and is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_queue_says_so_and_nothing_is_lost() {
    const APPENDS: usize = 600;
    const BYTES: usize = 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let store = options().queue_bytes(4 * BYTES).queue_wait(Duration::from_millis(2)).open(dir.path()).unwrap();
    let appends = (0..APPENDS).map(|n| {
        let (store, event) = (store.clone(), event(BYTES));
        tokio::spawn(async move {
            let id = event.id;
            match store.append(Append::to(stream_id(n), ExpectedVersion::NoStream, [event])).await {
                Ok(AppendOutcome::Appended(appended)) => (id, Some(appended.token.position)),
                Err(error @ StoreError::Overloaded { .. }) => {
                    assert!(error.is_retryable());
                    (id, None)
                }
                other => panic!("{other:?}"),
            }
        })
    });
    let answers: Vec<_> = join_all(appends.collect::<Vec<_>>()).await.into_iter().map(Result::unwrap).collect();
    let refused = answers.iter().filter(|(_, position)| position.is_none()).count();
    println!("{APPENDS} appends of {BYTES} bytes at once: {refused} refused");
    assert!(refused > 0 && refused < APPENDS, "{refused} of {APPENDS} were refused");
    for (id, position) in answers {
        assert_eq!(store.event(id).await.unwrap().map(|event| event.position), position);
    }
    assert_eq!(store.head().await.unwrap().position, Position::new((APPENDS - refused) as u64));
    appended(&store, Append::to(stream_id(0), ExpectedVersion::Any, [event(BYTES)])).await; // and it goes on
    prove(&store).await;
    let (refused, written) = (refused as u64, (APPENDS - refused) as u64);
    Line::clean("queue full", APPENDS as u64, refused, written, "those refused are not in the log").print();
}
