//! Limits.

use super::At;
use crate::error::SpecError;
use crate::model::Limit;

pub(super) fn limit(at: At<'_>, limit: &Limit) -> Result<(), SpecError> {
    let cpu = limit.cpu.map(|cpu| cpu.millicores);
    let memory = limit.memory.map(|size| size.megabytes);
    let storage = limit.storage.map(|size| size.megabytes);
    range(at.field("cpu").field("millicores"), cpu, 10, 1_000_000, "thousandths of a core")?;
    range(at.field("memory").field("megabytes"), memory, 16, 10_000_000, "MiB")?;
    range(at.field("storage").field("megabytes"), storage, 16, 10_000_000, "MiB")?;
    range(at.field("pids"), limit.pids, 16, 4_194_304, "processes")
}

fn range(at: At<'_>, value: Option<u64>, min: u64, max: u64, unit: &str) -> Result<(), SpecError> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(at.error(format!("was {value}; allowed: {min} to {max} {unit}")))
        }
        _ => Ok(()),
    }
}
