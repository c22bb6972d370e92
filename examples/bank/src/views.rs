//! What the bank keeps beside its log, and what can be asked of it.
//!
//! A projection says here which events it wants and in which order. How it keeps them, and how questions are answered
//! from that, depends on the read model: in typed tables ([`tables`]) or in tables of SQL ([`sql`]).

use std::ops::AddAssign;

use indelible::{Projection, Question, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    account::{Account, AccountEvent},
    money::Cents,
};

pub mod sql;
pub mod tables;

/// What is in each account, and whose it is. Accounts have nothing to do with each other, so that four processes may
/// keep a part of them each, and one whose events can't be read is no reason to keep others waiting.
#[derive(Clone, Projection)]
#[projection(name = "balances", of = Account, partitions = 4, park)]
pub struct Balances;

/// What happened to each account, line by line.
#[derive(Clone, Projection)]
#[projection(name = "statements", of = Account, partitions = 4, park)]
pub struct Statements;

/// What came and went each day. All accounts add to the same row, so that partitions would wait for each other: it has
/// one.
#[derive(Clone, Projection)]
#[projection(name = "totals", of = Account, only(DEPOSITED, WITHDRAWN))]
pub struct Totals;

/// What is in an account?
pub struct BalanceOf(pub String);
impl Question for BalanceOf {
    type Answer = Option<Balance>;
}

/// Which accounts are somebody's?
pub struct AccountsOf {
    pub owner: String,
}
impl Question for AccountsOf {
    type Answer = Vec<(String, Balance)>;
}

/// What happened to an account after a version of it? The first lines of that; the last one's version leads to the next.
pub struct StatementOf {
    pub account: String,
    pub after: u64,
    pub lines: usize,
}
impl Question for StatementOf {
    type Answer = Vec<Line>;
}

/// What came and went, day by day? Days read `2026-01-31`.
pub struct TotalsByDay;
impl Question for TotalsByDay {
    type Answer = Vec<(String, Moved)>;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    pub owner: String,
    pub balance: Cents,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub version: u64,
    pub at: Timestamp,
    pub moved: Moved,
    /// What was there then.
    pub balance: Cents,
}

/// Money that came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub paid_in: Cents,
    pub taken_out: Cents,
}

impl From<&AccountEvent> for Moved {
    fn from(event: &AccountEvent) -> Self {
        match event {
            AccountEvent::Opened { .. } => Self::default(),
            AccountEvent::Deposited { amount } => Self { paid_in: *amount, ..Self::default() },
            AccountEvent::Withdrawn { amount } => Self { taken_out: *amount, ..Self::default() },
        }
    }
}

impl AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.paid_in += other.paid_in;
        self.taken_out += other.taken_out;
    }
}
