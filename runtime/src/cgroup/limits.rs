//! Limits through cgroups-rs, and the words for what cannot be enforced.

use std::{fs, io, path::Path};

use cgroups_rs::fs::{MaxValue, cpu::CpuController, memory::MemController, pid::PidController};

use super::{
    io_weight,
    probe::{Hierarchy, HierarchyKind},
    tree::{CgroupPlan, Leaf},
};
use crate::Limits;

const MIB: u64 = 1 << 20;
const CPU_PERIOD_USEC: u64 = 100_000;
/// The weight that everybody has who says nothing.
const USUAL_WEIGHT: u64 = 100;

impl CgroupPlan {
    /// Puts `limits` in force. What the node cannot enforce comes back as warnings, in words. `volume` is where the
    /// workspace's files are.
    pub fn apply(&self, limits: &Limits, volume: &Path) -> Vec<String> {
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
        if self.with_controller("memory").is_some() {
            set("swap", limits.memory_mib, "memory", &|dir, v2| {
                set_swap(dir, v2, limits.memory_mib, limits.swap_mib)
            });
        }
        let has_pids = self.has_controller("pids");
        if has_pids {
            set("pids", limits.pids, "pids", &|dir, v2| {
                let max = MaxValue::Value(i64::try_from(limits.pids).unwrap_or(i64::MAX));
                PidController::new(dir.to_owned(), dir.to_owned(), v2).set_pid_max(max).map_err(|e| cause(&e))
            });
        }
        if limits.asks_for_io_weight() {
            let controller = if self.has_controller("io") { "io" } else { "blkio" };
            set("io weight", limits.io_weight, controller, &|dir, v2| {
                io_weight::set(dir, v2, limits.io_weight, volume)
            });
        }
        if !has_pids && limits.pids != 0 {
            warnings.push(NPROC_INSTEAD.to_owned());
        }
        warnings
    }

    pub(crate) fn with_controller(&self, name: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers().iter().any(|c| c == name))
    }

    /// Whether limits of this controller can be enforced.
    pub fn has_controller(&self, name: &str) -> bool {
        self.with_controller(name).is_some()
    }
}

/// Said where there is no pids cgroup.
pub(crate) const NPROC_INSTEAD: &str =
    "pids limit is enforced by RLIMIT_NPROC, for each user inside: no delegated pids cgroup on this node";

impl Limits {
    pub(crate) fn asks_for_io_weight(&self) -> bool {
        self.io_weight != 0 && self.io_weight != USUAL_WEIGHT
    }
}

fn set_cpu(dir: &Path, v2: bool, millicores: u64) -> Result<(), String> {
    let quota = i64::try_from(millicores.saturating_mul(CPU_PERIOD_USEC) / 1000).unwrap_or(i64::MAX);
    CpuController::new(dir.to_owned(), dir.to_owned(), v2)
        .set_cfs_quota_and_period(Some(quota.max(1000)), Some(CPU_PERIOD_USEC))
        .map_err(|e| cause(&e))
}

fn bytes_of(mib: u64) -> i64 {
    i64::try_from(mib.saturating_mul(MIB)).unwrap_or(i64::MAX)
}

/// `memory.high` a sixty-fourth below `memory.max`, so that reclaim slows a sandbox down before the OOM killer comes: the kernel's
/// delays grow with the cube of the gap, and a sixteenth of 6 GiB would be minutes without swap. On v1 there is nothing of the kind.
fn set_memory(dir: &Path, v2: bool, mib: u64) -> Result<(), String> {
    let bytes = bytes_of(mib);
    let memory = MemController::new(dir.to_owned(), dir.to_owned(), v2);
    memory.set_limit(bytes).map_err(|e| cause(&e))?;
    if v2 {
        write(dir, "memory.high", &(bytes - bytes / 64).to_string())?;
        // The OOM killer takes one process, not the whole sandbox.
        write(dir, "memory.oom.group", "0")?;
    }
    Ok(())
}

/// On v1 the limit is of memory and swap together. A kernel that does not count swap matters only where there is some.
fn set_swap(dir: &Path, v2: bool, memory_mib: u64, swap_mib: u64) -> Result<(), String> {
    let (file, bytes) = if v2 {
        ("memory.swap.max", bytes_of(swap_mib))
    } else {
        ("memory.memsw.limit_in_bytes", bytes_of(memory_mib.saturating_add(swap_mib)))
    };
    match fs::write(dir.join(file), bytes.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !node_has_swap() => Ok(()),
        other => other.map_err(|error| format!("writing {file}: {error}")),
    }
}

fn node_has_swap() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

pub(super) fn write(dir: &Path, file: &str, value: &str) -> Result<(), String> {
    fs::write(dir.join(file), value).map_err(|error| format!("writing {file}: {error}"))
}

fn cause(error: &cgroups_rs::fs::error::Error) -> String {
    std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn plan(hierarchies: Vec<Hierarchy>) -> CgroupPlan {
        CgroupPlan { id: "x".into(), hierarchies, unified_mount: None }
    }

    #[test]
    fn limits_without_a_controller_are_warnings() {
        let limits = Limits { cpu_millicores: 100, memory_mib: 64, io_weight: 50, ..Limits::default() };
        let warnings = plan(vec![]).apply(&limits, Path::new("/"));
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("no delegated cpu cgroup"));
        assert!(warnings[2].contains("no delegated blkio cgroup"));
        let pids = Limits { pids: 9, ..Limits::default() };
        assert!(plan(vec![]).apply(&pids, Path::new("/"))[0].contains("RLIMIT_NPROC"));
    }

    #[test]
    fn a_v2_sandbox_gets_high_max_and_no_swap() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("x/box");
        fs::create_dir_all(&own).unwrap();
        for file in
            ["memory.max", "memory.high", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"]
        {
            fs::write(own.join(file), "max 100000\n").unwrap();
        }
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).to_vec();
        let hierarchy = Hierarchy {
            kind: HierarchyKind::V2(controllers),
            mount: dir.path().into(),
            base: dir.path().into(),
        };
        let limits =
            Limits { memory_mib: 64, swap_mib: 2, pids: 33, cpu_millicores: 500, ..Limits::default() };
        assert_eq!(plan(vec![hierarchy]).apply(&limits, dir.path()), Vec::<String>::new());
        let read = |file: &str| fs::read_to_string(own.join(file)).unwrap().trim().to_owned();
        assert_eq!(read("memory.max"), (64 << 20).to_string());
        assert_eq!(read("memory.high"), (63 << 20).to_string());
        assert_eq!(read("memory.swap.max"), (2 << 20).to_string());
        assert_eq!((read("pids.max"), read("cpu.max")), ("33".into(), "50000 100000".into()));
    }
}
