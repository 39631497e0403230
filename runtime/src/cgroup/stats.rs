//! What one sandbox uses, from its cgroups.

use std::{
    fs,
    path::{Path, PathBuf},
};

use cgroups_rs::fs::{cpuacct::CpuAcctController, memory::MemController, pid::PidController};
use serde::{Deserialize, Serialize};

use super::{
    probe::HierarchyKind,
    tree::{CgroupPlan, Leaf},
};

/// Use of one sandbox; what is not accounted for is 0 or unset.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub swap_bytes: u64,
    pub cpu_usec: u64,
    pub pids: u64,
    /// New processes that were refused because of the limit.
    pub pids_refused: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

/// Percent of the last ten seconds in which some, or all, of the processes waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    pub some_avg10: f64,
    pub full_avg10: f64,
}

/// The most processes that are listed.
const MAX_PROCESSES: usize = 8192;
/// The most cgroups below a sandbox's own that are looked through.
const MAX_CGROUPS: usize = 512;

impl CgroupPlan {
    /// Processes that the kernel killed in the sandbox for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(hierarchy) = self.with_controller("memory") else { return 0 };
        let v2 = matches!(hierarchy.kind, HierarchyKind::V2(_));
        let file = if v2 { "memory.events" } else { "memory.oom_control" };
        keyed(&self.dir(hierarchy, Leaf::Box).join(file), "oom_kill").unwrap_or(0)
    }

    /// The numbers of the sandbox's processes, within a bound, as the caller's pid namespace has them.
    pub fn processes(&self) -> Vec<i32> {
        let v1 = self.hierarchies.iter().find(|h| matches!(h.kind, HierarchyKind::V1(_)));
        // A tenant makes cgroups below its own on v2 only.
        let Some(hierarchy) = v1.or_else(|| self.unified()) else { return Vec::new() };
        let mut dirs = vec![self.dir(hierarchy, Leaf::Box)];
        let mut found = Vec::new();
        let mut looked_at = 0;
        while let Some(dir) = dirs.pop() {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
            looked_at += 1;
            if found.len() >= MAX_PROCESSES || looked_at >= MAX_CGROUPS {
                break;
            }
            let below = fs::read_dir(&dir).into_iter().flatten().flatten();
            dirs.extend(
                below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
            );
        }
        found.truncate(MAX_PROCESSES);
        found
    }
}

/// Reads the use of a sandbox.
pub fn stats(plan: &CgroupPlan) -> Stats {
    let mut stats = Stats { oom_kills: plan.oom_kills(), ..Stats::default() };
    for hierarchy in &plan.hierarchies {
        let dir = plan.dir(hierarchy, Leaf::Box);
        let v2 = matches!(hierarchy.kind, HierarchyKind::V2(_));
        for controller in hierarchy.controllers() {
            read_controller(&mut stats, controller, &dir, v2);
        }
        // On a hybrid host the unified hierarchy has no controllers, but it has these.
        if v2 {
            stats.cpu_pressure = pressure(&dir.join("cpu.pressure"));
            stats.memory_pressure = pressure(&dir.join("memory.pressure"));
            stats.io_pressure = pressure(&dir.join("io.pressure"));
        }
    }
    stats
}

fn read_controller(stats: &mut Stats, controller: &str, dir: &Path, v2: bool) {
    match controller {
        "memory" => {
            let memory = MemController::new(dir.to_owned(), dir.to_owned(), v2).memory_stat();
            stats.memory_bytes = memory.usage_in_bytes;
            stats.memory_peak_bytes = memory.max_usage_in_bytes;
            stats.swap_bytes = if v2 {
                number(&dir.join("memory.swap.current")).unwrap_or(0)
            } else {
                keyed(&dir.join("memory.stat"), "swap").unwrap_or(0)
            };
        }
        "cpuacct" => {
            let acct = CpuAcctController::new(dir.to_owned(), dir.to_owned()).cpuacct();
            stats.cpu_usec = acct.usage / 1000;
        }
        "cpu" if v2 => stats.cpu_usec = keyed(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0),
        "pids" => {
            let pids = PidController::new(dir.to_owned(), dir.to_owned(), v2);
            stats.pids = pids.get_pid_current().unwrap_or(0);
            stats.pids_refused = refused_forks(dir);
        }
        _ => {}
    }
}

/// Kernels before 6.11 count a refusal where the fork was tried, later ones (and v1) where the limit is: in `box`, or in one
/// of the leaves that the agent makes there.
fn refused_forks(dir: &Path) -> u64 {
    let leaves = ["init", "system"].map(|leaf| dir.join(leaf));
    let counted = leaves.iter().map(PathBuf::as_path).chain([dir]);
    counted.filter_map(|dir| keyed(&dir.join("pids.events"), "max")).sum()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after a key at the beginning of a line.
pub(crate) fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn pressure(file: &Path) -> Option<Pressure> {
    parse_pressure(&fs::read_to_string(file).ok()?)
}

/// Lines are `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn parse_pressure(text: &str) -> Option<Pressure> {
    let avg10 = |kind: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
        line.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
    };
    Some(Pressure { some_avg10: avg10("some")?, full_avg10: avg10("full").unwrap_or(0.0) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_are_read_by_their_whole_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("events");
        fs::write(&file, "oom 3\noom_kill 7\noom_group_kill 9\n").unwrap();
        assert_eq!(keyed(&file, "oom_kill"), Some(7));
        assert_eq!(keyed(&file, "oom"), Some(3));
        assert_eq!(keyed(&file, "nothing"), None);
    }

    #[test]
    fn a_refused_fork_counts_wherever_the_kernel_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(refused_forks(dir.path()), 0);
        fs::write(dir.path().join("pids.events"), "max 2\n").unwrap();
        assert_eq!(refused_forks(dir.path()), 2);
        fs::create_dir(dir.path().join("init")).unwrap();
        fs::write(dir.path().join("init/pids.events"), "max 5\n").unwrap();
        assert_eq!(refused_forks(dir.path()), 7);
    }

    #[test]
    fn pressure_is_read_where_the_kernel_has_it() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(parse_pressure(text), Some(Pressure { some_avg10: 1.5, full_avg10: 0.25 }));
        assert_eq!(parse_pressure(&text[..40]), Some(Pressure { some_avg10: 1.5, full_avg10: 0.0 }));
        assert_eq!(parse_pressure(""), None);
        assert_eq!(pressure(Path::new("/nowhere")), None);
    }

    #[test]
    fn processes_are_found_in_cgroups_below() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("x/box");
        fs::create_dir_all(own.join("a/b")).unwrap();
        fs::write(own.join("cgroup.procs"), "7\n8\n").unwrap();
        fs::write(own.join("a/b/cgroup.procs"), "9\n0\nbroken\n").unwrap();
        let hierarchy = super::super::Hierarchy {
            kind: HierarchyKind::V2(vec![]),
            mount: dir.path().into(),
            base: dir.path().into(),
        };
        let plan = CgroupPlan { id: "x".into(), hierarchies: vec![hierarchy], unified_mount: None };
        assert_eq!(plan.processes(), [7, 8, 9]);
    }
}
