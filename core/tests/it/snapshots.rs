//! What comes out of a snapshot is what a full replay gives, always (L9).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::TryStreamExt;
use indelible_core::{
    Apply, EventStoreExt, Executor, Fingerprint, ReadStream, Repository, Snapshot, SnapshotPolicy, SnapshotStore,
    StreamId, Version,
    bugs::{self, Bug},
    store::memory::MemoryStore,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::bank::{Account, AccountEvent, Deposit, Withdraw};

#[derive(Clone, Debug)]
enum Step {
    Deposit(u8, u64),
    Withdraw(u8, u64),
    Transfer(u8, u8, u64),
    SnapshotByHand(u8),
    /// Another process, or this one after a restart: nothing is remembered.
    Reload(u8),
    Load(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let account = 0..3_u8;
    let step = prop_oneof![
        6 => (account.clone(), 1..50_u64).prop_map(|(a, cents)| Step::Deposit(a, cents)),
        3 => (account.clone(), 1..80_u64).prop_map(|(a, cents)| Step::Withdraw(a, cents)),
        2 => (account.clone(), account.clone(), 1..80_u64).prop_map(|(a, b, cents)| Step::Transfer(a, b, cents)),
        1 => account.clone().prop_map(Step::SnapshotByHand),
        4 => account.clone().prop_map(Step::Reload),
        1 => account.prop_map(Step::Load),
    ];
    prop::collection::vec(step, 1..80)
}

fn policies() -> impl Strategy<Value = SnapshotPolicy> {
    prop_oneof![
        (1..12_u64).prop_map(SnapshotPolicy::every),
        (1..200_u64).prop_map(SnapshotPolicy::bytes),
        Just(SnapshotPolicy::age(Duration::ZERO)),
        Just(SnapshotPolicy::NEVER),
        (1..12_u64, 1..200_u64).prop_map(|(events, bytes)| SnapshotPolicy::every(events).or_bytes(bytes)),
    ]
}

/// Plays the steps and compares each state that is loaded with a replay of all events. Gives the number of loads that
/// began with a snapshot.
async fn play(steps: &[Step], policy: SnapshotPolicy) -> Result<usize, TestCaseError> {
    let store = MemoryStore::new();
    let open = || Repository::<Account>::on(&Executor::new(&store)).with_snapshots(policy);
    let mut accounts = open();
    let mut from_snapshot = 0;
    for step in steps {
        let loaded = match *step {
            Step::Deposit(a, cents) => {
                accounts.execute(a.to_string(), Deposit(cents)).await.map_err(|error| fail(&error))?;
                continue;
            }
            Step::Withdraw(a, cents) => {
                let _ = accounts.execute(a.to_string(), Withdraw(cents)).await;
                continue;
            }
            Step::Transfer(a, b, cents) => {
                let withdraw = accounts.execute(a.to_string(), Withdraw(cents));
                let _ = withdraw.and(accounts.execute(b.to_string(), Deposit(cents))).await;
                continue;
            }
            Step::SnapshotByHand(a) => {
                accounts.snapshot(&a.to_string()).await.map_err(|error| fail(&error))?;
                continue;
            }
            Step::Reload(a) => {
                accounts = open();
                let loaded = accounts.load(&a.to_string()).await.map_err(|error| fail(&error))?;
                from_snapshot += usize::from(loaded.snapshot_version().is_some());
                (a, loaded)
            }
            Step::Load(a) => (a, accounts.load(&a.to_string()).await.map_err(|error| fail(&error))?),
        };
        let (a, loaded) = loaded;
        let mut replayed = Account::default();
        let mut events = store.stream(ReadStream::new(format!("account-{a}").parse().unwrap()));
        let mut version = Version::NONE;
        while let Some(event) = events.try_next().await.map_err(|error| fail(&error))? {
            replayed.apply(&event.decode::<AccountEvent>().unwrap());
            version = event.version;
        }
        prop_assert_eq!((loaded.state(), loaded.version()), (&replayed, version));
    }
    Ok(from_snapshot)
}

fn fail(error: &impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

fn play_many(cases: u32, bug: Option<Bug>) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let from_snapshot = Arc::new(AtomicUsize::new(0));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let played = runner.run(&(steps(), policies()), |(steps, policy)| {
        bugs::choose(bug);
        let played = runtime.block_on(play(&steps, policy));
        bugs::choose(None);
        from_snapshot.fetch_add(played?, Relaxed);
        Ok(())
    });
    played.map(|()| from_snapshot.load(Relaxed)).map_err(|error| error.to_string())
}

#[test]
fn a_snapshot_is_what_a_replay_gives() {
    let from_snapshot = play_many(400, None).unwrap();
    println!("{from_snapshot} loads from snapshots equal full replays");
    assert!(from_snapshot > 1_000, "only {from_snapshot} loads from snapshots");
}

#[test]
fn an_event_applied_twice_is_caught() {
    let caught = play_many(100, Some(Bug::ApplyTwice)).unwrap_err();
    assert!(caught.contains("`(left == right)`"), "{caught}");
}

/// An account with a snapshot, which `change` spoils; whether it is still used, and the balance is right all the same.
async fn is_used(change: impl FnOnce(&mut Snapshot)) -> bool {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    for _ in 0..12 {
        accounts.execute("a", Deposit(1)).await.unwrap();
    }
    let stream: StreamId = "account-a".parse().unwrap();
    let mut snapshot = store.load_snapshot(&stream).await.unwrap().unwrap();
    assert_eq!(snapshot.version, Version::new(10));
    change(&mut snapshot);
    store.save_snapshot(snapshot).await.unwrap();
    let loaded = Repository::<Account>::new(&store).load("a").await.unwrap();
    assert_eq!((loaded.balance, loaded.events), (12, 12));
    loaded.snapshot_version().is_some()
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_trusted_is_ignored() {
    assert!(is_used(|_| {}).await);
    assert!(!is_used(|snapshot| snapshot.fingerprint = Fingerprint::of(["another version"])).await);
    assert!(!is_used(|snapshot| snapshot.event_id = indelible_core::EventId::new()).await);
    assert!(!is_used(|snapshot| snapshot.version = Version::new(99)).await);
    assert!(!is_used(|snapshot| snapshot.version = Version::new(9)).await);
    assert!(!is_used(|snapshot| snapshot.data = snapshot.data.slice(..1)).await);
    assert!(!is_used(|snapshot| snapshot.data = [&snapshot.data[..], &[0]].concat().into()).await);
}

#[tokio::test]
async fn a_repository_rules_over_the_attribute() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store).with_snapshots(SnapshotPolicy::NEVER);
    for _ in 0..30 {
        accounts.execute("a", Deposit(1)).await.unwrap();
    }
    let stream = "account-a".parse().unwrap();
    assert_eq!(store.load_snapshot(&stream).await.unwrap(), None);
    assert_eq!(accounts.snapshot("a").await.unwrap(), Some(Version::new(30)));
    assert_eq!(store.load_snapshot(&stream).await.unwrap().unwrap().version, Version::new(30));
    assert_eq!(accounts.snapshot("nobody").await.unwrap(), None);
}

/// A state that bincode writes and cannot read back is not kept, and costs nothing but the snapshot.
#[tokio::test]
async fn a_state_that_does_not_come_back_is_not_kept() {
    use indelible_core::{Aggregate, Context, Events, Handle};
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug, Default, Serialize, Deserialize)]
    struct Note {
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    }
    #[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
    #[aggregate(category = "account", snapshot(every = 1))]
    struct Lossy {
        note: Note,
        count: u64,
    }
    impl Apply for Lossy {
        type Event = AccountEvent;
        fn apply(&mut self, _: &AccountEvent) {
            self.count += 1;
        }
    }
    impl Handle<Deposit> for Lossy {
        type Error = std::convert::Infallible;
        fn handle(&self, deposit: &Deposit, _: &Context<Self>) -> Result<Events<AccountEvent>, Self::Error> {
            Ok(AccountEvent::Deposited { cents: deposit.0 + self.note.text.iter().count() as u64 }.into())
        }
    }
    let store = MemoryStore::new();
    let lossy = Repository::<Lossy>::new(&store);
    for _ in 0..3 {
        lossy.execute("a", Deposit(1)).await.unwrap();
    }
    assert_eq!(store.load_snapshot(&"account-a".parse().unwrap()).await.unwrap(), None);
    assert_eq!(Repository::<Lossy>::new(&store).load("a").await.unwrap().count, 3);
}
