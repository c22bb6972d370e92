//! Damage to any file of a store, of any kind: what was acknowledged is read as it was written, or there is an error.
//!
//! The fault: while no process has the store open, one of its files is changed: bits flipped, cut, a range zeroed, lost,
//! exchanged for another of its files, or for an older copy of itself. Three stores are damaged: one that was closed, one whose
//! process was killed, and one that was opened only once. Not in the model: two faults at once, and an attacker who mends checksums.
//!
//! A journal of all acknowledged events is kept apart. A damaged store either does not open, with an error that says
//! why, leaves all files as they are, and opens again when the damaged one is put back; or it opens, and whatever is
//! read of it is an error or what the journal says, and `verify` says so too. `INDELIBLE_MUTATIONS` says how many are tried,
//! `INDELIBLE_SEED` from which numbers, `INDELIBLE_MUTATION_FILES` what must be in the path of a damaged file.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fmt, fs,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use futures::{FutureExt, TryStreamExt};
use indelible_core::conformance::fault::Line;
use indelible_core::{
    Append, AppendOutcome, Category, CheckpointStore, ContentType, EventStore, EventStoreExt, EventType,
    ExpectedVersion, Filter, Fingerprint, NewEvent, Position, QualifiedType, Query, QueryItem, ReadLog, ReadStream,
    RecordedEvent, Snapshot, SnapshotStore, StoreError, StreamId, Tag, Timestamp, Token, Version,
};
use indelible_rocksdb::{Durability, RocksStore};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tempfile::TempDir;

use crate::{
    campaign::{number, seed},
    verification::prove,
};

const FAULT: &str = "file damaged";
/// Within this time after an append, the anchor has passed it: after a second, where the machine has time.
const ANCHORED_WITHIN: Duration = Duration::from_secs(30);

/// Opens as the tests want it.
fn open(dir: &Path) -> Result<RocksStore, indelible_rocksdb::OpenError> {
    RocksStore::options().open(dir)
}

/// How long a damaged store may take to open.
const OPENED_WITHIN: Duration = Duration::from_secs(20);

/// Opens a damaged store; `None` where that has no end: RocksDB reads some damaged manifests over and over.
fn open_in_time(dir: &Path) -> Option<Result<RocksStore, indelible_rocksdb::OpenError>> {
    let (sender, opened) = mpsc::channel();
    let dir = dir.to_owned();
    thread::spawn(move || sender.send(open(&dir)));
    match opened.recv_timeout(OPENED_WITHIN) {
        Ok(opened) => Some(opened),
        Err(mpsc::RecvTimeoutError::Timeout) => None,
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("opening panicked"),
    }
}

/// What was acknowledged.
#[derive(Clone, Default)]
struct Journal {
    events: Vec<RecordedEvent>,
    snapshot: Option<Snapshot>,
    checkpoint: Option<Token>,
    /// So many of the events the anchor covers: they must not be lost.
    anchored: usize,
}

/// A store as it lies on the disk, whose files are damaged one at a time, and an earlier state of the same.
struct Subject {
    name: &'static str,
    dir: TempDir,
    older: PathBuf,
    journal: Journal,
}

const STREAMS: usize = 12;

/// Writes appends of one to five events, some of them to several streams.
async fn write(store: &RocksStore, appends: usize, random: &mut StdRng, journal: &mut Journal) {
    for n in 0..appends {
        let append = (0..random.random_range(1..6)).fold(Append::new(), |append, _| {
            let data: Vec<u8> = (0..random.random_range(0..400)).map(|_| random.random()).collect();
            let event = NewEvent::new(EventType::from_static(["A", "B"][n % 2]), ContentType::BINCODE, data);
            let event = event.with_tags([Tag::of("n", n % 7).unwrap()]);
            append.event(stream(random.random_range(0..STREAMS)), event)
        });
        match store.append(append).await.unwrap() {
            AppendOutcome::Appended(appended) => journal.events.extend(appended.events),
            conflict => panic!("{conflict:?}"),
        }
    }
}

fn stream(number: usize) -> StreamId {
    format!("s{}-{number}", number % 3).parse().unwrap()
}

