//! The tests are tested: each bug that can be switched on fails the one that must find it.

#[cfg(feature = "bugs")]
#[test]
fn each_bug_is_caught() {
    use indelible_core::conformance::fault::{Line, Verdict, seeded};

    use crate::{
        child::{said, test},
        cluster::shared_url,
    };

    const SUITE: &str = "conformance::l3_a_tailing_reader_misses_nothing";
    const RACE: &str = "races::one_racer_wins";
    const CUT: &str = "cut::an_append_cut_at_any_byte_is_in_the_log_once";
    const LATE: &str = "cut::a_call_that_comes_late_writes_nothing";
    const GIVEN_UP: &str = "cut::a_call_that_was_given_up_writes_nothing";
    const WRITERS: &str = "32 writers in two processes, as in the suite";
    #[cfg(feature = "projections")]
    const READ_MODEL: &str = "read model struck";
    let url = shared_url();
    let runs = 5;
    for _ in 0..runs {
        let output = test(SUITE, &url).env_remove("INDELIBLE_REPORT").output().unwrap();
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
        #[cfg(feature = "projections")]
        (
            READ_MODEL,
            "checkpoint-apart",
            "read_model::kills::a_worker_killed_at_random_moments_loses_and_doubles_nothing",
            "is not what",
        ),
        #[cfg(feature = "projections")]
        (
            READ_MODEL,
            "lease-without-fence",
            "read_model::leases::who_took_a_partition_first_can_commit_nothing_more",
            "Ok(())",
        ),
        #[cfg(feature = "projections")]
        (
            READ_MODEL,
            "poison-skipped",
            "read_model::letters::a_poison_event_is_parked_with_those_behind_it_and_redriven",
            "skipped without a letter",
        ),
    ] {
        // A race may be won once, or twice.
        let mut last = String::new();
        let is_caught = (0..10).any(|_| {
            let mut command = test(name, &url);
            command.env("INDELIBLE_BUG", bug.split(',').next().unwrap()).env_remove("INDELIBLE_REPORT");
            let output = command.output().unwrap();
            last = said(&output);
            assert!(last.contains("running 1 test"), "{name} is no test: {last}");
            assert!(output.status.success() || last.contains(says), "{name} fails for another reason: {last}");
            !output.status.success()
        });
        println!("{name}");
        seeded(fault, bug, is_caught, &Verdict::default());
    }
}
