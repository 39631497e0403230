//! `docs/bad-input.md` names cases of the end-to-end groups; they must exist.
#![allow(clippy::unwrap_used)]

use std::fs;

use crate::paths::repository;

/// The source of a group: one file, or a directory of them.
fn source(group: &str) -> String {
    let tests = repository().join("tests/tests");
    fs::read_to_string(tests.join(format!("{group}.rs")))
        .or_else(|_| fs::read_to_string(tests.join(group).join("main.rs")))
        .unwrap_or_else(|error| panic!("there is no group {group}: {error}"))
}

#[test]
fn the_cases_that_the_table_names_exist() {
    let table = fs::read_to_string(repository().join("docs/bad-input.md")).unwrap();
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with('|')) {
        let Some(tests) = row.trim_end_matches('|').rsplit('|').next() else { continue };
        for name in tests.split('`').skip(1).step_by(2) {
            // Anything else in backticks is not the name of a case.
            let Some((group, case)) = name.split_once('.') else { continue };
            assert!(source(group).contains(&format!("\"{case}\"")), "{group} has no case {case}");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} cases are named");
}