/// The store after a kill, and after it was closed. Several openings leave several files of each kind.
async fn subjects(random: &mut StdRng, keep: &Path) -> Vec<Subject> {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::default();
    for _ in 0..3 {
        let store = RocksStore::options().durability(Durability::Buffered).open(dir.path()).unwrap();
        write(&store, 80, random, &mut journal).await;
        store.close().await.unwrap();
    }
    let store = open(dir.path()).unwrap();
    write(&store, 20, random, &mut journal).await;
    let last = journal.events.last().unwrap().clone();
    let snapshot = Snapshot {
        stream: last.stream.clone(),
        version: last.version,
        event_id: last.id,
        fingerprint: Fingerprint::of(["state"]),
        taken_at: Timestamp::now(),
        content_type: ContentType::JSON,
        data: "{}".into(),
    };
    store.save_snapshot(snapshot.clone()).await.unwrap();
    journal.snapshot = Some(snapshot);
    let early = store.token(Position::new(50)).await.unwrap();
    store.save_checkpoint("reader", early).await.unwrap();
    journal.checkpoint = Some(early);
    let older = keep.join("older");
    copy(dir.path(), &older);

    write(&store, 20, random, &mut journal).await;
    journal.anchored = journal.events.len();
    let is_anchored = async {
        while store.statistics().anchor_lag > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(ANCHORED_WITHIN, is_anchored).await.expect("the anchor follows");
    write(&store, 5, random, &mut journal).await;
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    let killed = Subject { name: "killed", dir: killed, older: older.clone(), journal: journal.clone() };
    store.close().await.unwrap();
    journal.anchored = journal.events.len();
    vec![killed, Subject { name: "closed", dir, older, journal }, first_life(random, keep).await]
}

/// The store after its first opening, and what it was before the first append.
async fn first_life(random: &mut StdRng, keep: &Path) -> Subject {
    let (dir, older) = (tempfile::tempdir().unwrap(), keep.join("new"));
    let mut journal = Journal::default();
    let store = open(dir.path()).unwrap();
    copy(dir.path(), &older);
    write(&store, 40, random, &mut journal).await;
    store.close().await.unwrap();
    journal.anchored = journal.events.len();
    Subject { name: "first life", dir, older, journal }
}

/// All files, by their paths inside a directory.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => left.push(path),
                false => drop(found.insert(path.strip_prefix(dir).unwrap().to_owned())),
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

/// The kind of a file, for the table: its directory, and its name without numbers.
fn kind(file: &Path) -> String {
    file.to_str().unwrap().chars().filter(|c| !c.is_ascii_digit()).collect::<String>().trim_end_matches('-').to_owned()
}

/// What nothing is lost with: what the engine writes for people to read, locks, and the index, which is derived.
fn is_chatter(file: &Path) -> bool {
    if file.starts_with("index") {
        return true;
    }
    let name = file.file_name().unwrap().to_str().unwrap();
    name.starts_with("LOG") || name == "LOCK" || name == "indelible.lock" || name.starts_with("OPTIONS")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Damage {
    BitFlip,
    Cut,
    Zeroes,
    Garbage,
    Deleted,
    Exchanged,
    Older,
}

/// One file, and what was done to it.
struct Mutation {
    file: PathBuf,
    damage: Damage,
    detail: String,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {}", self.file.display(), self.damage, self.detail)
    }
}

/// Damages one file of a copy of the subject; `None` where the dice have found nothing to do.
fn mutate(random: &mut StdRng, subject: &Subject, dir: &Path) -> Option<Mutation> {
    // First the kind, then the file: there are many tables, and one CURRENT.
    let all: Vec<PathBuf> = files(dir).into_iter().collect();
    let only = env::var("INDELIBLE_MUTATION_FILES").unwrap_or_default();
    let kinds: BTreeSet<String> = all.iter().map(|file| kind(file)).filter(|kind| kind.contains(&only)).collect();
    let wanted = kinds.iter().nth(random.random_range(0..kinds.len()))?;
    let of_kind: Vec<&PathBuf> = all.iter().filter(|file| kind(file) == *wanted).collect();
    if is_chatter(of_kind[0]) && random.random_bool(0.7) {
        return None;
    }
    let file = (*of_kind.choose(random)?).clone();
    let path = dir.join(&file);
    let mut bytes = fs::read(&path).unwrap();
    let before = bytes.clone();
    let damages = [
        Damage::BitFlip,
        Damage::Cut,
        Damage::Zeroes,
        Damage::Garbage,
        Damage::Deleted,
        Damage::Exchanged,
        Damage::Older,
    ];
    let damage = *damages.choose(random)?;
    let at = random.random_range(0..bytes.len().max(1));
    let mut detail = format!("at {at} of {}", bytes.len());
    match damage {
        Damage::BitFlip => *bytes.get_mut(at)? ^= 1 << random.random_range(0..8),
        Damage::Cut => bytes.truncate(at),
        Damage::Zeroes => {
            let to = bytes.len().min(at + random.random_range(1..600));
            bytes.get_mut(at..to)?.fill(0);
        }
        Damage::Garbage => {
            let to = bytes.len().min(at + random.random_range(1..600));
            random.fill(bytes.get_mut(at..to)?);
        }
        Damage::Deleted => {
            fs::remove_file(&path).unwrap();
            return Some(Mutation { file, damage, detail: String::new() });
        }
        Damage::Exchanged => {
            let same_end = |other: &&PathBuf| other.extension() == file.extension() && **other != file;
            let other = *all.iter().filter(same_end).collect::<Vec<_>>().choose(random)?;
            bytes = fs::read(dir.join(other)).unwrap();
            fs::write(dir.join(other), &before).unwrap();
            detail = format!("for {}", other.display());
        }
        Damage::Older => {
            bytes = fs::read(subject.older.join(&file)).ok()?;
            detail = format!("{} bytes instead of {}", bytes.len(), before.len());
        }
    }
    (bytes != before).then(|| fs::write(&path, bytes).unwrap())?;
    Some(Mutation { file, damage, detail })
}

/// How a damaged store behaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// It did not open, or a read failed.
    Detected,
    /// Everything is as the journal says.
    Harmless,
    /// All is right but for the end of the log, which is gone; no anchor had covered it yet.
    Shortened,
    /// All is right but for the end of the log, and nothing that is left says so.
    Unnoticed,
    /// It neither opened nor failed.
    Hangs,
}

