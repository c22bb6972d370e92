//! Three workers of one bank share its views while customers move money. An operator tells one what all are to do. One
//! worker is told to stop, another is killed, a new one comes: the others take over, and in the end each view says what the
//! log does. Fails when it doesn't.

use std::{
    collections::BTreeMap,
    env,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bank::{
    Bank,
    account::{Account, Deposit, Open, Withdraw},
    audit::audit,
    money::Cents,
    views::{Balances, Statements, Totals},
};
use indelible::{
    Append, ContentType, EventType, ExpectedVersion, NewEvent, PostgresModel, ProjectionId, ReadModel, Repository,
    postgres::ModelOptions,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

const ACCOUNTS: usize = 40;
const LEASE_SECONDS: u64 = 2;
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn run(database_url: &str) -> Result<()> {
    let name = format!("demo_{}", std::process::id());
    let bank = Bank::in_database(database_url, &name, ModelOptions::new()).await?;
    for account in accounts() {
        let open = bank.accounts.execute(&account, Open { owner: "somebody".into() });
        open.and(bank.accounts.execute(&account, Deposit { amount: Cents(10_000) })).await?;
    }
    let mut steps = Steps(Instant::now());
    let start = async |n| Worker::start(database_url, &name, n).await;
    let (one, two, three) = tokio::try_join!(start(1), start(2), start(3))?;
    shared(&bank, &[&one, &two, &three]).await?;
    steps.done("three workers share the views");

    let over = Arc::new(AtomicBool::new(false));
    let customers = tokio::spawn(customers(bank.accounts.clone(), over.clone()));
    sleep(Duration::from_secs(1)).await;
    let handled = until("events are handled by all", async || {
        let handled = [one.handled().await?, two.handled().await?, three.handled().await?];
        Ok(handled.iter().all(|events| *events > 0).then_some(handled))
    });
    let handled = handled.await?;
    steps.done(&format!("customers move money; by their metrics the workers have handled {handled:?} events"));

    operate(&bank, [&one, &two, &three]).await?;
    steps.done(
        "an operator told worker-1 to pause a view, worker-2 to go on, and worker-3 to give up what nobody can read",
    );

    one.stop().await?;
    ensure!(!owners(&bank).await?.contains_key("worker-1"), "worker-1 has left what it had to its leases");
    shared(&bank, &[&two, &three]).await?;
    steps.done("worker-1 got SIGTERM, has handed over what it had, and ended well");
    two.kill().await?;
    shared(&bank, &[&three]).await?;
    steps.done(&format!("worker-2 got SIGKILL; its leases of {LEASE_SECONDS} s ran out, and worker-3 has all"));
    let four = start(4).await?;
    shared(&bank, &[&three, &four]).await?;
    steps.done("worker-4 came, and has its share");

    over.store(true, Ordering::Relaxed);
    let transfers = customers.await??;
    let head = bank.store().head().await?;
    bank.wait_for(&head, PATIENCE).await?;
    audit(&bank, accounts()).await?;
    steps.done(&format!("after {transfers} transfers the views say what the log says, all {} events", head.position));
    tokio::try_join!(three.stop(), four.stop())?;
    steps.done("the others have ended well, too");
    Ok(())
}

fn accounts() -> impl Iterator<Item = String> {
    (1..=ACCOUNTS).map(|n| format!("a{n}"))
}

/// Pauses and resumes, and ends a dead letter, each at another worker than the one before.
async fn operate(bank: &Bank<PostgresModel>, [one, two, three]: [&Worker; 3]) -> Result<()> {
    one.tell("/views/statements/pause", "").await?;
    let (_, told) = get(&two.address, "/views").await?;
    ensure!(told.contains("statements@1: Current, paused"), "worker-2 says {told}");
    two.tell("/views/statements/resume", "").await?;

    let unreadable = NewEvent::new(EventType::from_static("Opened"), ContentType::JSON, "{}");
    let append = Append::to("account-unreadable".parse()?, ExpectedVersion::Any, [unreadable]);
    bank.store().append(append).await?;
    for view in ["balances", "statements"] {
        let letters = format!("/views/{view}/letters");
        let parked = async || {
            let (_, told) = get(&three.address, &letters).await?;
            Ok(told.split_once(' ').map(|(position, _)| position.to_owned()))
        };
        let position = until("what nobody can read is parked", parked).await?;
        let (status, why) = post(&three.address, &format!("/views/{view}/redrive"), "").await?;
        ensure!(status == 409 && why.contains("cannot decode"), "worker-3 says {status} {why}");
        three.tell(&format!("/views/{view}/discard/{position}"), "nobody can read it").await?;
    }
    Ok(())
}

/// Transfers until it is over, and says how many.
async fn customers(bank: Repository<Account>, over: Arc<AtomicBool>) -> Result<usize> {
    let accounts: Vec<String> = accounts().collect();
    let mut transfers = 0;
    while !over.load(Ordering::Relaxed) {
        let (from, to) = (&accounts[transfers * 7 % ACCOUNTS], &accounts[(transfers * 11 + 1) % ACCOUNTS]);
        let amount = Cents(1);
        bank.execute(from, Withdraw { amount }).and(bank.execute(to, Deposit { amount })).await?;
        transfers += 1;
    }
    Ok(transfers)
}

/// Waits until these workers and no others have all partitions, in fair shares; and shows who has which.
async fn shared(bank: &Bank<PostgresModel>, workers: &[&Worker]) -> Result<()> {
    for worker in workers {
        until("a worker is ready", async || Ok((get(&worker.address, "/ready").await?.0 == 200).then_some(()))).await?;
    }
    let owners = until("the partitions are shared", async || {
        let owners = owners(bank).await?;
        let fair = |worker: &&Worker| owners.get(&worker.name).is_some_and(|all| all.len() >= 2 * (4 / workers.len()));
        Ok((owners.len() == workers.len() && workers.iter().all(fair)).then_some(owners))
    });
    for (owner, partitions) in owners.await? {
        println!("           {owner}: {}", partitions.join(", "));
    }
    Ok(())
}

/// Who has which partitions now.
async fn owners(bank: &Bank<PostgresModel>) -> Result<BTreeMap<String, Vec<String>>> {
    let mut owners = BTreeMap::<_, Vec<_>>::new();
    for id in [ProjectionId::of::<Balances>(), ProjectionId::of::<Statements>(), ProjectionId::of::<Totals>()] {
        for row in bank.views.model().partitions(&id).await? {
            let owner = row.owner.map_or("nobody".into(), |worker| worker.0);
            owners.entry(owner).or_default().push(format!("{} {}", id.name, row.partition));
        }
    }
    Ok(owners)
}

/// Asks again and again, until there is an answer.
pub async fn until<T>(what: &str, ask: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let asked = timeout(PATIENCE, async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    asked.await.with_context(|| format!("{PATIENCE:?} have passed before {what}"))?
}

/// Another process of this program. It is killed when this is dropped.
struct Worker {
    name: String,
    process: Child,
    address: String,
}

impl Worker {
    async fn start(database_url: &str, bank: &str, n: usize) -> Result<Self> {
        let name = format!("worker-{n}");
        let mut process = Command::new(env::current_exe()?)
            .env("DATABASE_URL", database_url)
            .env("BANK_DATA", bank)
            .env("WORKER_NAME", &name)
            .env("WORKER_LISTEN", "127.0.0.1:0")
            .env("WORKER_LEASE_SECONDS", LEASE_SECONDS.to_string())
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = String::new();
        BufReader::new(process.stdout.take().context("it has no output")?).read_line(&mut said).await?;
        let address = said.trim().strip_prefix("listening at ").with_context(|| format!("{name} said {said:?}"))?;
        Ok(Self { name, process, address: address.into() })
    }

    /// What an operator wants.
    async fn tell(&self, path: &str, body: &str) -> Result<()> {
        let (status, told) = post(&self.address, path, body).await?;
        ensure!(status == 200, "{} says {status} {told}", self.name);
        Ok(())
    }

    /// SIGTERM, and all that has to happen then.
    async fn stop(mut self) -> Result<()> {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(pid as i32));
        kill_process(pid.with_context(|| format!("{} has ended", self.name))?, Signal::TERM)?;
        let ended =
            timeout(PATIENCE, self.process.wait()).await.with_context(|| format!("{} goes on", self.name))??;
        ensure!(ended.success(), "{} ended with {ended}", self.name);
        Ok(())
    }

    /// SIGKILL.
    async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }

    /// How many events it has handled, as its metrics tell.
    async fn handled(&self) -> Result<u64> {
        let (status, metrics) = get(&self.address, "/metrics").await?;
        ensure!(status == 200, "the metrics of {} are answered with {status}", self.name);
        let counters = metrics.lines().filter(|line| line.starts_with("indelible_projection_events_total{"));
        Ok(counters.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

/// Asks over HTTP, and says status and body.
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\n\r\n")).await
}

/// Tells over HTTP, and says status and body.
pub async fn post(address: &str, path: &str, body: &str) -> Result<(u16, String)> {
    exchange(address, &format!("POST {path} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await
}

async fn exchange(address: &str, request: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("no HTTP")?, body.into()))
}

/// Prints how long each step took.
struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        println!("{:>6} ms  {what}", self.0.elapsed().as_millis());
        self.0 = Instant::now();
    }
}
