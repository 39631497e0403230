//! The sandbox's seccomp profile: an allow-list in the OCI JSON form (`profiles/sandbox.json`), compiled by seccompiler.
//!
//! What is not listed answers ENOSYS, as if the kernel did not have it, so that programs fall back. Left out are the
//! calls that reach beyond namespaces (modules, kexec, clocks, swap, quotas, keyrings, `open_by_handle_at`) and the
//! largest attack surfaces (bpf, perf, io_uring, userfaultfd). `reboot` is left out because PID 1 is ours.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use seccompiler::{BpfProgram, TargetArch, compile_from_json};
use serde_json::json;

const PROFILE: &str = include_str!("../../profiles/sandbox.json");

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

/// Compiles the profile for the processor that this program was built for.
pub fn compile() -> Result<BpfProgram, SeccompError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| SeccompError::Arch(e.to_string()))?;
    let mut allowed = allowed(PROFILE)?;
    let errno = libc::ENOSYS;
    loop {
        let filter = json!({"sandbox": {
            "mismatch_action": {"errno": errno},
            "match_action": "allow",
            "filter": allowed.iter().map(|name| json!({"syscall": name})).collect::<Vec<_>>(),
        }});
        match compile_from_json(filter.to_string().as_bytes(), arch) {
            Ok(mut programs) => {
                return programs
                    .remove("sandbox")
                    .ok_or_else(|| SeccompError::Compile("no program came out".into()));
            }
            // A call that this processor does not have. seccompiler keeps the error's type to itself.
            Err(error)
                if unknown_call(&error.to_string()).is_some_and(|name| allowed.iter().any(|a| a == name)) =>
            {
                let text = error.to_string();
                allowed.retain(|known| Some(known.as_str()) != unknown_call(&text));
            }
            Err(error) => return Err(SeccompError::Compile(error.to_string())),
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
        let program = compile().unwrap();
        assert!(program.len() > 300 && program.len() < 4096, "{}", program.len());
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
