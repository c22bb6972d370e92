//! The views in PostgreSQL, in tables that anybody may read who speaks SQL.

use std::time::SystemTime;

use indelible::{Answer, Cause, Envelope, PostgresModel, PostgresTx, Project, postgres::Row};

use super::{AccountsOf, Balance, BalanceOf, Balances, Line, Moved, StatementOf, Statements, Totals, TotalsByDay};
use crate::{
    account::AccountEvent::{self, Deposited, Opened, Withdrawn},
    bank::Bank,
    money::Cents,
};

impl Project<PostgresModel> for Balances {
    const SETUP: &'static str = "
        CREATE TABLE balances (account text PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL);
        CREATE INDEX ON balances (owner)";

    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let account = envelope.recorded.stream.id();
        let add = "UPDATE balances SET balance = balance + $2 WHERE account = $1";
        match &envelope.event {
            Opened { owner } => tx.execute("INSERT INTO balances VALUES ($1, $2, 0)", (account, owner)).await?,
            Deposited { amount } => tx.execute(add, (account, bigint(*amount)?)).await?,
            Withdrawn { amount } => tx.execute(add, (account, -bigint(*amount)?)).await?,
        }
        Ok(())
    }
}

impl Project<PostgresModel> for Statements {
    const SETUP: &'static str = "
        CREATE TABLE statements (account text, version bigint, at timestamptz NOT NULL, paid_in bigint NOT NULL,
                                 taken_out bigint NOT NULL, balance bigint NOT NULL, PRIMARY KEY (account, version))";

    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let (account, at) = (envelope.recorded.stream.id(), SystemTime::from(envelope.recorded.recorded_at));
        let version = i64::try_from(envelope.recorded.version.get())?;
        let moved = Moved::from(&envelope.event);
        let insert = "
            INSERT INTO statements VALUES ($1, $2, $3, $4, $5, $4::bigint - $5::bigint + coalesce(
                (SELECT balance FROM statements WHERE account = $1 AND version = $2::bigint - 1), 0))";
        Ok(tx.execute(insert, (account, version, at, bigint(moved.paid_in)?, bigint(moved.taken_out)?)).await?)
    }
}

impl Project<PostgresModel> for Totals {
    const SETUP: &'static str =
        "CREATE TABLE totals (day date PRIMARY KEY, paid_in bigint NOT NULL, taken_out bigint NOT NULL)";

    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut PostgresTx) -> Result<(), Cause> {
        let at = SystemTime::from(envelope.recorded.recorded_at);
        let moved = Moved::from(&envelope.event);
        let add = "
            INSERT INTO totals VALUES (($1::timestamptz AT TIME ZONE 'UTC')::date, $2, $3)
            ON CONFLICT (day) DO UPDATE SET paid_in = totals.paid_in + excluded.paid_in,
                                            taken_out = totals.taken_out + excluded.taken_out";
        Ok(tx.execute(add, (at, bigint(moved.paid_in)?, bigint(moved.taken_out)?)).await?)
    }
}

impl Answer<BalanceOf> for Bank<PostgresModel> {
    async fn answer(&self, BalanceOf(account): &BalanceOf) -> Result<Option<Balance>, Cause> {
        let mut tables = self.views.model().query::<Balances>().await?;
        let row = tables.query_opt("SELECT owner, balance FROM balances WHERE account = $1", (account,)).await?;
        row.as_ref().map(balance).transpose()
    }
}

impl Answer<AccountsOf> for Bank<PostgresModel> {
    async fn answer(&self, AccountsOf { owner }: &AccountsOf) -> Result<Vec<(String, Balance)>, Cause> {
        let mut tables = self.views.model().query::<Balances>().await?;
        let of_owner = "SELECT account, owner, balance FROM balances WHERE owner = $1 ORDER BY account LIMIT 1000";
        let rows = tables.query(of_owner, (owner,)).await?;
        rows.iter().map(|row| Ok((row.try_get("account")?, balance(row)?))).collect()
    }
}

impl Answer<StatementOf> for Bank<PostgresModel> {
    async fn answer(&self, StatementOf { account, after, lines }: &StatementOf) -> Result<Vec<Line>, Cause> {
        let mut tables = self.views.model().query::<Statements>().await?;
        let page = "SELECT * FROM statements WHERE account = $1 AND version > $2 ORDER BY version LIMIT $3";
        let after = i64::try_from(*after).unwrap_or(i64::MAX);
        let lines = i64::try_from(*lines).unwrap_or(i64::MAX);
        let rows = tables.query(page, (account, after, lines)).await?;
        let line = |row: &Row| {
            let version = u64::try_from(row.try_get::<_, i64>("version")?)?;
            let at = row.try_get::<_, SystemTime>("at")?.into();
            Ok(Line { version, at, moved: moved(row)?, balance: cents(row, "balance")? })
        };
        rows.iter().map(line).collect()
    }
}

impl Answer<TotalsByDay> for Bank<PostgresModel> {
    async fn answer(&self, _: &TotalsByDay) -> Result<Vec<(String, Moved)>, Cause> {
        let mut tables = self.views.model().query::<Totals>().await?;
        let rows = tables.query("SELECT day::text, paid_in, taken_out FROM totals ORDER BY day", ()).await?;
        rows.iter().map(|row| Ok((row.try_get("day")?, moved(row)?))).collect()
    }
}

fn balance(row: &Row) -> Result<Balance, Cause> {
    Ok(Balance { owner: row.try_get("owner")?, balance: cents(row, "balance")? })
}

fn moved(row: &Row) -> Result<Moved, Cause> {
    Ok(Moved { paid_in: cents(row, "paid_in")?, taken_out: cents(row, "taken_out")? })
}

fn cents(row: &Row, column: &str) -> Result<Cents, Cause> {
    Ok(Cents(u64::try_from(row.try_get::<_, i64>(column)?)?))
}

fn bigint(amount: Cents) -> Result<i64, Cause> {
    Ok(i64::try_from(amount.0)?)
}
