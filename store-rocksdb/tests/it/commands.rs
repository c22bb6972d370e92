//! What the core's commands rest on, over restarts of a real store: keys, snapshots, the past.

use indelible_core::{
    Aggregate, Apply, AsOf, CommandContext, CommandError, Context, Event, Events, Handle, Repository, Version,
};
use indelible_rocksdb::RocksStore;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum AccountEvent {
    Deposited { cents: u64 },
    Withdrawn { cents: u64 },
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account", snapshot(every = 5))]
struct Account {
    balance: u64,
}

impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Deposited { cents } => self.balance += cents,
            AccountEvent::Withdrawn { cents } => self.balance -= cents,
        }
    }
}

struct Deposit(u64);
struct Withdraw(u64);

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("there is not so much money")]
struct Insufficient;

impl Handle<Deposit> for Account {
    type Error = Insufficient;
    fn handle(&self, command: &Deposit, _: &Context<Self>) -> Result<Events<AccountEvent>, Insufficient> {
        Ok(AccountEvent::Deposited { cents: command.0 }.into())
    }
}
impl Handle<Withdraw> for Account {
    type Error = Insufficient;
    fn handle(&self, command: &Withdraw, _: &Context<Self>) -> Result<Events<AccountEvent>, Insufficient> {
        if command.0 > self.balance {
            return Err(Insufficient);
        }
        Ok(AccountEvent::Withdrawn { cents: command.0 }.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_command_happens_once_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let keyed = || CommandContext::new().with_idempotency_key("payment-1").unwrap();
    let mut first = None;
    for run in 0..4_u64 {
        let store = RocksStore::open(directory.path()).unwrap();
        let accounts = Repository::<Account>::new(&store);
        if run == 0 {
            accounts.execute("ada", Deposit(5)).await.unwrap();
        }
        // All that is there goes at the first run: decided again, it would be rejected.
        let transfer = accounts.execute("ada", Withdraw(5)).and(accounts.execute("bob", Deposit(5)));
        let done = transfer.with(keyed()).await.unwrap();
        assert_eq!((done.is_repeated(), done.events().len()), (run > 0, 2));
        assert_eq!(*first.get_or_insert(done.token()), done.token());
        assert!(matches!(accounts.execute("ada", Withdraw(1)).await, Err(CommandError::Rejected(Insufficient))));
        assert_eq!(accounts.load("bob").await.unwrap().balance, 5);
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_the_past_outlive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = RocksStore::open(directory.path()).unwrap();
    let accounts = Repository::<Account>::new(&store);
    for cents in 1..=12 {
        accounts.execute("ada", Deposit(cents)).await.unwrap();
    }
    store.close().await.unwrap();

    let store = RocksStore::open(directory.path()).unwrap();
    let accounts = Repository::<Account>::new(&store);
    let loaded = accounts.load("ada").await.unwrap();
    assert_eq!((loaded.balance, loaded.snapshot_version()), (78, Some(Version::new(10))));
    let then = accounts.load_as_of("ada", AsOf::Version(Version::new(3))).await.unwrap();
    assert_eq!((then.balance, then.snapshot_version()), (6, None));
}
