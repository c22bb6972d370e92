//! The domain: what can happen to an account, and the rules. No store, no clock, no async.

use indelible::{Aggregate, Apply, Context, Event, Events, Handle};
use serde::{Deserialize, Serialize};

use crate::money::Cents;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum AccountEvent {
    Opened { owner: String },
    Deposited { amount: Cents },
    Withdrawn { amount: Cents },
}
use AccountEvent::{Deposited, Opened, Withdrawn};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account", snapshot(every = 50))]
pub struct Account {
    pub open: bool,
    pub balance: Cents,
}

impl Apply for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            Opened { .. } => self.open = true,
            Deposited { amount } => self.balance += *amount,
            Withdrawn { amount } => self.balance -= *amount,
        }
    }
}

pub struct Open {
    pub owner: String,
}
pub struct Deposit {
    pub amount: Cents,
}
pub struct Withdraw {
    pub amount: Cents,
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum AccountError {
    #[error("the account is open already")]
    AlreadyOpen,
    #[error("there is no such account")]
    NotOpen,
    #[error("only {balance} are there")]
    Insufficient { balance: Cents },
}

impl Handle<Open> for Account {
    type Error = AccountError;

    fn handle(&self, command: &Open, _: &Context<Self>) -> Result<Events<AccountEvent>, AccountError> {
        if self.open {
            return Err(AccountError::AlreadyOpen);
        }
        Ok(Opened { owner: command.owner.clone() }.into())
    }
}

impl Handle<Deposit> for Account {
    type Error = AccountError;

    fn handle(&self, command: &Deposit, _: &Context<Self>) -> Result<Events<AccountEvent>, AccountError> {
        if !self.open {
            return Err(AccountError::NotOpen);
        }
        Ok(Deposited { amount: command.amount }.into())
    }
}

impl Handle<Withdraw> for Account {
    type Error = AccountError;

    fn handle(&self, command: &Withdraw, _: &Context<Self>) -> Result<Events<AccountEvent>, AccountError> {
        if !self.open {
            return Err(AccountError::NotOpen);
        }
        if command.amount > self.balance {
            return Err(AccountError::Insufficient { balance: self.balance });
        }
        Ok(Withdrawn { amount: command.amount }.into())
    }
}

#[cfg(test)]
mod tests {
    use indelible::testing::given;

    use super::*;

    fn opened() -> AccountEvent {
        Opened { owner: "Ada".into() }
    }

    #[test]
    fn money_goes_in_and_out() {
        given::<Account>([opened()])
            .when(Deposit { amount: Cents(500) })
            .then([Deposited { amount: Cents(500) }])
            .then_state(|account| assert_eq!(account.balance, Cents(500)));
        given::<Account>([opened(), Deposited { amount: Cents(500) }])
            .when(Withdraw { amount: Cents(500) })
            .then([Withdrawn { amount: Cents(500) }]);
    }

    #[test]
    fn nobody_takes_more_than_is_there() {
        given::<Account>([opened(), Deposited { amount: Cents(500) }])
            .when(Withdraw { amount: Cents(501) })
            .then_rejected(AccountError::Insufficient { balance: Cents(500) });
    }

    #[test]
    fn an_account_is_opened_once_and_first() {
        given::<Account>([]).when(Deposit { amount: Cents(1) }).then_rejected(AccountError::NotOpen);
        given::<Account>([opened()]).when(Open { owner: "Bob".into() }).then_rejected(AccountError::AlreadyOpen);
    }
}
