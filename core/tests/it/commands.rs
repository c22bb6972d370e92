//! The decision loop: what commands do, once, whatever comes between.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures::future::join_all;
use indelible_core::{
    ACTOR, Append, AppendOutcome, CommandContext, CommandError, ContentType, CorrelationId, EventStore, EventType,
    Executor, ExecutorOptions, ExpectedVersion, FailedCondition, Metadata, NewEvent, Position, ReadLog, Repository,
    RetryPolicy, StoreError, Version, store::memory::MemoryStore,
};

use crate::bank::{Account, AccountEvent, Close, Deposit, Insufficient, Touch, Watched, Withdraw};

#[tokio::test]
async fn a_command_tells_what_it_did() {
    let accounts = Repository::<Account>::new(&MemoryStore::new());
    let done = accounts.execute("a", Deposit(5)).await.unwrap();
    assert_eq!(done.events()[0].decode::<AccountEvent>().unwrap(), AccountEvent::Deposited { cents: 5 });
    assert_eq!((done.token().position, done.attempts()), (Position::FIRST, 1));
    assert!(!done.is_repeated() && !done.is_unchanged());

    let nothing = accounts.execute("a", Touch).await.unwrap();
    assert!(nothing.is_unchanged());
    assert_eq!(nothing.token(), done.token());

    let rejected = accounts.execute("a", Withdraw(6)).await.unwrap_err();
    assert!(matches!(rejected, CommandError::Rejected(Insufficient(5))) && !rejected.is_retryable());
}

#[tokio::test]
async fn what_the_context_says_reaches_every_event() {
    let accounts = Repository::<Account>::new(&MemoryStore::new());
    let cause = accounts.execute("a", Deposit(5)).await.unwrap().events()[0].clone();
    let correlation = CorrelationId::new();
    let context = CommandContext::new()
        .with_correlation_id(correlation)
        .with_causation_id(cause.id)
        .with_actor("ada")
        .unwrap()
        .with_metadata(Metadata::new().with("channel", "web").unwrap())
        .unwrap();
    let transfer = accounts.execute("a", Withdraw(5)).and(accounts.execute("b", Deposit(5))).with(context);
    let done = transfer.await.unwrap();
    assert_eq!(done.events().len(), 2);
    for event in done.events() {
        assert_eq!(event.correlation_id, Some(correlation));
        assert_eq!(event.causation_id, Some(cause.id.into()));
        assert_eq!((event.metadata.get(ACTOR), event.metadata.get("channel")), (Some("ada"), Some("web")));
    }
    let caused = CommandContext::caused_by(&done.events()[0]);
    assert_eq!(caused.correlation_id(), correlation);
    assert_eq!(caused.causation_id(), Some(done.events()[0].id.into()));
}

#[tokio::test]
async fn a_transfer_is_never_half_done() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Deposit(5)).await.unwrap();
    let half = accounts.execute("b", Deposit(9)).and(accounts.execute("a", Withdraw(9))).await;
    assert!(matches!(half, Err(CommandError::Rejected(Insufficient(5)))));
    assert_eq!(accounts.load("b").await.unwrap().version(), Version::NONE);

    let done = accounts.execute("a", Withdraw(2)).and(accounts.execute("b", Deposit(2))).await.unwrap();
    assert!(!done.events()[0].ends_append && done.events()[1].ends_append);
    let myself = accounts.execute("a", Withdraw(3)).and(accounts.execute("a", Deposit(3))).await.unwrap();
    assert_eq!(myself.events().len(), 2);
    let spent = accounts.execute("a", Withdraw(3)).and(accounts.execute("a", Withdraw(1))).await;
    assert!(matches!(spent, Err(CommandError::Rejected(Insufficient(0)))), "a unit sees its own writes");
    assert_eq!(accounts.load("a").await.unwrap().balance, 3);

    let elsewhere = Repository::<Account>::new(&MemoryStore::new());
    let apart = accounts.execute("a", Withdraw(3)).and(elsewhere.execute("b", Deposit(3))).await;
    assert!(matches!(apart, Err(CommandError::Store(StoreError::Invalid(_)))));
}

#[tokio::test]
async fn a_transaction_is_one_append_and_sees_its_own_writes() {
    let bank = Executor::new(&MemoryStore::new());
    let done = bank.transact(|unit| async move {
        for name in ["a", "b", "a"] {
            unit.execute::<Account, _>(name, Deposit(1)).await?;
        }
        assert_eq!(unit.load::<Account>("a").await?.balance, 2);
        Ok::<_, CommandError<Insufficient>>(())
    });
    let done = done.await.unwrap();
    assert_eq!(done.events().len(), 3);
    assert_eq!(done.events().iter().filter(|event| event.ends_append).count(), 1);
    let accounts = Repository::<Account>::on(&bank);
    assert_eq!(accounts.load("a").await.unwrap().version(), Version::new(2));
}

