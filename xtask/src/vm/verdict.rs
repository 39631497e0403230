//! What a run of the virtual machine said about itself.

use anyhow::{Result, bail, ensure};

/// The marks that `images/vm/guest.sh` makes in its output.
const MARK: &str = "vm: ";

/// Checks that every target has run to its end and that the machine came to its own end. The results of the tests
/// themselves are counted elsewhere: here it is about what would otherwise be missed.
pub fn check(output: &str, targets: &[String]) -> Result<()> {
    let marks: Vec<&str> = output.lines().filter_map(|line| line.trim().strip_prefix(MARK)).collect();
    ensure!(marks.iter().any(|mark| mark.starts_with("up after ")), "the machine did not come up");
    for target in targets {
        let ended = format!("{target} ended with ");
        let Some(rest) = marks.iter().find_map(|mark| mark.strip_prefix(&ended)) else {
            bail!("{target} did not run to its end");
        };
        let code = rest.split(' ').next().unwrap_or(rest);
        ensure!(matches!(code, "0" | "101"), "{target} ended with code {code}");
    }
    ensure!(marks.last().is_some_and(|mark| mark.starts_with("end after ")), "the machine ended too early");
    Ok(())
}

/// The last lines of the kernel's console, and more when it ends in a panic: from the panic's first line on.
pub fn tail_of_console(console: &str, lines: usize) -> String {
    let all: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let panic = all.iter().position(|line| line.contains("Kernel panic") || line.contains("Oops:"));
    let from = all.len().saturating_sub(lines);
    all[panic.map_or(from, |at| at.min(from))..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn targets() -> Vec<String> {
        ["e2e_a", "e2e_b"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_whole_run_passes() {
        let output = "vm: up after 3.2 s\r\nvm: e2e_a ended with 0 (1 s)\ntest result: FAILED\nvm: e2e_b ended with 101 (1 s)\nvm: end after 9 s\n";
        check(output, &targets()).unwrap();
    }

    #[test]
    fn a_run_that_is_cut_short_does_not() {
        let message = |output: &str| check(output, &targets()).unwrap_err().to_string();
        assert_eq!(message(""), "the machine did not come up");
        let up = "vm: up after 3.2 s\nvm: e2e_a ended with 0 (1 s)\n";
        assert_eq!(message(up), "e2e_b did not run to its end");
        assert_eq!(message(&format!("{up}vm: e2e_b ended with 139 (1 s)\n")), "e2e_b ended with code 139");
        assert_eq!(message(&format!("{up}vm: e2e_b ended with 0 (1 s)\n")), "the machine ended too early");
        let failed = "vm: up after 1 s\nvm: cordium setup failed\n";
        assert_eq!(message(failed), "e2e_a did not run to its end");
    }

    #[test]
    fn a_panic_is_shown_from_its_beginning() {
        let console = "one\ntwo\nKernel panic - not syncing\na\nb\nc\n";
        assert_eq!(tail_of_console(console, 2), "Kernel panic - not syncing\na\nb\nc");
        assert_eq!(tail_of_console("one\ntwo\r\n\nthree\n", 2), "two\nthree");
    }
}