/// What is read of a store beside the journal.
async fn compare(store: &RocksStore, journal: &Journal) -> Result<Verdict, StoreError> {
    let head = store.head().await?.position.get() as usize;
    assert!(head <= journal.events.len(), "the log has {head} events, {} were written", journal.events.len());
    let events = &journal.events[..head];
    let mut failed = None;
    {
        let mut check =
            |what: &str, read: Result<Vec<RecordedEvent>, StoreError>, wanted: Vec<&RecordedEvent>| match read {
                Ok(found) => {
                    let found: Vec<&RecordedEvent> = found.iter().collect();
                    assert!(
                        found == wanted,
                        "{what}: {} events, and not the {} of the journal",
                        found.len(),
                        wanted.len()
                    );
                }
                Err(error) => failed = Some(error),
            };
        check("the log", store.log(ReadLog::all()).try_collect().await, events.iter().collect());
        let backwards = store.log(ReadLog::all().backwards()).try_collect().await;
        check("the log backwards", backwards, events.iter().rev().collect());
        for stream in (0..STREAMS).map(stream) {
            let wanted = events.iter().filter(|event| event.stream == stream).collect();
            check(stream.as_str(), store.stream(ReadStream::new(stream.clone())).try_collect().await, wanted);
        }
        let tags = (0..7).map(|n| Filter::from(Tag::of("n", n).unwrap()));
        let categories = (0..3).map(|n| Category::new(format!("s{n}")).unwrap());
        let filters = categories.flat_map(|category| {
            let types = ["A", "B"].map(EventType::from_static);
            let types = types.map(|event_type| QualifiedType { category: category.clone(), event_type });
            let types = types.map(|qualified| Filter::from(Query::new([QueryItem::types([qualified])])));
            [Filter::categories([category])].into_iter().chain(types)
        });
        for filter in tags.chain(filters) {
            let wanted = events.iter().filter(|event| filter.matches(event)).collect();
            let what = format!("{filter:?}");
            check(&what, store.log(ReadLog::matching(filter)).try_collect().await, wanted);
        }
        for event in events.iter().step_by(17) {
            check("an id", store.event(event.id).await.map(|found| found.into_iter().collect()), vec![event]);
        }
        // What is lost must be lost for every reader.
        for event in &journal.events[head..] {
            check("an id", store.event(event.id).await.map(|found| found.into_iter().collect()), vec![]);
        }
    }
    for stream in (0..STREAMS).map(stream) {
        let last = events.iter().rfind(|event| event.stream == stream).map_or(Version::NONE, |event| event.version);
        match store.stream_head(&stream).await {
            Ok(found) => assert_eq!(found.version, last, "{stream}"),
            Err(error) => failed = Some(error),
        }
    }
    match store.streams(None, None, usize::MAX).await {
        Ok(found) => {
            let wanted: BTreeSet<&StreamId> = events.iter().map(|event| &event.stream).collect();
            assert!(found.iter().eq(wanted), "the list of streams is another");
        }
        Err(error) => failed = Some(error),
    }
    if let Some(snapshot) = &journal.snapshot {
        let found = store.load_snapshot(&snapshot.stream).await;
        assert!(!matches!(&found, Ok(Some(found)) if found != snapshot), "a wrong snapshot");
    }
    match store.load_checkpoint("reader").await {
        // Lost with the end of the log, or with the files of what is derived: then the reader starts over.
        Ok(found) => assert!(found.is_none() || found == journal.checkpoint, "a wrong checkpoint: {found:?}"),
        Err(error) => failed = Some(error),
    }
    match failed {
        Some(error) => Err(error),
        None if head == journal.events.len() => Ok(Verdict::Harmless),
        None => {
            assert!(events.last().is_none_or(|last| last.ends_append), "a part of an append is left");
            Ok(if head >= journal.anchored { Verdict::Shortened } else { Verdict::Unnoticed })
        }
    }
}

