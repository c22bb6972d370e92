//! Units of work under stress: what a command that failed half-way, came too late or met its own double leaves behind.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use indelible_core::{
    Aggregate, Append, AppendOutcome, Apply, CommandContext, CommandError, ContentType, Context, Decide, DecisionModel,
    Event, EventStore, EventType, Events, Executor, ExecutorOptions, ExpectedVersion, Handle, InvalidInput, NewEvent,
    Query, QueryItem, ReadLog, Repository, RetryPolicy, StoreError, Tag, Version, Writes, store::memory::MemoryStore,
};
use serde::{Deserialize, Serialize};

use crate::bank::{Account, AccountEvent, Close, Deposit, Insufficient, Watched, Withdraw};

fn keyed(key: &str) -> CommandContext {
    CommandContext::new().with_idempotency_key(key).unwrap()
}

fn deposited(cents: u64) -> NewEvent {
    NewEvent::new(EventType::from_static("Deposited"), ContentType::JSON, format!(r#"{{"cents":{cents}}}"#))
}

/// Whether anything was ever deposited, or a lump that can't be written.
#[derive(Clone, Debug, Default)]
struct Anything(u64);
impl Apply for Anything {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {
        self.0 += 1;
    }
}
impl DecisionModel for Anything {
    fn query(&self) -> Result<Query, InvalidInput> {
        Ok(Query::types::<Account>([AccountEvent::DEPOSITED]))
    }
}
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("there is nothing")]
struct Nothing;
struct Need;
impl Decide<Need> for Anything {
    type Error = Nothing;
    fn decide(&self, _: &Need, _: &CommandContext) -> Result<Writes, Nothing> {
        if self.0 == 0 { Err(Nothing) } else { Ok(Writes::none()) }
    }
}
/// Writes to a good stream first, then to one whose name is none.
struct HalfBad;
impl Decide<HalfBad> for Anything {
    type Error = Nothing;
    fn decide(&self, _: &HalfBad, _: &CommandContext) -> Result<Writes, Nothing> {
        let deposit = |name| Writes::to::<Account>(name, AccountEvent::Deposited { cents: 1 });
        Ok(deposit("half").and::<Account>("", AccountEvent::Deposited { cents: 1 }))
    }
}

#[tokio::test]
async fn a_rejection_that_a_transaction_rests_on_is_checked_too() {
    let bank = Executor::new(&MemoryStore::new());
    let accounts = Repository::<Account>::on(&bank);
    let done = bank.transact({
        let accounts = accounts.clone();
        move |unit| {
            let accounts = accounts.clone();
            async move {
                let refused = unit.decide(Anything::default(), Need).await.is_err();
                // Somebody deposits after the model has looked.
                accounts.execute("b", Deposit(1)).with(keyed("once")).await.unwrap();
                if refused { unit.execute::<Account, _>("nothing-yet", Deposit(7)).await } else { Ok(()) }
            }
        }
    });
    let done = done.await.unwrap();
    assert!(done.is_unchanged(), "written on a rejection that did not hold any more: {:?}", done.events());
}

#[tokio::test]
async fn a_rejection_rests_on_one_moment() {
    let store = MemoryStore::new();
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Deposit(100)).await.unwrap();
    // Together there are always 100. The transaction reads a, then all moves from b to a, then it reads b.
    accounts.execute("a", Withdraw(50)).and(accounts.execute("b", Deposit(50))).await.unwrap();
    let fresh = Executor::new(&store);
    let audit = fresh.transact({
        let accounts = accounts.clone();
        move |unit| {
            let accounts = accounts.clone();
            async move {
                let a = unit.load::<Account>("a").await?.balance;
                let back = accounts.execute("b", Withdraw(50)).and(accounts.execute("a", Deposit(50)));
                back.with(keyed("back")).await.unwrap();
                let sum = a + unit.load::<Account>("b").await?.balance;
                if sum == 100 { Ok(()) } else { Err(CommandError::Rejected(Insufficient(sum))) }
            }
        }
    });
    assert!(audit.await.unwrap().is_unchanged());

    // The same between an aggregate and a model.
    let fresh = Executor::new(&MemoryStore::new());
    let accounts = Repository::<Account>::on(&Executor::new(fresh.store()));
    let audit = fresh.transact(move |unit| {
        let accounts = accounts.clone();
        async move {
            let nothing = unit.decide(Anything::default(), Need).await.is_err();
            accounts.execute("a", Deposit(1)).with(keyed("once")).await.unwrap();
            let a = unit.load::<Account>("a").await?.balance;
            if nothing == (a == 0) { Ok(()) } else { Err(CommandError::Rejected(Insufficient(a))) }
        }
    });
    assert!(audit.await.unwrap().is_unchanged());
}

