//! The tester is tested: bugs that are seeded into the store (`src/bugs.rs`), and the test that must fail for each.
//!
//! A test is run once more in a process of its own, with the bug switched on, and shorter; it must fail, and say what its
//! kind of failure is said with. `kill`, `power`, `io_sweep` and `lying_sync` find theirs by themselves: they stop at the
//! first thing they find.

use std::{env, process::Command};

use indelible_core::conformance::fault::{seeded, skip};

/// A bug, and what finds it.
struct Hunt {
    fault: &'static str,
    bug: &'static str,
    test: &'static str,
    /// How the test is made short.
    settings: &'static [(&'static str, &'static str)],
    /// What it says then.
    says: &'static str,
    /// Whether it is left to the long runs: those say `INDELIBLE_ZOO=all`.
    is_long: bool,
}

const ZOO: &[Hunt] = &[
    Hunt {
        fault: "a write failed",
        bug: "swallow-failed-write",
        test: "failed_write::the_first_failed_write_is_the_last_write",
        settings: &[],
        says: "a subscription delivers all that is published",
        is_long: false,
    },
    Hunt {
        fault: "a sync failed",
        bug: "swallow-failed-write",
        test: "failed_write::the_first_failed_sync_is_the_last_write",
        settings: &[],
        says: "a subscription delivers all that is published",
        is_long: false,
    },
    Hunt {
        fault: "syncs counted",
        bug: "acknowledge-before-sync",
        test: "sync::a_lone_callers_every_acknowledgement_is_behind_a_sync_of_its_own",
        settings: &[],
        says: "acknowledged without a sync since the one before",
        is_long: false,
    },
    Hunt {
        fault: "disk full",
        bug: "swallow-failed-write",
        test: "full_disk::a_full_disk_loses_nothing_and_is_read_on",
        settings: &[("INDELIBLE_FULL_DISK_CYCLES", "4")],
        says: "INDELIBLE_SEED=",
        is_long: false,
    },
    Hunt {
        fault: "disk full",
        bug: "forget-rebuild",
        test: "little_room::a_store_opens_with_whatever_room_there_is",
        settings: &[],
        says: "bytes of room",
        is_long: false,
    },
    Hunt {
        fault: "disk slow",
        bug: "unbounded-queue",
        test: "slow_disk::a_slow_disk_makes_callers_wait_or_tells_them",
        settings: &[],
        says: "nothing was overloaded",
        is_long: false,
    },
    Hunt {
        fault: "queue full",
        bug: "unbounded-queue",
        test: "overload::a_full_queue_says_so_and_nothing_is_lost",
        settings: &[],
        says: "0 of 600 were refused",
        is_long: false,
    },
    Hunt {
        fault: "few open files",
        bug: "open-all",
        test: "overload::few_open_files_are_enough",
        settings: &[],
        says: "Too many open files",
        is_long: true,
    },
    Hunt {
        fault: "many streams",
        bug: "leak-segments",
        test: "overload::memory_does_not_grow_with_streams",
        settings: &[("INDELIBLE_STREAMS", "2000000")],
        says: "MiB are too many",
        is_long: true,
    },
    Hunt {
        fault: "many subscriptions",
        bug: "publish-in-silence",
        test: "overload::ten_thousand_subscriptions_are_served",
        settings: &[],
        says: "all subscriptions are served",
        is_long: true,
    },
    Hunt {
        fault: "calls at once",
        bug: "judge-once",
        test: "history::no_answer_contradicts_the_log",
        settings: &[("INDELIBLE_HISTORY_OPS", "5000")],
        says: "Workload",
        is_long: false,
    },
    Hunt {
        fault: "file damaged",
        bug: "skip-anchor-check",
        test: "mutation::damage_to_any_file_is_never_silent",
        settings: &[("INDELIBLE_MUTATIONS", "40"), ("INDELIBLE_MUTATION_FILES", "log/.log")],
        says: "Unnoticed",
        is_long: false,
    },
    Hunt {
        fault: "file damaged",
        bug: "ignore-status",
        test: "mutation::damage_to_any_file_is_never_silent",
        settings: &[("INDELIBLE_MUTATIONS", "40"), ("INDELIBLE_MUTATION_FILES", "index/.sst")],
        says: "of the journal",
        is_long: false,
    },
    Hunt {
        fault: "file damaged",
        bug: "believe-mark",
        test: "damage::an_index_that_is_ahead_of_its_log_is_made_anew",
        settings: &[],
        says: "panicked\" }",
        is_long: false,
    },
    Hunt {
        fault: "block damaged",
        bug: "ignore-checksum",
        test: "verification::damage_of_the_log_is_found",
        settings: &[],
        says: "a changed byte",
        is_long: false,
    },
    Hunt {
        fault: "any calls",
        bug: "index-forgets-tags",
        test: "against_memory::both_stores_answer_alike",
        // From these numbers an answer shows it; from others, what is verified behind the answers may show it first.
        settings: &[("INDELIBLE_MEMORY_SEQUENCES", "3"), ("INDELIBLE_SEED", "2")],
        says: "left == right",
        is_long: false,
    },
    Hunt {
        fault: "hostile input",
        bug: "ignore-limits",
        test: "against_memory::both_stores_answer_hostile_input_alike",
        settings: &[],
        says: "left == right",
        is_long: false,
    },
    Hunt {
        fault: "golden directories",
        bug: "change-format",
        test: "golden::every_directory_that_was_written_is_read",
        settings: &[],
        says: "neither of its slots is whole",
        is_long: false,
    },
    Hunt {
        fault: "any bytes",
        bug: "long-numbers",
        test: "decoders::any_bytes_are_an_error_or_what_they_say",
        settings: &[],
        says: "left == right",
        is_long: false,
    },
    Hunt {
        fault: "reader beside a writer",
        bug: "read-past-anchor",
        test: "reader::a_reader_follows_a_writer_that_is_killed_again_and_again",
        settings: &[],
        says: "is not certainly durable",
        is_long: true,
    },
];

#[test]
fn every_test_of_a_fault_finds_its_bug() {
    let is_all = env::var_os("INDELIBLE_ZOO").is_some_and(|wanted| wanted == "all");
    for Hunt { fault, bug, test, settings, says, .. } in ZOO.iter().filter(|hunt| is_all || !hunt.is_long) {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "300"]).arg(env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        command.env("INDELIBLE_BUG", bug).envs(settings.iter().copied());
        command.env_remove("INDELIBLE_REPORT").env_remove("INDELIBLE_SKIPS");
        let mut said = String::new();
        let mut run = || {
            let output = command.output().unwrap();
            said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let is_found = said.contains("test result: FAILED. 0 passed; 1 failed") && said.contains(says);
            is_found || said.contains("SKIP: ")
        };
        // A fault may miss its bug once, or twice.
        let is_told = (0..3).any(|_| run());
        if said.contains("SKIP: ") {
            skip(&format!("{test} is skipped"));
            continue;
        }
        let told = said.lines().find(|line| line.contains(says)).filter(|_| is_told);
        seeded(fault, bug, told.is_some(), &format!("{test}: {}", told.unwrap_or(&said)));
    }
}
