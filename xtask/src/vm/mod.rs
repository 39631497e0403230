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

/// The end-to-end groups that run in the machine: those that concern limits, freezing and killing.
pub const GROUPS: [&str; 7] =
    ["cgroup_v2", "limits", "nested_limits", "sandbox", "runtime", "lifecycle", "restart"];

/// From power on to power off.
const LIMIT: Duration = Duration::from_secs(25 * 60);

pub struct Outcome {
    pub counts: Counts,
    pub times: Vec<(String, Duration)>,
    pub success: bool,
}

/// Makes the machine, runs the groups in it, and says what came of it. An error means that it could not be started.
pub async fn run(groups: &[&str]) -> Result<Outcome> {
    let begun = Instant::now();
    let _lock = lock()?;
    let system = system::system().await?;
    let programs = cargo::build_programs(Profile::Dev).await?;
    let names: Vec<String> = groups.iter().map(|group| format!("e2e_{group}")).collect();
    let targets = cargo::build_tests(&names).await?;
    println!("── vm: payload");
    let payload = payload::Payload { programs: &programs, targets: &targets, threads: 2 };
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
