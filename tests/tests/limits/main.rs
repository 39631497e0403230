//! Limits: what one workspace takes too much of costs that workspace, in the documented way, and no other.

mod full_node;
mod memory;
mod observe;
mod processes;
mod status;
mod storage;

use std::process::ExitCode;

use cordium_tests::{Fixture, Suite};

fn main() -> ExitCode {
    Suite::new("limits")
        .case("a_memory_bomb_is_named", memory::a_memory_bomb_is_named)
        .case("a_task_that_is_killed_for_memory_says_so", memory::a_killed_task_says_so)
        .case("a_fork_bomb_stays_within_its_limit", processes::a_fork_bomb)
        .case("pid_1_collects_a_flood_of_orphans", processes::a_flood_of_orphans)
        .case("processes_that_nobody_collects", processes::processes_that_nobody_collects)
        .case("a_disk_filler_is_ended_and_can_be_mended", storage::a_disk_filler)
        .case("an_inode_filler_is_ended", storage::an_inode_filler)
        .case("a_file_without_a_name_counts", storage::a_file_without_a_name)
        .case("nesting_without_end_is_ended", storage::nesting_without_end)
        .case("a_node_that_is_nearly_full_ends_what_fills_it", full_node::a_full_node)
        .case("limits_are_in_force_inside", status::in_force_inside)
        .case("use_and_pressure_are_in_the_status", status::use_is_in_the_status)
        .case("what_cannot_be_is_one_clear_error", status::one_clear_error)
        .one_at_a_time()
        .run(|| Fixture::start("limits"))
}
