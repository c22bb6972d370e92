//! What is refused, with the messages that the user sees. After a change: `TRYBUILD=overwrite`, and read the diff.

#[test]
fn refusals_say_what_to_write() {
    trybuild::TestCases::new().compile_fail("fail/*.rs");
}
