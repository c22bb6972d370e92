//! What an aggregate's attributes must and must not say.

use indelible_core::Aggregate;
use serde::{Deserialize, Serialize};

#[derive(Clone, Default, Aggregate)]
struct Account;

#[derive(Clone, Default, Aggregate)]
#[aggregate(category = "bank-account")]
struct Dash;

#[derive(Clone, Default, Aggregate)]
#[aggregate(category = "")]
struct Empty;

#[derive(Clone, Default, Aggregate)]
#[aggregate(name = "account")]
struct Unknown;

#[derive(Clone, Default, Aggregate)]
#[aggregate(category = "account", every = 100)]
struct Misplaced;

#[derive(Clone, Default, Aggregate)]
#[aggregate(category = "account", snapshot(each = 100))]
struct UnknownInside;

#[derive(Clone, Default, Aggregate)]
#[aggregate(category = "account", snapshot(every = 0))]
struct Every0;

#[derive(Clone, Default, Aggregate)]
#[aggregate(category = "account", id = u8, id = u16)]
struct Twice;

#[derive(Aggregate)]
#[aggregate(category = "account")]
union Union {
    a: u8,
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account", snapshot(every = 100))]
struct Skips {
    #[serde(skip)]
    a: u8,
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
enum SkipsVariant {
    #[default]
    Open,
    #[serde(skip)]
    Shut,
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account", snapshot(every = 100))]
struct SkipsIfInBincode {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
}

fn main() {}
