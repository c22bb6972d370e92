//! The views in typed tables: in memory, and on RocksDB.

use std::ops::Bound;

use indelible::{
    Answer, Cause, Envelope, Index, MemoryModel, Project, Projection, ReadModel, ReadModelError, ReadTables, Table,
    Timestamp, WriteTables,
};

use super::{AccountsOf, Balance, BalanceOf, Balances, Line, Moved, StatementOf, Statements, Totals, TotalsByDay};
use crate::{
    account::AccountEvent::{self, Deposited, Opened, Withdrawn},
    bank::Bank,
};

const BY_OWNER: Index<String, String, Balance> = Index::new("by_owner", |_, balance| balance.owner.clone());
pub const BALANCES: Table<String, Balance> = Table::new("balances").indexed(&[&BY_OWNER]);
/// By account and version.
pub const STATEMENTS: Table<(String, u64), Line> = Table::new("statements");
/// By day, which reads `2026-01-31`.
pub const TOTALS: Table<String, Moved> = Table::new("totals");

/// The most accounts that are shown of an owner.
const ACCOUNTS_MAX: usize = 1_000;
/// The most days that are shown.
const DAYS_MAX: usize = 10_000;

/// A read model of typed tables.
pub trait TableModel: ReadModel<Tx: WriteTables> {
    /// A projection's tables as they are now.
    fn tables<P: Projection>(&self) -> Result<impl ReadTables, ReadModelError>;
}
impl TableModel for MemoryModel {
    fn tables<P: Projection>(&self) -> Result<impl ReadTables, ReadModelError> {
        self.query::<P>()
    }
}
#[cfg(feature = "rocksdb")]
impl TableModel for indelible::RocksModel {
    fn tables<P: Projection>(&self) -> Result<impl ReadTables, ReadModelError> {
        self.query::<P>()
    }
}

impl<M: TableModel> Project<M> for Balances {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let account = envelope.recorded.stream.id().to_owned();
        let mut row = tx.get(&BALANCES, &account)?.unwrap_or_default();
        match &envelope.event {
            Opened { owner } => row.owner = owner.clone(),
            Deposited { amount } => row.balance += *amount,
            Withdrawn { amount } => row.balance -= *amount,
        }
        Ok(tx.put(&BALANCES, &account, &row)?)
    }
}

impl<M: TableModel> Project<M> for Statements {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let (account, version) = (envelope.recorded.stream.id().to_owned(), envelope.recorded.version.get());
        let before = tx.get(&STATEMENTS, &(account.clone(), version - 1))?;
        let moved = Moved::from(&envelope.event);
        let mut balance = before.map_or_else(Default::default, |line| line.balance);
        balance += moved.paid_in;
        balance -= moved.taken_out;
        let line = Line { version, at: envelope.recorded.recorded_at, moved, balance };
        Ok(tx.put(&STATEMENTS, &(account, version), &line)?)
    }
}

impl<M: TableModel> Project<M> for Totals {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut M::Tx) -> Result<(), Cause> {
        let day = day(envelope.recorded.recorded_at);
        let mut total = tx.get(&TOTALS, &day)?.unwrap_or_default();
        total += Moved::from(&envelope.event);
        Ok(tx.put(&TOTALS, &day, &total)?)
    }
}

fn day(time: Timestamp) -> String {
    let mut text = time.to_string();
    text.truncate("2026-01-31".len());
    text
}

impl<M: TableModel> Answer<BalanceOf> for Bank<M> {
    async fn answer(&self, BalanceOf(account): &BalanceOf) -> Result<Option<Balance>, Cause> {
        Ok(self.views.model().tables::<Balances>()?.get(&BALANCES, account)?)
    }
}

impl<M: TableModel> Answer<AccountsOf> for Bank<M> {
    async fn answer(&self, AccountsOf { owner }: &AccountsOf) -> Result<Vec<(String, Balance)>, Cause> {
        Ok(self.views.model().tables::<Balances>()?.find(&BALANCES, &BY_OWNER, owner, ACCOUNTS_MAX)?)
    }
}

impl<M: TableModel> Answer<StatementOf> for Bank<M> {
    async fn answer(&self, StatementOf { account, after, lines }: &StatementOf) -> Result<Vec<Line>, Cause> {
        let range = (Bound::Excluded((account.clone(), *after)), Bound::Included((account.clone(), u64::MAX)));
        let found = self.views.model().tables::<Statements>()?.scan(&STATEMENTS, range, *lines)?;
        Ok(found.into_iter().map(|(_, line)| line).collect())
    }
}

impl<M: TableModel> Answer<TotalsByDay> for Bank<M> {
    async fn answer(&self, _: &TotalsByDay) -> Result<Vec<(String, Moved)>, Cause> {
        Ok(self.views.model().tables::<Totals>()?.scan(&TOTALS, .., DAYS_MAX)?)
    }
}

#[cfg(test)]
mod tests {
    use indelible::projections::testing::given;

    use super::*;
    use crate::{account::Account, money::Cents};

    fn ada() -> Vec<AccountEvent> {
        vec![Opened { owner: "Ada".into() }, Deposited { amount: Cents(500) }, Withdrawn { amount: Cents(200) }]
    }
    fn bob() -> Vec<AccountEvent> {
        vec![Opened { owner: "Bob".into() }, Deposited { amount: Cents(70) }]
    }

    #[tokio::test]
    async fn balances_are_found_by_account_and_by_owner() {
        let look = |found: Vec<(String, Balance)>| found.into_iter().map(|(account, _)| account).collect::<Vec<_>>();
        given(Balances)
            .when::<Account>("1", ada())
            .when::<Account>("2", bob())
            .when::<Account>("3", ada())
            .then(|views| {
                let balance = views.get(&BALANCES, &"1".into()).unwrap();
                assert_eq!(balance, Some(Balance { owner: "Ada".into(), balance: Cents(300) }));
                assert_eq!(look(views.find(&BALANCES, &BY_OWNER, &"Ada".into(), 9).unwrap()), ["1", "3"]);
            })
            .await
            .then_in_any_order()
            .await;
    }

    #[tokio::test]
    async fn a_line_says_what_was_there_then() {
        given(Statements)
            .when::<Account>("1", ada())
            .when::<Account>("2", bob())
            .then(|views| {
                let balances = views.scan_prefix(&STATEMENTS, &"1".to_owned(), 9).unwrap();
                let balances: Vec<_> = balances.iter().map(|(_, line)| (line.version, line.balance)).collect();
                assert_eq!(balances, [(1, Cents(0)), (2, Cents(500)), (3, Cents(300))]);
            })
            .await
            .then_in_any_order()
            .await;
    }

    #[tokio::test]
    async fn a_day_has_a_total_of_all_accounts() -> Result<(), Cause> {
        given(Totals)
            .at("2026-01-31T23:59:59.999999Z".parse()?)
            .when::<Account>("1", ada())
            .when::<Account>("2", bob())
            .at("2026-02-01T00:00:00Z".parse()?)
            .when::<Account>("1", [Deposited { amount: Cents(1) }])
            .then(|views| {
                let moved = |paid_in, taken_out| Moved { paid_in: Cents(paid_in), taken_out: Cents(taken_out) };
                let days = [("2026-01-31".into(), moved(570, 200)), ("2026-02-01".into(), moved(1, 0))];
                assert_eq!(views.scan(&TOTALS, .., 9).unwrap(), days);
            })
            .await
            .then_in_any_order()
            .await;
        Ok(())
    }
}
