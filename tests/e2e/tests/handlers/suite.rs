//! Which scenarios every handler is held to, and which ones say otherwise.

/// What every handler must do, each as native does it.
pub(super) const SUITE: [&str; 35] = [
    "checkpoint::with_criu_a_checkpoint_is_what_the_field_reads",
    "checkpoint_pods::all_stand_still_before_the_first_is_written_down",
    "container::a_container_lives_and_goes",
    "container::a_container_out_of_memory_says_so",
    "container::exit_codes_and_signals_are_told",
    "container::removing_a_running_container_kills_it",
    "container::stats_count_what_a_container_uses",
    "exec::a_background_process_does_not_hold_the_reply",
    "exec::a_timeout_kills_the_whole_tree",
    "exec::an_exec_is_confined_as_its_container_is",
    "exec::output_streams_and_exit_code_come_back",
    "files::root_filesystems_are_private_and_may_be_read_only",
    "isolation::a_container_may_join_anothers_processes",
    "isolation::a_pod_may_have_a_user_namespace",
    "isolation::a_terminal_is_one",
    "isolation::containers_may_share_a_pid_namespace",
    "isolation::mounts_propagate_as_asked",
    "isolation::ordinary_containers_are_confined",
    "isolation::privileged_containers_are_not",
    "isolation::recursive_read_only_reaches_every_mount",
    "logs::a_rotated_log_goes_on_in_a_new_file",
    "logs::streams_tags_and_every_byte",
    "recovery::a_pod_whose_supervisor_dies_is_not_ready",
    "recovery::containers_outlive_the_daemon",
    "recovery::exits_while_nobody_looked_are_told",
    "resources::limits_change_live_and_outlive_the_daemon",
    "security::every_call::every_system_call_is_as_libseccomp_says",
    "security::generated_contexts_are_as_asked",
    "stop::a_container_may_use_its_grace",
    "stop::who_does_not_go_is_killed",
    "streams::a_terminal_follows_its_size_and_ends_with_its_program",
    "streams::attaches_share_the_output_and_the_first_owns_the_input",
    "streams::ports_are_forwarded_to_both_loopbacks",
    "volumes::in_a_user_namespace_volumes_belong_to_its_users",
    "volumes::mounts_are_restricted_as_asked",
];

/// What a handler does otherwise; `docs/guide/handlers.md` has a row for each.
pub(super) const DIFFERENT: [(&str, &str); 20] = [
    (
        "runsc",
        "checkpoint::with_criu_a_checkpoint_is_what_the_field_reads",
    ),
    (
        "runsc",
        "checkpoint_pods::all_stand_still_before_the_first_is_written_down",
    ),
    ("runsc", "exec::an_exec_is_confined_as_its_container_is"),
    (
        "runsc",
        "isolation::a_container_may_join_anothers_processes",
    ),
    ("runsc", "isolation::a_pod_may_have_a_user_namespace"),
    ("runsc", "isolation::a_terminal_is_one"),
    ("runsc", "isolation::containers_may_share_a_pid_namespace"),
    ("runsc", "isolation::mounts_propagate_as_asked"),
    ("runsc", "isolation::ordinary_containers_are_confined"),
    ("runsc", "isolation::privileged_containers_are_not"),
    (
        "runsc",
        "isolation::recursive_read_only_reaches_every_mount",
    ),
    ("runsc", "recovery::exits_while_nobody_looked_are_told"),
    (
        "runsc",
        "resources::limits_change_live_and_outlive_the_daemon",
    ),
    (
        "runsc",
        "security::every_call::every_system_call_is_as_libseccomp_says",
    ),
    ("runsc", "security::generated_contexts_are_as_asked"),
    (
        "runsc",
        "volumes::in_a_user_namespace_volumes_belong_to_its_users",
    ),
    ("runsc", "volumes::mounts_are_restricted_as_asked"),
    // On a busy machine, once in a handful of runs: of "x" and the end of a half-closed connection the program inside sees the end alone.
    ("runsc", "streams::ports_are_forwarded_to_both_loopbacks"),
    // With one kernel for a pod the node sees no memory and no time of a container's own.
    ("runsc-pod", "container::a_container_out_of_memory_says_so"),
    ("runsc-pod", "container::stats_count_what_a_container_uses"),
];
