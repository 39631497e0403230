//! Limits and statistics through cgroups-rs, and the words for what cannot be enforced.

use std::path::Path;

use cgroups_rs::fs::{
    MaxValue, cpu::CpuController, cpuacct::CpuAcctController, memory::MemController, pid::PidController,
};

use super::{
    probe::{Hierarchy, HierarchyKind},
    tree::{CgroupPlan, Leaf},
};
use crate::Limits;

/// Use of one sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub memory_bytes: u64,
    pub memory_peak_bytes: u64,
    pub cpu_usec: u64,
    pub pids: u64,
    /// Processes that the kernel killed for want of memory.
    pub oom_kills: u64,
}

const MIB: u64 = 1 << 20;
const CPU_PERIOD_USEC: u64 = 100_000;

impl CgroupPlan {
    /// Puts `limits` in force. What the node cannot enforce comes back as warnings, in words.
    pub fn apply(&self, limits: &Limits) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut set =
            |what: &str, wanted: u64, controller: &str, write: &dyn Fn(&Path, bool) -> Result<(), String>| {
                if wanted == 0 {
                    return;
                }
                let Some(hierarchy) = self.with_controller(controller) else {
                    warnings.push(format!(
                        "{what} limit is not enforced: no delegated {controller} cgroup on this node"
                    ));
                    return;
                };
                let v2 = matches!(hierarchy.kind, HierarchyKind::V2(_));
                if let Err(error) = write(&self.dir(hierarchy, Leaf::Box), v2) {
                    warnings.push(format!("{what} limit is not enforced: {error}"));
                }
            };
        set("cpu", limits.cpu_millicores, "cpu", &|dir, v2| set_cpu(dir, v2, limits.cpu_millicores));
        set("memory", limits.memory_mib, "memory", &|dir, v2| set_memory(dir, v2, limits.memory_mib));
        set("pids", limits.pids, "pids", &|dir, v2| {
            let max = MaxValue::Value(i64::try_from(limits.pids).unwrap_or(i64::MAX));
            PidController::new(dir.to_owned(), dir.to_owned(), v2).set_pid_max(max).map_err(|e| cause(&e))
        });
        warnings
    }

    fn with_controller(&self, name: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers().iter().any(|c| c == name))
    }
}

fn set_cpu(dir: &Path, v2: bool, millicores: u64) -> Result<(), String> {
    let quota = i64::try_from(millicores.saturating_mul(CPU_PERIOD_USEC) / 1000).unwrap_or(i64::MAX);
    CpuController::new(dir.to_owned(), dir.to_owned(), v2)
        .set_cfs_quota_and_period(Some(quota.max(1000)), Some(CPU_PERIOD_USEC))
        .map_err(|e| cause(&e))
}

/// `memory.high` a sixteenth below `memory.max`, so that reclaim slows a sandbox down before the OOM killer comes.
fn set_memory(dir: &Path, v2: bool, mib: u64) -> Result<(), String> {
    let bytes = i64::try_from(mib.saturating_mul(MIB)).unwrap_or(i64::MAX);
    let memory = MemController::new(dir.to_owned(), dir.to_owned(), v2);
    memory.set_limit(bytes).map_err(|e| cause(&e))?;
    if v2 {
        let write = |file: &str, value: String| {
            std::fs::write(dir.join(file), value).map_err(|e| format!("writing {file}: {e}"))
        };
        write("memory.high", (bytes - bytes / 16).to_string())?;
        // One OOM kill takes the sandbox's process, not a random part of it.
        return write("memory.oom.group", "0".into());
    }
    // Swap is counted only where the kernel was built with it.
    let _ = memory.set_memswap_limit(bytes);
    Ok(())
}

fn cause(error: &cgroups_rs::fs::error::Error) -> String {
    std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Reads the use of a sandbox; what is not accounted is 0.
pub fn stats(plan: &CgroupPlan) -> Stats {
    let mut stats = Stats::default();
    for hierarchy in &plan.hierarchies {
        let dir = plan.dir(hierarchy, Leaf::Box);
        let v2 = matches!(hierarchy.kind, HierarchyKind::V2(_));
        for controller in hierarchy.controllers() {
            read_controller(&mut stats, controller, &dir, v2);
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
            let (file, key) =
                if v2 { ("memory.events", "oom_kill") } else { ("memory.oom_control", "oom_kill") };
            stats.oom_kills = keyed(&dir.join(file), key).unwrap_or(0);
        }
        "cpuacct" => {
            let acct = CpuAcctController::new(dir.to_owned(), dir.to_owned()).cpuacct();
            stats.cpu_usec = acct.usage / 1000;
        }
        "cpu" if v2 => stats.cpu_usec = keyed(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0),
        "pids" => {
            let pids = PidController::new(dir.to_owned(), dir.to_owned(), v2);
            stats.pids = pids.get_pid_current().unwrap_or(0);
        }
        _ => {}
    }
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn limits_without_a_controller_are_warnings() {
        let plan = CgroupPlan { id: "x".into(), hierarchies: vec![], unified_mount: None };
        let limits = Limits { cpu_millicores: 100, memory_mib: 64, storage_mib: 0, pids: 0 };
        let warnings = plan.apply(&limits);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("no delegated cpu cgroup"));
    }

    #[test]
    fn keyed_files_are_read_by_their_whole_key() {
        let file = std::env::temp_dir().join(format!("cordium-keyed-{}", std::process::id()));
        std::fs::write(&file, "oom 3\noom_kill 7\n").unwrap();
        assert_eq!(keyed(&file, "oom_kill"), Some(7));
        assert_eq!(keyed(&file, "nothing"), None);
        std::fs::remove_file(file).unwrap();
    }
}
