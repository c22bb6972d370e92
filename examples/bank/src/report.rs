//! What is shown, as tables.

use anyhow::Result;
use bank::{
    account::{Account, AccountEvent},
    money::Cents,
    views::{Balance, Line, Moved},
};
use comfy_table::{CellAlignment, Table, presets::UTF8_BORDERS_ONLY};
use futures::TryStreamExt;
use indelible::{Apply, Repository};

pub async fn history(accounts: &Repository<Account>, id: &str) -> Result<Table> {
    let mut table = table(["version", "recorded at", "what happened", "amount", "balance"], &[0, 3, 4]);
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

pub fn accounts(accounts: &[(String, Balance)]) -> Table {
    let mut table = table(["account", "balance"], &[1]);
    table.add_rows(accounts.iter().map(|(account, row)| [account.clone(), row.balance.to_string()]));
    table
}

pub fn statement(lines: &[Line]) -> Table {
    let mut table = table(["version", "at", "paid in", "taken out", "balance"], &[0, 2, 3, 4]);
    table.add_rows(lines.iter().map(|Line { version, at, moved, balance }| {
        [version.to_string(), at.to_string(), amount(moved.paid_in), amount(moved.taken_out), balance.to_string()]
    }));
    table
}

pub fn totals(days: &[(String, Moved)]) -> Table {
    let mut table = table(["day", "paid in", "taken out"], &[1, 2]);
    table.add_rows(days.iter().map(|(day, moved)| [day.clone(), amount(moved.paid_in), amount(moved.taken_out)]));
    table
}

fn amount(amount: Cents) -> String {
    if amount == Cents(0) { String::new() } else { amount.to_string() }
}

fn table<const N: usize>(header: [&str; N], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