/// What is to be thought of a damaged store.
#[derive(Debug)]
struct Judged {
    verdict: Verdict,
    message: String,
    /// Events at the end that are not there any more, and nothing said so.
    lost: u64,
}

impl Judged {
    fn of(verdict: Verdict, message: impl Into<String>) -> Self {
        Self { verdict, message: message.into(), lost: 0 }
    }
}

/// Opens a damaged copy, reads it, and says what is to be thought of it.
async fn judge(dir: &Path, pristine: &Path, journal: &Journal) -> Judged {
    let before: BTreeMap<PathBuf, Vec<u8>> =
        files(dir).into_iter().map(|file| (file.clone(), fs::read(dir.join(file)).unwrap())).collect();
    let store = match open_in_time(dir) {
        None => return Judged::of(Verdict::Hangs, "it never opens"),
        Some(Ok(store)) => store,
        Some(Err(error)) => {
            let message = whole(&error);
            assert!(message.contains(dir.to_str().unwrap()), "the error doesn't say which store: {message}");
            let kept = |(file, bytes): &(&PathBuf, &Vec<u8>)| fs::read(dir.join(file)).is_ok_and(|now| now == **bytes);
            let of_data = before.iter().filter(|(file, _)| !is_chatter(file));
            let changed: Vec<_> = of_data.filter(|file| !kept(file)).map(|(file, _)| file).collect();
            assert!(changed.is_empty(), "{changed:?} changed, and the store does not open: {message}");
            // With the file as it was, the store is as it was.
            copy(pristine, dir);
            let store = open(dir).unwrap_or_else(|error| panic!("not mended by the file itself: {}", whole(&error)));
            let verdict = compare(&store, journal).await.unwrap();
            assert_eq!(verdict, Verdict::Harmless, "refusing has changed the store: {message}");
            store.close().await.unwrap();
            return Judged::of(Verdict::Detected, message);
        }
    };
    let mut lost = 0;
    let (verdict, message) = match compare(&store, journal).await {
        Ok(Verdict::Harmless) if !is_clean(&store).await => (Verdict::Detected, "verify finds it".into()),
        Ok(verdict) => {
            if verdict == Verdict::Shortened {
                prove(&store).await; // what is derived is as short
                lost = journal.events.len() as u64 - store.head().await.unwrap().position.get();
            }
            let event = NewEvent::new(EventType::from_static("After"), ContentType::JSON, "{}");
            let appended = store.append(Append::to(stream(0), ExpectedVersion::Any, [event])).await;
            match appended {
                Ok(AppendOutcome::Appended(appended)) => {
                    assert_eq!(store.head().await.unwrap(), appended.token);
                    (verdict, "it opens".into())
                }
                Ok(conflict) => panic!("{conflict:?}"),
                Err(error) => (Verdict::Detected, whole(&error)),
            }
        }
        Err(error) => {
            let message = whole(&error);
            assert!(!matches!(error, StoreError::Invalid(_)), "a strange error: {message}");
            (Verdict::Detected, message)
        }
    };
    let _ = store.close().await; // of a damaged store; it has told what it knows
    Judged { verdict, message, lost }
}

