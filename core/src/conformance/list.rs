//! The one list of cases, by file. A case that is not in it is dead code, of which the compiler warns.

/// Hands the list to the macro named, with what else it needs.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ([$($then:tt)+] $($with:tt)*) => {
        $($then)+! { ($($with)*)
            append:
                l1_an_append_is_answered_as_it_is_recorded
                l1_events_are_recorded_in_the_appends_order
                l1_an_append_writes_several_streams
                l1_the_last_event_ends_its_append
                l1_an_append_that_is_not_written_leaves_nothing
                l1_no_reader_sees_a_part_of_an_append
            ;
            condition:
                l2_expected_versions_are_kept
                l2_streams_that_are_only_checked_count
                l2_an_expected_version_is_that_before_the_append
                l2_every_failed_condition_is_named
                l2_conditions_find_what_their_query_matches
                l2_conditions_look_after_a_position
                l2_an_appends_own_events_dont_count
                l2_all_items_of_a_condition_count
                l2_each_version_is_won_once
                l2_a_stream_is_created_once
                l2_a_name_is_taken_once
                l2_thirty_seats_are_never_thirty_one
                l2_seats_and_courses_are_kept_at_once
            ;
            order:
                l3_appends_that_fail_leave_no_holes
                l3_the_head_is_the_last_event
                l3_a_tailing_reader_misses_nothing
                l3_a_subscription_misses_nothing
                l3_the_log_only_grows
                l3_each_writers_order_is_kept
            ;
            durable:
                l4_reopening_keeps_everything
                l4_the_log_goes_on_where_it_stopped
                l4_what_is_acknowledged_survives_a_crash
                l4_acknowledged_under_load_survives_a_crash
                l4_what_is_visible_survives_a_crash
                l4_after_a_crash_the_log_is_judged_as_it_is
                l4_checkpoints_survive_a_crash
            ;
        }
    };
}
