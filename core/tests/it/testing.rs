//! What the testing kit says when a test fails: a person must see at once what is other than expected.

use std::panic::{AssertUnwindSafe, catch_unwind};

use indelible_core::testing::given;

use crate::bank::{Account, AccountEvent, Close, Deposit, Insufficient, Touch, Withdraw};

/// The message that a failing test prints.
fn failure(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("the test must fail");
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().expect("a message").to_string(),
    }
}

fn deposited(cents: u64) -> AccountEvent {
    AccountEvent::Deposited { cents }
}

#[test]
fn other_events_are_shown_as_a_difference() {
    let message = failure(|| {
        given::<Account>([]).when(Deposit(5)).then([deposited(6)]);
    });
    let expected = "the command decided other events (- expected, + decided):
  Deposited {
-     cents: 6,
+     cents: 5,
  }
";
    assert_eq!(message, expected);
}

#[test]
fn a_missing_and_an_unexpected_rejection_are_told() {
    let message = failure(|| given::<Account>([deposited(5)]).when(Withdraw(5)).then_rejected(Insufficient(5)));
    assert!(message.starts_with("expected to be rejected with Insufficient(5), the command decided:"), "{message}");
    assert!(message.contains("Withdrawn"), "{message}");
    let message = failure(|| {
        given::<Account>([]).when(Withdraw(5)).then([AccountEvent::Withdrawn { cents: 5 }]);
    });
    assert_eq!(message, "expected 1 events, the command was rejected: Insufficient(0)");
    let message = failure(|| given::<Account>([]).when(Withdraw(5)).then_rejected(Insufficient(1)));
    assert!(message.contains("-     1,\n+     0,"), "{message}");
}

#[test]
fn nothing_closing_and_the_state_can_be_asked_for() {
    given::<Account>([deposited(5)]).when(Touch).then_nothing().then_state(|account| assert_eq!(account.balance, 5));
    given::<Account>([]).when(Close).then_closed().then([AccountEvent::Closed]);
    let message = failure(|| {
        given::<Account>([]).when(Deposit(5)).then_closed();
    });
    assert_eq!(message, "the command does not close the stream");
    let message = failure(|| {
        given::<Account>([]).when(Deposit(5)).then_nothing();
    });
    assert!(message.contains("+ Deposited {"), "{message}");
}
