//! Names of Linux capabilities.

use super::At;
use crate::error::SpecError;

const NAMES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The name without `CAP_`, if there is such a capability.
pub(crate) fn capability_name(name: &str) -> Option<&'static str> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().find(|known| **known == name).copied()
}

pub(super) fn list(at: At<'_>, names: &[String]) -> Result<(), SpecError> {
    at.count(names.len(), 64)?;
    for (index, name) in names.iter().enumerate() {
        if capability_name(name).is_none() {
            let at = at.index(index);
            return Err(match capability_name(&name.to_ascii_uppercase()) {
                Some(near) => at.was(name, format!("{near}, in capitals")),
                None => at.was(name, "a Linux capability such as SYS_PTRACE or NET_ADMIN, one by one"),
            });
        }
    }
    Ok(())
}
