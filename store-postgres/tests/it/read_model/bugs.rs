//! The tests are tested: each bug that is seeded into the read model fails the one that must find it.

use crate::bugs::must_find;

#[test]
fn each_bug_of_the_read_model_is_caught() {
    for (fault, bug, name, says) in [
        (
            super::kills::KILLED,
            "checkpoint-apart",
            "read_model::kills::a_worker_killed_at_random_moments_loses_and_doubles_nothing",
            "is not what",
        ),
        (
            super::kills::AMONG_POISON,
            "poison-skipped",
            "read_model::kills::a_worker_killed_among_poison_keeps_what_is_parked",
            "is not what",
        ),
        (
            "poison events",
            "poison-skipped",
            "read_model::letters::a_poison_event_is_parked_with_those_behind_it_and_redriven",
            "skipped without a letter",
        ),
        (
            super::versions::REBUILT,
            "take-over-behind",
            "read_model::versions::a_version_takes_over_under_live_traffic",
            "a query saw",
        ),
    ] {
        must_find(fault, bug, name, says);
    }
}
