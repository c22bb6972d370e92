//! Read models of the log that all measurements share: what accounts have, and what happened to them. [`ours`] runs them as
//! projections; [`by_hand`] writes the same rows without a log, a worker or a projection.

use anyhow::Result;
use indelible_core::{Aggregate, Apply, Event};
use rand::{Rng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::job::Log;

pub mod by_hand;
pub mod ours;

/// What [`Events`](crate::event::Events) makes, all of it, as an application has its events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
pub enum AccountEvent {
    Transferred {
        transfer: String,
        from: String,
        to: String,
        cents: u64,
        balance: u64,
        currency: String,
        reference: String,
    },
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
pub struct Account {}
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

/// As the runner has them by default.
pub const BATCH_EVENTS: usize = 1_000;

/// Where the balances are on PostgreSQL.
const BALANCES_SQL: &str =
    "CREATE TABLE balances (account text PRIMARY KEY, cents bigint NOT NULL, events bigint NOT NULL)";
const UPSERT_SQL: &str = "INSERT INTO balances VALUES ($1, $2, 1) ON CONFLICT (account) DO UPDATE
    SET cents = balances.cents + excluded.cents, events = balances.events + 1";
/// Of many events, each a row of the arrays.
const UPSERT_SET_SQL: &str = "INSERT INTO balances SELECT account, sum(cents), count(*)
    FROM unnest($1::text[], $2::bigint[]) event (account, cents) GROUP BY account ON CONFLICT (account) DO UPDATE
    SET cents = balances.cents + excluded.cents, events = balances.events + excluded.events";

/// What an event comes to in a read model.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub account: u32,
    pub version: u64,
    pub cents: u64,
}

impl Row {
    /// Of the nth event, from 0 on, of a log whose streams have their events in turn.
    pub fn nth(n: u64, log: Log, rng: &mut StdRng) -> Result<Self> {
        let streams = u64::from(log.streams());
        Ok(Self {
            account: u32::try_from(n % streams)?,
            version: n / streams + 1,
            cents: rng.random_range(1..1_000_000_000),
        })
    }

    /// How its account's stream is called, behind the category.
    pub fn account(&self) -> String {
        self.account.to_string()
    }
}
