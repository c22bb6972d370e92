//! What the derive macros write, and what they refuse.
use indelible_core::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum AccountEvent {
    Opened {
        owner: String,
    },
    Deposited {
        #[event(tag)]
        cents: u64,
    },
    #[event(version = 2, upcast(from = 1, with = add_reason))]
    Withdrawn {
        cents: u64,
        reason: String,
    },
    Closed,
}
fn add_reason(mut value: serde_json::Value) -> serde_json::Value {
    value["reason"] = "".into();
    value
}
#[derive(Clone, Debug, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account", id = AccountId, snapshot(every = 100))]
struct Account {
    balance: u64,
    open: bool,
}
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _event: &AccountEvent) {}
}
#[derive(Clone, AggregateId)]
struct AccountId(String);
#[test]
fn x() {
    assert_eq!(AccountEvent::shapes().len(), 4);
    assert_eq!(Account::STATE, "1{balance:u64,open:bool,}");
}
