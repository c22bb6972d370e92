//! The tests are tested: each bug that can be switched on fails the one that must find it.

use indelible_core::conformance::fault::{Line, Verdict, seeded};

use crate::{
    child::{said, test},
    cluster::shared_url,
};

#[test]
fn each_bug_is_caught() {
    const SUITE: &str = "conformance::l3_a_tailing_reader_misses_nothing";
    const RACE: &str = "races::one_racer_wins";
    const CUT: &str = "cut::an_append_cut_at_any_byte_is_in_the_log_once";
    const LATE: &str = "cut::a_call_that_comes_late_writes_nothing";
    const GIVEN_UP: &str = "cut::a_call_that_was_given_up_writes_nothing";
    const WRITERS: &str = "32 writers in two processes, as in the suite";
    let runs = 5;
    for _ in 0..runs {
        let output = test(SUITE, &shared_url()).env_remove("INDELIBLE_REPORT").output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    Line::new(WRITERS, runs, runs, &Verdict::default(), "").print();
    for (fault, bug, name, says) in [
        (WRITERS, "snapshot-before-lock", SUITE, "E23505"),
        (WRITERS, "lock-in-statement", SUITE, "E23505"),
        (WRITERS, "counter-in-statement", SUITE, "E23505"),
        (crate::races::FAULT, "snapshot-before-lock", RACE, "E23505"),
        (crate::races::FAULT, "lock-in-statement", RACE, "E23505"),
        (crate::races::FAULT, "counter-in-statement", RACE, "E23505"),
        (crate::cut::FAULT, "lost-means-no", CUT, "Unavailable"),
        (crate::cut::FAULT, "no-fence", LATE, "it was written after all"),
        (crate::cut::FAULT, "no-fence, given up", GIVEN_UP, "it was written after all"),
    ] {
        must_find(fault, bug, name, says);
    }
}

/// That a test fails with a bug, and says so. A race may be won once, or twice.
pub(crate) fn must_find(fault: &str, bug: &str, name: &str, says: &str) {
    let is_caught = (0..10).any(|_| {
        let mut command = test(name, &shared_url());
        command.env("INDELIBLE_BUG", bug.split(',').next().unwrap()).env_remove("INDELIBLE_REPORT");
        let output = command.output().unwrap();
        let last = said(&output);
        assert!(last.contains("running 1 test"), "{name} is no test: {last}");
        assert!(output.status.success() || last.contains(says), "{name} fails for another reason: {last}");
        !output.status.success()
    });
    println!("{name}");
    seeded(fault, bug, is_caught, &Verdict::default());
}
