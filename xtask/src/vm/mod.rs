//! `cargo xtask test --vm`: the cases that need pure cgroup v2, in a virtual machine that has it.
//!
//! ```text
//!  xtask ── mmdebstrap ──▶ root.ext4, vmlinuz, modules            cached
//!        ── cargo, registry ──▶ payload.ext4                       programs, test targets, images
//!        ── qemu ──▶ kernel ─▶ initramfs.sh ─▶ guest.sh (PID 1) ─▶ cordium setup, e2e_… one after another
//!                      │ ttyS0: the console, kept                    │ ttyS1: results, counted as they come
//! ```
//! QEMU imitates the processor in software, so that the lane runs on any machine.

mod cpio;
mod machine;
mod modules;
mod payload;
mod system;
mod verdict;

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    cargo::{self, Profile},
    step::{self, Counts, Step},
};

/// The end-to-end groups that run in the machine, and what of them: the cases that concern limits, freezing, killing and
/// nested containers. Imitated in software, the rest would take too long.
const RUNS: [(&str, &[&str]); 7] = [
    ("cgroup_v2", &[]),
    ("nested_limits", &[]),
    // The bombs take minutes here; `cgroup_v2` has its own.
    ("limits", &["in_force_inside"]),
    ("sandbox", &["own_cgroup_namespace_and_limits"]),
    ("runtime", &["limit"]),
    // The base image alone takes longer to unpack than that case waits for it.
    ("lifecycle", &["stop", "--skip", "stop_while_cloning"]),
    ("restart", &["kill", "--skip", "a_broker_killed"]),
];

pub fn groups() -> impl Iterator<Item = &'static str> {
    RUNS.iter().map(|(name, _)| *name)
}

/// What the guest runs, one target and its arguments a line. A group that was asked for by name runs as a whole.
fn runs(only: &[String]) -> Vec<(String, Vec<String>)> {
    let owned = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect();
    if only.is_empty() {
        return RUNS.iter().map(|(group, args)| (format!("e2e_{group}"), owned(args))).collect();
    }
    only.iter().map(|group| (format!("e2e_{group}"), Vec::new())).collect()
}

/// From power on to power off.
const LIMIT: Duration = Duration::from_secs(25 * 60);

pub struct Outcome {
    pub counts: Counts,
    pub times: Vec<(String, Duration)>,
    pub success: bool,
}

/// Makes the machine, runs all groups or only some in it, and says what came of it. An error means that it could not be started.
pub async fn run(only: &[String]) -> Result<Outcome> {
    let begun = Instant::now();
    let _lock = lock()?;
    let system = system::system().await?;
    let programs = cargo::build_programs(Profile::Dev).await?;
    let runs = runs(only);
    let names: Vec<String> = runs.iter().map(|(name, _)| name.clone()).collect();
    let targets = cargo::build_tests(&names).await?;
    println!("── vm: payload");
    let payload = payload::Payload { programs: &programs, targets: &targets, runs: &runs, threads: 2 };
    let disk = payload::make(&payload)?;
    println!("   done");
    let prepared = begun.elapsed();
    let (outcome, problem) = boot(&system, &disk, &names).await?;
    let mut counts = outcome.counts;
    if let Some(problem) = &problem {
        println!("   {problem:#}");
        counts.failed = counts.failed.max(1);
    }
    Ok(Outcome {
        success: problem.is_none() && counts.failed == 0,
        counts,
        times: vec![
            ("vm: preparation".to_owned(), prepared),
            ("vm: pure cgroup v2".to_owned(), outcome.time),
        ],
    })
}

/// One machine at a time: its disks are made anew for each run.
fn lock() -> Result<Flock<File>> {
    let dir = system::work();
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let taken = Flock::lock(file, FlockArg::LockExclusiveNonblock);
    taken.map_err(|_| anyhow::anyhow!("another `cargo xtask test` has the virtual machine: wait for it"))
}

async fn boot(
    system: &system::System,
    disk: &Path,
    targets: &[String],
) -> Result<(step::Outcome, Option<anyhow::Error>)> {
    let step = Step { name: "vm: pure cgroup v2", limit: LIMIT, show: true };
    let outcome = step::run(&step, &mut machine::command(system, disk)).await?;
    let said =
        fs::read_to_string(&outcome.log).with_context(|| format!("reading {}", outcome.log.display()))?;
    let verdict = if outcome.success {
        verdict::check(&said, targets)
    } else {
        Err(anyhow::anyhow!("the machine was ended, or QEMU failed"))
    };
    if verdict.is_err() {
        let console = fs::read(machine::console()).unwrap_or_default();
        println!("   its console ends with:");
        println!("{}", verdict::tail_of_console(&String::from_utf8_lossy(&console), 30));
    }
    Ok((outcome, verdict.err()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_asked_for_run_as_a_whole() {
        assert_eq!(runs(&["restart".to_owned()]), [("e2e_restart".to_owned(), vec![])]);
        assert_eq!(runs(&[]).len(), RUNS.len());
        let (name, args) = runs(&[]).pop().unwrap();
        assert!(name == "e2e_restart" && args.contains(&"--skip".to_owned()), "{args:?}");
    }
}