#[tokio::test]
async fn what_a_transaction_only_read_is_checked_too() {
    let store = Watched::intercepting(|before, append, store| {
        Box::pin(async move {
            if before == 1 {
                // Somebody empties the account that the transaction has looked at.
                let event = NewEvent::new(EventType::new("Withdrawn").unwrap(), ContentType::JSON, r#"{"cents":5}"#);
                let stream = "account-a".parse().unwrap();
                store.append(Append::to(stream, ExpectedVersion::Any, [event])).await.unwrap();
            }
            store.append(append).await
        })
    });
    let bank = Executor::new(&store);
    Repository::<Account>::on(&bank).execute("a", Deposit(5)).await.unwrap();
    let done = bank.transact(|unit| async move {
        let balance = unit.load::<Account>("a").await?.balance;
        unit.execute::<Account, _>("b", Deposit(balance)).await
    });
    let done = done.await.unwrap();
    assert_eq!(done.attempts(), 2);
    assert_eq!(done.events()[0].decode::<AccountEvent>().unwrap(), AccountEvent::Deposited { cents: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_commands_on_one_aggregate_all_count() {
    let store = MemoryStore::new();
    let executors = [Executor::new(&store), Executor::new(&store)];
    let deposits = (0..200).map(|n| {
        let accounts = Repository::<Account>::on(&executors[n % 2]);
        tokio::spawn(async move { accounts.execute("a", Deposit(1)).await.unwrap().attempts() })
    });
    let attempts: u32 = join_all(deposits).await.into_iter().map(Result::unwrap).sum();
    assert_eq!(Repository::<Account>::new(&store).load("a").await.unwrap().balance, 200);
    println!("200 deposits took {attempts} attempts");
}

#[tokio::test]
async fn a_stale_state_never_answers() {
    let store = MemoryStore::new();
    let (here, elsewhere) = (Repository::<Account>::new(&store), Repository::<Account>::new(&store));
    here.execute("a", Deposit(1)).await.unwrap();
    elsewhere.execute("a", Deposit(9)).await.unwrap();
    // Here, one cent is remembered; a rejection from that would be wrong.
    assert_eq!(here.execute("a", Withdraw(10)).await.unwrap().attempts(), 2);
    // Here, nothing is left; elsewhere it is remembered that there is, and nothing would happen.
    assert!(matches!(elsewhere.execute("a", Touch).await, Err(CommandError::Rejected(_))));
}

#[tokio::test]
async fn retries_are_bounded() {
    let store = Watched::intercepting(|_, append, _| {
        let (stream, expected) = append.expected()[0].clone();
        let failed = FailedCondition::Version { stream, expected, actual: Version::new(9) };
        Box::pin(async move { Ok(AppendOutcome::Conflict(vec![failed])) })
    });
    let retry = RetryPolicy::default().with_attempts_max(5).with_pause_max(Duration::from_millis(1));
    let executor = Executor::with_options(&store, ExecutorOptions::default().with_retry(retry));
    let error = Repository::<Account>::on(&executor).execute("a", Deposit(1)).await.unwrap_err();
    assert!(error.is_conflict() && error.is_retryable());
    assert!(matches!(error, CommandError::Conflict { attempts: 5, .. }), "{error}");
    assert_eq!(store.appends.load(Relaxed), 5);
}

#[tokio::test]
async fn a_closed_stream_conflicts_without_a_retry() {
    let store = Watched::new();
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Close).await.unwrap();
    let error = accounts.execute("a", Deposit(1)).await.unwrap_err();
    assert!(error.is_conflict() && !error.is_retryable());
    assert_eq!(store.appends.load(Relaxed), 2);
}

fn keyed(key: &str) -> CommandContext {
    CommandContext::new().with_idempotency_key(key).unwrap()
}

#[tokio::test]
async fn a_keyed_command_happens_once() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Deposit(5)).await.unwrap();
    let first = accounts.execute("a", Withdraw(5)).with(keyed("k")).await.unwrap();
    // By another process, later, when it would be rejected.
    let again = Repository::<Account>::new(&store).execute("a", Withdraw(5)).with(keyed("k")).await.unwrap();
    assert!(again.is_repeated());
    assert_eq!((again.events(), again.token()), (first.events(), first.token()));
    // The key is the stream's.
    assert!(!accounts.execute("b", Deposit(5)).with(keyed("k")).await.unwrap().is_repeated());
    // A rejection is decided again.
    assert!(accounts.execute("a", Withdraw(1)).with(keyed("r")).await.is_err());
    accounts.execute("a", Deposit(1)).await.unwrap();
    assert!(!accounts.execute("a", Withdraw(1)).with(keyed("r")).await.unwrap().is_repeated());
}

#[tokio::test]
async fn a_keyed_command_over_several_streams_happens_once() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Deposit(5)).await.unwrap();
    for repeated in [false, true] {
        let transfer = accounts.execute("a", Withdraw(5)).and(accounts.execute("b", Deposit(5)));
        let done = transfer.with(keyed("t")).await.unwrap();
        assert_eq!((done.is_repeated(), done.events().len()), (repeated, 2));
        let pay = accounts.executor().transact(|unit| async move {
            unit.execute::<Account, _>("b", Withdraw(5)).await?;
            unit.execute::<Account, _>("c", Deposit(5)).await
        });
        let done = pay.with(keyed("t")).await.unwrap();
        assert_eq!((done.is_repeated(), done.events().len()), (repeated, 2));
    }
    assert_eq!(accounts.load("c").await.unwrap().balance, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_keyed_command_sent_many_times_at_once_happens_once() {
    let store = MemoryStore::new();
    for round in 0..20 {
        let sent = (0..8).map(|_| {
            let accounts = Repository::<Account>::new(&store);
            let context = keyed(&format!("k{round}"));
            tokio::spawn(async move { accounts.execute("a", Deposit(1)).with(context).await.unwrap() })
        });
        let done: Vec<_> = join_all(sent).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(done.iter().filter(|done| !done.is_repeated()).count(), 1);
        assert!(done.iter().all(|one| one.token() == done[0].token()));
    }
    assert_eq!(Repository::<Account>::new(&store).load("a").await.unwrap().balance, 20);
}

fn unknown(append: Append) -> Result<AppendOutcome, StoreError> {
    Err(StoreError::OutcomeUnknown { append: Box::new(append), source: None })
}

#[tokio::test]
async fn an_unknown_outcome_is_settled_by_the_same_append() {
    // Written or not: the answer gets lost at first.
    for written in [true, false] {
        let store = Watched::intercepting(move |before, append, store| {
            Box::pin(async move {
                if before > 2 {
                    return store.append(append).await;
                }
                if written {
                    store.append(append.clone()).await?;
                }
                unknown(append)
            })
        });
        let accounts = Repository::<Account>::new(&store);
        let done = accounts.execute("a", Deposit(1)).await.unwrap();
        assert_eq!((done.attempts(), done.is_repeated(), store.appends.load(Relaxed)), (1, false, 4));
        assert_eq!(accounts.load("a").await.unwrap().balance, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_stays_unknown_is_said_to_be_so() {
    // What comes after an unknown outcome tells nothing about it, unless it is about that very append.
    let stopped = || StoreError::stopped("a failed write");
    let store = Watched::intercepting(move |before, append, _| {
        Box::pin(async move { if before == 0 { unknown(append) } else { Err(stopped()) } })
    });
    let error = Repository::<Account>::new(&store).execute("a", Deposit(1)).await.unwrap_err();
    let CommandError::Store(StoreError::OutcomeUnknown { append, .. }) = &error else { panic!("{error}") };
    assert_eq!(append.events().len(), 1);

    let store = Watched::intercepting(|_, append, _| Box::pin(async move { unknown(append) }));
    let error = Repository::<Account>::new(&store).execute("a", Deposit(1)).await.unwrap_err();
    assert!(matches!(error, CommandError::Store(StoreError::OutcomeUnknown { .. })) && error.is_retryable());
    assert!(store.appends.load(Relaxed) < 20);
}

#[tokio::test]
async fn deadlines_hold() {
    let store = Watched::intercepting(|_, _, _| Box::pin(std::future::pending()));
    let accounts = Repository::<Account>::new(&store);
    let past = CommandContext::new().with_deadline(Instant::now() - Duration::from_secs(1));
    let error = accounts.execute("a", Deposit(1)).with(past).await.unwrap_err();
    assert!(matches!(error, CommandError::DeadlineExceeded { attempts: 0 }));
    assert_eq!(store.appends.load(Relaxed), 0);

    let soon = CommandContext::new().with_timeout(Duration::from_millis(500));
    let error = accounts.execute("a", Deposit(1)).with(soon).await.unwrap_err();
    assert!(matches!(error, CommandError::Store(StoreError::OutcomeUnknown { .. })), "{error}");
}

#[tokio::test]
async fn bad_ids_are_refused_before_anything_is_written() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    for bad in ["", "line\nbreak", &"x".repeat(300)] {
        let error = accounts.execute(bad, Deposit(1)).await.unwrap_err();
        assert!(matches!(error, CommandError::Store(StoreError::Invalid(_))), "{error}");
    }
    assert!(store.read_log(&ReadLog::all()).await.unwrap().events.is_empty());
}
