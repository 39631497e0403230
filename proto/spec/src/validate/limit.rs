//! Limits.

use super::At;
use crate::error::SpecError;
use crate::model::Limit;

pub(super) fn limit(at: At<'_>, limit: &Limit) -> Result<(), SpecError> {
    let cpu = limit.cpu.map(|cpu| cpu.millicores);
    let memory = limit.memory.map(|size| size.megabytes);
    let swap = limit.swap.map(|swap| swap.megabytes);
    let storage = limit.storage.map(|size| size.megabytes);
    let inotify = at.field("inotify");
    range(at.field("cpu").field("millicores"), cpu, 10, 1_000_000, "thousandths of a core")?;
    range(at.field("memory").field("megabytes"), memory, 16, 10_000_000, "MiB")?;
    range(at.field("swap").field("megabytes"), swap, 0, 10_000_000, "MiB")?;
    range(at.field("storage").field("megabytes"), storage, 16, 10_000_000, "MiB")?;
    range(at.field("inodes"), limit.inodes, 1024, 1_000_000_000, "files and directories")?;
    range(at.field("pids"), limit.pids, 16, 4_194_304, "processes")?;
    range(at.field("io").field("weight"), limit.io.map(|io| io.weight), 1, 10_000, "parts")?;
    range(at.field("openFiles"), limit.open_files, 256, 1_048_576, "files")?;
    range(inotify.field("instances"), limit.inotify.instances, 1, 1_000_000, "instances")?;
    range(inotify.field("watches"), limit.inotify.watches, 1, 100_000_000, "watches")?;
    range(at.field("userNamespaces"), limit.user_namespaces, 1, 1_000_000, "namespaces")
}

fn range(at: At<'_>, value: Option<u64>, min: u64, max: u64, unit: &str) -> Result<(), SpecError> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(at.error(format!("was {value}; allowed: {min} to {max} {unit}")))
        }
        _ => Ok(()),
    }
}
