//! Payments: somebody else's service, which fails, loses its answer, is slow or answers twice, at random by a seed. It
//! keeps a file for each idempotency key, so it outlives the processes that call it, and takes no payment twice.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use indelible::{CommandContext, Dependency, Executor, Failure, sagas::CircuitOptions};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::domain::confirm;

/// How long the shop waits for an answer.
pub const PATIENCE: Duration = Duration::from_millis(200);

/// How a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Luck {
    Fine,
    /// The customer can't pay.
    Declined,
    /// Nothing happens, and nobody says so.
    Down,
    /// The money is taken, and the answer is lost.
    Lost,
    /// The money is taken, and the answer comes when nobody waits for it any more.
    Slow,
    /// The money is taken, the shop's webhook is called, and then comes the answer.
    Twice,
}

pub struct Provider {
    dir: PathBuf,
    seed: u64,
    webhook: Executor,
    pub dependency: Dependency,
}

impl Provider {
    pub fn new(dir: impl AsRef<Path>, seed: u64, webhook: &Executor) -> Self {
        let mut options = CircuitOptions::default().after_failures(3).open_for(Duration::from_millis(100));
        options.open_max = Duration::from_millis(400);
        let dependency = Dependency::new("payments", 8, options);
        Self { dir: dir.as_ref().join("payments"), seed, webhook: webhook.clone(), dependency }
    }

    /// Takes the payment for an order, and answers with a receipt: the same one each time under a key.
    pub async fn pay(&self, order: &str, cents: u64, key: &str) -> Result<String, Failure> {
        self.dependency.call(self.take(order, cents, key)).await
    }

    async fn take(&self, order: &str, cents: u64, key: &str) -> Result<String, Failure> {
        let receipt = format!("receipt-{key}");
        match self.write_down(order, cents, key).map_err(Failure::unsure)? {
            Luck::Fine => {}
            Luck::Declined => return Err(Failure::refused("the card was declined")),
            Luck::Down => return Err(Failure::unsure("the provider is down")),
            Luck::Lost => return Err(Failure::unsure("the answer was lost")),
            Luck::Slow => sleep(2 * PATIENCE).await,
            Luck::Twice => drop(confirm(&self.webhook, order, &receipt, CommandContext::new()).await?),
        }
        Ok(receipt)
    }

    fn write_down(&self, order: &str, cents: u64, key: &str) -> io::Result<Luck> {
        let dir = self.dir.join(order);
        fs::create_dir_all(&dir)?;
        let file = dir.join(key.replace('/', "+"));
        let calls = fs::read_to_string(&file).unwrap_or_default().lines().count() as u64;
        let luck = self.luck(order, calls);
        let line = serde_json::to_string(&(luck, cents))? + "\n";
        File::options().create(true).append(true).open(file)?.write_all(line.as_bytes())?;
        Ok(luck)
    }

    /// Whether a customer can pay is the customer's; what goes wrong on the way is chance.
    fn luck(&self, order: &str, calls: u64) -> Luck {
        let number = order.bytes().fold(7_u64, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()));
        if (number ^ self.seed).is_multiple_of(7) {
            return Luck::Declined;
        }
        let lots = [Luck::Down, Luck::Lost, Luck::Slow, Luck::Twice];
        let lot = StdRng::seed_from_u64((self.seed << 48) ^ (calls << 32) ^ number).random_range(0..10);
        lots.get(lot).copied().unwrap_or(Luck::Fine)
    }

    /// The calls for an order, by key: how each went, and how much it was about.
    pub fn calls(&self, order: &str) -> io::Result<Vec<Vec<(Luck, u64)>>> {
        let files = match fs::read_dir(self.dir.join(order)) {
            Ok(files) => files.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let calls = |text: String| text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect();
        files.iter().map(|file| calls(fs::read_to_string(file.path())?)).collect()
    }

    /// What was paid for an order, each time: once for a key.
    pub fn payments(&self, order: &str) -> io::Result<Vec<u64>> {
        let takes = |(luck, _): &&(Luck, u64)| !matches!(luck, Luck::Declined | Luck::Down);
        let calls = self.calls(order)?;
        Ok(calls.iter().filter_map(|calls| calls.iter().find(takes)).map(|(_, cents)| *cents).collect())
    }
}
