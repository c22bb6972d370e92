//! Whether the views say the same as the log.

use anyhow::{Context, Result, ensure};
use indelible::ReadModel;

use crate::{
    Bank, Teller,
    money::Cents,
    views::{BalanceOf, Moved, StatementOf, TotalsByDay},
};

/// How many lines of a statement are asked for at once.
const PAGE: usize = 100;

/// Compares all that the views answer with the accounts themselves, and says what has come and gone. For a bank that has
/// no other accounts than these, while nothing happens in it.
pub async fn audit<M: ReadModel>(bank: &Bank<M>, accounts: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Moved>
where
    Bank<M>: Teller,
{
    let (mut moved, mut total) = (Moved::default(), Cents(0));
    for name in accounts {
        let name = name.as_ref();
        let account = bank.accounts.load(name).await?;
        let view = bank.ask(BalanceOf(name.into())).await?.with_context(|| format!("{name} has no balance"))?;
        ensure!(view.balance == account.balance, "{name} has {}, and not {}", account.balance, view.balance);

        let (mut version, mut balance) = (0, Cents(0));
        loop {
            let page = bank.ask(StatementOf { account: name.into(), after: version, lines: PAGE }).await?;
            for line in &page {
                version += 1;
                balance += line.moved.paid_in;
                balance -= line.moved.taken_out;
                moved += line.moved;
                ensure!((line.version, line.balance) == (version, balance), "no line {version} of {name}: {line:?}");
            }
            if page.len() < PAGE {
                break;
            }
        }
        let end = (account.version().get(), account.balance);
        ensure!((version, balance) == end, "the statement of {name} ends at {version} with {balance}, not at {end:?}");
        total += balance;
    }
    let mut by_day = Moved::default();
    let days = bank.ask(TotalsByDay).await?;
    days.into_iter().for_each(|(_, moved)| by_day += moved);
    ensure!(by_day == moved, "by day it is {by_day:?}, and line by line {moved:?}");
    ensure!(moved.paid_in == moved.taken_out + total, "{moved:?} doesn't leave {total}");
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use indelible::{MemoryModel, MemoryStore};

    use super::*;
    use crate::account::{Deposit, Open};

    #[tokio::test]
    async fn an_audit_finds_views_that_lag() -> Result<()> {
        let soon = Duration::from_secs(5);
        let bank = Bank::new(&MemoryStore::new(), &MemoryModel::new());
        let running = bank.worker().start().await?;
        let amount = Cents(500);
        let open = bank.accounts.execute("ada", Open { owner: "Ada".into() });
        let done = open.and(bank.accounts.execute("ada", Deposit { amount })).await?;
        bank.wait_for(&done.token(), soon).await?;
        assert_eq!(audit(&bank, ["ada"]).await?, Moved { paid_in: amount, taken_out: Cents(0) });

        assert!(running.drain(soon).await);
        let done = bank.accounts.execute("ada", Deposit { amount }).await?;
        assert!(audit(&bank, ["ada"]).await.is_err());
        assert!(bank.wait_for(&done.token(), Duration::from_millis(10)).await.is_err());
        Ok(())
    }
}
