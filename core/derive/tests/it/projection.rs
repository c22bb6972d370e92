//! `#[derive(Projection)]`.

use std::time::Duration;

use indelible_core::{Aggregate, Apply, Event};
use indelible_projections::{OnFailure, Order, Projection, Retry};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Event)]
enum AccountEvent {
    Deposited { cents: u64 },
    Renamed,
}

#[derive(Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate(category = "account")]
struct Account;
impl Apply for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

#[derive(Clone, Event)]
enum BankEvent {
    #[event(category = "account")]
    Account(AccountEvent),
}

#[derive(Projection)]
#[projection(name = "balances", of = Account)]
struct Balances;

#[derive(Projection)]
#[projection(name = "deposits", version = 3, of = Account, only(DEPOSITED), partitions = 4, park = 7, retry = Retry::NEVER)]
struct Deposits {
    _since: Duration,
}

#[derive(Projection)]
#[projection(name = "bank", events = BankEvent, whole_log)]
struct Bank<const N: usize>;

fn wants<P: Projection>() -> Vec<String> {
    let query = P::wants();
    assert!(query.query().is_ok());
    query.any_type().iter().map(ToString::to_string).collect()
}

#[test]
fn the_shortest_has_all_events_in_the_order_of_each_stream() {
    assert_eq!((Balances::NAME, Balances::VERSION, Balances::ORDER), ("balances", 1, Order::PER_STREAM));
    assert_eq!((Balances::ON_FAILURE, Balances::RETRY), (OnFailure::Stop, Retry::DEFAULT));
    assert_eq!(wants::<Balances>(), ["account.Deposited", "account.Renamed"]);
}

#[test]
fn all_can_be_said() {
    assert_eq!((Deposits::NAME, Deposits::VERSION), ("deposits", 3));
    assert_eq!(Deposits::ORDER, Order::PerStream { partitions: 4 });
    assert_eq!((Deposits::ON_FAILURE, Deposits::RETRY), (OnFailure::Park { streams_max: 7 }, Retry::NEVER));
    assert_eq!(wants::<Deposits>(), ["account.Deposited"]);
}

#[test]
fn an_enum_over_several_categories_is_taken_whole() {
    assert_eq!(Bank::<1>::ORDER, Order::WholeLog);
    assert_eq!(wants::<Bank<1>>(), ["account.Deposited", "account.Renamed"]);
}
