//! An aggregate applies events.

use indelible_core::Aggregate;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
struct Account;

fn main() {}
