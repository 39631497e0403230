//! Escape: a hostile root, attack by attack. `tests/escape` holds the attacks that a program makes from inside; here they
//! are driven, and after each of them node, neighbour and sandbox must be as they were. Attacks that need more than a
//! program, such as images and restarts, are here.

mod canary;
mod death;
mod exhaustion;
mod images;
mod inside;
mod node;
mod shared;

use std::{process::ExitCode, sync::Arc};

use cordium_escape::{CASES, exhaust::KINDS};
use cordium_tests::Suite;
use shared::Shared;

fn main() -> ExitCode {
    let mut suite = Suite::new("escape").one_at_a_time();
    for case in CASES {
        suite = suite.case(case.name, move |s: Arc<Shared>| inside::attack(s, case));
    }
    for kind in &KINDS {
        suite = suite.case(kind.name, move |s: Arc<Shared>| exhaustion::exhaust(s, kind));
    }
    suite
        .case("attacks_can_succeed", inside::attacks_can_succeed)
        .case("exec_of_proc_self_exe", inside::exec_of_proc_self_exe)
        .case("exec_in_a_stolen_directory", inside::exec_in_a_stolen_directory)
        .case("exec_while_proc_is_covered", inside::exec_while_proc_is_covered)
        .case("images_full_of_traps", images::traps)
        .case("traps_before_a_restart", images::traps_before_a_restart)
        .case("shares_of_kernel_objects", exhaustion::shares)
        .case("trees_without_end", death::trees_without_end)
        .case("agent_ended_by_its_tenant", death::agent_ended_by_its_tenant)
        .case("keeper_killed_under_a_hostile_init", death::keeper_killed)
        .case("keeper_killed_unseen", death::keeper_killed_unseen)
        .run(Shared::start)
}