/// Whether all of it can be read and is right, also what nobody asked for.
async fn is_clean(store: &RocksStore) -> bool {
    store.verify(|_| {}).await.is_ok_and(|found| found.is_clean())
}

fn whole(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", whole(cause)),
        None => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_any_file_is_never_silent() {
    let wanted = number("INDELIBLE_MUTATIONS").unwrap_or(60);
    let seed = seed();
    println!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let keep = tempfile::tempdir().unwrap();
    let subjects = subjects(random, keep.path()).await;
    for subject in &subjects {
        let copied = tempfile::tempdir().unwrap();
        copy(subject.dir.path(), copied.path());
        let judged = judge(copied.path(), subject.dir.path(), &subject.journal).await;
        assert_eq!(judged.verdict, Verdict::Harmless, "undamaged, {}: {judged:?}", subject.name);
    }
    let mut table = BTreeMap::<(String, Damage), BTreeMap<Verdict, u64>>::new();
    let mut totals = BTreeMap::<Verdict, u64>::new();
    let mut wrong = Vec::new();
    let (mut number, mut shortened_by) = (0, 0);
    while number < wanted {
        let subject = &subjects[random.random_range(0..subjects.len())];
        let copied = tempfile::tempdir().unwrap();
        copy(subject.dir.path(), copied.path());
        let Some(mutation) = mutate(random, subject, copied.path()) else { continue };
        number += 1;
        let what = format!("seed {seed}, mutation {number}, {}: {mutation}", subject.name);
        let judged = judge(copied.path(), subject.dir.path(), &subject.journal);
        match AssertUnwindSafe(judged).catch_unwind().await {
            Err(_panicked) => wrong.push(what),
            Ok(Judged { verdict, message, lost }) => {
                shortened_by += lost;
                if verdict == Verdict::Detected && mutation.file.starts_with("index") {
                    println!("the index is not made anew, {what}: {message}");
                }
                if matches!(verdict, Verdict::Unnoticed | Verdict::Hangs) {
                    wrong.push(format!("{what}: {verdict:?}, {message}"));
                }
                *totals.entry(verdict).or_default() += 1;
                let row = table.entry((kind(&mutation.file), mutation.damage)).or_default();
                *row.entry(verdict).or_default() += 1;
            }
        }
    }
    for ((kind, damage), row) in &table {
        println!("{kind:24} {:10} {row:?}", format!("{damage:?}"));
    }
    println!("{wanted} mutations: {totals:?}, wrong {}", wrong.len());
    assert!(wrong.is_empty(), "wrong data, or lost without a word:\n{}", wrong.join("\n"));
    let detected = totals.get(&Verdict::Detected).copied().unwrap_or_default();
    assert!(detected * 10 > wanted, "hardly any damage was damage: {totals:?}");
    let written: usize = subjects.iter().map(|subject| subject.journal.events.len()).sum();
    let controls = format!("{totals:?}, by {shortened_by} events beyond the anchor");
    Line::clean(FAULT, wanted, detected, written as u64, &controls).seed(seed).print();
}

/// One changed byte, the type of the last record, which RocksDB then takes for one to skip and reads over and over.
#[tokio::test]
async fn a_manifest_that_would_be_read_for_ever_is_noticed() {
    for database in ["log", "index"] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        write(&store, 3, &mut StdRng::seed_from_u64(1), &mut Journal::default()).await;
        store.close().await.unwrap();
        let of_database = format!("{database}/MANIFEST");
        let mut manifests =
            files(dir.path()).into_iter().filter(|file| file.to_str().unwrap().starts_with(&of_database));
        let path = dir.path().join(manifests.next_back().unwrap());
        let mut bytes = fs::read(&path).unwrap();
        // Checksum 4, length 2, type 1, and the record.
        let (mut at, mut last) = (0, 0);
        while at + 7 <= bytes.len() {
            last = at;
            at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
        }
        bytes[last + 6] = 5;
        fs::write(&path, bytes).unwrap();
        match (database, open_in_time(dir.path()).expect("it neither opens nor fails")) {
            ("log", Err(indelible_rocksdb::OpenError::Corrupted { .. })) | ("index", Ok(_)) => {}
            (_, opened) => panic!("{database}: {opened:?}"),
        }
    }
}
