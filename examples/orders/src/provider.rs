//! Payments: somebody else's service, which fails, is slow, or loses its answer, at random by a seed. It keeps a file for
//! each idempotency key, so it outlives the processes that call it, and takes no payment twice.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use indelible::{Dependency, Failure, sagas::CircuitOptions};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

pub struct Provider {
    dir: PathBuf,
    seed: u64,
    calls: AtomicU64,
    pub dependency: Dependency,
}

impl Provider {
    pub fn new(dir: impl AsRef<Path>, seed: u64) -> std::io::Result<Self> {
        let dir = dir.as_ref().join("payments");
        fs::create_dir_all(&dir)?;
        let options = CircuitOptions::default().after_failures(3).open_for(Duration::from_millis(100));
        let dependency = Dependency::new("payments", 8, options);
        Ok(Self { dir, seed, calls: AtomicU64::new(0), dependency })
    }

    /// Takes the payment for an order. Under a key that it knows, the answer is what it was.
    pub async fn pay(&self, order: &str, cents: u64, key: &str) -> Result<String, Failure> {
        self.dependency.call(self.take(order, cents, key)).await
    }

    async fn take(&self, order: &str, cents: u64, key: &str) -> Result<String, Failure> {
        // Whether a customer can pay is the customer's; what goes wrong on the way is chance.
        if (number(order) ^ self.seed).is_multiple_of(7) {
            return Err(Failure::refused("the card was declined"));
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut chance = StdRng::seed_from_u64(self.seed ^ (call << 16) ^ number(key));
        sleep(Duration::from_millis(chance.random_range(0..5))).await;
        let luck = chance.random_range(0..10);
        if luck < 2 {
            return Err(Failure::unsure("the provider is down"));
        }
        let file = self.dir.join(key.replace('/', "+"));
        fs::write(file, format!("{order} {cents}")).map_err(Failure::unsure)?;
        if luck < 4 {
            return Err(Failure::unsure("the answer was lost"));
        }
        Ok(format!("receipt of {order}"))
    }

    /// What was paid for each order, each time.
    pub fn payments(&self) -> std::io::Result<Vec<(String, u64)>> {
        let mut payments = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let text = fs::read_to_string(file?.path())?;
            let (order, cents) = text.split_once(' ').unwrap_or_default();
            payments.push((order.to_owned(), cents.parse().unwrap_or_default()));
        }
        Ok(payments)
    }
}

fn number(text: &str) -> u64 {
    text.bytes().fold(7, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()))
}
