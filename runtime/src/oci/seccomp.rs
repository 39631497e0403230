//! The sandbox's seccomp profile: an allow-list in the OCI JSON form (`profiles/sandbox.json`), compiled by seccompiler.
//!
//! What is not listed answers ENOSYS, as if the kernel did not have it, so that programs fall back. Left out are the
//! calls that reach beyond namespaces (modules, kexec, clocks, swap, quotas, keyrings, `open_by_handle_at`) and the
//! largest attack surfaces (bpf, perf, io_uring, userfaultfd). `reboot` is left out because PID 1 is ours.
//!
//! A second filter leaves the address families that a network namespace confines and that sandboxes need. `AF_VSOCK` would
//! lead past the gateway to the machine's hypervisor; of the rest each is a kernel module to be loaded from inside.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::json;

const PROFILE: &str = include_str!("../../profiles/sandbox.json");

/// What a sandbox may open sockets of; the others answer EAFNOSUPPORT, as on a kernel without them.
const FAMILIES: [libc::c_int; 5] =
    [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("reading the seccomp profile: {0}")]
    Profile(#[from] serde_json::Error),
    #[error("the seccomp profile may hold allow rules without arguments only")]
    Unsupported,
    #[error("no seccomp filter can be made for this processor: {0}")]
    Arch(String),
    #[error("compiling the seccomp profile: {0}")]
    Compile(String),
}

/// Compiles the filters for the processor that this program was built for. All of them are to be loaded, in this order.
pub fn compile() -> Result<Vec<BpfProgram>, SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| SeccompError::Arch(e.to_string()))?;
    Ok(vec![families(arch)?, profile(arch)?])
}

/// Denies sockets of every family that is not in [`FAMILIES`]. The kernel looks at the lower half of the argument only.
fn families(arch: TargetArch) -> Result<BpfProgram, SeccompError> {
    let others: Vec<_> = FAMILIES
        .iter()
        .map(|family| json!({"index": 0, "type": "dword", "op": "ne", "val": family}))
        .collect();
    let calls = ["socket", "socketpair"];
    let filter = json!({"families": {
        "mismatch_action": "allow",
        "match_action": {"errno": libc::EAFNOSUPPORT},
        "filter": calls.map(|name| json!({"syscall": name, "args": others})),
    }});
    compile_one(&filter, "families", arch).map_err(SeccompError::Compile)
}

fn compile_one(filter: &serde_json::Value, name: &str, arch: TargetArch) -> Result<BpfProgram, String> {
    let mut programs = compile_from_json(filter.to_string().as_bytes(), arch).map_err(|e| e.to_string())?;
    programs.remove(name).ok_or_else(|| "no program came out".to_owned())
}

fn profile(arch: TargetArch) -> Result<BpfProgram, SeccompError> {
    let mut allowed = allowed(PROFILE)?;
    let errno = libc::ENOSYS;
    loop {
        let filter = json!({"sandbox": {
            "mismatch_action": {"errno": errno},
            "match_action": "allow",
            "filter": allowed.iter().map(|name| json!({"syscall": name})).collect::<Vec<_>>(),
        }});
        match compile_one(&filter, "sandbox", arch) {
            Ok(program) => return Ok(program),
            // A call that this processor does not have. seccompiler keeps the error's type to itself.
            Err(error) if unknown_call(&error).is_some_and(|name| allowed.iter().any(|a| a == name)) => {
                allowed.retain(|known| Some(known.as_str()) != unknown_call(&error));
            }
            Err(error) => return Err(SeccompError::Compile(error)),
        }
    }
}

fn unknown_call(error: &str) -> Option<&str> {
    error.split_once("Invalid syscall name: ")?.1.split(' ').next()
}

fn allowed(profile: &str) -> Result<Vec<String>, SeccompError> {
    let profile: LinuxSeccomp = serde_json::from_str(profile)?;
    if profile.default_action() != LinuxSeccompAction::ScmpActErrno {
        return Err(SeccompError::Unsupported);
    }
    let rules = profile.syscalls().clone().unwrap_or_default();
    let simple = |rule: &oci_spec::runtime::LinuxSyscall| {
        rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().as_ref().is_none_or(Vec::is_empty)
    };
    if !rules.iter().all(simple) {
        return Err(SeccompError::Unsupported);
    }
    Ok(rules.into_iter().flat_map(|rule| rule.names().clone()).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_compiles_and_leaves_out_what_reaches_beyond_namespaces() {
        let programs = compile().unwrap();
        let lengths: Vec<_> = programs.iter().map(Vec::len).collect();
        assert!(matches!(lengths[..], [10..100, 300..4096]), "{lengths:?}");
        let allowed = allowed(PROFILE).unwrap();
        for name in
            ["init_module", "kexec_load", "bpf", "io_uring_setup", "keyctl", "open_by_handle_at", "reboot"]
        {
            assert!(!allowed.iter().any(|known| known == name), "{name}");
        }
        for name in ["mount", "unshare", "clone3", "openat2", "ptrace", "fsopen", "execve"] {
            assert!(allowed.iter().any(|known| known == name), "{name}");
        }
    }

    #[test]
    fn a_profile_that_cannot_be_expressed_is_refused() {
        let logs = r#"{"defaultAction":"SCMP_ACT_LOG"}"#;
        assert!(matches!(allowed(logs), Err(SeccompError::Unsupported)));
    }
}