#[tokio::test]
async fn a_keyed_command_that_met_its_double_is_not_rejected() {
    let store = MemoryStore::new();
    let (here, there) = (Executor::new(&store), Executor::new(&store));
    Repository::<Account>::on(&there).execute("a", Deposit(5)).await.unwrap();
    let done = here.transact(move |unit| {
        let there = there.clone();
        async move {
            // The same command, sent twice: the other one is quicker, and leaves nothing.
            let other = there.transact(|unit| async move { unit.execute::<Account, _>("a", Withdraw(5)).await });
            other.with(keyed("k")).await.unwrap();
            unit.execute::<Account, _>("a", Withdraw(5)).await
        }
    });
    let done = done.with(keyed("k")).await.expect("its events are recorded");
    assert!(done.is_repeated());
    assert_eq!(done.events().len(), 1);
}

/// Settled by its double, which was written elsewhere in the stream than this one would have been.
#[tokio::test]
async fn a_state_is_remembered_only_where_it_was_recorded() {
    let store = Watched::intercepting(|before, append, store| {
        Box::pin(async move {
            if before == 1 {
                let stream = || "account-a".parse().unwrap();
                let first = Append::to(stream(), ExpectedVersion::Any, [deposited(100)]);
                store.append(first).await?;
                let mut double = Append::new();
                for (stream, event) in append.events() {
                    double = double.event(stream.clone(), event.clone());
                }
                store.append(double).await?;
                return Err(StoreError::OutcomeUnknown { append: Box::new(append), source: None });
            }
            store.append(append).await
        })
    });
    let accounts = Repository::<Account>::new(&store);
    accounts.execute("a", Deposit(1)).await.unwrap();
    accounts.execute("a", Deposit(10)).with(keyed("k")).await.unwrap();
    let loaded = accounts.load("a").await.unwrap();
    assert_eq!((loaded.balance, loaded.events, loaded.version()), (111, 3, Version::new(3)));
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum PartEvent {
    Good {
        n: u64,
    },
    Labelled {
        #[event(tag)]
        label: String,
    },
}
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "part")]
struct Part {
    n: u64,
}
impl Apply for Part {
    type Event = PartEvent;
    fn apply(&mut self, event: &PartEvent) {
        if let PartEvent::Good { n } = event {
            self.n += n;
        }
    }
}
struct Label(&'static str);
impl Handle<Label> for Part {
    type Error = std::convert::Infallible;
    fn handle(&self, label: &Label, _: &Context<Self>) -> Result<Events<PartEvent>, Self::Error> {
        Ok([PartEvent::Good { n: 1 }, PartEvent::Labelled { label: label.0.into() }].into())
    }
}

#[tokio::test]
async fn a_command_that_failed_leaves_nothing_in_its_unit() {
    let store = MemoryStore::new();
    let bank = Executor::new(&store);
    let done = bank.transact(|unit| async move {
        // No tag contains a control character, and no stream has an empty id: both fail at their second event.
        assert!(unit.execute::<Part, _>("p", Label("\n")).await.is_err());
        assert!(unit.decide(Anything::default(), HalfBad).await.is_err());
        unit.execute::<Part, _>("q", Label("fine")).await
    });
    let done = done.await.unwrap();
    let streams: Vec<&str> = done.events().iter().map(|event| event.stream.as_str()).collect();
    assert_eq!(streams, ["part-q", "part-q"]);
}

/// Writes into a part's stream what a part can't read.
#[derive(Clone, Debug)]
struct Stranger;
impl Apply for Stranger {
    type Event = PartEvent;
    fn apply(&mut self, _: &PartEvent) {}
}
impl DecisionModel for Stranger {
    fn query(&self) -> Result<Query, InvalidInput> {
        Ok(Query::new([QueryItem::tags([Tag::new("no:such")?])]))
    }
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum StrangeEvent {
    Good { n: u64 },
    Strange,
}
#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "part")]
struct StrangePart {}
impl Apply for StrangePart {
    type Event = StrangeEvent;
    fn apply(&mut self, _: &StrangeEvent) {}
}
impl Decide<Need> for Stranger {
    type Error = Nothing;
    fn decide(&self, _: &Need, _: &CommandContext) -> Result<Writes, Nothing> {
        let good = Writes::to::<StrangePart>("p", StrangeEvent::Good { n: 1 });
        Ok(good.and::<StrangePart>("p", StrangeEvent::Strange))
    }
}

#[tokio::test]
async fn an_event_is_not_applied_again_after_one_that_could_not_be_read() {
    let bank = Executor::new(&MemoryStore::new());
    let done = bank.transact(|unit| async move {
        unit.load::<Part>("p").await?;
        unit.decide(Stranger, Need).await?;
        for _ in 0..2 {
            assert!(unit.load::<Part>("p").await.is_err());
        }
        Ok::<_, CommandError<Nothing>>(())
    });
    done.await.unwrap();
    let parts = Repository::<Part>::on(&bank);
    assert!(parts.load("p").await.is_err(), "the stream holds an event that is no part's");
}

#[tokio::test]
async fn nothing_follows_a_close_in_its_own_unit() {
    let store = MemoryStore::new();
    let bank = Executor::new(&store);
    let after = bank.transact(|unit| async move {
        unit.execute::<Account, _>("a", Close).await?;
        unit.execute::<Account, _>("a", Deposit(1)).await
    });
    assert!(after.await.is_err());
    let decided = bank.transact(|unit| async move {
        unit.execute::<Account, _>("half", Close).await?;
        Ok::<_, CommandError<Insufficient>>(())
    });
    assert!(decided.await.unwrap().events()[0].closes_stream);
    let log = store.read_log(&ReadLog::all()).await.unwrap().events;
    assert_eq!(log.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_while_it_is_decided() {
    let bank = Executor::new(&MemoryStore::new());
    let never = bank.transact(|_| std::future::pending::<Result<(), CommandError<Insufficient>>>());
    let soon = CommandContext::new().with_timeout(Duration::from_secs(1));
    let answer = tokio::time::timeout(Duration::from_secs(60), never.with(soon)).await.expect("the deadline holds");
    assert!(matches!(answer, Err(CommandError::DeadlineExceeded { attempts: 1 })), "{answer:?}");

    // And while it waits for another attempt.
    let store = Watched::intercepting(|_, append, _| {
        let (stream, expected) = append.expected()[0].clone();
        let failed = indelible_core::FailedCondition::Version { stream, expected, actual: Version::new(9) };
        Box::pin(async move { Ok(AppendOutcome::Conflict(vec![failed])) })
    });
    let retry = RetryPolicy::default().with_attempts_max(u32::MAX).with_pause_max(Duration::from_secs(60));
    let executor = Executor::with_options(&store, ExecutorOptions::default().with_retry(retry));
    let soon = CommandContext::new().with_timeout(Duration::from_secs(5));
    let start = tokio::time::Instant::now();
    let error = Repository::<Account>::on(&executor).execute("a", Deposit(1)).with(soon).await.unwrap_err();
    assert!(matches!(error, CommandError::DeadlineExceeded { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_millis(5_100), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_answer_that_comes_late_is_still_an_answer() {
    let store = Watched::intercepting(|_, _, _| {
        Box::pin(async move {
            std::thread::sleep(Duration::from_millis(600));
            Err(StoreError::Overloaded { what: "the queue".into() })
        })
    });
    let soon = CommandContext::new().with_timeout(Duration::from_millis(500));
    let error = Repository::<Account>::new(&store).execute("a", Deposit(1)).with(soon).await.unwrap_err();
    assert!(matches!(error, CommandError::Store(StoreError::Overloaded { .. })), "{error}");
    assert_eq!(store.appends.load(Relaxed), 1);
}

#[tokio::test]
async fn the_longest_timeout_is_none() {
    let context = CommandContext::new().with_timeout(Duration::MAX);
    let accounts = Repository::<Account>::new(&MemoryStore::new());
    assert!(accounts.execute("a", Deposit(1)).with(context).await.is_ok());
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum NoteEvent {
    Noted(Option<f64>),
}
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "note")]
struct Note {}
impl Apply for Note {
    type Event = NoteEvent;
    fn apply(&mut self, _: &NoteEvent) {}
}
impl Handle<Option<f64>> for Note {
    type Error = std::convert::Infallible;
    fn handle(&self, note: &Option<f64>, _: &Context<Self>) -> Result<Events<NoteEvent>, Self::Error> {
        Ok(NoteEvent::Noted(*note).into())
    }
}

#[tokio::test]
async fn every_float_comes_back() {
    let notes = Repository::<Note>::new(&MemoryStore::new());
    for n in 1..2_000_u64 {
        // Of all magnitudes, with all their digits.
        let float = f64::from_bits(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) & 0x7FEF_FFFF_FFFF_FFFF);
        let done = notes.execute("n", Some(float)).await.unwrap_or_else(|error| panic!("{float:e}: {error}"));
        assert_eq!(done.events()[0].decode::<NoteEvent>().unwrap(), NoteEvent::Noted(Some(float)));
    }
}

#[tokio::test]
async fn an_event_of_nothing_is_a_cloud_event_too() {
    let store = MemoryStore::new();
    let done = Repository::<Note>::new(&store).execute("n", None).await.unwrap();
    assert_eq!(done.events()[0].data, "null");
    let json = serde_json::to_string(&indelible_core::CloudEvent::new(&done.events()[0], store.id())).unwrap();
    let back: indelible_core::CloudEvent = serde_json::from_str(&json).unwrap();
    assert_eq!(back.into_recorded().unwrap(), done.events()[0]);
}

#[test]
#[should_panic(expected = "no control characters")]
fn a_constant_holds_no_control_character_of_two_bytes() {
    EventType::from_static("a\u{85}b");
}
