//! An account's history as a table.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use futures::TryStreamExt;
use indelible::{Apply, Repository};

use crate::account::{Account, AccountEvent};

pub async fn history(accounts: &Repository<Account>, id: &str) -> Result<Table> {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(["version", "recorded at", "what happened", "amount", "balance"]);
    for column in [0, 3, 4] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut account = Account::default();
    let mut history = accounts.history(id)?;
    while let Some((recorded, event)) = history.try_next().await? {
        account.apply(&event);
        let (what, amount) = match event {
            AccountEvent::Opened { owner } => (format!("opened for {owner}"), String::new()),
            AccountEvent::Deposited { amount } => ("paid in".into(), amount.to_string()),
            AccountEvent::Withdrawn { amount } => ("taken out".into(), amount.to_string()),
        };
        let (version, time, balance) = (recorded.version, recorded.recorded_at, account.balance);
        table.add_row([version.to_string(), time.to_string(), what, amount, balance.to_string()]);
    }
    Ok(table)
}
