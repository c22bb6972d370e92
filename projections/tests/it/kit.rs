//! The testing kit.

use indelible_projections::{
    memory::{MemoryModel, MemoryTx},
    testing::given,
    *,
};

use crate::fixture::*;

fn deposit(cents: u64) -> AccountEvent {
    AccountEvent::Deposited { cents }
}

#[tokio::test]
async fn a_handler_that_commutes_comes_to_the_same_in_any_order() {
    given(Tally)
        .history::<Account>("ada", [deposit(1), deposit(2)])
        .when::<Account>("bob", [deposit(3), AccountEvent::Renamed { name: "bo".into() }])
        .then(|views| assert_eq!(views.get(&TOTAL, &()).unwrap(), Some(6)))
        .await
        .then_in_any_order()
        .await;
}

/// Remembers who came last, whichever stream.
#[derive(Clone)]
struct Last;
impl Projection for Last {
    const NAME: &'static str = "last";
    type Event = AccountEvent;
    fn wants() -> Wants<AccountEvent> {
        Wants::of::<Account>()
    }
}
const LAST: Table<(), (String, bool)> = Table::new("last");
impl Project<MemoryModel> for Last {
    async fn apply(&self, envelope: &Envelope<AccountEvent>, tx: &mut MemoryTx) -> Result<(), Cause> {
        Ok(tx.put(&LAST, &(), &(envelope.recorded.stream.id().to_owned(), envelope.replaying))?)
    }
}

#[tokio::test]
#[should_panic = "does not commute across streams"]
async fn one_that_does_not_is_caught() {
    given(Last).when::<Account>("ada", [deposit(1)]).when::<Account>("bob", [deposit(1)]).then_in_any_order().await;
}

#[tokio::test]
async fn handlers_know_what_is_history() {
    let last = |account: &str, replaying| Some((account.to_owned(), replaying));
    given(Last)
        .history::<Account>("ada", [deposit(1)])
        .then(|views| assert_eq!(views.get(&LAST, &()).unwrap(), last("ada", true)))
        .await
        .when::<Account>("bob", [deposit(1)])
        .then(|views| assert_eq!(views.get(&LAST, &()).unwrap(), last("bob", false)))
        .await;
}
