//! What event sourcing gave: hundreds of commands at once on a few accounts, nothing lost, nothing half done, every
//! balance explained, and views that say the same. Fails when a sum is wrong, when nothing conflicted, when no snapshot
//! was used, or when a view answers something else than the log.

use std::{path::Path, time::Instant};

use anyhow::{Result, bail, ensure};
use bank::{
    Bank, Teller,
    account::{Account, AccountError, Deposit, Open, Withdraw},
    audit::audit,
    money::Cents,
    views::{AccountsOf, BalanceOf, Balances, StatementOf, TotalsByDay},
};
use futures::future::{join_all, try_join_all};
use indelible::{Aggregate, AsOf, CommandError, ReadModel, ReadStream, Repository, Version, Waited};

use crate::{PATIENCE, report};

const OWNERS: [&str; 4] = ["ada", "bob", "cleo", "dan"];
const COMMANDS: usize = 600;
const START: Cents = Cents(10_000);

pub async fn run<M: ReadModel>(open: impl AsyncFn(&Path) -> Result<Bank<M>>, lasts: bool) -> Result<()>
where
    Bank<M>: Teller,
{
    let directory = tempfile::tempdir()?;
    let bank = open(directory.path()).await?;
    let mut steps = Steps(Instant::now());

    let running = bank.worker().start().await?;
    let accounts = bank.accounts.clone();
    for owner in OWNERS {
        let open = accounts.execute(owner, Open { owner: owner.into() });
        let done = open.and(accounts.execute(owner, Deposit { amount: START })).await?;
        // Read your writes: the view is asked when it has seen what was just written.
        let stream = Account::stream(&owner.into())?;
        let waited = bank.views.wait_for::<Balances>(&done.token(), Some(&stream), PATIENCE).await?;
        ensure!(waited == Waited::Reached, "the balance of {owner} can't be seen: {waited:?}");
        let balance = bank.ask(BalanceOf(owner.into())).await?;
        ensure!(balance.is_some_and(|found| found.balance == START), "{owner} does not have {START}");
    }
    steps.done(format!("opened {} accounts with {START} each, and saw each at once", OWNERS.len()));

    // Two branches, each with a memory of its own: what one has just done, the other does not know yet.
    let branches = [accounts.clone(), Repository::<Account>::new(bank.store())];
    let branch = |n: usize| branches[n / OWNERS.len() % branches.len()].clone();
    let outcomes = join_all((0..COMMANDS).map(|n| tokio::spawn(command(branch(n), n)))).await;
    let (mut paid_in, mut taken_out) = (START.0 * OWNERS.len() as u64, 0);
    let (mut done, mut rejections, mut retries) = (0, Vec::new(), 0);
    for outcome in outcomes {
        match outcome? {
            Ok(effect) => {
                done += 1;
                retries += effect.retries;
                paid_in += effect.paid_in.0;
                taken_out += effect.taken_out.0;
            }
            Err(CommandError::Rejected(error @ AccountError::Insufficient { .. })) => rejections.push(error),
            Err(error) => return Err(error.into()),
        }
    }
    let Some(rejection) = rejections.last() else { bail!("no command was rejected") };
    let rejected = format!("{} rejected (the last: {rejection})", rejections.len());
    steps.done(format!("{COMMANDS} commands at once: {done} done, {retries} decided again, {rejected}"));
    ensure!(retries > 0, "no two commands conflicted");

    let middle = Version::new(accounts.load(OWNERS[0]).await?.version().get() / 2);
    ensure!(running.drain(PATIENCE).await, "the views could not be closed");
    drop((accounts, branches));
    // Memory ends with its store; there, only what was remembered of it is dropped.
    let bank = if lasts {
        drop(bank);
        open(directory.path()).await?
    } else {
        Bank::new(bank.store(), bank.views.model())
    };
    let accounts = &bank.accounts;
    steps.done("closed the bank and opened it again".into());

    let loaded = try_join_all(OWNERS.map(|owner| accounts.load(owner))).await?;
    let snapshots: Vec<Version> = loaded.iter().filter_map(|account| account.snapshot_version()).collect();
    let total: Cents = loaded.iter().map(|account| account.balance).sum();
    let Some(version) = snapshots.first() else { bail!("no snapshot was used") };
    let (count, events) = (snapshots.len(), loaded[0].version());
    steps.done(format!("loaded all accounts, {count} from snapshots, the first of version {version} of {events}"));

    let running = bank.worker().start().await?;
    let head = bank.store().head().await?;
    let waited = running.wait_for(&head, PATIENCE).await?;
    ensure!(waited == Waited::Reached, "the views don't come to the end of the log: {waited:?}");
    let moved = audit(&bank, OWNERS).await?;
    for owner in OWNERS {
        let theirs = bank.ask(AccountsOf { owner: owner.into() }).await?;
        ensure!(theirs.len() == 1 && theirs[0].0 == owner, "{owner} has {theirs:?}");
    }
    steps.done(format!("the views say the same, line by line and by day, of all {} events", head.position));
    bank.rebuild(&running).await?;
    ensure!(audit(&bank, OWNERS).await? == moved, "built anew, the views say something else");
    steps.done("emptied the views and built them anew: they say the same".into());

    println!("\nThe money adds up: {} paid in − {} taken out = {total}", Cents(paid_in), Cents(taken_out));
    ensure!(total.0 == paid_in - taken_out, "the balances add up to {total}");
    println!("With what was transferred, by day:\n{}", report::totals(&bank.ask(TotalsByDay).await?));
    ensure!(moved.paid_in.0 - paid_in == moved.taken_out.0 - taken_out, "transfers are {moved:?} less that");

    let ada = OWNERS[0];
    let read = ReadStream::new(Account::stream(&ada.into())?).from(middle).limit(1);
    let Some(event) = bank.store().read_stream(&read).await?.events.pop() else { bail!("{ada} has no event {middle}") };
    let then = accounts.load_as_of(ada, AsOf::Time(event.recorded_at)).await?;
    println!("\n{ada} had {} at {}, and has {} now", then.balance, event.recorded_at, loaded[0].balance);
    let again = accounts.load_as_of(ada, AsOf::Version(then.version())).await?;
    ensure!(then.version() >= middle && then.state() == again.state(), "the past is not what it was");
    steps.done(format!("looked back to version {middle}"));

    let lines = 8;
    let after = loaded[0].version().get() - lines;
    let end = StatementOf { account: ada.into(), after, lines: lines as usize };
    println!("\nHow it came to that, the last of {} events of {ada}:", loaded[0].version());
    println!("{}", report::statement(&bank.ask(end).await?));
    ensure!(running.drain(PATIENCE).await, "the views could not be closed");
    Ok(())
}

/// What a command did to the bank.
struct Effect {
    paid_in: Cents,
    taken_out: Cents,
    retries: u32,
}

/// One customer's command: to pay in, take out or transfer, more than is there now and then.
async fn command(accounts: Repository<Account>, n: usize) -> Result<Effect, CommandError<AccountError>> {
    let (owner, other) = (OWNERS[n % OWNERS.len()], OWNERS[(n / 7) % OWNERS.len()]);
    let amount = Cents(1 + (n as u64 * 7_919) % 15_000);
    let none = Cents(0);
    let (execution, paid_in, taken_out) = match n % 3 {
        0 => (accounts.execute(owner, Deposit { amount }).await, amount, none),
        1 => (accounts.execute(owner, Withdraw { amount }).await, none, amount),
        _ => {
            let withdraw = accounts.execute(owner, Withdraw { amount });
            (withdraw.and(accounts.execute(other, Deposit { amount })).await, none, none)
        }
    };
    Ok(Effect { paid_in, taken_out, retries: execution?.attempts() - 1 })
}

/// Prints how long each step took.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: String) {
        println!("{:>6} ms  {what}", self.0.elapsed().as_millis());
        self.0 = Instant::now();
    }
}
