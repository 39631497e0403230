//! `cordium-oci`: the OCI command line, by hand and as podman's runtime. As the machine's root, on a root file system of one busybox.

mod entering;
mod exec;
mod ground;
mod guards;
mod life;

use std::process::ExitCode;

use cordium_tests::{Suite, paths};
use ground::{Shared, lay_out};

fn main() -> ExitCode {
    Suite::new("oci_command")
        .case("a_container_goes_through_its_states", life::a_container_goes_through_its_states)
        .case("exec_runs_inside_with_what_it_is_given", exec::exec_runs_inside_with_what_it_is_given)
        .case("exec_gives_descriptors_only_when_asked", exec::exec_gives_descriptors_only_when_asked)
        .case("exec_stays_in_the_root", exec::exec_stays_in_the_root)
        .case("exec_enters_every_cgroup_or_does_not_run", exec::exec_enters_every_cgroup_or_does_not_run)
        .case(
            "exec_writes_nothing_through_the_containers_proc",
            exec::exec_writes_nothing_through_the_containers_proc,
        )
        .case("exec_refuses_what_it_cannot_do", exec::exec_refuses_what_it_cannot_do)
        .case("a_home_is_looked_up_without_waiting", exec::a_home_is_looked_up_without_waiting)
        .case("exec_joins_a_user_namespace", entering::exec_joins_a_user_namespace)
        .case("exec_hands_over_a_terminal", entering::exec_hands_over_a_terminal)
        .case("seccomp_is_on_init_and_exec", guards::seccomp_is_on_init_and_exec)
        .case("pause_freezes_and_kill_thaws", life::pause_freezes_and_kill_thaws)
        .case("kill_all_reaches_what_is_made_meanwhile", life::kill_all_reaches_what_is_made_meanwhile)
        .case(
            "another_process_with_inits_number_is_not_it",
            life::another_process_with_inits_number_is_not_it,
        )
        .case("update_changes_limits", life::update_changes_limits)
        .case("bad_input_leaves_nothing", guards::bad_input_leaves_nothing)
        .case("the_program_itself_cannot_be_overwritten", guards::the_program_itself_cannot_be_overwritten)
        .case("a_hook_that_fails_late_is_a_warning", guards::a_hook_that_fails_late_is_a_warning)
        .case("features_are_told", guards::features_are_told)
        .case("podman_drives_it", guards::podman_drives_it)
        .run(|| async {
            let dir = paths::scratch().join("oci-command");
            lay_out(&dir.join("rootfs"))?;
            Ok(Shared { dir })
        })
}
